//! How does one probe go, from its socket to its result?
//!
//! ```text
//!   open (in the source's namespace) ──▶ send ──▶ answer │ refusal │ error ──▶ Outcome
//!                                          │
//!                                          └── silence for long enough ──▶ what does the evidence say?
//! ```

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::bind;
use podwall_policy::port::Protocol;
use tokio::time::{Instant, sleep_until};

use super::evidence::Evidence;
use super::outcome::{Outcome, ProbeResult};
use super::{ProbeOptions, ProbeTask, datagram, tcp};
use crate::netns::NetNsError;
use crate::serve::identity::Identity;
use crate::serve::socket;

/// A timer that fires this late says that the machine is busy: then silence proves nothing yet.
const LATE: Duration = Duration::from_millis(40);

/// How often silence is given another chance for that reason.
const CHANCES: u32 = 8;

/// What all probes of one run share.
pub(super) struct Context {
    pub(super) tasks: Rc<[ProbeTask]>,
    /// The places where each task may arrive, as indices.
    pub(super) watched: Vec<Vec<usize>>,
    /// The places by index.
    pub(super) identities: Vec<Identity>,
    pub(super) evidence: Rc<Evidence>,
    pub(super) options: ProbeOptions,
    /// The token of task 0; the others count on.
    pub(super) first_token: u32,
}

/// The socket of a probe, made in the source's namespace, or why there is none.
pub(super) type Opened = Result<OwnedFd, String>;

/// How an attempt ended, short of silence.
pub(super) enum Ended {
    /// With a word from outside.
    With(Outcome),
    /// The source's kernel did not let any packet out.
    NotSent,
}

/// One probe on its way.
pub(super) struct Probe<'a> {
    pub(super) task: &'a ProbeTask,
    /// ICMP of the destination's family for either ICMP.
    pub(super) protocol: Protocol,
    pub(super) token: u32,
    pub(super) start: Instant,
    /// Whether it is sent again and again: not where silence is expected.
    pub(super) insistent: bool,
}

impl Probe<'_> {
    /// Milliseconds since the first packet.
    pub(super) fn millis(&self) -> f64 {
        self.start.elapsed().as_secs_f64() * 1000.0
    }

    /// Where the packets go.
    pub(super) fn to(&self) -> SocketAddr {
        SocketAddr::new(self.task.destination, self.task.port)
    }
}

impl Context {
    /// Opens the sockets of tasks that start at one place.
    pub(super) fn open(&self, batch: &[usize]) -> Vec<(usize, Opened)> {
        let Some(source) = batch.first().map(|first| &self.tasks[*first].source) else {
            return Vec::new();
        };
        let tasks: Vec<_> = batch
            .iter()
            .map(|index| {
                let task = &self.tasks[*index];
                (protocol_of(task), task.destination, task.source_address, self.token(*index))
            })
            .collect();
        let opened = source.namespace.within(|| {
            let open = |(protocol, to, from, token)| {
                open(protocol, to, from, token).map_err(|error| describe(&error, to, from))
            };
            tasks.into_iter().map(open).collect::<Vec<Opened>>()
        });
        let failed = |error: &NetNsError| format!("cannot send from {}: {error}", source.identity);
        match opened {
            Ok(opened) => batch.iter().copied().zip(opened).collect(),
            Err(error) => batch.iter().map(|index| (*index, Err(failed(&error)))).collect(),
        }
    }

    /// Runs one probe to its end.
    pub(super) async fn attempt(self: Rc<Self>, index: usize, opened: Opened) -> ProbeResult {
        let task = &self.tasks[index];
        let probe = Probe {
            task,
            protocol: protocol_of(task),
            token: self.token(index),
            start: Instant::now(),
            insistent: task.expect != Some(false),
        };
        let socket = match opened {
            Ok(socket) => socket,
            Err(what) => return ProbeResult { outcome: Outcome::Error { what }, arrived: None },
        };
        let ended = if probe.protocol == Protocol::TCP {
            self.unless_silent(index, &probe, tcp::run(&probe, socket)).await
        } else {
            self.unless_silent(index, &probe, datagram::run(&probe, socket)).await
        };
        let (seen, lossy) = self.evidence.look(probe.token, &self.watched[index]);
        let arrived = seen.arrived.and_then(|place| self.identities.get(place)).cloned();
        let watched = !lossy && !self.watched[index].is_empty();
        let outcome = match ended {
            Some(Ended::With(outcome)) => outcome,
            Some(Ended::NotSent) => Outcome::Dropped,
            None if arrived.is_none() && watched => Outcome::Dropped,
            None => Outcome::Unanswered { answer_left: seen.answer_left },
        };
        ProbeResult { outcome, arrived }
    }

