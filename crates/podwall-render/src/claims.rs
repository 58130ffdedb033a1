//! What does an assertion claim, and why does it not hold, in words?
//!
//! ```text
//!   Assertion ──▶ "shop/web reaches shop/db on TCP 5432"
//!   Finding   ──▶ "tools/ops reaches shop/db on TCP 5432, and 3 pairs like it"    what
//!                 "into shop/db: allowed by rule 2 of db (db.yaml:9:5)"            why
//! ```

use podwall_analysis::assertions::{Finding, Outcome, Pair, Status};
use podwall_analysis::can::{Case, End};
use podwall_manifest::assertions::{Assertion, Claim, PeerSpec, Permitted, Ports};
use podwall_policy::address::AddressSet;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Exempt, Side, Verdict};
use podwall_policy::explain::SideExplanation;
use podwall_policy::object::Name;
use podwall_policy::policy::{Action, Direction, RuleRef, Tier};
use podwall_policy::port::{PortMatch, PortRange, PortSet, PortSpec, Protocol};

use crate::words;

/// How many near misses are told.
const MISSES: usize = 2;

/// What an assertion is called: its name, else its claim in words.
pub fn title(assertion: &Assertion) -> String {
    assertion.name.clone().unwrap_or_else(|| claim(assertion))
}

/// A claim in words.
pub fn claim(assertion: &Assertion) -> String {
    let families = match &assertion.families[..] {
        [] => String::new(),
        [one] => format!(" over {one}"),
        _ => " over IPv4 and IPv6".to_owned(),
    };
    let said = match &assertion.claim {
        Claim::Allow(it) => {
            format!("{} reaches {}{}", peers(&it.from), peers(&it.to), on(&it.ports))
        }
        Claim::Deny(it) => {
            format!("{} does not reach {}{}", peers(&it.from), peers(&it.to), on(&it.ports))
        }
        Claim::Only(it) => {
            let only = match &it.peers[..] {
                [] => "nobody".to_owned(),
                some => format!("only {}", permitted(some)),
            };
            match it.direction {
                Direction::Ingress => {
                    format!("{only} reaches {}{}", peers(&it.pods), on(&it.ports))
                }
                Direction::Egress => {
                    format!("{} reaches {only}{}", peers(&it.pods), on(&it.ports))
                }
            }
        }
        Claim::Isolated { pods, directions } => {
            let both = directions.len() > 1;
            let of = if both { String::new() } else { format!(" for {}", directions[0]) };
            format!("{} is isolated{of}", peers(pods))
        }
        Claim::NowhereElse { direction: Direction::Ingress, pods } => {
            format!("{} is reached from nowhere else", peers(pods))
        }
        Claim::NowhereElse { direction: Direction::Egress, pods } => {
            format!("{} reaches nothing else", peers(pods))
        }
    };
    said + &families
}

fn peers(specs: &[PeerSpec]) -> String {
    words::some(specs, 3)
}

fn permitted(list: &[Permitted]) -> String {
    let one = |permitted: &Permitted| {
        let ports = permitted.ports.as_ref().map_or_else(String::new, on);
        format!("{}{ports}", permitted.peer)
    };
    words::some(&list.iter().map(one).collect::<Vec<_>>(), 3)
}

/// " on TCP 80, UDP 53"; nothing where every port is meant.
fn on(ports: &Ports) -> String {
    match ports {
        Ports::All => String::new(),
        Ports::Any => " on some port".to_owned(),
        Ports::These(specs) => {
            format!(" on {}", words::some(&specs.iter().map(port).collect::<Vec<_>>(), 4))
        }
    }
}

fn port(spec: &PortSpec) -> String {
    match &spec.port {
        PortMatch::Any if !spec.protocol.has_ports() => spec.protocol.to_string(),
        PortMatch::Any => format!("any {} port", spec.protocol),
        PortMatch::Range(range) => format!("{} {range}", spec.protocol),
        PortMatch::Named(name) => format!("{} {name}", spec.protocol),
    }
}

