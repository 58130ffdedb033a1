//! Do the ports of a rule exist where they are looked for?
//!
//! ```text
//!   port: htpp      ── no pod declares it ──▶ nearest name that is declared
//!   port: dns       ── declared for UDP, a rule means TCP unless it says so
//!   port: 80        ── Service 80 ─▶ pods 8080: policies see 8080
//!   port: 5353      ── declared for UDP, and means TCP
//! ```
//!
//! PW401 to PW404. A rule's ports are those of the destination: the pods that the policy
//! selects for ingress, the peers for egress.

use std::collections::BTreeSet;

use podwall_policy::object::TargetPort;
use podwall_policy::policy::{Direction, Peer, Policy, Rule};
use podwall_policy::port::{PortMatch, PortSpec, Protocol};
use podwall_policy::source::FieldPath;

use super::View;
use super::finding::{Change, Finding, Fix};
use super::words::{count, json_at, list, rule_path};
use crate::suggest::{is_one_slip, nearest};

pub(super) fn check(view: &View<'_>, found: &mut Vec<Finding>) {
    for policy in &view.policies {
        for direction in Direction::BOTH {
            for (i, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                if rule.ports.is_empty() {
                    continue;
                }
                let Some(classes) = destinations(view, policy, direction, rule) else { continue };
                for (j, spec) in rule.ports.iter().enumerate() {
                    let path = rule_path(direction, i).key("ports").item(j);
                    let at = Place { view, policy, rule: (direction, i), path, classes: &classes };
                    found.extend(match &spec.port {
                        PortMatch::Named(name) => named(&at, spec, name),
                        PortMatch::Range(range) if range.first == range.last => {
                            number(&at, spec, range.first)
                                .or_else(|| protocol(&at, rule, spec, range.first))
                        }
                        _ => None,
                    });
                }
            }
        }
    }
}

/// One item of `ports`.
struct Place<'p, 'a> {
    view: &'p View<'a>,
    policy: &'p Policy,
    rule: (Direction, usize),
    path: FieldPath,
    classes: &'p [usize],
}

impl Place<'_, '_> {
    fn finding(&self, id: &'static str, message: String) -> Finding {
        Finding::of_rule(id, self.policy, self.rule, self.path.key("port"), message)
    }
}

/// The pods whose ports are meant; `None` where not all of them are known.
fn destinations(
    view: &View<'_>,
    policy: &Policy,
    direction: Direction,
    rule: &Rule,
) -> Option<Vec<usize>> {
    let mut classes = Vec::new();
    match direction {
        Direction::Ingress => classes.extend(&view.select(&policy.subject).classes),
        Direction::Egress => {
            if rule.peers.is_empty() {
                return None;
            }
            for peer in &rule.peers {
                let Peer::Pods(scope) = peer else { return None };
                let selected = view.select(scope);
                if selected.unknown || selected.classes.is_empty() {
                    return None;
                }
                classes.extend(&selected.classes);
            }
        }
    }
    classes.sort_unstable();
    classes.dedup();
    (!classes.is_empty()).then_some(classes)
}

/// PW401, PW402.
fn named(at: &Place<'_, '_>, spec: &PortSpec, name: &str) -> Option<Finding> {
    let pods = || at.classes.iter().map(|class| at.view.classes[*class].pod);
    if pods().any(|pod| pod.named_port(name, spec.protocol).next().is_some()) {
        return None;
    }
    let declared: BTreeSet<(&str, Protocol)> = pods()
        .flat_map(|pod| &pod.ports)
        .filter_map(|port| Some((port.name.as_deref()?, port.protocol)))
        .collect();
    let protocols: Vec<Protocol> =
        declared.iter().filter(|(own, _)| *own == name).map(|(_, protocol)| *protocol).collect();
    let number = count(at.view.count(at.classes), "pod");
    let proof = if declared.is_empty() {
        format!("{number} ({}) declare no port by name", at.view.name(at.classes))
    } else {
        let list = list(declared.iter().map(|(name, protocol)| format!("{name} ({protocol})")));
        format!("{number} ({}) declare the ports {list}", at.view.name(at.classes))
    };
    if let Some(protocol) = protocols.first() {
        let message = format!(
            "port {name} is declared for {protocol}, and this rule is about {}",
            spec.protocol
        );
        let fix = with_protocol(at, *protocol, protocols.len() == 1);
        return Some(
            at.finding("PW402", message)
                .about(spec.to_string())
                .proof(proof)
                .help(format!("write `protocol: {protocol}`; without it TCP is meant"))
                .fix(Some(fix)),
        );
    }
    let message = format!("no pod declares a port {name}, so this allows nothing");
    let finding = at.finding("PW401", message).about(spec.to_string()).proof(proof);
    let own = declared.iter().filter(|(_, protocol)| *protocol == spec.protocol);
    Some(match nearest(name, own.map(|(name, _)| *name)) {
        Some(meant) => finding.help(format!("did you mean {meant}?")).fix(Some(Fix {
            what: format!("write port: {meant}"),
            changes: vec![Change::Value(at.path.key("port"), meant.to_owned())],
            sure: is_one_slip(name, meant) && name.chars().count() >= 4,
        })),
        None => finding.help("write the number, or name the port in the pods' containers"),
    })
}

