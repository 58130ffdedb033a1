//! Paths from outside into pods, for people.
//!
//! ```text
//!   Ingress shop/web host shop.example -> Service shop/web port 80 -> pod port TCP 8080: denied …
//! ```

use podwall_analysis::exposure::paths::{Seen, Via};
use podwall_analysis::exposure::{Outcome, Path};
use podwall_analysis::outside;
use podwall_policy::object::Name;

use crate::page::{BAD, GOOD, Page, UNSURE};
use crate::text::exposure::paint_words;
use crate::words;

/// What a path leads through and to, up to the pods.
pub fn way(path: &Path) -> String {
    let service = &path.service;
    let port = &path.port;
    let mut out = match &path.via {
        Via::NodePort(Some(number)) => {
            format!("NodePort {number} of Service {service} port {port}")
        }
        Via::NodePort(None) => format!("the NodePort of Service {service} port {port}"),
        Via::LoadBalancer(ranges) if ranges.is_empty() => {
            format!("LoadBalancer {service} port {port}")
        }
        Via::LoadBalancer(ranges) => {
            let ranges = words::some(ranges.as_slice(), 3);
            format!("LoadBalancer {service} port {port} (loadBalancerSourceRanges {ranges})")
        }
        Via::ExternalIps(ips) => {
            format!(
                "external address {} of Service {service} port {port}",
                words::some(ips.as_slice(), 2)
            )
        }
        Via::Ingress { name, what } => {
            let what = if what.is_empty() { String::new() } else { format!(" {what}") };
            format!("Ingress {name}{what} -> Service {service} port {port}")
        }
        Via::Gateway { gateway, listener, port: of_listener, route: (kind, name), what } => {
            let what = if what.is_empty() { String::new() } else { format!(" {what}") };
            let at = match listener.is_empty() {
                true => String::new(),
                false => format!(" listener {listener} ({of_listener})"),
            };
            format!("Gateway {gateway}{at} -> {kind} {name}{what} -> Service {service} port {port}")
        }
    };
    if !path.targets.is_empty() {
        let ports: Vec<String> =
            path.targets.iter().map(|(protocol, port)| format!("{protocol} {port}")).collect();
        out += &format!(" -> pod port {}", ports.join(", "));
    }
    out
}

/// Whether it works, and why, in words.
pub fn outcome(path: &Path) -> String {
    let whom = match &path.via {
        Via::LoadBalancer(ranges) if !ranges.is_empty() => words::some(ranges.as_slice(), 3),
        Via::Ingress { .. } | Via::Gateway { .. } => "whoever reaches the controller".to_owned(),
        Via::NodePort(_) => "whoever reaches a node".to_owned(),
        _ => "the internet".to_owned(),
    };
    match (&path.outcome, &path.seen) {
        (Outcome::Open(None), Seen::Node(at)) => format!(
            "open to {whom}; policies see the address of the node that is asked, but at the pod's own \
             node the client's{}",
            match &at.own {
                Outcome::Open(None) => String::new(),
                Outcome::Open(Some(addresses)) => {
                    format!(", and let in {} only there", outside::describe(addresses))
                }
                Outcome::Unknown(missing) => {
                    format!(
                        "; what they do there depends on {}",
                        words::some(missing.as_slice(), 2)
                    )
                }
                _ => ", and let none in there".to_owned(),
            }
        ),
        (Outcome::Open(None), Seen::Controller(pods)) => {
            format!("open to {whom}; policies see the controller, {}", controller(pods))
        }
        (Outcome::Open(None), _) => format!("open to {whom}; policies see the client's address"),
        (Outcome::Open(Some(addresses)), _) => format!(
            "open to {} only; policies see the client's address",
            outside::describe(addresses)
        ),
        (Outcome::OwnNodeOnly(addresses), seen) => format!(
            "open to {} at the pod's own node only: policies see the client's address there, \
             elsewhere that of the node that is asked, {}",
            match (addresses, &path.via) {
                (Some(addresses), _) => outside::describe(addresses),
                (None, Via::NodePort(_)) => "whoever asks".to_owned(),
                (None, _) => whom,
            },
            match seen {
                Seen::Node(at) => others(&at.others),
                _ => others(&Outcome::Shut),
            }
        ),
        (Outcome::Shut, Seen::Node(_)) => {
            "denied: policies see the client's address at the pod's own \
             node, elsewhere that of the node that is asked, and let none in"
                .to_owned()
        }
        (Outcome::Shut, Seen::Controller(pods)) => {
            format!("denied: policies do not let the controller, {}, reach it", controller(pods))
        }
        (Outcome::Shut, _) => {
            "denied: policies see the client's address and let none in".to_owned()
        }
        (Outcome::Unknown(missing), _) => {
            format!("unknown is {}", words::some(missing.as_slice(), 2))
        }
        (Outcome::Broken(why), _) => format!("leads nowhere: {why}"),
    }
}

/// What policies do with other nodes than the pod's own, where they certainly let not all in.
fn others(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Unknown(missing) => {
            format!("and what they do then depends on {}", words::some(missing.as_slice(), 2))
        }
        _ => "and let no other node in".to_owned(),
    }
}

/// Whether somebody outside comes through.
pub fn works(path: &Path) -> bool {
    matches!(path.outcome, Outcome::Open(_) | Outcome::OwnNodeOnly(_))
}

/// "ingress-nginx/controller-x and 2 more".
fn controller(pods: &[Name]) -> String {
    words::some(pods, 1)
}

/// Paths under a heading; nothing where there are none.
pub(super) fn section(page: &mut Page, heading: &str, paths: &[Path]) {
    if paths.is_empty() {
        return;
    }
    page.heading(heading);
    for path in paths {
        page.item(2, &line(path));
    }
}

/// A path as a line of text.
pub(crate) fn line(path: &Path) -> String {
    let style = match &path.outcome {
        Outcome::Open(_) | Outcome::OwnNodeOnly(_) => BAD,
        Outcome::Shut => GOOD,
        Outcome::Unknown(_) | Outcome::Broken(_) => UNSURE,
    };
    let outcome = outcome(path);
    // Only the word is painted, what follows is read.
    let (word, rest) = outcome.split_once(' ').unwrap_or((&outcome, ""));
    let place = words::place(path.source.as_ref());
    format!("{}: {} {rest}{place}", way(path), paint_words(style, word))
}
