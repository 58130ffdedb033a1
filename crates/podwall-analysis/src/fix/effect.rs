//! What does a change do besides what was asked for?
//!
//! ```text
//!   difference of both clusters  −  the asked ports between the asked ends  =  effects
//! ```

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use podwall_policy::address::{AddressSet, Family};
use podwall_policy::cluster::Cluster;
use podwall_policy::explain::Question;
use podwall_policy::object::{Name, Pod};
use podwall_policy::port::{PortRange, PortSet};

use super::idle;
use crate::can::Answer;
use crate::difference::{Exposure, Row, Shift, Shifts, difference_from};
use crate::matrix::By;
use crate::peer::Peer;
use crate::reachability::Reachability;

/// A connection that differs, and was not asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// From whom: a workload, or addresses.
    pub src: String,
    /// To whom.
    pub dst: String,
    /// What certainly did not pass, and certainly does.
    pub opened: PortSet,
    /// What certainly passed, and certainly does not.
    pub closed: PortSet,
    /// What differs if missing facts say so.
    pub perhaps: PortSet,
    /// Whether it is so for some of the pods only.
    pub partly: bool,
    /// Whom it newly exposes.
    pub exposure: Option<Exposure>,
}

impl Effect {
    /// How much it weighs against others: addresses outside stand for many.
    pub(super) fn weight(&self) -> usize {
        match self.exposure {
            Some(Exposure::FromOutside) => 100,
            Some(Exposure::FromOtherNamespace | Exposure::ToOutside) => 20,
            _ => 10,
        }
    }
}

/// What changes are compared with: the cluster as it is, and what was asked of it.
pub(super) struct Besides<'q, 'a> {
    cluster: &'a Cluster,
    answer: &'q Answer<'a>,
    /// Built when the first change is compared.
    engine: OnceCell<Arc<Reachability<'a>>>,
}

impl<'q, 'a> Besides<'q, 'a> {
    pub(super) fn of(cluster: &'a Cluster, answer: &'q Answer<'a>) -> Self {
        Self { cluster, answer, engine: OnceCell::new() }
    }

    /// Everything that differs but for what was asked.
    pub(super) fn after(&self, after: &Cluster) -> Vec<Effect> {
        let before = self.cluster;
        let engine = self.engine.get_or_init(|| Arc::new(Reachability::of(before)));
        let difference = difference_from(engine, before, after, By::Workload);
        let (src, dst) = (Asked::of(before, &self.answer.src), Asked::of(before, &self.answer.dst));
        let ports = asked_ports(self.answer);
        let family = self.answer.ask.family;
        let other_family = |row: &Row<'_>| match row {
            Row::Outside(class) => family.is_some_and(|family| family != class.family),
            Row::Pods { .. } => false,
        };
        let mut found = Vec::new();
        for change in &difference.changes {
            let (Some(from), Some(to)) =
                (difference.rows.get(change.src), difference.rows.get(change.dst))
            else {
                continue;
            };
            let [opened, closed, perhaps] =
                if src.is(from) && dst.is(to) && !other_family(from) && !other_family(to) {
                    unasked(&change.shift, family, &ports)
                } else {
                    sets(&change.shift.all)
                };
            // What was unknown before and is, for the same reasons, is no effect.
            let undecided = &change.shift.all.undecided;
            let idle = !undecided.is_empty()
                && opened.is_empty()
                && closed.is_empty()
                && perhaps.difference(undecided).is_empty()
                && idle::is_idle(before, after, pods_of(from), pods_of(to));
            if idle {
                continue;
            }
            if [&opened, &closed, &perhaps].iter().all(|set| set.is_empty()) {
                continue;
            }
            found.push(Effect {
                src: from.label(),
                dst: to.label(),
                opened,
                closed,
                perhaps,
                partly: change.partly,
                exposure: change.exposure,
            });
        }
        found
    }
}

fn pods_of<'r, 'a>(row: &'r Row<'a>) -> &'r [&'a Pod] {
    match row {
        Row::Pods { before, .. } => before,
        Row::Outside(_) => &[],
    }
}

/// What is certainly opened, certainly closed, and neither.
fn sets(shift: &Shift) -> [PortSet; 3] {
    let perhaps = shift.perhaps_opened.union(&shift.perhaps_closed).union(&shift.undecided);
    [shift.opened.clone(), shift.closed.clone(), perhaps]
}

/// What happens between the asked ends besides what was asked: over the other family everything, where
/// one was asked about and the two differ.
fn unasked(shifts: &Shifts, asked: Option<Family>, ports: &PortSet) -> [PortSet; 3] {
    let without = |shift: &Shift| sets(shift).map(|set| set.difference(ports));
    let Some(asked) = asked.filter(|_| !shifts.families.is_empty()) else {
        return without(&shifts.all);
    };
    let nothing = [PortSet::empty(), PortSet::empty(), PortSet::empty()];
    shifts.families.iter().fold(nothing, |[a, b, c], (family, shift)| {
        let [x, y, z] = if *family == asked { without(shift) } else { sets(shift) };
        [a.union(&x), b.union(&y), c.union(&z)]
    })
}

/// One end of the question among rows.
enum Asked {
    Pods(BTreeSet<Name>),
    Addresses(AddressSet),
}

impl Asked {
    fn of(cluster: &Cluster, peer: &Peer<'_>) -> Self {
        match peer {
            Peer::Outside { addresses, .. } => Self::Addresses(addresses.clone()),
            Peer::Node(node) => {
                let all = node
                    .addresses
                    .iter()
                    .map(|ip| AddressSet::from(podwall_policy::address::AddressRange::one(*ip)));
                Self::Addresses(all.fold(AddressSet::empty(), |all, one| all.union(&one)))
            }
            _ => Self::Pods(peer.pods(cluster).iter().map(|pod| pod.name.clone()).collect()),
        }
    }

    /// Whether the row is what was asked about. Replicas of an asked pod are: labels do not tell
    /// them apart.
    fn is(&self, row: &Row<'_>) -> bool {
        match (self, row) {
            (Self::Pods(names), Row::Pods { before, .. }) => {
                before.iter().any(|pod| names.contains(&pod.name))
            }
            (Self::Addresses(asked), Row::Outside(class)) => class.addresses.is_within(asked),
            _ => false,
        }
    }
}

fn asked_ports(answer: &Answer<'_>) -> PortSet {
    let of = |question| match question {
        Question::Anything => PortSet::everything(),
        Question::Port(protocol, None) => PortSet::range(protocol, PortRange::ALL),
        Question::Port(protocol, Some(port)) => PortSet::range(protocol, PortRange::one(port)),
    };
    answer.cases.iter().fold(PortSet::empty(), |all, case| all.union(&of(case.question)))
}
