//! Is everything that one selector, peer or rule matches matched by another, whatever pods there are?
//!
//! ```text
//!   app=web,tier=front  within  app=web            every requirement of the wider one follows
//!   10.1.0.0/16         within  10.0.0.0/8
//! ```
//!
//! Sound, not complete: a yes holds for all labels and addresses; a no may be wrong. What a yes says
//! is checked with the evaluator before anybody hears of it.

use podwall_policy::address::{AddressSet, IpBlock};
use podwall_policy::label::METADATA_NAME;
use podwall_policy::policy::{NamespaceScope, Peer, PodScope, Rule};
use podwall_policy::port::{PortMatch, PortRange, PortSet, PortSpec};
use podwall_policy::selector::{Operator, Requirement, Selector};

use super::View;

/// Whether every set of labels that meets `a` meets `b`.
pub(crate) fn selector(a: &Selector, b: &Selector) -> bool {
    b.requirements.iter().all(|wide| a.requirements.iter().any(|narrow| requirement(narrow, wide)))
}

fn requirement(a: &Requirement, b: &Requirement) -> bool {
    use Operator::{DoesNotExist, Equals, Exists, In, NotIn};
    if a.key != b.key {
        return false;
    }
    match (&a.operator, &b.operator) {
        (Equals(x), Equals(y)) => x == y,
        (Equals(x), In(set)) => set.contains(x),
        (Equals(x), NotIn(set)) => !set.contains(x),
        (Equals(_) | In(_) | Exists, Exists) | (DoesNotExist, DoesNotExist | NotIn(_)) => true,
        (In(x), Equals(y)) => x.len() == 1 && x.contains(y),
        (In(x), In(y)) => x.is_subset(y),
        (In(x), NotIn(y)) => x.is_disjoint(y),
        (NotIn(x), NotIn(y)) => y.is_subset(x),
        _ => false,
    }
}

/// Whether every pod of `a` is one of `b`, with the labels that namespaces have now.
pub(super) fn scope(view: &View<'_>, a: &PodScope, b: &PodScope) -> bool {
    use NamespaceScope::{Matching, Own};
    let namespaces = match (&a.namespaces, &b.namespaces) {
        (Own(x), Own(y)) => x == y,
        (_, Matching(all)) if all.is_everything() => true,
        (Own(x), Matching(y)) => view.namespaces(y).certain.contains(&x),
        (Matching(x), Matching(y)) => selector(x, y),
        (Matching(x), Own(y)) => x
            .requirements
            .iter()
            .any(|r| *r.key == *METADATA_NAME && r.operator == Operator::Equals(y.clone())),
    };
    namespaces && selector(&a.pods, &b.pods)
}

/// Whether everybody that `a` matches is matched by one of `rule`'s peers.
pub(super) fn peers(view: &View<'_>, a: &Peer, rule: &Rule) -> bool {
    rule.peers.is_empty() || rule.peers.iter().any(|b| peer(view, a, b))
}

fn peer(view: &View<'_>, a: &Peer, b: &Peer) -> bool {
    match (a, b) {
        (Peer::Pods(a), Peer::Pods(b)) => scope(view, a, b),
        (Peer::Block(a), Peer::Block(b)) => {
            // A block without exceptions has its first address.
            let apart = a.except.is_empty() && !b.cidr.contains(&a.cidr.addr());
            !apart && block(a).is_within(&block(b))
        }
        _ => false,
    }
}

/// A block's addresses.
pub(super) fn block(block: &IpBlock) -> AddressSet {
    block.ranges()
}

/// A rule's ports by number, and those that it names.
pub(super) fn ports(rule: &Rule) -> (PortSet, Vec<&PortSpec>) {
    if rule.ports.is_empty() {
        return (PortSet::everything(), Vec::new());
    }
    let mut set = PortSet::empty();
    let mut named = Vec::new();
    for spec in &rule.ports {
        match &spec.port {
            PortMatch::Any => set = set.union(&PortSet::range(spec.protocol, PortRange::ALL)),
            PortMatch::Range(range) => set = set.union(&PortSet::range(spec.protocol, *range)),
            PortMatch::Named(_) => named.push(spec),
        }
    }
    (set, named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrower_selector_is_within_a_wider_one() {
        let within =
            |a: &str, b: &str| selector(&Selector::parse(a).unwrap(), &Selector::parse(b).unwrap());
        for (a, b) in [
            ("app=web", ""),
            ("app=web,tier=front", "app=web"),
            ("app=web", "app in (web,db)"),
            ("app in (web,db)", "app in (web,db,api)"),
            ("app=web", "app!=db"),
            ("app in (web)", "app=web"),
            ("app=web", "app"),
            ("!app", "app!=web"),
            ("app notin (a,b)", "app!=a"),
        ] {
            assert!(within(a, b), "{a} within {b}");
        }
        for (a, b) in [
            ("", "app=web"),
            ("app=web", "tier=front"),
            ("app in (web,db)", "app=web"),
            ("app", "app=web"),
            ("app=web", "app!=web"),
            ("app!=a", "app notin (a,b)"),
            ("app!=a", "app"),
            ("app!=a", "!app"),
        ] {
            assert!(!within(a, b), "{a} not within {b}");
        }
    }
}
