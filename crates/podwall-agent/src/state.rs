//! What may others know of the agent, while it works?
//!
//! ```text
//!   writer ── set_… ──▶ State ◀── snapshot ── metrics, health, status
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use podwall_compile::compiler::{NodeCompiler, Stats};
use podwall_dataplane::{DataPlane, Fill};
use prometheus_client::metrics::histogram::Histogram;

use crate::index::Index;
use crate::metrics;
use crate::objects::{Kind, Unusable};
use crate::strangers::Strangers;

/// What is known of the agent's work. Written by the writer, read by whoever asks.
#[derive(Debug)]
pub struct State {
    now: Mutex<Snapshot>,
    /// From events of the API server to the kernel.
    pub(crate) latencies: Histogram,
    /// From questions of the CNI plugin to their answers.
    pub(crate) attaching: Histogram,
}

/// One moment of it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The node.
    pub node: Arc<str>,
    /// `ebpf` or `nftables`.
    pub dataplane: &'static str,
    /// Why it is not eBPF although that was preferred.
    pub instead: Option<String>,
    /// The kinds that were not listed to the end yet.
    pub missing: Vec<Kind>,
    /// Whether the kernel holds what the cluster asked for when it was last told.
    pub enforced: bool,
    /// How many changes the kernel was told.
    pub changes: u64,
    /// How many the kernel refused.
    pub failures: u64,
    /// How often the kernel was found to differ from the model.
    pub drifts: u64,
    /// When each kind was last heard of.
    heard: BTreeMap<Kind, Instant>,
    /// How often the watch of each kind failed.
    pub watch_failures: BTreeMap<Kind, u64>,
    /// How many objects are known of each kind.
    pub objects: Vec<(Kind, usize)>,
    /// What cannot be used, and why.
    pub unusable: Vec<Unusable>,
    /// How full the kernel's tables are.
    pub fill: Fill,
    /// The sizes of what was compiled.
    pub compiled: Stats,
    /// Interfaces that the CNI plugin attached.
    pub attachments: usize,
    /// Strangers that are isolated, and those that were let go.
    pub strangers: [usize; 2],
}

impl Snapshot {
    /// How long ago a kind was last heard of.
    pub fn heard(&self, kind: Kind) -> Option<Duration> {
        self.heard.get(&kind).map(Instant::elapsed)
    }

    /// Whether each kind was listed to the end once.
    pub fn is_synced(&self) -> bool {
        self.missing.is_empty()
    }
}

impl State {
    pub(crate) fn new(node: Arc<str>, dataplane: &'static str, instead: Option<String>) -> Self {
        let missing = Kind::ALL.to_vec();
        let now = Snapshot { node, dataplane, instead, missing, ..Snapshot::default() };
        Self {
            now: Mutex::new(now),
            latencies: metrics::latencies(),
            attaching: metrics::latencies(),
        }
    }

    /// This moment.
    pub fn snapshot(&self) -> Snapshot {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn set_heard(&self, kind: Kind, when: Instant) {
        self.change(|now| _ = now.heard.insert(kind, when));
    }

    pub(crate) fn set_watch_failed(&self, kind: Kind) {
        self.change(|now| *now.watch_failures.entry(kind).or_default() += 1);
    }

    pub(crate) fn set_known(&self, index: &Index, strangers: &Strangers) {
        self.change(|now| {
            now.missing = index.missing().collect();
            now.objects = index.counts().into();
            if !now.unusable.iter().eq(index.unusable()) {
                now.unusable = index.unusable().cloned().collect();
            }
            now.attachments = index.attachments().live().count();
            now.strangers = [strangers.isolated(), strangers.released().len()];
        });
    }

    pub(crate) fn set_written(
        &self,
        since: Instant,
        plane: &dyn DataPlane,
        compiler: &NodeCompiler,
    ) {
        let (fill, compiled) = (plane.fill(), compiler.stats());
        self.latencies.observe(since.elapsed().as_secs_f64());
        self.change(|now| {
            now.enforced = true;
            now.changes += 1;
            now.fill = fill;
            now.compiled = compiled;
        });
    }

    pub(crate) fn set_attached(&self, took: Duration) {
        self.attaching.observe(took.as_secs_f64());
    }

    pub(crate) fn set_drifted(&self) {
        self.change(|now| now.drifts += 1);
    }

    pub(crate) fn set_failed(&self) {
        self.change(|now| {
            now.enforced = false;
            now.failures += 1;
        });
    }
}
