//! Is what the limits leave safe, and what they do not report as it was?

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwall_compile::tables::{Delta, NodeTables, Packet, SubjectId};
use podwall_policy::address::{AddressRange, AddressSet};
use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;

use self::random::{Dice, PORTS, addresses, ip, tables};
use super::limiter::{Limited, Limiter, replace, update};
use super::{Fill, Limits};
use crate::{Drift, Error};

#[path = "../../tests/support/random.rs"]
#[expect(dead_code, unreachable_pub, reason = "the tests of the kernel use the rest")]
mod random;

/// A kernel that takes what it is given, unless it is told not to.
#[derive(Default)]
struct Kernel {
    limiter: Limiter,
    tables: NodeTables,
    refuses: bool,
}

impl Kernel {
    fn new(limits: Limits) -> Self {
        Self { limiter: Limiter::new(limits), ..Self::default() }
    }
}

impl Limited for Kernel {
    fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }

    fn load(&mut self, tables: &NodeTables) -> Result<(), Error> {
        if self.refuses {
            return Err(Error::Lost("refused".to_owned()));
        }
        self.tables = tables.clone();
        Ok(())
    }

    fn change(&mut self, delta: &Delta) -> Result<(), Error> {
        if self.refuses {
            return Err(Error::Lost("refused".to_owned()));
        }
        for range in &delta.blocks_removed {
            assert!(self.tables.blocks.contains_key(range), "{range} is not there");
        }
        self.tables.apply(delta);
        Ok(())
    }

    fn compare(&mut self, _: &NodeTables) -> Result<Vec<Drift>, Error> {
        Ok(Vec::new())
    }

    fn look(&mut self, _: &NodeTables) -> Result<Vec<Drift>, Error> {
        Ok(Vec::new())
    }
}

/// Every address, and neighbours, which lie in ranges.
fn somewhere() -> Vec<IpAddr> {
    let (_, all) = addresses();
    let near = ["10.0.0.4", "10.0.0.8", "192.0.2.2", "fd00::6", "2001:db8::2", "0.0.0.1"].map(ip);
    [&all[..], &near].concat()
}

/// Everything that is not reported is as in the full tables; nothing is allowed that they deny.
/// How many (subject, address)es were closed, and how many not.
fn check(full: &NodeTables, admitted: &NodeTables, fill: &Fill) -> [usize; 2] {
    assert_eq!(full.pod_ranges, admitted.pod_ranges);
    assert!(full.subjects.keys().eq(admitted.subjects.keys()));
    let mut count = [0, 0];
    let reported = |address: IpAddr| {
        let ranges = || fill.ranges.iter().filter(|range| range.contains(address));
        fill.addresses.contains(&address)
            || !full.peers.contains_key(&address) && ranges().next().is_some()
            || ranges().any(|range| full.nets.contains_key(range))
    };
    for ((direction, local), subject) in full.subjects.iter().filter(|(_, s)| !s.is_open()) {
        for remote in somewhere().into_iter().filter(|r| r.is_ipv4() == local.is_ipv4()) {
            if remote == *local {
                continue;
            }
            let exact = !fill.isolated.contains_key(subject) && !reported(remote);
            count[usize::from(exact)] += 1;
            for protocol in [Protocol::TCP, Protocol::UDP, Protocol::ICMP] {
                for port in PORTS.into_iter().chain([450, 8004]) {
                    let (src, dst) = match direction {
                        Direction::Egress => (*local, remote),
                        Direction::Ingress => (remote, *local),
                    };
                    let (from_node, to_node) = (false, false);
                    let packet = Packet { src, dst, protocol, port, from_node, to_node };
                    let side = |tables: &NodeTables| match direction {
                        Direction::Egress => tables.decide(&packet).egress,
                        Direction::Ingress => tables.decide(&packet).ingress,
                    };
                    let (before, after) = (side(full).unwrap(), side(admitted).unwrap());
                    assert!(before.allow || !after.allow, "{packet:?} {before:?} {after:?}");
                    if exact {
                        assert_eq!(before, after, "{packet:?} {subject:?}");
                    }
                    if fill.isolated.contains_key(subject) {
                        assert!(!after.allow, "{packet:?}");
                    }
                }
            }
        }
    }
    count
}

fn within(tables: &NodeTables, limits: &Limits) {
    let size = super::admit::sizes(tables);
    assert!(size.fit(limits), "{size:?} {limits:?}");
}

#[test]
fn whatever_is_left_out_nothing_is_allowed_that_the_whole_denies() {
    let (local, all) = addresses();
    let mut dice = Dice(7);
    let (mut overflows, mut restored, mut count) = (0, 0, [0, 0]);
    for _ in 0..60 {
        let limits = Limits {
            locals: 10,
            peers: dice.roll(9),
            blocks: dice.roll(12),
            verdicts: 10 + dice.roll(80),
        };
        let mut kernel = Kernel::new(limits);
        let mut now = NodeTables::default();
        replace(&mut kernel, &now).unwrap();
        let mut overflowed = false;
        for _ in 0..12 {
            let mut next = tables(&mut dice, &local, &all);
            if dice.chance(30) {
                next.verdicts.retain(|key, _| key.subject == SubjectId(1)); // room again
                next.blocks.clear();
            }
            if dice.chance(15) {
                replace(&mut kernel, &next).unwrap();
            } else {
                update(&mut kernel, &Delta::between(&now, &next)).unwrap();
            }
            now = next;
            let fill = kernel.limiter.fill();
            within(&kernel.tables, &limits);
            let [closed, exact] = check(&now, &kernel.tables, &fill);
            count = [count[0] + closed, count[1] + exact];
            assert_eq!(kernel.tables, *kernel.limiter.view(&now));
            // One that starts from nothing may close others, but is as safe.
            let mut scratch = Kernel::new(limits);
            replace(&mut scratch, &now).unwrap();
            let scratched = scratch.limiter.fill();
            check(&now, &scratch.tables, &scratched);
            assert_eq!(fill.overflows(), scratched.overflows());
            if !fill.overflows() {
                assert_eq!(kernel.tables, now);
                restored += usize::from(overflowed);
            }
            overflows += usize::from(fill.overflows());
            overflowed = fill.overflows();
        }
    }
    assert!(overflows > 100 && restored > 10, "{overflows} {restored}");
    assert!(count.iter().all(|count| *count > 5000), "{count:?}");
}