/// `holds`, `FAILS`, …
pub fn status(status: Status) -> &'static str {
    match status {
        Status::Holds => "holds",
        Status::Unknown => "unknown",
        Status::Broken => "broken",
        Status::Fails => "fails",
    }
}

/// What was found, in one sentence.
pub fn what(finding: &Finding<'_>) -> String {
    match finding {
        Finding::Passes(pair) => {
            let (src, dst) = ends(pair);
            format!("{src} reaches {dst}{}{}", ports(pair), like(pair))
        }
        Finding::Stopped(pair) => {
            let (src, dst) = ends(pair);
            format!("{src} does not reach {dst}{}{}", ports(pair), like(pair))
        }
        Finding::Missing { pair, facts } => {
            let (src, dst) = ends(pair);
            let facts = words::some(facts, 3);
            let like = like(pair);
            format!("whether {src} reaches {dst}{}{like} depends on {facts}", ports(pair))
        }
        Finding::NotIsolated { pod, more, direction } => {
            let more = match more {
                0 => String::new(),
                more => format!(", nor {more} like it"),
            };
            format!("no policy isolates {} for {direction}{more}", pod.name)
        }
        Finding::NoFamily { src, dst } => {
            format!("{src} and {dst} have no address of one family, so nothing passes")
        }
        Finding::WhoIsUnknown { source, who, facts } => {
            let facts = words::some(facts, 3);
            format!("who is meant by {who} ({source}) depends on {facts}")
        }
        Finding::Broken { source, why, .. } => format!("{why} ({source})"),
    }
}

fn ends(pair: &Pair<'_>) -> (String, String) {
    let end = |end: &End<'_>| match end {
        End::Outside(class) if class.addresses == AddressSet::everything() => {
            "every address outside".to_owned()
        }
        other => other.to_string(),
    };
    (end(&pair.case.src), end(&pair.case.dst))
}

fn ports(pair: &Pair<'_>) -> String {
    let family = match (&pair.case.src, &pair.case.dst) {
        (End::Outside(_), _) | (_, End::Outside(_)) => String::new(),
        _ if speaks_both(&pair.case) => format!(" over {}", pair.case.family),
        _ => String::new(),
    };
    format!("{}{family}", on_ports(&pair.ports))
}

fn speaks_both(case: &Case<'_>) -> bool {
    let both = |end: &End<'_>| matches!(end, End::Pod(pod) if pod.ips.len() > 1);
    both(&case.src) && both(&case.dst)
}

fn on_ports(set: &PortSet) -> String {
    format!(" on {}", real_ports(set))
}

/// "TCP 80", "UDP" for each of its ports, "every port": port 0, which no packet has, left out.
pub fn real_ports(set: &PortSet) -> String {
    let real = PortRange { first: 1, last: u16::MAX };
    let mut shown = PortSet::empty();
    for protocol in Protocol::WITH_PORTS {
        let own = set.intersection(&PortSet::range(protocol, real));
        let whole = own == PortSet::range(protocol, real);
        let own = if whole { PortSet::range(protocol, PortRange::ALL) } else { own };
        shown = shown.union(&own);
    }
    if set.has_other_protocols() {
        shown = shown.union(&PortSet::range(Protocol::ICMP, PortRange::ALL));
    }
    if shown.is_everything() { "every port".to_owned() } else { shown.to_string() }
}

fn like(pair: &Pair<'_>) -> String {
    match pair.more {
        0 => String::new(),
        1 => " (and 1 pair like it)".to_owned(),
        more => format!(" (and {more} pairs like it)"),
    }
}

/// Why, a sentence for each side that has a say.
pub fn why(cluster: &Cluster, finding: &Finding<'_>) -> Vec<String> {
    match finding {
        Finding::Passes(pair) => sides(&pair.case)
            .into_iter()
            .map(|(end, side, why)| passes(cluster, &pair.case, end, side, why))
            .collect(),
        Finding::Stopped(pair) => sides(&pair.case)
            .into_iter()
            .filter(|(.., why)| why.verdict == Verdict::Denied)
            .map(|(end, side, why)| stopped(cluster, end, side, why))
            .collect(),
        Finding::Missing { pair, .. } => sides(&pair.case)
            .into_iter()
            .flat_map(|(.., why)| &why.undecided)
            .map(|(rule, _)| format!("{} would allow it, if known", of_rule(rule)))
            .collect(),
        Finding::Broken { hint, .. } => hint.clone().into_iter().collect(),
        _ => Vec::new(),
    }
}

