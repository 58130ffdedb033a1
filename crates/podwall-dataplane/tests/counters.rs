//! Does every data plane count each packet for the rule that decided it?

#![allow(clippy::unwrap_used, reason = "a helper of tests stops the test")]

mod support;

use podwall_compile::tables::{Delta, NodeTables, SubjectId, Verdict};
use podwall_dataplane::{Counters, DataPlane};
use podwall_policy::address::Family;
use podwall_policy::port::Protocol;
use support::random::{Dice, PORTS, tables};
use support::{EXPERIMENT, Kind, World};

/// What the counters should say.
#[derive(Default)]
struct Expected(Counters);

impl Expected {
    /// The tables change: whoever stays keeps its number.
    fn change(&mut self, from: &NodeTables, to: &NodeTables) {
        let before = std::mem::take(&mut self.0);
        let classes = |tables: &NodeTables| {
            let strangers = (!tables.pod_ranges.is_empty()).then_some(SubjectId::STRANGER);
            let classes = tables.subjects.values().copied().filter(|class| !class.is_open());
            classes.chain(strangers).collect::<Vec<_>>()
        };
        for (id, rule) in &to.rules {
            let same = from.rules.get(id) == Some(rule);
            self.0.rules.insert(*id, if same { before.rules[id] } else { 0 });
        }
        for class in classes(to) {
            let number = before.defaults.get(&class).copied().unwrap_or(0);
            self.0.defaults.insert(class, number);
        }
    }

    fn count(&mut self, tables: &NodeTables, packet: &podwall_compile::tables::Packet) -> bool {
        use podwall_policy::policy::Direction::{Egress, Ingress};
        let decision = tables.decide(packet);
        for (direction, verdict) in [(Egress, decision.egress), (Ingress, decision.ingress)] {
            match verdict {
                None | Some(Verdict { allow: true, rule: None }) => {}
                Some(Verdict { rule: Some(rule), .. }) => {
                    *self.0.rules.get_mut(&rule).unwrap() += 1;
                }
                Some(Verdict { allow: false, rule: None }) => {
                    let class = tables.subject_of(packet, direction).unwrap();
                    *self.0.defaults.get_mut(&class).unwrap() += 1;
                }
            }
            if verdict.is_some_and(|verdict| !verdict.allow) {
                return false;
            }
        }
        true
    }
}

fn send(world: &World, dice: &mut Dice, now: &NodeTables, expected: &mut Expected, count: usize) {
    for _ in 0..count {
        let from = dice.roll(world.endpoints.len());
        let to = (from + 1 + dice.roll(world.endpoints.len() - 1)) % world.endpoints.len();
        let family = dice.pick(&Family::BOTH);
        let protocol = Protocol(dice.pick(&[1, 6, 17, 132, EXPERIMENT]));
        let port = dice.pick(&PORTS);
        let passes = expected.count(now, &world.packet(from, to, family, protocol, port));
        assert_eq!(world.probe(from, to, family, protocol, port), passes);
    }
}

#[test]
fn counters_say_what_decided_each_packet_before_and_after_changes() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 3);
        let (local, all) = world.addresses();
        let mut dice = Dice(4711);
        let mut plane = world.node().plane(kind);
        assert!(plane.counters().is_err());
        let mut now = NodeTables::default();
        plane.replace(&now).unwrap();
        let mut expected = Expected::default();
        let mut counted = [0, 0];
        for round in 0..40 {
            // Often little changes, so that rules and classes live long.
            let mut next = tables(&mut dice, &local, &all);
            if dice.chance(60) {
                let other = std::mem::replace(&mut next, now.clone());
                for (key, verdict) in other.verdicts {
                    if dice.chance(20) && verdict.rule.is_none_or(|r| now.rules.contains_key(&r)) {
                        next.verdicts.insert(key, verdict);
                    } else if dice.chance(20) {
                        next.verdicts.remove(&key);
                    }
                }
                next.peers = other.peers;
            }
            expected.change(&now, &next);
            if round % 4 == 0 {
                plane.replace(&next).unwrap();
            } else {
                plane.update(&Delta::between(&now, &next)).unwrap();
            }
            now = next;
            assert_eq!(plane.counters().unwrap(), expected.0, "{wiring:?} {kind:?} {round}");
            send(&world, &mut dice, &now, &mut expected, 25);
            let counters = plane.counters().unwrap();
            assert_eq!(counters, expected.0, "{wiring:?} {kind:?} {round}");
            counted[0] += usize::from(counters.rules.values().any(|n| *n > 10));
            counted[1] += usize::from(counters.defaults.values().any(|n| *n > 10));
            assert_eq!(plane.verify(&now).unwrap(), []);
        }
        assert!(counted.iter().all(|rounds| *rounds > 5), "{counted:?}");
    }
}

