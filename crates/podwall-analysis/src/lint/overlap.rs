//! What does a rule say that another rule says already?
//!
//! ```text
//!   from: [app=web, app=db]   ports: [80, 443]
//!          └ by itself: are all its ports allowed by what stays?     an item that adds nothing
//!                                    └ by itself: for all peers?
//!   80-90 of one rule, 85-95 of another, for the same peers          ports in common
//! ```
//!
//! PW304, for rules of which no other covers the whole (that is PW301). Items are looked at one after
//! the other, the last first, and one that is found covers no other any more: all of them may go.

use std::collections::HashMap;

use podwall_policy::policy::{Direction, Peer, Policy, Rule};

use super::View;
use super::finding::{Change, Finding, Fix, Severity};
use super::redundancy::{Id, canonical, covering, named, rule_of, unchanged};
use super::shape::and_or;
use super::within;
use super::words::{list, peers_key, rule_path};

/// How many peers and ports of one rule are looked at one by one; lists that long are made by
/// programs, and each item costs a look at all others.
const MOST: usize = 64;

pub(super) fn check(
    view: &View<'_>,
    policies: &[usize],
    gone: &HashMap<Id, Vec<Id>>,
    found: &mut Vec<Finding>,
) {
    // Rules as they are without the items that were found.
    let mut left: HashMap<Id, Rule> = HashMap::new();
    let mut alike: HashMap<(String, Direction, Vec<Peer>), Vec<Id>> = HashMap::new();
    for own in policies {
        let policy = view.policies[*own];
        for direction in Direction::BOTH {
            for i in 0..policy.rules(direction).map_or(0, <[Rule]>::len) {
                let id = (*own, direction, i);
                if gone.contains_key(&id) {
                    continue;
                }
                let before = found.len();
                items(view, id, policies, gone, &mut left, found);
                if found.len() == before {
                    found.extend(ports_in_common(view, id, &mut alike));
                }
            }
        }
    }
}

/// Peers and ports of one rule that add nothing.
fn items(
    view: &View<'_>,
    id: Id,
    policies: &[usize],
    gone: &HashMap<Id, Vec<Id>>,
    left: &mut HashMap<Id, Rule>,
    found: &mut Vec<Finding>,
) {
    let (own, direction, i) = id;
    let Some(rule) = rule_of(view, id) else { return };
    if (rule.peers.len() < 2 && rule.ports.len() < 2) || rule.peers.len() + rule.ports.len() > MOST
    {
        return;
    }
    let policy = view.policies[own];
    let misplaced = and_or(view, policy, (direction, i))
        .filter(|(_, finding)| finding.severity > Severity::Note)
        .map(|(p, _)| p);
    let wider = |other: &Policy| within::scope(view, &policy.subject, &other.subject);
    let others: Vec<Id> = policies
        .iter()
        .filter(|other| wider(view.policies[**other]))
        .flat_map(|other| {
            let rules = view.policies[*other].rules(direction).map_or(0, <[Rule]>::len);
            (0..rules).map(move |i| (*other, direction, i))
        })
        .filter(|other| *other != id && !gone.contains_key(other))
        .collect();
    let mut rest = rule.clone();
    for (key, peers) in [(peers_key(direction), true), ("ports", false)] {
        let length = if peers { rule.peers.len() } else { rule.ports.len() };
        for item in (0..length).rev() {
            if (if peers { rest.peers.len() } else { rest.ports.len() }) < 2
                || (peers && misplaced == Some(item))
            {
                continue;
            }
            let mut part = rest.clone();
            let mut without = rest.clone();
            if peers {
                part.peers = vec![without.peers.remove(item)];
            } else {
                part.ports = vec![without.ports.remove(item)];
            }
            let rules: Vec<(Id, &Rule)> = others
                .iter()
                .filter_map(|other| Some((*other, left.get(other).or(rule_of(view, *other))?)))
                .chain([(id, &without)])
                .filter(|(_, other)| match &part.peers[..] {
                    [] => other.peers.is_empty(),
                    peers => peers.iter().any(|peer| may_cover(view, peer, other)),
                })
                .collect();
            let Some(by) = covering(view, &part, &rules) else { continue };
            let tried = unchanged(view, own, |policies| {
                let mine = policies.iter_mut().filter(|p| p.name == policy.name);
                for rule in
                    mine.filter_map(|policy| policy.rules_mut(direction).as_mut()?.get_mut(i))
                {
                    *rule = without.clone();
                }
            });
            let Some(tried) = tried else { continue };
            let (what, twin) = if peers {
                (part.peers[0].to_string(), without.peers.contains(&part.peers[0]))
            } else {
                (part.ports[0].to_string(), without.ports.contains(&part.ports[0]))
            };
            let field = rule_path(direction, i).key(key).item(item);
            let message = format!("{what} adds nothing here: it is allowed already");
            let covered = by.iter().map(|by| match *by == id {
                true => "the rest of this rule".to_owned(),
                false => named(view, *by, own),
            });
            found.push(
                Finding::of_rule("PW304", policy, (direction, i), field.clone(), message)
                    .about(format!("{direction} {what} of {}", said(rule)))
                    .proof(format!("covered by {}", list(covered)))
                    .proof(format!(
                        "without it the engine gives the same verdicts for all {tried} flows that \
                         were tried"
                    ))
                    .help("remove it; or, if it was meant to restrict, narrow what covers it")
                    .fix(Some(Fix {
                        what: format!("remove {what}"),
                        changes: vec![Change::Remove(field)],
                        sure: twin,
                    })),
            );
            rest = without;
        }
    }
    left.insert(id, rest);
}

/// Whether a rule could cover some of a peer; cheaper than to find out.
fn may_cover(view: &View<'_>, peer: &Peer, rule: &Rule) -> bool {
    rule.peers.is_empty()
        || rule.peers.iter().any(|other| match (peer, other) {
            (Peer::Pods(own), Peer::Pods(other)) => within::scope(view, own, other),
            (Peer::Block(own), Peer::Block(other)) => {
                own.cidr.contains(&other.cidr) || other.cidr.contains(&own.cidr)
            }
            _ => false,
        })
}

/// A rule's words that stay the same when it moves.
fn said(rule: &Rule) -> String {
    let peers = list(rule.peers.iter().map(ToString::to_string));
    let ports = list(rule.ports.iter().map(ToString::to_string));
    format!("{peers} {ports}").trim().to_owned()
}

/// Two rules for the same pods and peers, with ports in common.
fn ports_in_common(
    view: &View<'_>,
    id: Id,
    alike: &mut HashMap<(String, Direction, Vec<Peer>), Vec<Id>>,
) -> Option<Finding> {
    let (own, direction, i) = id;
    let policy = view.policies[own];
    let rule = rule_of(view, id).filter(|rule| !rule.ports.is_empty())?;
    let key = (format!("{:?}", policy.subject), direction, canonical(rule).0);
    let others = alike.entry(key).or_default();
    let (ports, _) = within::ports(rule);
    let common = others.iter().find_map(|other| {
        let (set, _) = within::ports(rule_of(view, *other)?);
        let common = ports.intersection(&set);
        (!common.is_empty()).then_some((*other, common))
    });
    others.push(id);
    let (other, common) = common?;
    let message = format!("this rule overlaps with another one on {common}");
    let field = rule_path(direction, i).key("ports");
    Some(
        Finding::of_rule("PW304", policy, (direction, i), field, message)
            .about(format!("{direction} {common}"))
            .proof(format!("the same pods, the same peers: {}", named(view, other, own)))
            .help("say each port in one place, or make one rule of the two"),
    )
}
