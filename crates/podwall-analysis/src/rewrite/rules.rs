//! What do the rules of one policy and direction come to, each thing said once?
//!
//! ```text
//!   from: [a, b] ports: 80        pods:      a ─▶ 80,81     b ─▶ 80
//!   from: [a, 10.0/9] ports: 81   addresses: 10.0.0.0/8 ─▶ 81
//!   from: [10.128/9] ports: 81    ──▶ again as rules: same ports, one rule
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podwall_policy::address::AddressSet;
use podwall_policy::policy::{Peer, PodScope, Rule};
use podwall_policy::port::{PortMatch, PortSet, PortSpec, Protocol};

use super::space::{Cube, Space};
use crate::generate::{as_blocks, specs};
use crate::rule_ports::Ports;

impl Ports {
    fn and(&self, other: &Self) -> Self {
        let numbers = self.numbers.union(&other.numbers);
        if numbers.is_everything() {
            return Self { numbers, names: BTreeSet::new() };
        }
        Self { numbers, names: self.names.union(&other.names).cloned().collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.names.is_empty()
    }

    /// What stands in a list of ports, each item alone. Everything is one item.
    pub(super) fn items(&self) -> Vec<Self> {
        if self.numbers.is_everything() {
            return vec![self.clone()];
        }
        let number = |(protocol, range)| Self {
            numbers: PortSet::range(protocol, range),
            names: BTreeSet::new(),
        };
        let name = |name: &(Protocol, Arc<str>)| Self {
            numbers: PortSet::empty(),
            names: BTreeSet::from([name.clone()]),
        };
        self.numbers.iter().map(number).chain(self.names.iter().map(name)).collect()
    }

    pub(super) fn without(&self, item: &Self) -> Self {
        Self {
            numbers: self.numbers.difference(&item.numbers),
            names: self.names.difference(&item.names).cloned().collect(),
        }
    }

    fn specs(&self) -> Vec<PortSpec> {
        let named = self.names.iter().map(|(protocol, name)| PortSpec {
            protocol: *protocol,
            port: PortMatch::Named(name.clone()),
        });
        let numbers = if self.numbers.is_empty() { Vec::new() } else { specs(&self.numbers) };
        numbers.into_iter().chain(named).collect()
    }

    /// "TCP 80,443; TCP \"http\"".
    pub(super) fn describe(&self) -> String {
        let numbers = (!self.numbers.is_empty()).then(|| self.numbers.to_string());
        let names = self.names.iter().map(|(protocol, name)| format!("{protocol} \"{name}\""));
        numbers.into_iter().chain(names).collect::<Vec<_>>().join("; ")
    }
}

/// A peer by labels: how it is written, and who it is. `None` is anybody.
pub(super) type Who = Option<PodScope>;

/// The rules of one policy and direction.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Rules {
    /// By who it is; each has one way to be written.
    pub(super) pods: BTreeMap<Cube, (Who, Ports)>,
    /// Never empty sets.
    pub(super) addresses: Vec<(AddressSet, Ports)>,
}

impl Rules {
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.addresses.is_empty()
    }

    /// Adds the rules of a policy.
    pub(super) fn add(&mut self, space: &Space, rules: &[Rule]) {
        for rule in rules {
            let ports = Ports::of(rule);
            if rule.peers.is_empty() {
                self.add_pods(space, None, &ports);
            }
            for peer in &rule.peers {
                match peer {
                    Peer::Pods(scope) => self.add_pods(space, Some(scope.clone()), &ports),
                    Peer::Block(block) => self.addresses.push((block.ranges(), ports.clone())),
                }
            }
        }
        self.tidy();
    }

    fn add_pods(&mut self, space: &Space, who: Who, ports: &Ports) {
        let cube = space.peer(who.as_ref());
        if cube.is_empty() {
            return; // selects nobody
        }
        match self.pods.get_mut(&cube) {
            // Of two ways to write the same the lesser is taken.
            Some((known, all)) => {
                *known = std::mem::take(known).min(who);
                *all = all.and(ports);
            }
            None => _ = self.pods.insert(cube, (who, ports.clone())),
        }
    }

    /// Addresses with the same ports together, then ports with the same addresses, until nothing
    /// changes.
    pub(super) fn tidy(&mut self) {
        self.pods.retain(|_, (_, ports)| !ports.is_empty());
        loop {
            let before = self.addresses.len();
            let mut by_ports: BTreeMap<Ports, AddressSet> = BTreeMap::new();
            for (set, ports) in self.addresses.drain(..) {
                let all = by_ports.entry(ports).or_default();
                *all = all.union(&set);
            }
            let mut out: Vec<(AddressSet, Ports)> = Vec::new();
            for (ports, set) in by_ports {
                if set.is_empty() || ports.is_empty() {
                    continue;
                }
                match out.iter_mut().find(|(known, _)| *known == set) {
                    Some((_, all)) => *all = all.and(&ports),
                    None => out.push((set, ports)),
                }
            }
            self.addresses = out;
            if self.addresses.len() == before {
                self.addresses.sort_by(|(_, a), (_, b)| a.cmp(b));
                return;
            }
        }
    }

    /// As a policy has them.
    pub(super) fn written(&self) -> Vec<Rule> {
        let mut by_ports: BTreeMap<&Ports, Vec<Peer>> = BTreeMap::new();
        let mut anybody: Vec<Rule> = Vec::new();
        for (who, ports) in self.pods.values() {
            match who {
                Some(scope) => by_ports.entry(ports).or_default().push(Peer::Pods(scope.clone())),
                None => anybody.push(Rule::allow(Vec::new(), ports.specs())),
            }
        }
        for (set, ports) in &self.addresses {
            let blocks = as_blocks(set).into_iter().map(Peer::Block);
            by_ports.entry(ports).or_default().extend(blocks);
        }
        let rules = by_ports.into_iter().map(|(ports, mut peers)| {
            peers.sort();
            Rule::allow(peers, ports.specs())
        });
        anybody.into_iter().chain(rules).collect()
    }
}
