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
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use podwall_compile::compiler::NodeCompiler;
use podwall_dataplane::{DataPlane, Error, follow};

use crate::desk::Desk;
use crate::events::Complaints;
use crate::flows::Flows;
use crate::index::Index;
use crate::links::Links;
use crate::removal::OtherPlane;
use crate::state::State;
use crate::strangers::Strangers;
use crate::told::Told;

/// How many pods of other nodes go into one change of the kernel: so long a pod of this node waits
/// behind them, some milliseconds.
const BULK: usize = 1000;
/// How many events are taken in before the kernel hears of them.
const AT_ONCE: usize = 10_000;
/// How long to wait after the kernel has refused something, at first and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];

/// Follows the cluster on one node. Owned by its thread.
pub(crate) struct Writer {
    pub(crate) node: Arc<str>,
    pub(crate) index: Index,
    pub(crate) compiler: NodeCompiler,
    pub(crate) plane: Box<dyn DataPlane>,
    /// What may be left of the other data plane; `None`: nothing any more.
    other: Option<OtherPlane>,
    pub(crate) links: Links,
    /// Whether links are guarded.
    pub(crate) guards: bool,
    /// Whether the kernel is known to hold the compiler's tables.
    pub(crate) loaded: bool,
    /// After a failure: when to try again, and how long to wait after the next one.
    retry: Option<Instant>,
    pause: Duration,
    /// When the kernel is held against the model next, and how often.
    verify: Instant,
    verify_every: Duration,
    pub(crate) strangers: Strangers,
    /// Questions that wait.
    pub(crate) desk: Desk,
    /// Who follows dropped packets.
    pub(crate) flows: Flows,
    pub(crate) complaints: Complaints,
    /// What others may know.
    pub(crate) state: Arc<State>,
}

/// What a writer is made of.
pub(crate) struct Parts {
    pub(crate) index: Index,
    pub(crate) plane: Box<dyn DataPlane>,
    pub(crate) other: OtherPlane,
    pub(crate) links: Links,
    pub(crate) guards: bool,
    pub(crate) state: Arc<State>,
    pub(crate) flows: Flows,
    pub(crate) complaints: Complaints,
    pub(crate) strangers: Strangers,
    pub(crate) verify_every: Duration,
}

