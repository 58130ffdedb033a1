//! How does a runtime learn what went wrong?
//!
//! ```text
//!   {"cniVersion": "1.0.0", "code": 11, "msg": what, where, why, "details": what next}
//! ```
//!
//! Codes below 100 are the specification's (section 5, "Error"); those from 100 are Podwall's own and
//! stand in docs/cni.md. A runtime shows both texts, one after the other.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use podwall_local::{ClientError, Code};
use serde::Serialize;
use thiserror::Error;

use crate::link::LinkError;

/// Why the plugin could not do what the runtime asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PluginError {
    /// The configuration is of a version that is not spoken (code 1).
    #[error("podwall-cni does not speak version {0:?} of CNI")]
    Version(String),
    /// The verb came with a later version (code 1).
    #[error("version {version} of CNI has no {verb}")]
    VerbVersion {
        /// Which.
        verb: &'static str,
        /// The configuration's.
        version: String,
    },
    /// The environment is not what a runtime sets (code 4).
    #[error("{variable} {problem}")]
    Environment {
        /// Which variable.
        variable: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The pod's namespace cannot be opened (code 4).
    #[error("CNI_NETNS: cannot open {}: {source}", path.display())]
    Namespace {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Input or output failed (code 5).
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not tell of the pod's interface (code 5).
    #[error("cannot find the host's side of the pod's interface {interface}: {source}")]
    Link {
        /// `CNI_IFNAME`.
        interface: String,
        /// Why.
        source: LinkError,
    },
    /// The configuration is no JSON, or its keys are of the wrong kind (code 6).
    #[error("cannot read the network configuration: {0}")]
    Decode(#[source] serde_json::Error),
    /// The result of the plugins before is none (code 6).
    #[error("cannot read prevResult, the result of the plugins before podwall-cni: {0}")]
    DecodePrevious(#[source] serde_json::Error),
    /// The configuration makes no sense (code 7).
    #[error("network configuration: {0}")]
    Config(String),
    /// There is no plugin before this one (code 7).
    #[error("there is no prevResult: no plugin before podwall-cni has made an interface")]
    NoPrevious,
    /// There is no agent, or none that knows the pod in time (code 11 or 50; others by the refusal).
    #[error("{source}{}", tried(*.waited))]
    Agent {
        /// What happened at last.
        source: ClientError,
        /// How long was tried.
        waited: Option<Duration>,
        /// The verb was `STATUS`.
        status: bool,
    },
}

fn tried(waited: Option<Duration>) -> String {
    let seconds = |time: Duration| (time.as_secs_f64() * 10.0).round() / 10.0;
    waited.map_or(String::new(), |time| format!(" (tried for {} s)", seconds(time)))
}

/// As the specification writes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    cni_version: &'a str,
    code: u16,
    msg: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    details: String,
}

// === impl PluginError ===

impl PluginError {
    /// The number for programs.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::Version(_) | Self::VerbVersion { .. } => 1,
            Self::Environment { .. } | Self::Namespace { .. } => 4,
            Self::Io { .. } | Self::Link { .. } => 5,
            Self::Decode(_) | Self::DecodePrevious(_) => 6,
            Self::Config(_) | Self::NoPrevious => 7,
            // Pods that stand keep their policies, which are in the kernel; if that refuses, they may not.
            Self::Agent { source, status: true, .. } => match source {
                ClientError::Refused(refusal) if refusal.code == Code::Kernel => 51,
                _ => 50,
            },
            Self::Agent { source, .. } => match source {
                ClientError::NoAgent { .. } | ClientError::Late(_) | ClientError::Broken(_) => 11,
                ClientError::Refused(refusal) => match refusal.code {
                    Code::NotYet => 11,
                    Code::Invalid => 100,
                    Code::Kernel => 101,
                    Code::NotFound => 102,
                    Code::Differs => 103,
                },
                ClientError::Unreadable(_) => 104,
                ClientError::Permission { .. } => 105,
            },
        }
    }

    /// What can be done about it; empty where the message says all.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Version(_) => format!(
                "set cniVersion of the network configuration to one of {}",
                crate::SUPPORTED.join(", ")
            ),
            Self::VerbVersion { .. } => {
                "the runtime should not ask for it; a later cniVersion has it".to_owned()
            }
            Self::Config(_) | Self::Decode(_) => {
                "podwall-cni install writes an entry that is right".to_owned()
            }
            Self::NoPrevious => "put the entry of podwall-cni behind the plugin that makes the \
                                 interface; podwall-cni install does"
                .to_owned(),
            Self::Link { .. } => "without it forged source addresses could not be dropped; \
                                  \"guard\": false goes without"
                .to_owned(),
            Self::Agent { source, .. } => agent_remedy(source),
            _ => String::new(),
        }
    }

    /// The line for standard output.
    #[must_use]
    pub fn to_json(&self, version: &str) -> String {
        let wire = Wire {
            cni_version: version,
            code: self.code(),
            msg: self.to_string(),
            details: self.remedy(),
        };
        // A struct of texts and a number is always written.
        serde_json::to_string(&wire).unwrap_or_default()
    }
}

fn agent_remedy(source: &ClientError) -> String {
    match source {
        ClientError::NoAgent { .. } => format!(
            "pods wait for the agent, so that none runs without its policies. Look at the agent's pod \
             on this node: kubectl get pods -A -o wide | grep podwall. If Podwall was removed without \
             its plugin, run as root on this node: {} uninstall",
            program()
        ),
        ClientError::Late(_) | ClientError::Broken(_) => {
            "the runtime tries again; podwall status on this node says how the agent is".to_owned()
        }
        ClientError::Permission { .. } => "CNI plugins run as root".to_owned(),
        ClientError::Unreadable(_) => {
            "the agent writes the plugin of its own version when it is installed again".to_owned()
        }
        ClientError::Refused(_) => String::new(),
    }
}

/// Where this program is, for a sentence that an operator copies.
fn program() -> String {
    std::env::current_exe()
        .map_or_else(|_| crate::TYPE.to_owned(), |path| path.display().to_string())
}
