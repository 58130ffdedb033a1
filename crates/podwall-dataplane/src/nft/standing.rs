//! When may packets of a connection pass unseen?
//!
//! ```text
//!   a change that may close something ──▶ @standing loses `confirmed`, in the same transaction:
//!                                         every packet is judged
//!   changes pause ──▶ wait for packets judged by the old tables ──▶ go over all connections:
//!                     those that would be denied are revoked ──▶ @standing has `confirmed`
//! ```
//!
//! To look every packet up costs 4 to 7 % of the connections a second, and a quarter of the packets
//! of a stream. To let all packets of known connections pass would keep those alive that a policy
//! has closed. So they pass only while it is sure that each of them would be allowed:
//!
//! - A connection is `confirmed` when its first packet has passed all hooks, ours among them; while
//!   the tables stay as they are, so does the verdict on it.
//! - Those from before were judged by other tables. They are gone over in user space, with the same
//!   tables that the kernel has, and one that would be denied is *revoked*: its status gets the bit
//!   `IPS_FIXED_TIMEOUT`. Its packets are judged from then on, each time: if a policy allows it
//!   again, it goes on. The bit is the one mark on a connection that is nobody's: marks and labels
//!   belong to other programs. All else that it does is that the connection's entry, which its
//!   packets would keep alive, ends with its timeout.
//! - A packet judged by the old tables may become a connection after the change. It does so within
//!   one run over the hooks, which is one critical section of RCU (`nf_hook`), so after
//!   `membarrier(2)`'s `MEMBARRIER_CMD_GLOBAL` (`synchronize_rcu`) there is none left. But: one that
//!   another program keeps in a queue behind our hook (NFQUEUE) comes later, and then passes by its
//!   old verdict as long as nothing is closed.
//! - Changes that only open leave the element where it is: see [`may_close`].
//!
//! Nothing of this is needed to be right. Whoever never calls it has every packet judged.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use podwall_compile::tables::{Delta, NodeTables, Packet, SubjectId, Verdict, VerdictKey};

use super::Nftables;
use super::batch::Outcome;
use super::set::Element;
use crate::Error;
use crate::namespace::Namespace;
use crate::netlink::connections::{self, Connection, Listed};

/// Changes pause when none came for so long.
const QUIET: Duration = Duration::from_millis(20);
/// How often to ask whether the old tables' packets are through.
const ASK: Duration = Duration::from_millis(5);
/// How long one call may work: a change that comes meanwhile waits so long.
const SLICE: Duration = Duration::from_millis(1);
/// Going over connections takes at most this part of the time.
const SHARE: u32 = 50;
/// How long not to try again what the kernel refused.
const REFUSED: Duration = Duration::from_secs(60);

/// Whether connections pass unseen, and when to see to it. Owned by the data plane's handle; the
/// element is the kernel's, and what an earlier process left there goes with the first full load.
pub(super) struct Standing {
    /// `confirmed` is in the kernel's set.
    pub(super) on: bool,
    /// Not before this.
    next: Instant,
    work: Work,
    /// What the work has taken so far, of this thread's time.
    spent: Duration,
}

/// What leads to the element, step by step. A change that may close something begins anew.
enum Work {
    Nothing,
    /// A thread waits for packets that the old tables have judged.
    Waiting(Receiver<Result<Walk, Error>>),
    /// Connections are gone over.
    Walking(Walk),
    /// These are to be revoked.
    Revoking(Vec<Connection>),
}

/// A list of connections that is coming in.
struct Walk {
    list: connections::List,
    /// The node's own addresses: what it sends, or gets, asks no ingress policy.
    own: HashSet<IpAddr>,
    denied: Vec<Connection>,
}

impl Standing {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { on: false, next: now, work: Work::Nothing, spent: Duration::ZERO }
    }

    /// A change took the element away, or the ground from under the work.
    pub(super) fn end(&mut self) {
        self.on = false;
        self.work = Work::Nothing;
        self.next = self.next.max(Instant::now() + QUIET);
    }

    /// After a pause that keeps the work a small part of the time, if there is something to do.
    fn rest(&mut self, least: Duration) -> Duration {
        let pause = (SHARE * std::mem::take(&mut self.spent)).max(least);
        self.work = Work::Nothing;
        self.next = Instant::now() + pause;
        pause
    }
}

