//! How do planned trials become packets, and packets findings?

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::netns::NetNs;
use crate::probe::{self, Place, ProbeError, ProbeOptions, ProbeTask};
use crate::serve::identity::Identity;
use crate::trial::{Expected, Finding, Trial};

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
            let arrives_at = trial.ways.iter().map(|way| places.get(&way.place).cloned()).collect();
            let (Some(source), Some(arrives_at)) = (places.get(&trial.src.place), arrives_at)
            else {
                continue; // a pod that went away between plan and packet
            };
            sent.push(trial);
            tasks.push(ProbeTask {
                source: Arc::clone(source),
                source_address: Some(trial.src.address),
                destination: trial.dst_address,
                protocol: trial.protocol,
                port: trial.port,
                arrives_at,
                expect: match trial.expected() {
                    Expected::Allowed => Some(true),
                    Expected::Denied | Expected::Nobody => Some(false),
                    Expected::Unknown | Expected::Mixed => None,
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
        Ok(sent.iter().zip(&results).map(|(trial, result)| Finding::new(trial, result)).collect())
    }
}