#[test]
fn numbers_outlive_damage_and_where_the_kernel_has_names_the_process() {
    if support::skipped() {
        return;
    }
    for kind in Kind::BOTH {
        let world = World::new(support::Wiring::Ptp, 3);
        let (local, all) = world.addresses();
        let mut dice = Dice(98);
        let now = tables(&mut dice, &local, &all);
        let mut plane = world.node().plane(kind);
        plane.replace(&now).unwrap();
        let mut expected = Expected::default();
        expected.change(&NodeTables::default(), &now);
        send(&world, &mut dice, &now, &mut expected, 100);
        let before = plane.counters().unwrap();
        assert_eq!(before, expected.0);
        assert!(before.rules.values().sum::<u64>() > 10);

        // Somebody takes everything away; this process puts it back.
        world.node().nft("flush ruleset\n");
        if kind.is_ebpf() {
            world.node().forget_pins();
        }
        plane.replace(&now).unwrap();
        assert_eq!(plane.counters().unwrap(), expected.0, "{kind:?}");
        send(&world, &mut dice, &now, &mut expected, 50);
        assert_eq!(plane.counters().unwrap(), expected.0, "{kind:?}");

        // The next process' compiler has other numbers for the same rules.
        let mut renamed = now.clone();
        let other = |id: podwall_compile::tables::RuleId| podwall_compile::tables::RuleId(id.0 + 3);
        renamed.rules = now.rules.iter().map(|(id, rule)| (other(*id), rule.clone())).collect();
        for verdict in renamed.verdicts.values_mut() {
            verdict.rule = verdict.rule.map(other);
        }
        drop(plane);
        let mut next = world.node().plane(kind);
        next.replace(&renamed).unwrap();
        let numbers: Vec<u64> = next.counters().unwrap().rules.into_values().collect();
        let kept: Vec<u64> = expected.0.rules.values().copied().collect();
        let zero = vec![0; kept.len()];
        assert_eq!(numbers, if kind.is_ebpf() { kept } else { zero }, "{kind:?}");
        assert_eq!(next.verify(&renamed).unwrap(), []);
        let mut fresh = Expected(next.counters().unwrap());
        send(&world, &mut dice, &renamed, &mut fresh, 30);
        assert_eq!(next.counters().unwrap(), fresh.0, "{kind:?}");
        // Another version takes over, too.
        if kind.is_ebpf() {
            let mut other = world.node().ebpf_with(1000);
            other.replace(&renamed).unwrap();
            assert_eq!(other.counters().unwrap(), fresh.0);
            other.update(&Delta::default()).unwrap();
        }
    }
}

/// nftables makes its table anew when a hash is full: nothing of that is to be seen.
#[test]
fn numbers_outlive_tables_that_grow_by_far() {
    if support::skipped() {
        return;
    }
    for kind in Kind::BOTH {
        let world = World::new(support::Wiring::Ptp, 3);
        let (local, all) = world.addresses();
        let mut dice = Dice(99);
        let mut plane = world.node().plane(kind);
        let mut now = tables(&mut dice, &local, &all);
        plane.replace(&now).unwrap();
        let mut expected = Expected::default();
        expected.change(&NodeTables::default(), &now);
        for round in 0..3_u32 {
            send(&world, &mut dice, &now, &mut expected, 40);
            let mut next = now.clone();
            for index in 0..20_000 {
                let address = std::net::Ipv4Addr::from(0x0b00_0000 + (round << 16) + index);
                next.peers.insert(address.into(), support::random::pod(3));
            }
            plane.update(&Delta::between(&now, &next)).unwrap();
            now = next;
            assert_eq!(plane.counters().unwrap(), expected.0, "{kind:?} {round}");
            assert_eq!(plane.verify(&now).unwrap(), [], "{kind:?} {round}");
        }
        send(&world, &mut dice, &now, &mut expected, 40);
        assert_eq!(plane.counters().unwrap(), expected.0, "{kind:?}");
        assert!(expected.0.rules.values().chain(expected.0.defaults.values()).any(|n| *n > 10));
    }
}