/// Whether a change may deny what the tables allowed.
///
/// A new row can do so only by denying. A new address of a pod takes part in all that its ranges
/// had before ([`NodeTables::peers`]), and in more; but its class may be denied something. In the
/// pod ranges an address without an entry is closed, so there it is an entry's going that closes.
pub(super) fn may_close(model: &NodeTables, denies: bool, delta: &Delta) -> bool {
    let ranges = delta.pod_ranges.as_ref().unwrap_or(&model.pod_ranges);
    let closing_subject = |((_, address), class): &((_, IpAddr), Option<SubjectId>)| match class {
        Some(class) => !class.is_open(),
        None => ranges.contains(*address),
    };
    let closing_row = |(key, after): &(VerdictKey, Option<Verdict>)| match after {
        Some(verdict) => !verdict.allow,
        None => denies || model.verdicts.contains_key(key),
    };
    delta.subjects.iter().any(closing_subject)
        || delta.pod_ranges.as_ref().is_some_and(|new| !new.is_within(&model.pod_ranges))
        || delta
            .peers
            .iter()
            .any(|(at, peer)| denies || peer.is_none() || model.peers.contains_key(at))
        || delta.verdicts.iter().any(closing_row)
        || !delta.blocks_removed.is_empty()
        || !delta.nets_removed.is_empty()
        || (denies && !(delta.blocks_added.is_empty() && delta.nets_added.is_empty()))
}

/// Whether some row denies.
pub(super) fn denies(tables: &NodeTables) -> bool {
    tables.verdicts.values().any(|verdict| !verdict.allow)
}

impl Nftables {
    /// See [`crate::DataPlane::settle`].
    pub(super) fn stand(&mut self) -> Result<Option<Duration>, Error> {
        let Some(model) = &self.model else { return Ok(None) };
        if self.standing.on || (model.subjects.is_empty() && model.pod_ranges.is_empty()) {
            return Ok(None);
        }
        let start = Instant::now();
        if start < self.standing.next {
            return Ok(Some(self.standing.next - start));
        }
        let next = self.step();
        self.standing.spent += start.elapsed();
        if next.is_err() {
            self.standing.rest(REFUSED);
        }
        next
    }

    fn step(&mut self) -> Result<Option<Duration>, Error> {
        let standing = &mut self.standing;
        let (work, pause) = match std::mem::replace(&mut standing.work, Work::Nothing) {
            Work::Nothing => (Work::Waiting(prepare(&self.namespace)?), ASK),
            Work::Waiting(ready) => match ready.try_recv() {
                Ok(walk) => (Work::Walking(walk?), Duration::ZERO),
                Err(TryRecvError::Empty) => (Work::Waiting(ready), ASK),
                Err(TryRecvError::Disconnected) => {
                    return Err(Error::Lost("a thread ended".to_owned()));
                }
            },
            Work::Walking(mut walk) => {
                let Some(tables) = &self.model else { return Ok(None) };
                if walk.go_on(tables)? {
                    (Work::Revoking(walk.denied), Duration::ZERO)
                } else {
                    (Work::Walking(walk), Duration::ZERO)
                }
            }
            Work::Revoking(mut denied) => {
                let start = Instant::now();
                while start.elapsed() < SLICE
                    && let Some(connection) = denied.pop()
                {
                    if !connections::fix(&mut self.socket, &connection)? {
                        // It has changed since it was listed.
                        return Ok(Some(standing.rest(QUIET)));
                    }
                }
                if denied.is_empty() {
                    return self.let_stand();
                }
                (Work::Revoking(denied), Duration::ZERO)
            }
        };
        standing.work = work;
        Ok(Some(pause))
    }

    /// If somebody else has changed the table, the next change or full load puts it right.
    fn let_stand(&mut self) -> Result<Option<Duration>, Error> {
        let outcome = self.commit(&[], &[], &[Element::STANDING], None)?;
        self.standing.on = matches!(outcome, Outcome::Done);
        let pause = self.standing.rest(QUIET);
        Ok((!self.standing.on).then_some(pause))
    }
}

impl Walk {
    /// Looks at some more connections; whether these were all.
    fn go_on(&mut self, tables: &NodeTables) -> Result<bool, Error> {
        let start = Instant::now();
        let (own, denied) = (&self.own, &mut self.denied);
        let mut look = |listed: Listed<'_>| {
            let allowed = |packet: Packet| {
                let (from_node, to_node) = (own.contains(&packet.src), own.contains(&packet.dst));
                tables.decide(&Packet { from_node, to_node, ..packet }).passes()
            };
            // What cannot be read is revoked: its packets are judged, as every packet was.
            if !listed.is_fixed() && !listed.packet().is_some_and(allowed) {
                denied.extend(listed.named());
            }
        };
        loop {
            if self.list.part(&mut look)? {
                return Ok(true);
            }
            if start.elapsed() > SLICE {
                return Ok(false);
            }
        }
    }
}

