//! What does the evaluator say of a flow that proves a finding?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podwall_policy::address::Family;
use podwall_policy::evaluate::Verdict;
use podwall_policy::flow::Party;
use podwall_policy::policy::Direction;
use podwall_policy::port::{PortSet, Protocol};

use super::View;
use super::words::{party, who};

/// An address that is nobody's (RFC 5737, RFC 3849).
pub(super) fn outside(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    }
}

/// "allowed", "denied", "unknown".
pub(super) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
        Verdict::Unknown => "unknown",
    }
}

/// "203.0.113.1 to pod shop/web: allowed on TCP 80", of the policies of the pod alone.
pub(super) fn sentence(
    view: &View<'_>,
    class: usize,
    other: Party<'_>,
    direction: Direction,
    port: Option<(Protocol, u16)>,
) -> Option<String> {
    let sides = view.side(class, other, direction);
    let side = sides.first()?;
    let pod = Party::Pod(view.classes[class].pod);
    let (src, dst) = match direction {
        Direction::Ingress => (other, pod),
        Direction::Egress => (pod, other),
    };
    let verdict = match port {
        Some((protocol, port)) => {
            format!("{} on {protocol} {port}", word(side.verdict(protocol, port)))
        }
        None if side.allowed.is_everything() => "allowed on every port and protocol".to_owned(),
        None if side.allowed.is_empty() => "denied".to_owned(),
        None => format!("allowed on {}", side.allowed),
    };
    let of = who(view.classes[class].pod);
    Some(format!("{direction} of {of}: {} to {} is {verdict}", party(src), party(dst)))
}

/// A port of a set to ask about: the lowest of TCP, else of what there is.
pub(super) fn example(ports: &PortSet) -> Option<(Protocol, u16)> {
    let first = |protocol| {
        ports.iter().find(|(own, _)| *own == protocol).map(|(own, range)| (own, range.first.max(1)))
    };
    first(Protocol::TCP).or_else(|| first(Protocol::UDP)).or_else(|| first(Protocol::SCTP))
}