impl Writer {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            index,
            plane,
            other,
            links,
            guards,
            state,
            flows,
            complaints,
            strangers,
            verify_every,
        } = parts;
        let node = Arc::clone(&state.snapshot().node);
        Self {
            compiler: NodeCompiler::new(Some(Arc::clone(&node))),
            node,
            index,
            plane,
            other: Some(other),
            links,
            guards,
            loaded: false,
            retry: None,
            pause: RETRY[0],
            verify: Instant::now() + verify_every,
            verify_every,
            strangers,
            desk: Desk::default(),
            flows,
            complaints,
            state,
        }
    }

    /// Works until nobody can tell anything any more.
    pub(crate) fn run(&mut self, told: &Receiver<Told>) {
        self.guard_all();
        let mut settled = false;
        loop {
            let work = self.follow();
            settled &= !work;
            let mut pause = if self.is_due() { Some(Duration::ZERO) } else { self.next() };
            if pause != Some(Duration::ZERO) && self.loaded && !settled {
                let more = self.settle();
                settled = more.is_none();
                pause = more.into_iter().chain(pause).min();
            }
            let first = match pause {
                Some(pause) => told.recv_timeout(pause),
                None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(first) => {
                    self.hear(first);
                    for told in std::iter::from_fn(|| told.try_recv().ok()).take(AT_ONCE) {
                        self.hear(told);
                    }
                    self.state.set_known(&self.index, &self.strangers);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Heard(event, when) => {
                self.state.set_heard(event.kind(), when);
                self.index.hear(event, when);
            }
            Told::Failed(kind) => self.state.set_watch_failed(kind),
            Told::Asked(question) => self.asked(question),
            Told::Count(reply) => drop(reply.send(self.counted())),
            Told::Denied(denied) => self.denied(&denied),
        }
    }

    /// Whether something is to be written now.
    fn is_due(&self) -> bool {
        self.index.is_synced()
            && (self.index.is_pending() || !self.loaded)
            && self.retry.is_none_or(|at| at <= Instant::now())
    }

    /// How long nothing is to be done if nobody says anything; `None`: for ever.
    fn next(&self) -> Option<Duration> {
        let now = Instant::now();
        let verify = self.loaded.then_some(self.verify);
        let all = [self.retry, verify, self.strangers.next(), self.desk.next()];
        all.into_iter().flatten().min().map(|at| at.saturating_duration_since(now))
    }

    /// Brings compiler and kernel closer to what is known; whether there was anything to do.
    fn follow(&mut self) -> bool {
        let now = Instant::now();
        self.let_strangers_go(now);
        if self.loaded && self.verify <= now {
            // What was found has been said, and is written next.
            let _ = self.verify(false);
        }
        let work = self.is_due();
        if work {
            self.write();
        }
        self.answer_who_waits(Instant::now());
        work
    }

    fn write(&mut self) {
        let bulk = if self.loaded { BULK } else { usize::MAX };
        let start = Instant::now();
        let since = self.index.batch(&mut self.compiler, bulk);
        self.tell_strangers();
        let delta = self.compiler.commit();
        let was = self.loaded;
        let tables = self.compiler.tables();
        match follow(&mut *self.plane, &mut self.loaded, tables, &delta) {
            Ok(refused) => {
                if let Some(error) = refused {
                    tracing::warn!(%error, "a change was refused: whole tables were written");
                }
                if !was {
                    let took = start.elapsed();
                    let known = self.index.counts().map(|(kind, count)| format!("{count} {kind}"));
                    tracing::info!(?took, known = known.join(", "), "everything is in force");
                }
                if let Some(Err(error)) = self.other.take().map(|other| other.remove()) {
                    tracing::error!(%error, "what the other data plane left stays in force beside");
                }
                (self.retry, self.pause) = (None, RETRY[0]);
                self.state.set_written(since.unwrap_or(start), &*self.plane, &self.compiler);
                self.flows.follow(&mut *self.plane);
                self.complain();
            }
            Err(error) => {
                let pause = self.pause;
                tracing::error!(%error, ?pause, "the kernel cannot be told; it holds what it held");
                self.retry = Some(Instant::now() + pause);
                self.pause = (2 * pause).min(RETRY[1]);
                self.state.set_failed();
                self.refuse_who_waits(&error);
            }
        }
    }

    /// Holds the kernel against the model, and puts right what differs: of all tables every entry, or
    /// what can be seen without listing them.
    pub(crate) fn verify(&mut self, full: bool) -> Result<Vec<String>, Error> {
        self.verify = Instant::now() + self.verify_every;
        let tables = self.compiler.tables();
        let entries = if full { self.plane.verify(tables) } else { self.plane.glance(tables) };
        // What of one cannot be seen must not hide the other.
        let entries = entries.inspect_err(|error| {
            tracing::warn!(%error, "the kernel cannot be held against the model");
        });
        let links = self.links.verify(self.index.attachments().live()).inspect_err(|error| {
            tracing::warn!(%error, "the guard of source addresses cannot be held against the model");
        });
        if entries.as_ref().is_ok_and(|drift| !drift.is_empty()) {
            // The next step writes everything, and tries again if that fails.
            self.loaded = false;
            self.flows.restart();
        }
        let found = entries.iter().flatten().map(ToString::to_string);
        let drift: Vec<String> = found.chain(links.iter().flatten().cloned()).collect();
        if !drift.is_empty() {
            let shown: Vec<&str> = drift.iter().take(5).map(String::as_str).collect();
            tracing::warn!(count = drift.len(), drift = shown.join("; "), "the kernel differs");
            self.state.set_drifted();
        }
        entries.and(links).map(|_| drift)
    }

    /// Nothing has changed: what can wait is done now. How long to wait before the next part.
    fn settle(&mut self) -> Option<Duration> {
        self.plane.settle().unwrap_or_else(|error| {
            // Everything is enforced all the same; packets only cost more.
            tracing::warn!(%error, "connections that stand are judged further on");
            Some(RETRY[1])
        })
    }

    /// Takes over the links that an earlier agent guarded, or lets them all go.
    fn guard_all(&mut self) {
        let attachments = self.index.attachments().live().filter(|_| self.guards);
        if let Err(error) = self.links.set(attachments) {
            tracing::error!(%error, "forged source addresses are not dropped");
        }
    }
}