type SideOf<'c> = (&'c End<'c>, &'c Side, &'c SideExplanation);

/// Both sides; an end outside has no policies.
fn sides<'c>(case: &'c Case<'_>) -> Vec<SideOf<'c>> {
    let both: [SideOf<'c>; 2] = [
        (&case.src, &case.evaluation.egress, &case.egress),
        (&case.dst, &case.evaluation.ingress, &case.ingress),
    ];
    let has_a_say = |(end, side, _): &SideOf<'_>| {
        matches!(end, End::Pod(_)) || side.exempt != Some(Exempt::NotAPod)
    };
    both.into_iter().filter(has_a_say).collect()
}

fn way(side: &Side) -> &'static str {
    if side.direction == Direction::Egress { "out of" } else { "into" }
}

fn passes(
    cluster: &Cluster,
    case: &Case<'_>,
    end: &End<'_>,
    side: &Side,
    why: &SideExplanation,
) -> String {
    let way = way(side);
    if let Some(exempt) = side.exempt {
        return format!("{way} {end}: {}", words::exempt(exempt));
    }
    if let [first, ..] = &why.allowed_by[..] {
        let others = match why.allowed_by.len() - 1 {
            0 => String::new(),
            more => format!(" and {}", words::count(more, "more rule")),
        };
        return format!("{way} {end}: allowed by {}{others}", of_rule(first));
    }
    let of = case.evaluation.egress.direction;
    let named = if side.direction == of { "egress" } else { "ingress" };
    if side.is_isolated() {
        return format!("{way} {end}: isolated by {}", isolating(cluster, side));
    }
    format!("{way} {end}: no policy selects it for {named}")
}

fn stopped(cluster: &Cluster, end: &End<'_>, side: &Side, why: &SideExplanation) -> String {
    let way = way(side);
    if let Some(node) = &side.stranger_on {
        return format!("{way} {end}: node {node} does not know whose address it is");
    }
    if let [first, ..] = &why.denied_by[..] {
        return format!("{way} {end}: denied by {}", of_rule(first));
    }
    let misses = why.near_misses.iter().filter(|miss| miss.action == Action::Allow).take(MISSES);
    let misses: Vec<String> = misses
        .map(|miss| {
            let reasons: Vec<String> = miss.reasons.iter().map(ToString::to_string).collect();
            format!("{} does not match: {}", of_rule(&miss.rule), reasons.join(", and "))
        })
        .collect();
    let misses = match misses.is_empty() {
        true => "; no rule allows anything".to_owned(),
        false => format!("; {}", misses.join("; ")),
    };
    format!("{way} {end}: isolated by {}{misses}", isolating(cluster, side))
}

/// "rule 2 of db (db.yaml:9:5)"
fn of_rule(rule: &RuleRef) -> String {
    match &rule.source {
        Some(source) => format!("{} ({source})", words::rule(rule)),
        None => words::rule(rule),
    }
}

/// "db (db.yaml:1:1), deny-all (deny.yaml:1:1)"
fn isolating(cluster: &Cluster, side: &Side) -> String {
    let one = |name: &Name| {
        let policy = cluster.policies.get(&(Tier::NetworkPolicy, name.clone()));
        match policy.and_then(|policy| policy.source.as_ref()) {
            Some(source) => format!("{} ({source})", name.name),
            None => name.name.to_string(),
        }
    };
    words::some(&side.isolated_by.iter().map(one).collect::<Vec<_>>(), 3)
}

/// What came of a whole file: the worst of all.
pub fn overall(outcomes: &[Outcome<'_>]) -> Status {
    outcomes.iter().map(|outcome| outcome.status).max().unwrap_or(Status::Holds)
}
