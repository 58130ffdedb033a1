//! Who follows dropped packets?
//!
//! ```text
//!   DataPlane ── Denied ──▶ a thread ──▶ writer (knows the names) ── Flow ──▶ every follower
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use podwall_dataplane::{DataPlane, Denials, Denied};
use podwall_local::Flow;
use tokio::sync::broadcast;

use crate::names;
use crate::told::Told;
use crate::writer::Writer;

/// A follower that is slower than so many packets misses some.
const BACKLOG: usize = 1024;
/// How long the thread may take to see that it is no longer needed.
const PAUSE: Duration = Duration::from_millis(500);

/// Gives each follower what the data plane reports to one. Owned by the writer.
pub(crate) struct Flows {
    tell: Sender<Told>,
    followers: broadcast::Sender<Flow>,
    /// Whether the thread is still needed.
    reading: Option<Arc<AtomicBool>>,
    /// Not to say the same each time.
    failed: bool,
}

impl Flows {
    /// What is dropped is told to the writer, over this channel.
    pub(crate) fn new(tell: Sender<Told>) -> Self {
        let (followers, _) = broadcast::channel(BACKLOG);
        Self { tell, followers, reading: None, failed: false }
    }

    /// Where to follow.
    pub(crate) fn followers(&self) -> broadcast::Sender<Flow> {
        self.followers.clone()
    }

    /// Reads from now on what a data plane reports, if nobody does yet.
    pub(crate) fn follow(&mut self, plane: &mut dyn DataPlane) {
        if self.reading.is_some() {
            return;
        }
        match plane.denials() {
            Ok(denials) => self.reading = self.read(denials),
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::warn!(%error, "dropped packets cannot be followed");
                }
            }
        }
    }

    /// Asks the data plane anew after the next write: what reported may not be there any more.
    pub(crate) fn restart(&mut self) {
        if let Some(reading) = self.reading.take() {
            reading.store(false, Ordering::Relaxed);
        }
    }

    fn read(&self, denials: Denials) -> Option<Arc<AtomicBool>> {
        let needed = Arc::new(AtomicBool::new(true));
        let (reading, tell) = (Arc::clone(&needed), self.tell.clone());
        let work = move || {
            while reading.load(Ordering::Relaxed) {
                if let Some(denied) = denials.next(PAUSE)
                    && tell.send(Told::Denied(denied)).is_err()
                {
                    return;
                }
            }
        };
        // Without a thread nothing is reported; the firewall does not need it.
        thread::Builder::new().name("flows".to_owned()).spawn(work).ok()?;
        Some(needed)
    }
}

impl Writer {
    /// A packet was dropped.
    pub(crate) fn denied(&mut self, denied: &Denied) {
        let local = denied.local();
        if denied.stranger && self.strangers.note(local, Instant::now()) {
            tracing::info!(%local, "no pod is known to have this address: isolated");
        }
        if self.flows.followers.receiver_count() > 0 {
            // Who has gone away since misses nothing.
            drop(self.flows.followers.send(names::flow(&self.node, &self.compiler, denied)));
        }
    }
}
