//! Who tells the kernel what the cluster wants?
//!
//! ```text
//!   told ──▶ Index ── batch ──▶ NodeCompiler ── Delta ──▶ DataPlane
//!                                  before the first complete list of each kind: nothing
//!                                  then: everything once, and what changes
//! ```
//!
//! One thread does all of it. What an earlier agent left in the kernel stays in force until the first
//! complete list of each kind, and is then replaced in one step.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use podwall_compile::compiler::NodeCompiler;
use podwall_compile::tables::Delta;
use podwall_dataplane::DataPlane;

use crate::index::Index;
use crate::state::State;
use crate::watch::Told;

/// How many pods of other nodes go into one change of the kernel: so long a pod of this node waits
/// behind them, some milliseconds.
const BULK: usize = 1000;
/// How many events are taken in before the kernel hears of them.
const AT_ONCE: usize = 10_000;
/// How long to wait after the kernel has refused something, at first and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];

/// Follows the cluster on one node. Owned by its thread.
pub(crate) struct Writer {
    index: Index,
    compiler: NodeCompiler,
    plane: Box<dyn DataPlane>,
    /// Whether the kernel is known to hold the compiler's tables.
    loaded: bool,
    /// How long to wait before the next try after a failure.
    retry: Duration,
    /// What others may know.
    state: Arc<State>,
}

/// When to look again although nobody has told anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// There is more to do.
    Now,
    /// After so long.
    After(Duration),
    /// Not before something is told.
    Never,
}

impl Writer {
    pub(crate) fn new(node: &Arc<str>, plane: Box<dyn DataPlane>, state: Arc<State>) -> Self {
        Self {
            index: Index::new(Arc::clone(node)),
            compiler: NodeCompiler::new(Some(Arc::clone(node))),
            plane,
            loaded: false,
            retry: RETRY[0],
            state,
        }
    }

    /// Works until nobody can tell anything any more.
    pub(crate) fn run(&mut self, told: &Receiver<Told>) {
        let mut next = Next::Never;
        loop {
            let first = match next {
                Next::Now => told.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
                Next::After(pause) => told.recv_timeout(pause),
                Next::Never => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(first) => {
                    let more = std::iter::from_fn(|| told.try_recv().ok()).take(AT_ONCE);
                    for (event, when) in std::iter::once(first).chain(more) {
                        self.index.hear(event, when);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            next = self.follow();
        }
    }

    /// Brings compiler and kernel closer to what is known.
    fn follow(&mut self) -> Next {
        self.state.set_known(&self.index);
        if !self.index.is_synced() {
            return Next::Never;
        }
        let bulk = if self.loaded { BULK } else { usize::MAX };
        let since = self.index.batch(&mut self.compiler, bulk);
        if since.is_none() && self.loaded {
            return self.settle();
        }
        let start = Instant::now();
        let delta = self.compiler.commit();
        match self.write(&delta) {
            Ok(()) => {
                if bulk == usize::MAX {
                    let [namespaces, pods, policies] = self.index.counts().map(|(_, count)| count);
                    let took = start.elapsed();
                    tracing::info!(namespaces, pods, policies, ?took, "everything is in force");
                }
                self.retry = RETRY[0];
                self.state.set_written(since.unwrap_or(start), &*self.plane);
                if self.index.is_pending() { Next::Now } else { Next::After(Duration::ZERO) }
            }
            Err(error) => {
                let pause = self.retry;
                tracing::error!(%error, ?pause, "the kernel cannot be told; it holds what it held");
                self.state.set_failed();
                self.retry = (2 * pause).min(RETRY[1]);
                Next::After(pause)
            }
        }
    }

    /// Writes a change, or everything where the kernel may hold something else.
    fn write(&mut self, delta: &Delta) -> Result<(), podwall_dataplane::Error> {
        // Until the kernel has said yes, nobody knows what it holds.
        let known = std::mem::replace(&mut self.loaded, false);
        let tables = self.compiler.tables();
        if !known {
            self.plane.replace(tables)?;
        } else if !delta.is_empty() {
            self.plane.update(delta).or_else(|error| {
                tracing::warn!(%error, "a change was refused: writing whole tables");
                self.plane.replace(tables)
            })?;
        }
        self.loaded = true;
        Ok(())
    }

    /// Nothing has changed: what can wait is done now.
    fn settle(&mut self) -> Next {
        match self.plane.settle() {
            Ok(None) => Next::Never,
            Ok(Some(pause)) => Next::After(pause),
            Err(error) => {
                // Everything is enforced all the same; packets only cost more.
                tracing::warn!(%error, "connections that stand are judged further on");
                Next::After(RETRY[1])
            }
        }
    }
}