#[test]
fn a_class_that_grows_or_comes_is_closed_and_not_those_that_were_there() {
    let (local, all) = addresses();
    let mut dice = Dice(21);
    let mut full = tables(&mut dice, &local, &all);
    while full.verdicts.is_empty() {
        full = tables(&mut dice, &local, &all);
    }
    let mut kernel = Kernel::new(Limits {
        verdicts: super::admit::sizes(&full).0.verdicts,
        ..Limits::default()
    });
    replace(&mut kernel, &full).unwrap();
    assert!(!kernel.limiter.fill().overflows());
    let (key, verdict) = full.verdicts.first_key_value().unwrap();
    let mut newcomer = *key;
    newcomer.subject = SubjectId(1000);
    let come = Delta { verdicts: vec![(newcomer, Some(*verdict))], ..Delta::default() };
    update(&mut kernel, &come).unwrap();
    let isolated: BTreeSet<_> = kernel.limiter.fill().isolated.into_keys().collect();
    assert_eq!(isolated, BTreeSet::from([SubjectId(1000)]));
    let gone = Delta { verdicts: vec![(*key, None)], ..Delta::default() };
    update(&mut kernel, &gone).unwrap();
    assert!(!kernel.limiter.fill().overflows());
    assert!(kernel.tables.verdicts.contains_key(&newcomer));
}

#[test]
fn a_change_with_too_many_local_addresses_is_refused_and_changes_nothing() {
    let (local, all) = addresses();
    let mut kernel = Kernel::new(Limits { locals: 2, ..Limits::default() });
    let mut dice = Dice(3);
    let few = tables(&mut dice, &local[..2], &all);
    replace(&mut kernel, &few).unwrap();
    let isolate = |address: &IpAddr| ((Direction::Egress, *address), Some(SubjectId::CLOSED));
    let more = Delta { subjects: local.iter().map(isolate).collect(), ..Delta::default() };
    let error = update(&mut kernel, &more).unwrap_err();
    assert!(matches!(error, Error::Full { table: "locals", wanted: 5, size: 2 }), "{error}");
    assert_eq!(kernel.tables, few);
    assert!(!kernel.limiter.fill().overflows());
    update(&mut kernel, &Delta::default()).unwrap();
}

#[test]
fn more_pod_ranges_than_there_is_room_for_are_refused_and_change_nothing() {
    let mut kernel = Kernel::new(Limits::default());
    let every_other = |count: u8| {
        let nets = (0..count).map(|n| AddressRange::one(IpAddr::from([10, 0, 0, 2 * n])));
        let mut set = nets.fold(AddressSet::empty(), |set, one| set.union(&one.into()));
        set = set.union(&AddressRange::one(ip("fd00::1")).into());
        NodeTables { pod_ranges: set, ..NodeTables::default() }
    };
    let (most, more) = (every_other(8), every_other(9));
    replace(&mut kernel, &most).unwrap();
    for refused in [
        replace(&mut kernel, &more).unwrap_err(),
        update(&mut kernel, &Delta::between(&most, &more)).unwrap_err(),
    ] {
        assert!(matches!(refused, Error::PodRanges { wanted: 9, size: 8, .. }), "{refused}");
    }
    assert_eq!(kernel.tables, most);
}

#[test]
fn what_the_kernel_refuses_has_not_happened() {
    let (local, all) = addresses();
    let mut dice = Dice(5);
    let mut kernel = Kernel::new(Limits { verdicts: 9, ..Limits::default() });
    let mut now = tables(&mut dice, &local, &all);
    replace(&mut kernel, &now).unwrap();
    for _ in 0..20 {
        let next = tables(&mut dice, &local, &all);
        kernel.refuses = dice.chance(50);
        let before = kernel.limiter.fill();
        match update(&mut kernel, &Delta::between(&now, &next)) {
            Ok(()) => now = next,
            Err(_) => assert_eq!(kernel.limiter.fill(), before),
        }
        check(&now, &kernel.tables, &kernel.limiter.fill());
    }
}

#[test]
fn limits_are_read_as_they_are_written() {
    let limits: Limits = "verdicts=10, peers=0".parse().unwrap();
    assert_eq!(limits, Limits { verdicts: 10, peers: 0, ..Limits::default() });
    assert_eq!(limits.to_string().parse::<Limits>().unwrap(), limits);
    assert_eq!("".parse::<Limits>().unwrap(), Limits::default());
    for wrong in ["peers", "peers=x", "peer=1", "peers=-1", "peers=99999999999"] {
        let error = wrong.parse::<Limits>().unwrap_err();
        assert!(error.to_string().contains(wrong), "{error}");
    }
}