    /// Waits for the attempt as long as it is worth it; `None` for silence.
    async fn unless_silent(
        &self,
        index: usize,
        probe: &Probe<'_>,
        attempt: impl Future<Output = Ended>,
    ) -> Option<Ended> {
        tokio::select! {
            biased;
            ended = attempt => Some(ended),
            () = self.silence(index, probe) => None,
        }
    }

    /// Returns when the probe is to be given up: early if silence was expected and nothing
    /// arrived, late if something did or an answer is expected.
    async fn silence(&self, index: usize, probe: &Probe<'_>) {
        let ProbeOptions { patience, quiet, doubt, .. } = self.options;
        let whole = probe.start + patience;
        let has_answer = datagram::has_answer(probe.protocol);
        let mut until = match probe.task.expect {
            // Such a probe is never answered: look again soon whether it is there.
            _ if !has_answer => probe.start + quiet / 4,
            Some(true) => whole,
            Some(false) => probe.start + quiet,
            None => probe.start + doubt.min(patience),
        };
        let mut chances = CHANCES;
        loop {
            sleep_until(until).await;
            let now = Instant::now();
            let (seen, _) = self.evidence.look(probe.token, &self.watched[index]);
            if !has_answer {
                let quiet = if probe.insistent { patience } else { quiet };
                if seen.arrived.is_some() || now >= probe.start + quiet {
                    return;
                }
                until = now + Duration::from_millis(20);
            } else if seen.arrived.is_some() && now < whole {
                until = whole;
            } else if now - until > LATE && chances > 0 {
                chances -= 1;
                until = now + quiet;
            } else {
                return;
            }
        }
    }

    fn token(&self, index: usize) -> u32 {
        let token = self.first_token.wrapping_add(index as u32);
        // An SCTP tag of zero is forbidden (RFC 9260 §3.3.2).
        if token == 0 { self.first_token.wrapping_sub(1) } else { token }
    }
}

/// ICMP has a number for each family.
fn protocol_of(task: &ProbeTask) -> Protocol {
    match task.protocol {
        Protocol::ICMP | Protocol::ICMPV6 if task.destination.is_ipv4() => Protocol::ICMP,
        Protocol::ICMP | Protocol::ICMPV6 => Protocol::ICMPV6,
        other => other,
    }
}

/// A socket of the calling thread's namespace, bound if an address is asked for.
fn open(protocol: Protocol, to: IpAddr, from: Option<IpAddr>, token: u32) -> io::Result<OwnedFd> {
    let v6 = to.is_ipv6();
    let socket = match protocol {
        Protocol::TCP => tcp::open(v6, token)?,
        _ => datagram::open(v6, protocol)?,
    };
    if let Some(from) = from {
        if from.is_ipv6() != v6 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        socket::any_source(&socket, v6)?;
        bind(socket.as_raw_fd(), &socket::address(SocketAddr::new(from, 0)))?;
    }
    Ok(socket)
}

fn describe(error: &io::Error, to: IpAddr, from: Option<IpAddr>) -> String {
    match (error.kind(), error.raw_os_error(), from) {
        (io::ErrorKind::InvalidInput, None, Some(from)) => {
            format!("cannot send from {from} to {to}: one is IPv4, the other IPv6")
        }
        (_, Some(nix::libc::EMFILE | nix::libc::ENFILE), _) => {
            format!("no socket for a probe: {error}; ask for a smaller window or raise ulimit -Hn")
        }
        _ => format!("no socket for a probe to {to}: {error}"),
    }
}
