//! Why can a request not be done?

use thiserror::Error;

use crate::fabric::FabricError;
use crate::store::StoreError;
use crate::trial::TrialError;

/// Why a request failed.
#[derive(Debug, Error)]
pub enum EngineError {
    /// An object that is not there.
    #[error("{resource} \"{name}\" not found{}{hint}", namespace.as_ref().map(|n| format!(" in namespace {n}")).unwrap_or_default())]
    NotFound {
        /// kubectl's name of the kind.
        resource: String,
        /// The name.
        name: String,
        /// The namespace, for namespaced kinds.
        namespace: Option<String>,
        /// `; did you mean …?`, or nothing.
        hint: String,
    },
    /// A selector that cannot be read.
    #[error("{text:?} is no label selector: {reason}")]
    Selector {
        /// The selector.
        text: String,
        /// Why not.
        reason: String,
    },
    /// A label that cannot be changed.
    #[error("{object}: {reason}")]
    Label {
        /// The object.
        object: String,
        /// Why not.
        reason: String,
    },
    /// What the lab does not do.
    #[error("the lab does not do that: {what}; {instead}")]
    Unsupported {
        /// What.
        what: String,
        /// What to do instead.
        instead: String,
    },
    /// A pod that runs nowhere.
    #[error("pod {pod} does not run: {reason}")]
    NotRunning {
        /// The pod.
        pod: String,
        /// Why.
        reason: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The network.
    #[error(transparent)]
    Network(#[from] FabricError),
    /// The firewall of a node.
    #[error("node {node}: {source}; its pods stay as they were, new ones stay off")]
    DataPlane {
        /// The node.
        node: String,
        /// What went wrong.
        source: podwall_dataplane::Error,
    },
    /// The servers.
    #[error("{0}")]
    Servers(String),
    /// Probes that cannot be planned.
    #[error(transparent)]
    Trial(TrialError),
    /// Probes that could not be sent.
    #[error(transparent)]
    Probe(#[from] crate::probe::ProbeError),
    /// More than one thing failed.
    #[error("{}", lines(.0))]
    Several(Vec<EngineError>),
}

fn lines(errors: &[EngineError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// What failed while the rest went on.
#[derive(Default)]
pub(super) struct Failures(Vec<EngineError>);

// === impl Failures ===

impl Failures {
    /// What came of a step, if it went well; else the failure is kept.
    pub(super) fn note<T>(&mut self, outcome: Result<T, EngineError>) -> Option<T> {
        outcome.map_err(|error| self.0.push(error)).ok()
    }

    /// All failures together.
    pub(super) fn result(mut self) -> Result<(), EngineError> {
        match self.0.pop() {
            None => Ok(()),
            Some(only) if self.0.is_empty() => Err(only),
            Some(last) => {
                self.0.push(last);
                Err(EngineError::Several(self.0))
            }
        }
    }
}
