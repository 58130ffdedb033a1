//! Which words are used for verdicts, ports, rules and places?

use std::sync::Arc;

use podwall_policy::evaluate::{Exempt, Verdict};
use podwall_policy::explain::Question;
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::{Action, Direction, RuleRef};
use podwall_policy::port::{PortSet, Protocol};
use podwall_policy::source::Source;

use crate::page::{BAD, FAINT, GOOD, UNSURE, paint};

/// `allowed`, `denied`, `unknown`.
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
        Verdict::Unknown => "unknown",
    }
}

/// The verdict in its colour.
pub fn painted(of: Verdict) -> String {
    let style = match of {
        Verdict::Allowed => GOOD,
        Verdict::Denied => BAD,
        Verdict::Unknown => UNSURE,
    };
    paint(style, verdict(of))
}

/// " on TCP 80", " on any UDP port", "".
pub fn on(question: Question) -> String {
    match question {
        Question::Anything => String::new(),
        Question::Port(protocol, Some(port)) => format!(" on {protocol} {port}"),
        Question::Port(protocol, None) if protocol.has_ports() => {
            format!(" on any {protocol} port")
        }
        Question::Port(protocol, None) => format!(" with {protocol}"),
    }
}

/// A set of ports as a phrase: "every port and protocol", "TCP 80,443; UDP 53".
pub fn ports(set: &PortSet) -> String {
    if set.is_everything() { "every port and protocol".to_owned() } else { set.to_string() }
}

/// " (file:line:col)", faint; nothing where the place is not known.
pub fn place(source: Option<&Source>) -> String {
    source.map_or_else(String::new, |source| format!(" {}", paint(FAINT, &format!("({source})"))))
}

/// "rule 1 of restrict-egress".
pub fn rule(rule: &RuleRef) -> String {
    format!("rule {} of {}", rule.number, rule.policy.name)
}

/// "1 pod", "2 pods".
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The first few of a list, and how many more there are.
pub fn some<T: ToString>(list: &[T], shown: usize) -> String {
    let first: Vec<String> = list.iter().take(shown).map(ToString::to_string).collect();
    let more = list.len().saturating_sub(shown);
    match more {
        0 => first.join(", "),
        _ => format!("{} and {more} more", first.join(", ")),
    }
}

/// The names of pods.
pub fn names(pods: &[&Pod]) -> Vec<Name> {
    pods.iter().map(|pod| pod.name.clone()).collect()
}

/// Why no policy is asked, as a sentence about one end.
pub fn exempt(exempt: Exempt) -> &'static str {
    match exempt {
        Exempt::NotAPod => "not a pod of the cluster: no policy has a say on this side",
        Exempt::HostNetwork => {
            "uses its node's network: it counts as the node, and policies do not select it"
        }
        Exempt::Terminated => "has ended: no policy selects it",
        Exempt::Itself => "a pod always reaches itself on its own address",
        Exempt::OwnNode => "traffic from the pod's own node is always let in",
    }
}

/// The name of an exemption in JSON.
pub fn exempt_key(exempt: Exempt) -> &'static str {
    match exempt {
        Exempt::NotAPod => "notAPod",
        Exempt::HostNetwork => "hostNetwork",
        Exempt::Terminated => "terminated",
        Exempt::Itself => "itself",
        Exempt::OwnNode => "ownNode",
    }
}

/// "leave" or "come in".
pub fn passes(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "leave",
        Direction::Ingress => "come in",
    }
}

/// Protocols that ICMP stands for are asked with this one.
pub fn is_icmp(protocol: Protocol) -> bool {
    protocol == Protocol::ICMP || protocol == Protocol::ICMPV6
}

/// Names of policies without their namespace, in order.
pub fn policies(names: &[Name]) -> String {
    let names: Vec<Arc<str>> = names.iter().map(|name| name.name.clone()).collect();
    names.join(", ")
}

/// `allow`, `deny`, `pass`.
pub fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Pass => "pass",
    }
}
