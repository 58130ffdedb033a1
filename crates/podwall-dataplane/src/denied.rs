//! Which packets were dropped just now?
//!
//! ```text
//!   eBPF: ring buffer ─┐
//!                      ├─ a thread ──▶ Denials: one Denied after the other
//!   nftables: NFLOG ───┘
//! ```
//!
//! The kernel reports so many a second and counts the rest: a flood of denials costs no CPU core.

use std::io::{PipeReader, PipeWriter, pipe};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use podwall_compile::tables::RuleId;
use podwall_local::Flow;
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
    /// The rule that denies it; `None`: none allows it. nftables does not say.
    pub rule: Option<RuleId>,
    /// No policy dropped it: the address on this side ([`Self::local`]) is one of this node's pods'
    /// that nobody knows yet (`SubjectId::STRANGER` of the tables).
    pub stranger: bool,
}

impl Denied {
    /// The address on the side that dropped it: of a pod, or of a stranger.
    pub fn local(&self) -> IpAddr {
        match self.direction {
            Direction::Egress => self.src,
            Direction::Ingress => self.dst,
        }
    }

    /// The same in words, with what only those know who know the cluster.
    pub fn in_words(&self, node: &str, account: Account) -> Flow {
        let since = self.when.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Flow {
            time: u64::try_from(since.as_micros()).unwrap_or(u64::MAX),
            node: node.to_owned(),
            verdict: "denied".to_owned(),
            direction: self.direction.to_string(),
            src: account.src,
            dst: account.dst,
            src_address: self.src,
            dst_address: self.dst,
            protocol: match self.protocol {
                Protocol::ICMPV6 => "ICMP".to_owned(),
                other => other.to_string(),
            },
            src_port: self.src_port,
            port: self.port,
            isolated_by: account.isolated_by,
            reason: account.reason,
        }
    }
}

/// What the tables do not say of a packet that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Who sent it: `namespace/pod`, a node, or nobody that the cluster knows.
    pub src: Option<String>,
    /// Who should have got it.
    pub dst: Option<String>,
    /// The policies that isolate, as `namespace/name`.
    pub isolated_by: Vec<String>,
    /// Why it was dropped, in a sentence.
    pub reason: String,
}

/// Dropped packets, from now on. Nothing is reported any more when this is dropped, and somebody
/// else can follow at once.
pub struct Denials {
    receiver: Receiver<Denied>,
    /// Its end tells the thread that nobody listens any more.
    listening: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Denials {
    /// The next one; `None` if there is none for so long, or the kernel cannot be asked any more.
    pub fn next(&self, patience: Duration) -> Option<Denied> {
        self.receiver.recv_timeout(patience).ok()
    }

    /// A thread that calls `read` whenever there is something to read. `start` gives that, and what
    /// to wait for.
    pub(crate) fn from_thread<R>(
        start: impl FnOnce(Sender<Denied>) -> Result<(OwnedFd, R), Error> + Send + 'static,
    ) -> Result<Self, Error>
    where
        R: FnMut() -> Result<(), Error>,
    {
        let failed = |source| Error::Socket { doing: "start a thread for dropped packets", source };
        let (sender, receiver) = channel();
        let (report, started) = channel();
        let (end, listening) = pipe().map_err(failed)?;
        let work = move || match start(sender) {
            Ok((source, mut read)) => {
                drop(report.send(Ok(())));
                while wait(&source, &end) && read().is_ok() {}
            }
            Err(error) => drop(report.send(Err(error))),
        };
        let thread =
            thread::Builder::new().name("denials".to_owned()).spawn(work).map_err(failed)?;
        started.recv().unwrap_or_else(|_| Err(Error::Lost("a thread ended".to_owned())))?;
        Ok(Self { receiver, listening: Some(listening), thread: Some(thread) })
    }
}

impl Drop for Denials {
    fn drop(&mut self) {
        self.listening = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there has been printed
        }
    }
}

/// Waits until there is something to read; false: nobody listens any more.
fn wait(source: &OwnedFd, end: &PipeReader) -> bool {
    let flags = PollFlags::POLLIN;
    let mut both = [PollFd::new(source.as_fd(), flags), PollFd::new(end.as_fd(), flags)];
    loop {
        match poll(&mut both, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(_) => return false,
            Ok(_) => return both[1].any() != Some(true),
        }
    }
}
