//! How do planned trials become packets, and packets findings?

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use podwall_policy::evaluate::Verdict;

use crate::netns::NetNs;
use crate::probe::{self, Outcome, Place, ProbeError, ProbeOptions, ProbeResult, ProbeTask};
use crate::serve::identity::Identity;
use crate::trial::{Finding, Trial};

/// The places of a round of probes, held open: packets can be sent while the engine does other
/// things, and to a pod that is deleted meanwhile.
pub struct Bench {
    /// Every place that a trial names.
    pub(crate) places: HashMap<Identity, Arc<NetNs>>,
}

impl Bench {
    /// Sends a packet for each trial and puts what it did beside what the engine says.
    pub fn run(
        &self,
        trials: &[Trial],
        patience_ms: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Finding>, ProbeError> {
        let places: HashMap<&Identity, Arc<Place>> = self
            .places
            .iter()
            .map(|(identity, namespace)| {
                let place = Place {
                    identity: identity.clone(),
                    namespace: Arc::clone(namespace),
                    filters_itself: matches!(identity, Identity::Node(_)),
                };
                (identity, Arc::new(place))
            })
            .collect();
        let mut options = ProbeOptions::default();
        if patience_ms > 0 {
            options.quiet = Duration::from_millis(patience_ms);
        }
        let mut sent = Vec::new();
        let mut tasks = Vec::new();
        for trial in trials {
            let (Some(source), Some(destination)) =
                (places.get(&trial.src.place), places.get(&trial.dst.place))
            else {
                continue; // a pod that went away between plan and packet
            };
            sent.push(trial);
            tasks.push(ProbeTask {
                source: Arc::clone(source),
                source_address: Some(trial.src.address),
                destination: trial.dst.address,
                protocol: trial.protocol,
                port: trial.port,
                arrives_at: vec![Arc::clone(destination)],
                expect: match trial.expected {
                    Verdict::Allowed => Some(true),
                    Verdict::Denied => Some(false),
                    Verdict::Unknown => None,
                },
            });
        }
        let total = tasks.len() as u64;
        let (tx, rx) = std::sync::mpsc::channel();
        let results = std::thread::scope(|scope| {
            let prober = scope.spawn(move || {
                probe::run(tasks, &options, |done| {
                    let _ = tx.send(done);
                })
            });
            for done in rx {
                progress(done as u64, total);
            }
            prober.join()
        });
        let results = results.unwrap_or_else(|_| Ok(Vec::new()))?;
        Ok(sent.iter().zip(&results).map(|(trial, result)| finding(trial, result)).collect())
    }
}

/// Judges one result. What proves that a packet got through is that it was seen at its destination
/// or that the right one answered; what proves that it was dropped is that it was not seen.
fn finding(trial: &Trial, result: &ProbeResult) -> Finding {
    let arrived = result.arrived.as_ref() == Some(&trial.dst.place);
    let (packets, passed) = match &result.outcome {
        Outcome::Answered { by, .. } => {
            let right = by.as_ref().is_none_or(|answer| answer.identity == trial.dst.place);
            ("answered", right.then_some(true))
        }
        // A closed port says no; an open one that does is not what it should be.
        Outcome::Refused { .. } if !trial.served && arrived => ("refused", Some(true)),
        Outcome::Refused { .. } => ("refused", if arrived { Some(true) } else { None }),
        Outcome::Dropped => ("dropped", Some(false)),
        Outcome::Unanswered { .. } => ("unanswered", None),
        Outcome::Unreachable { .. } => ("unreachable", None),
        Outcome::Error { .. } => ("error", None),
    };
    Finding::new(trial, packets, passed, result.to_string())
}
