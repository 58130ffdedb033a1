//! Which packets were dropped just now?
//!
//! ```text
//!   eBPF: ring buffer ─┐
//!                      ├─ a thread ──▶ Denials: one Denied after the other
//!   nftables: NFLOG ───┘
//! ```
//!
//! The kernel reports so many a second and counts the rest: a flood of denials costs no CPU core.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;

use crate::Error;

/// A packet that was dropped, as policies saw it: after destination NAT, before source NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// When, by this machine's clock.
    pub when: SystemTime,
    /// Which side's policies dropped it.
    pub direction: Direction,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Source port; 0 for protocols without ports.
    pub src_port: u16,
    /// Destination port; 0 for protocols without ports.
    pub port: u16,
}

/// Dropped packets, from now on. Nothing is reported any more when this is dropped.
pub struct Denials {
    receiver: Receiver<Denied>,
    /// Tells the thread that somebody listens.
    _listening: Arc<()>,
}

/// How long the thread may take to notice that nobody listens any more.
const NOTICE: Duration = Duration::from_millis(100);

impl Denials {
    /// The next one; `None` if there is none for so long, or the kernel cannot be asked any more.
    pub fn next(&self, patience: Duration) -> Option<Denied> {
        self.receiver.recv_timeout(patience).ok()
    }

    /// A thread that waits for packets by calling `wait`, each time for at most a moment.
    pub(crate) fn from_thread<W>(
        start: impl FnOnce(Sender<Denied>) -> Result<W, Error> + Send + 'static,
    ) -> Result<Self, Error>
    where
        W: FnMut(Duration) -> Result<(), Error>,
    {
        let (sender, receiver) = channel();
        let listening = Arc::new(());
        let somebody = Arc::downgrade(&listening);
        let (report, started) = channel();
        let work = move || match start(sender) {
            Ok(mut wait) => {
                drop(report.send(Ok(())));
                while somebody.strong_count() > 0 && wait(NOTICE).is_ok() {}
            }
            Err(error) => drop(report.send(Err(error))),
        };
        let failed = |source| Error::Socket { doing: "start a thread for dropped packets", source };
        thread::Builder::new().name("denials".to_owned()).spawn(work).map_err(failed)?;
        started.recv().unwrap_or_else(|_| Err(Error::Lost("a thread ended".to_owned())))?;
        Ok(Self { receiver, _listening: listening })
    }
}
