//! Random tables, and the change from one to another.

use std::net::IpAddr;

use ipnet::IpNet;
use podwall_compile::tables::{
    GroupId, NetId, NodeTables, Peer, PeerId, PeerKey, PortKey, RuleId, SubjectId, Verdict,
    VerdictKey,
};
use podwall_policy::address::{AddressRange, AddressSet, Family};
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, RuleRef, Tier};
use podwall_policy::port::{PortRange, Protocol};

/// A pod of a class, in the first group.
pub fn pod(own: u32) -> Peer {
    Peer { own: PeerId(own), group: GroupId(1) }
}

/// Whose rows: of a class.
pub fn own(class: u32) -> PeerKey {
    PeerKey::Own(PeerId(class))
}

/// xorshift64*.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }
}

/// Ports that tell exact, range and neither apart.
pub const PORTS: [u16; 5] = [80, 443, 8000, 8005, 65535];

/// Tables in which the local addresses may be isolated and all addresses may be peers.
pub fn tables(dice: &mut Dice, local: &[IpAddr], all: &[IpAddr]) -> NodeTables {
    let mut tables = NodeTables::default();
    for address in local {
        for (direction, base) in [(Direction::Egress, 1), (Direction::Ingress, 3)] {
            if dice.chance(60) {
                let class = if dice.chance(8) { 0 } else { base + dice.roll(2) as u32 };
                tables.subjects.insert((direction, *address), SubjectId(class));
            }
        }
    }
    for address in all {
        if dice.chance(50) {
            let (own, group) = (PeerId(dice.roll(4) as u32), GroupId(dice.roll(3) as u32));
            tables.peers.insert(*address, Peer { own, group });
        }
    }
    for family in Family::BOTH {
        if dice.chance(60) {
            ranges(dice, family, all, |range, class| {
                tables.blocks.insert(range, PeerId(class));
            });
        }
        if dice.chance(60) {
            ranges(dice, family, all, |range, class| {
                tables.nets.insert(range, NetId(class));
            });
        }
    }
    // Some tables have only some kinds of rows, so that every shape of the rules comes up.
    let kinds: Vec<usize> = (0..4).filter(|_| dice.chance(60)).collect();
    for subject in 1..=4 {
        let groups = [1, 2].map(|class| PeerKey::Group(GroupId(class)));
        let nets = [1, 2, 3, 4].map(|class| PeerKey::Net(NetId(class)));
        let mut peers = [1, 2, 3, 4].map(own).to_vec();
        // Some subjects have only some kinds of rows.
        for (kind, chance) in [(&groups[..], 60), (&nets[..], 60), (&[PeerKey::Any], 80)] {
            if dice.chance(chance) {
                peers.extend(kind);
            }
        }
        if dice.chance(30) {
            peers.drain(..4);
        }
        for peer in peers {
            for kind in &kinds {
                if dice.chance(40) {
                    row(dice, *kind, SubjectId(subject), peer, &mut tables);
                }
            }
        }
    }
    name_rules(dice, &mut tables);
    strangers(dice, all, &mut tables);
    tables
}

/// Pod ranges in which some addresses are known: in both directions, as it always is.
fn strangers(dice: &mut Dice, all: &[IpAddr], tables: &mut NodeTables) {
    for address in all {
        if dice.chance(8) {
            let lengths =
                if address.is_ipv4() { [16, 24, 28, 31, 32] } else { [32, 64, 112, 127, 128] };
            let net = IpNet::new(*address, dice.pick(&lengths)).unwrap().trunc();
            tables.pod_ranges = tables.pod_ranges.union(&AddressSet::from(net));
        }
    }
    let inside: Vec<IpAddr> =
        all.iter().copied().filter(|address| tables.pod_ranges.contains(*address)).collect();
    for address in inside {
        let stranger = dice.chance(50);
        for direction in Direction::BOTH {
            if stranger {
                tables.subjects.remove(&(direction, address));
            } else {
                tables.subjects.entry((direction, address)).or_insert(SubjectId::OPEN);
            }
        }
    }
}

/// Gives verdicts rules: the same one to several, to some none, and now and then another rule the
/// number of one that has gone.
fn name_rules(dice: &mut Dice, tables: &mut NodeTables) {
    let rules = 1 + dice.roll(6) as u32;
    for (at, verdict) in tables.verdicts.values_mut().enumerate() {
        let rule = at as u32 % (rules + 1);
        verdict.rule = (rule > 0).then_some(RuleId(rule));
    }
    for rule in 1..=rules {
        let policy = Name::new("default", format!("policy-{}", dice.roll(3)));
        let direction = Direction::Ingress;
        let rule_ref =
            RuleRef { tier: Tier::NetworkPolicy, policy, direction, number: rule, source: None };
        tables.rules.insert(RuleId(rule), rule_ref);
    }
}

fn row(dice: &mut Dice, kind: usize, subject: SubjectId, peer: PeerKey, tables: &mut NodeTables) {
    let protocol = dice.pick(&Protocol::WITH_PORTS);
    let ranges = [(8000, 8004), (8005, 9000), (400, 500), (1, 79), (60000, 65535)];
    let ports = match kind {
        0 => PortKey::Port(protocol, dice.pick(&PORTS)),
        1 => {
            let (first, last) = dice.pick(&ranges);
            PortKey::Range(protocol, PortRange { first, last })
        }
        2 => PortKey::AnyPort(protocol),
        _ => PortKey::AnyProtocol,
    };
    let verdict = Verdict { allow: dice.chance(70), rule: None };
    tables.verdicts.insert(VerdictKey { subject, peer, ports }, verdict);
}

/// Disjoint ranges around the addresses, some of them neighbours, some up to the family's end.
fn ranges(dice: &mut Dice, family: Family, all: &[IpAddr], mut add: impl FnMut(AddressRange, u32)) {
    let (low, high) = AddressRange::all(family).bits();
    let mut cuts = vec![low, high];
    for address in all.iter().filter(|a| Family::of(**a) == family) {
        let at = AddressRange::one(*address).bits().0;
        cuts.push(at - dice.roll(3) as u128);
        cuts.push(at + 1 + dice.roll(3) as u128);
    }
    cuts.sort_unstable();
    cuts.dedup();
    for pair in cuts.windows(2) {
        if dice.chance(50) {
            let last = if pair[1] == high { high } else { pair[1] - 1 };
            let range = AddressRange::from_bits(family, pair[0], last).unwrap();
            add(range, dice.roll(5) as u32);
        }
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Addresses of local pods, and all that are known.
pub fn addresses() -> (Vec<IpAddr>, Vec<IpAddr>) {
    let local: Vec<IpAddr> =
        ["10.0.0.5", "10.0.0.6", "10.0.0.9", "fd00::5", "fd00::9"].map(ip).to_vec();
    let others = ["10.0.0.7", "10.0.1.1", "192.0.2.1", "fd00::7", "2001:db8::1"].map(ip);
    let all = [&local[..], &others].concat();
    (local, all)
}

/// Tables that are always the same for a seed.
pub fn some_tables(seed: u64) -> NodeTables {
    let (local, all) = addresses();
    tables(&mut Dice(seed), &local, &all)
}
