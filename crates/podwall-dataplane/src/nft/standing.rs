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
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use podwall_compile::tables::{Delta, NodeTables, Packet, Verdict, VerdictKey};

use super::Nftables;
use super::batch::Outcome;
use super::set::Element;
use crate::Error;
use crate::namespace::Namespace;
use crate::netlink::connections::{self, Connection};
use crate::netlink::socket::Socket;

/// Changes pause when none came for so long.
const QUIET: Duration = Duration::from_millis(20);
/// Going over connections takes at most this part of the time.
const SHARE: u32 = 50;
/// How long not to try again what the kernel refused.
const REFUSED: Duration = Duration::from_secs(60);

/// Whether connections pass unseen, and when to see to it. Owned by the data plane's handle; the
/// element is the kernel's, and what an earlier process left there goes with the first full load.
#[derive(Debug)]
pub(super) struct Standing {
    /// `confirmed` is in the kernel's set.
    pub(super) on: bool,
    /// Not before this.
    next: Instant,
}

impl Standing {
    pub(super) fn new() -> Self {
        Self { on: false, next: Instant::now() }
    }

    /// A change took the element away.
    pub(super) fn end(&mut self) {
        self.on = false;
        self.next = self.next.max(Instant::now() + QUIET);
    }
}

/// Whether a change may deny what the tables allowed.
///
/// A new row can do so only by denying. A new address of a pod takes part in all that its ranges
/// had before ([`NodeTables::peers`]), and in more; but its class may be denied something.
pub(super) fn may_close(model: &NodeTables, denies: bool, delta: &Delta) -> bool {
    let closing_row = |(key, after): &(VerdictKey, Option<Verdict>)| match after {
        Some(verdict) => !verdict.allow,
        None => denies || model.verdicts.contains_key(key),
    };
    delta.subjects.iter().any(|(_, class)| class.is_some())
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
        if self.standing.on || model.subjects.is_empty() {
            return Ok(None);
        }
        let now = Instant::now();
        if now < self.standing.next {
            return Ok(Some(self.standing.next - now));
        }
        // Others run meanwhile, so this costs only time.
        let waited = wait_for_packets();
        let start = Instant::now();
        let done = waited
            .and_then(|()| review(&self.namespace, &mut self.socket, model))
            .and_then(|all| Ok(all && self.let_stand()?));
        let pause = if done.is_ok() { SHARE * start.elapsed() } else { REFUSED };
        self.standing.next = Instant::now() + pause.max(QUIET);
        Ok((!done?).then_some(pause.max(QUIET)))
    }

    /// False: somebody else has changed the table; the next change or full load puts it right.
    fn let_stand(&mut self) -> Result<bool, Error> {
        let outcome = self.commit(&[], &[], &[Element::STANDING], None)?;
        self.standing.on = matches!(outcome, Outcome::Done);
        Ok(self.standing.on)
    }
}

/// Revokes all connections that these tables deny. False: not all could be.
fn review(namespace: &Namespace, socket: &mut Socket, tables: &NodeTables) -> Result<bool, Error> {
    let own = own_addresses(namespace)?;
    let mut denied: Vec<Connection> = Vec::new();
    connections::each(socket, |listed| {
        let allowed = |packet: Packet| {
            let from_node = own.contains(&packet.src);
            tables.decide(&Packet { from_node, ..packet }).passes()
        };
        // What cannot be read is revoked: its packets are judged, as every packet was.
        if !listed.is_fixed() && !listed.packet().is_some_and(allowed) {
            denied.extend(listed.named());
        }
    })?;
    let mut all = true;
    for connection in &denied {
        all &= connections::fix(socket, connection)?;
    }
    Ok(all)
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

/// The addresses of the node itself: what it sends asks no ingress policy.
fn own_addresses(namespace: &Namespace) -> Result<HashSet<IpAddr>, Error> {
    let read = || {
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
    };
    namespace.run(read)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podwall_compile::compiler::NodeCompiler;
    use podwall_compile::testing::change::Change;
    use podwall_compile::testing::dice::Dice;
    use podwall_compile::testing::random;
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
        };
        (0..300).map(draw).filter(|packet| packet.src.is_ipv4() == packet.dst.is_ipv4()).collect()
    }

    #[test]
    fn a_change_that_is_said_to_open_only_closes_nothing() {
        let (mut opened, mut closed, mut said) = (0, 0, 0);
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
                        }
                        (false, true) if !may => opened += 1,
                        _ => {}
                    }
                }
            }
        }
        // Neither side goes without saying.
        assert!(opened > 50 && closed > 50 && said < 4000, "{opened} {closed} {said}");
    }
}
