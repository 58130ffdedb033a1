//! What may others know of the agent, while it works?
//!
//! ```text
//!   writer ── set_… ──▶ State ◀── snapshot ── metrics, health, status
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use podwall_dataplane::{DataPlane, Fill};
use prometheus_client::metrics::histogram::Histogram;

use crate::index::Index;
use crate::metrics;
use crate::objects::{Kind, Unusable};

/// What is known of the agent's work. Written by the writer, read by whoever asks.
#[derive(Debug)]
pub struct State {
    now: Mutex<Snapshot>,
    latencies: Histogram,
}

/// One moment of it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The node.
    pub node: Arc<str>,
    /// `ebpf` or `nftables`.
    pub dataplane: &'static str,
    /// Whether each kind was listed to the end once.
    pub synced: bool,
    /// Whether the kernel holds what the cluster asked for when it was last told.
    pub enforced: bool,
    /// How many changes the kernel was told.
    pub changes: u64,
    /// How many the kernel refused.
    pub failures: u64,
    /// From the event to the kernel, the last time.
    pub latency: Duration,
    /// How many objects are known of each kind.
    pub objects: Vec<(Kind, usize)>,
    /// What cannot be used, and why.
    pub unusable: Vec<Unusable>,
    /// How full the kernel's tables are.
    pub fill: Fill,
}

impl State {
    pub(crate) fn new(node: Arc<str>, dataplane: &'static str) -> Self {
        let now = Snapshot { node, dataplane, ..Snapshot::default() };
        Self { now: Mutex::new(now), latencies: metrics::latencies() }
    }

    /// From events to the kernel, all of them.
    pub(crate) fn latencies(&self) -> &Histogram {
        &self.latencies
    }

    /// This moment.
    pub fn snapshot(&self) -> Snapshot {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn set_known(&self, index: &Index) {
        self.change(|now| {
            now.synced = index.is_synced();
            now.objects = index.counts().into();
            now.unusable = index.unusable().cloned().collect();
        });
    }

    pub(crate) fn set_written(&self, since: Instant, plane: &dyn DataPlane) {
        let (fill, latency) = (plane.fill(), since.elapsed());
        self.latencies.observe(latency.as_secs_f64());
        self.change(|now| {
            now.enforced = true;
            now.changes += 1;
            now.latency = latency;
            now.fill = fill;
        });
    }

    pub(crate) fn set_failed(&self) {
        self.change(|now| {
            now.enforced = false;
            now.failures += 1;
        });
    }
}
