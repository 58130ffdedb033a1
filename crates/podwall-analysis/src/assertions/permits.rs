//! Whom do the assertions of a file let pass?
//!
//! ```text
//!   only: {into: db, from: [web]}      web ─▶ db        its own permits
//!   allow: {from: ops, to: db}         ops ─▶ db        and, for nowhereElse, those of the file
//! ```

use podwall_manifest::assertions::{Claim, Ports};
use podwall_policy::address::{AddressSet, Family};
use podwall_policy::policy::Direction;

use super::gathered::Walk;
use super::group::Group;
use super::judge::Judge;
use crate::can::End;

/// What somebody may reach of somebody.
#[derive(Clone)]
pub(super) struct Permit<'a> {
    pub(super) src: Group<'a>,
    pub(super) dst: Group<'a>,
    pub(super) ports: Ports,
    /// As the claim's families; empty: all.
    pub(super) families: Vec<Family>,
}

impl<'a> Judge<'a> {
    /// Everybody: pods, nodes, and addresses, cut so that each lies in a permit or outside of it.
    pub(super) fn everybody(&self, direction: Direction, permits: &[Permit<'a>]) -> Vec<End<'a>> {
        let mut pieces = vec![AddressSet::everything()];
        for permit in permits {
            let own = match direction {
                Direction::Ingress => &permit.src.addresses,
                Direction::Egress => &permit.dst.addresses,
            };
            if own.is_empty() {
                continue;
            }
            pieces = pieces
                .iter()
                .flat_map(|piece| [piece.intersection(own), piece.difference(own)])
                .filter(|piece| !piece.is_empty())
                .collect();
        }
        let pods = self.asker.pods().map(End::Pod);
        let nodes = self.asker.cluster.nodes.values().map(End::Node);
        let outside = pieces.iter().flat_map(|piece| self.asker.outside(piece));
        pods.chain(nodes).chain(outside).collect()
    }

    /// What the file's `allow` and `only` let pass. What is wrong with them is said where they stand.
    pub(super) fn permits(&mut self) -> Vec<Permit<'a>> {
        if let Some(permits) = &self.permits {
            return permits.clone();
        }
        let mut permits = Vec::new();
        let mut nowhere = Walk::default();
        for assertion in &self.file.assertions {
            let namespace = assertion.namespace.clone().unwrap_or_else(|| self.namespace.clone());
            let families = assertion.families.clone();
            let mut add = |src: &[Group<'a>], dst: &[Group<'a>], ports: &Ports| {
                for (src, dst) in src.iter().flat_map(|src| dst.iter().map(move |dst| (src, dst))) {
                    permits.push(Permit {
                        src: src.clone(),
                        dst: dst.clone(),
                        ports: ports.clone(),
                        families: families.clone(),
                    });
                }
            };
            match &assertion.claim {
                Claim::Allow(between) => {
                    let src = self.groups(&between.from, &namespace, &mut nowhere);
                    let dst = self.groups(&between.to, &namespace, &mut nowhere);
                    add(&src, &dst, &between.ports);
                }
                Claim::Only(only) => {
                    let pods = self.groups(&only.pods, &namespace, &mut nowhere);
                    for permitted in &only.peers {
                        let peer = std::slice::from_ref(&permitted.peer);
                        let peer = self.groups(peer, &namespace, &mut nowhere);
                        let ports = permitted.ports.as_ref().unwrap_or(&only.ports);
                        match only.direction {
                            Direction::Ingress => add(&peer, &pods, ports),
                            Direction::Egress => add(&pods, &peer, ports),
                        }
                    }
                }
                Claim::Deny(_) | Claim::Isolated { .. } | Claim::NowhereElse { .. } => {}
            }
        }
        // A permit of one family says nothing of the other.
        permits.retain(|permit| permit.families.is_empty());
        self.permits = Some(permits.clone());
        permits
    }
}
