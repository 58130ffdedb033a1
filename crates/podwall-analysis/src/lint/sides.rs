//! Does one end allow what the other end refuses altogether?
//!
//! PW207, PW208. Both ends of a connection must allow it, so a rule that names pods of which none
//! may be reached (or may send) does nothing. A pair that passes anywhere clears the rule: that a
//! broad rule meets some closed doors is as it should be.

use podwall_policy::evaluate::Evaluation;
use podwall_policy::flow::Party;
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope, Policy, Rule};
use podwall_policy::port::{PortMatch, PortSet};

use super::View;
use super::finding::Finding;
use super::flows::example;
use super::trust::is_open;
use super::words::{list, party, peer_path, who};

pub(super) fn check(view: &View<'_>, found: &mut Vec<Finding>) {
    for policy in &view.policies {
        for direction in Direction::BOTH {
            for (i, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                for (p, peer) in rule.peers.iter().enumerate() {
                    if let Peer::Pods(scope) = peer
                        && (view.complete || !anywhere(scope))
                    {
                        let peers = &view.select(scope).classes;
                        let at = (direction, i, p);
                        found.extend(refused(view, policy, rule, at, peers));
                    }
                }
            }
        }
    }
}

/// Whether pods of namespaces that no file states may be meant.
fn anywhere(scope: &PodScope) -> bool {
    matches!(&scope.namespaces, NamespaceScope::Matching(selector) if is_open(selector))
}

/// Whether the other end refuses every pair, with the ports of the rule.
fn refused(
    view: &View<'_>,
    policy: &Policy,
    rule: &Rule,
    (direction, i, p): (Direction, usize, usize),
    peers: &[usize],
) -> Option<Finding> {
    let subjects = &view.select(&policy.subject).classes;
    let by_number = rule.ports.iter().all(|spec| !matches!(spec.port, PortMatch::Named(_)));
    let mut pairs = 0;
    let mut example_of: Option<(usize, usize, Evaluation, PortSet)> = None;
    for subject in subjects {
        for peer in peers {
            if subject == peer && view.classes[*subject].count == 1 {
                continue; // a pod always reaches itself
            }
            let (src, dst) = match direction {
                Direction::Egress => (*subject, *peer),
                Direction::Ingress => (*peer, *subject),
            };
            // With ports by number a closed door is one whatever they are.
            let (asked, other) = match direction {
                Direction::Egress => (dst, src),
                Direction::Ingress => (src, dst),
            };
            if by_number && example_of.is_some() && view.is_closed(asked, other, direction.other())
            {
                pairs += 1;
                continue;
            }
            for (_, way) in view.between(src, dst) {
                let flow = podwall_policy::flow::Flow {
                    src: Party::Pod(view.classes[src].pod),
                    dst: Party::Pod(view.classes[dst].pod),
                    family: podwall_policy::address::Family::V4,
                };
                let (ports, _) = podwall_policy::matching::rule_ports(rule, &flow);
                let other = match direction {
                    Direction::Egress => &way.ingress,
                    Direction::Ingress => &way.egress,
                };
                if ports.is_empty() {
                    continue; // a name that leads nowhere is another rule's matter
                }
                if !ports.difference(&other.denied).is_empty() {
                    return None;
                }
                pairs += 1;
                if example_of.is_none() {
                    example_of = Some((src, dst, way, ports));
                }
            }
        }
    }
    let (src, dst, way, ports) = example_of?;
    let scope = &rule.peers[p];
    let (id, message) = match direction {
        Direction::Egress => {
            ("PW207", format!("egress to {scope} is allowed here, but none of them lets it in"))
        }
        Direction::Ingress => {
            ("PW208", format!("ingress from {scope} is allowed here, but none of them may send it"))
        }
    };
    let (protocol, port) = example(&ports)?;
    let other = match direction {
        Direction::Egress => &way.ingress,
        Direction::Ingress => &way.egress,
    };
    let by: Vec<String> = other.isolated_by.iter().map(ToString::to_string).collect();
    let pods = |class: usize| who(view.classes[class].pod);
    let [from, to] = [src, dst].map(|class| party(Party::Pod(view.classes[class].pod)));
    let field = peer_path(direction, i, p);
    let (what, where_) = match direction {
        Direction::Egress => ("ingress", pods(dst)),
        Direction::Ingress => ("egress", pods(src)),
    };
    Some(
        Finding::of_rule(id, policy, (direction, i), field, message)
            .about(format!("{direction} {scope}"))
            .proof(format!(
                "{from} to {to} is denied on {protocol} {port}: {where_} is isolated for {what} by {}",
                list(&by)
            ))
            .proof(format!(
                "the same for {}",
                if pairs == 1 {
                    "the only pair".to_owned()
                } else {
                    format!("all {pairs} pairs that were asked")
                }
            ))
            .help(format!("add the {what} rule to a policy of {where_}, or remove this one")),
    )
}