/// Writes another protocol.
fn with_protocol(at: &Place<'_, '_>, protocol: Protocol, sure: bool) -> Fix {
    let field = at.path.key("protocol");
    let stated = at.view.written(at.policy).and_then(|raw| json_at(raw, &field)).is_some();
    let change = if stated {
        Change::Value(field, protocol.to_string())
    } else {
        Change::Insert(at.path.key("port"), format!("protocol: {protocol}"))
    };
    Fix { what: format!("write protocol: {protocol}"), changes: vec![change], sure }
}

/// PW404. A number says nothing of what listens there, but where every pod that is meant declares
/// it, and for other protocols alone, nothing is allowed that anybody serves.
fn protocol(at: &Place<'_, '_>, rule: &Rule, spec: &PortSpec, number: u16) -> Option<Finding> {
    let mut declared: BTreeSet<Protocol> = BTreeSet::new();
    for class in at.classes {
        let ports = at.view.classes[*class].pod.ports.iter();
        let own: Vec<Protocol> =
            ports.filter(|port| port.number == number).map(|port| port.protocol).collect();
        if own.is_empty() || own.contains(&spec.protocol) {
            return None;
        }
        declared.extend(own);
    }
    // Both are allowed, as for DNS, which may turn to TCP.
    let beside = |other: &PortSpec| {
        declared.contains(&other.protocol)
            && matches!(&other.port, PortMatch::Range(range) if range.contains(number))
    };
    let protocol = *declared.first()?;
    if rule.ports.iter().any(beside) {
        return None;
    }
    let message = format!(
        "port {number} is declared for {}, and this rule is about {}",
        list(declared.iter().map(ToString::to_string)),
        spec.protocol
    );
    let pods = count(at.view.count(at.classes), "pod");
    Some(
        at.finding("PW404", message)
            .about(spec.to_string())
            .proof(format!(
                "{pods} ({}) declare {protocol} {number} and no {} {number}",
                at.view.name(at.classes),
                spec.protocol
            ))
            .help(format!("write `protocol: {protocol}`; without it TCP is meant"))
            .fix(Some(with_protocol(at, protocol, declared.len() == 1))),
    )
}

/// PW403.
fn number(at: &Place<'_, '_>, spec: &PortSpec, number: u16) -> Option<Finding> {
    let mut targets: BTreeSet<u16> = BTreeSet::new();
    let mut by: BTreeSet<String> = BTreeSet::new();
    let mut headless: BTreeSet<String> = BTreeSet::new();
    for class in at.classes {
        let pod = at.view.classes[*class].pod;
        let declares =
            pod.ports.iter().any(|port| port.protocol == spec.protocol && port.number == number);
        if declares {
            return None;
        }
        let mut behind = false;
        for service in at.view.services_of(*class) {
            for port in service.ports.iter().filter(|port| port.protocol == spec.protocol) {
                let target = match &port.target {
                    TargetPort::Number(target) => Some(*target),
                    TargetPort::Name(name) => pod.named_port(name, port.protocol).next(),
                };
                if target == Some(number) {
                    return None;
                }
                if let (Some(target), true) = (target, port.port == number) {
                    // A headless Service translates nothing: whoever asks for its port gets the
                    // pod's port of that number, and that may listen. It does not, it seems, where
                    // the pod says that it listens at targetPort.
                    let listens = pod
                        .ports
                        .iter()
                        .any(|its| (its.protocol, its.number) == (port.protocol, target));
                    if service.headless && !listens {
                        continue;
                    }
                    behind = true;
                    targets.insert(target);
                    let names = if service.headless { &mut headless } else { &mut by };
                    names.insert(service.name.to_string());
                }
            }
        }
        // A pod that is behind no such Service may well listen there.
        if !behind {
            return None;
        }
    }
    let target = *targets.first()?;
    let message = format!(
        "{number} is the Service's port; policies see the pod's, which is {}",
        list(targets.iter().map(ToString::to_string))
    );
    let fix = Fix {
        what: format!("write port: {target}"),
        changes: vec![Change::Value(at.path.key("port"), target.to_string())],
        sure: targets.len() == 1,
    };
    let mut finding = at.finding("PW403", message).about(spec.to_string());
    if !by.is_empty() {
        finding = finding.proof(format!(
            "Service {} takes {} {number} to {} {target} of {}",
            list(&by),
            spec.protocol,
            spec.protocol,
            at.view.name(at.classes)
        ));
    }
    if !headless.is_empty() {
        finding = finding.proof(format!(
            "Service {} is headless, so nothing takes {} {number} to its targetPort {target}, where \
             {} listens",
            list(&headless),
            spec.protocol,
            at.view.name(at.classes)
        ));
    }
    Some(
        finding
            .proof(format!("none of these pods declares {} {number}", spec.protocol))
            .help(format!("write {target}"))
            .fix(Some(fix)),
    )
}