/// Waits, on a thread of its own, for packets that the old tables have judged, and asks for the list
/// of connections.
fn prepare(namespace: &Namespace) -> Result<Receiver<Result<Walk, Error>>, Error> {
    let namespace = namespace.duplicate()?;
    let (report, ready) = channel();
    let inside = || {
        wait_for_packets()?;
        let own = own_addresses()?;
        Ok(Walk { list: connections::List::ask()?, own, denied: Vec::new() })
    };
    // Nobody may wait for it any more.
    let work = move || drop(report.send(namespace.run(inside)));
    let doing = "start a thread that waits for packets";
    thread::Builder::new()
        .name("standing".to_owned())
        .spawn(work)
        .map_err(|source| Error::Socket { doing, source })?;
    Ok(ready)
}

/// Waits until no packet is on its way through the hooks any more that met them before.
#[expect(unsafe_code, reason = "neither std nor nix has membarrier")]
fn wait_for_packets() -> Result<(), Error> {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: takes numbers only, and touches no memory of ours.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    Errno::result(done).map(drop).map_err(|errno| Error::Socket {
        doing: "wait for packets that old tables have judged",
        source: errno.into(),
    })
}

/// The addresses of this thread's node.
fn own_addresses() -> Result<HashSet<IpAddr>, Error> {
    let failed = |errno: Errno| Error::Socket {
        doing: "read the addresses of this node",
        source: errno.into(),
    };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|it| it.ip().into()))
    };
    Ok(getifaddrs().map_err(failed)?.filter_map(address).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podwall_compile::compiler::NodeCompiler;
    use podwall_compile::testing::change::Change;
    use podwall_compile::testing::dice::Dice;
    use podwall_compile::testing::random;
    use podwall_policy::policy::Direction;
    use podwall_policy::port::Protocol;

    use super::*;

    /// What tables say of packets between known addresses.
    fn packets(dice: &mut Dice, addresses: &[IpAddr]) -> Vec<Packet> {
        let ports: Vec<u16> = random::interesting_ports().collect();
        let protocols = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP];
        let draw = |_| Packet {
            src: *dice.pick(addresses),
            dst: *dice.pick(addresses),
            protocol: *dice.pick(&protocols),
            port: *dice.pick(&ports),
            from_node: dice.chance(10),
            to_node: dice.chance(10),
        };
        (0..300).map(draw).filter(|packet| packet.src.is_ipv4() == packet.dst.is_ipv4()).collect()
    }

    /// Whether a stranger sends, or is sent to.
    fn is_strange(tables: &NodeTables, packet: &Packet) -> bool {
        let is = |direction| tables.subject_of(packet, direction) == Some(SubjectId::STRANGER);
        is(Direction::Egress) || is(Direction::Ingress)
    }

    #[test]
    fn a_change_that_is_said_to_open_only_closes_nothing() {
        let (mut opened, mut closed, mut said) = (0, 0, 0);
        // Of those that closed: by being known no longer, by other pod ranges.
        let (mut forgotten, mut ranged, mut met) = (0, 0, 0);
        for seed in 0..400 {
            let mut dice = Dice::seeded(seed);
            let mut cluster = random::cluster(&mut dice);
            let mut compiler = NodeCompiler::new(Some(Arc::from("n1")));
            compiler.put_cluster(&cluster);
            compiler.commit();
            for _ in 0..12 {
                let before = compiler.tables().clone();
                let mut addresses: Vec<IpAddr> =
                    (0..20).map(|_| random::address(&mut dice, &cluster)).collect();
                let change = Change::random(&mut dice, &cluster);
                change.apply(&mut cluster);
                change.record(&mut compiler);
                let delta = compiler.commit();
                addresses.extend(delta.peers.iter().map(|(at, _)| *at));
                let after = compiler.tables();
                let may = may_close(&before, denies(&before) || denies(after), &delta);
                said += usize::from(may);
                for packet in packets(&mut dice, &addresses) {
                    match (before.decide(&packet).passes(), after.decide(&packet).passes()) {
                        (true, false) => {
                            assert!(may, "seed {seed}: {packet:?} by {change:?}: {delta:?}");
                            closed += 1;
                            if is_strange(after, &packet) {
                                let counter = match delta.pod_ranges {
                                    None => &mut forgotten,
                                    Some(_) => &mut ranged,
                                };
                                *counter += 1;
                            }
                        }
                        (false, true) if !may => {
                            opened += 1;
                            met += usize::from(is_strange(&before, &packet));
                        }
                        _ => {}
                    }
                }
            }
        }
        // Neither side goes without saying.
        assert!(opened > 50 && closed > 50 && said < 4000, "{opened} {closed} {said}");
        assert!(forgotten > 50 && ranged > 50 && met > 50, "{forgotten} {ranged} {met}");
    }
}
