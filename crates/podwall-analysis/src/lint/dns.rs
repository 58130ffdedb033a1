//! Can pods that may go somewhere still look up names?
//!
//! ```text
//!   resolvers known ──▶ the engine is asked: pod to resolver, UDP and TCP, both sides
//!   none known      ──▶ does any rule allow port 53, to whomever?
//! ```
//!
//! PW201. A pod that may go nowhere at all needs no names, nor does one that may reach single
//! addresses only.

use std::collections::{BTreeMap, BTreeSet};

use podwall_policy::flow::Party;
use podwall_policy::label::METADATA_NAME;
use podwall_policy::object::{Name, Pod, Service, TargetPort};
use podwall_policy::policy::{Direction, Peer, Policy, Rule};
use podwall_policy::port::{PortMatch, Protocol};
use podwall_policy::source::FieldPath;

use super::View;
use super::finding::{Change, Finding, Fix, Severity};
use super::trust::labels;
use super::words::{count, list, party, who};

/// A resolver, and where it listens.
struct Resolver {
    class: usize,
    udp: u16,
    tcp: u16,
}

pub(super) fn check(view: &View<'_>, found: &mut Vec<Finding>) {
    let resolvers = resolvers(view);
    // Pods that the same policies isolate are one finding.
    let mut groups: BTreeMap<(Vec<usize>, bool), Vec<usize>> = BTreeMap::new();
    let place: BTreeMap<_, usize> =
        view.policies.iter().enumerate().map(|(i, policy)| (&policy.name, i)).collect();
    for class in 0..view.classes.len() {
        if resolvers.iter().any(|resolver| resolver.class == class) {
            continue;
        }
        let isolating: Vec<&Policy> =
            view.selected_by(class).iter().copied().filter(|p| p.egress.is_some()).collect();
        let rules = || isolating.iter().flat_map(|policy| policy.egress.iter().flatten());
        if isolating.is_empty() || rules().next().is_none() || rules().all(is_single_address) {
            continue;
        }
        let missing = if resolvers.is_empty() {
            rules().all(|rule| !names_dns(rule)).then_some(true)
        } else {
            cut_off(view, class, &resolvers)
        };
        if let Some(udp) = missing {
            let policies: Vec<usize> =
                isolating.iter().filter_map(|p| place.get(&p.name).copied()).collect();
            groups.entry((policies, udp)).or_default().push(class);
        }
    }
    for ((policies, udp), classes) in groups {
        let policies: Vec<&Policy> = policies.iter().map(|i| view.policies[*i]).collect();
        found.extend(finding(view, &policies, udp, &classes, &resolvers));
    }
    if !view.complete {
        without_pods(view, found);
    }
}

/// Policies alone, whose pods stand elsewhere: a note for the pods that their selectors speak of, since
/// what allows DNS may stand elsewhere, too.
fn without_pods(view: &View<'_>, found: &mut Vec<Finding>) {
    let mut told: BTreeSet<Vec<&Name>> = BTreeSet::new();
    for policy in &view.policies {
        let namespace = &*policy.name.namespace;
        if view.is_populated(namespace) || policy.egress.as_ref().is_none_or(Vec::is_empty) {
            continue;
        }
        let pod = labels(&policy.subject.pods);
        let isolating: Vec<&Policy> = view
            .policies_in(namespace)
            .filter(|other| other.egress.is_some() && other.subject.pods.matches(&pod))
            .collect();
        let rules = || isolating.iter().flat_map(|policy| policy.egress.iter().flatten());
        if rules().all(is_single_address) || rules().any(names_dns) {
            continue;
        }
        if !told.insert(isolating.iter().map(|policy| &policy.name).collect()) {
            continue;
        }
        let message =
            "the pods of this policy may go out, but cannot look up names: no rule allows DNS";
        let path = FieldPath::keys("spec.egress");
        found.push(
            Finding::new("PW201", policy, path, message.to_owned())
                .severity(Severity::Note)
                .proof(format!(
                    "isolated for egress by {}, of which no rule allows UDP 53, to whomever",
                    list(isolating.iter().map(|p| &*p.name.name))
                ))
                .help(HELP)
                .fix(Some(fix("kube-system", "k8s-app: kube-dns", (53, 53), false))),
        );
    }
}

/// Where the resolver mostly is.
const HELP: &str = "allow UDP and TCP 53 to the cluster's resolver, mostly pods k8s-app=kube-dns in \
                    namespace kube-system";

/// What is missing to reach a resolver: `Some(true)` for everything, `Some(false)` for TCP alone.
fn cut_off(view: &View<'_>, class: usize, resolvers: &[Resolver]) -> Option<bool> {
    let reaches = |resolver: &Resolver, protocol, port| {
        let ways = view.between(class, resolver.class);
        // Unknown is nobody's fault.
        ways.iter().any(|(_, way)| !way.denied().contains(protocol, port))
    };
    let udp = resolvers.iter().any(|resolver| reaches(resolver, Protocol::UDP, resolver.udp));
    let tcp = resolvers.iter().any(|resolver| reaches(resolver, Protocol::TCP, resolver.tcp));
    match (udp, tcp) {
        (true, true) => None,
        (true, false) => Some(false),
        (false, _) => Some(true),
    }
}

/// Pods behind a Service that is called as DNS's is, or with the labels of such pods.
fn resolvers(view: &View<'_>) -> Vec<Resolver> {
    let service_ports = |service: &Service, pod: &Pod, protocol| {
        let port = service.ports.iter().find(|p| p.protocol == protocol && p.port == 53)?;
        match &port.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => pod.named_port(name, protocol).next(),
        }
    };
    let mut found = Vec::new();
    for (class, own) in view.classes.iter().enumerate() {
        let pod = own.pod;
        let services: Vec<&Service> = view
            .services_of(class)
            .filter(|service| {
                matches!(
                    &*service.name.name,
                    "kube-dns" | "coredns" | "dns-default" | "rke2-coredns-rke2-coredns"
                )
            })
            .collect();
        let labelled = ["kube-dns", "coredns"]
            .contains(&pod.labels.get("k8s-app").unwrap_or_default())
            || pod.labels.get("app.kubernetes.io/name") == Some("coredns");
        if services.is_empty() && !(labelled && &*pod.name.namespace == "kube-system") {
            continue;
        }
        let port = |protocol| {
            services.iter().find_map(|service| service_ports(service, pod, protocol)).unwrap_or(53)
        };
        found.push(Resolver { class, udp: port(Protocol::UDP), tcp: port(Protocol::TCP) });
    }
    found
}

/// Whether a rule reaches nothing but single addresses, for which nobody asks a resolver.
fn is_single_address(rule: &Rule) -> bool {
    !rule.peers.is_empty()
        && rule.peers.iter().all(|peer| match peer {
            Peer::Block(block) => block.cidr.prefix_len() == block.cidr.max_prefix_len(),
            Peer::Pods(_) => false,
        })
}

/// Whether a rule allows UDP 53, or the other ports on which resolvers listen behind a Service.
fn names_dns(rule: &Rule) -> bool {
    rule.ports.is_empty()
        || rule.ports.iter().any(|spec| {
            spec.protocol == Protocol::UDP
                && match &spec.port {
                    PortMatch::Any => true,
                    PortMatch::Range(range) => {
                        [53, 1053, 5353, 8053].iter().any(|p| range.contains(*p))
                    }
                    PortMatch::Named(name) => name.contains("dns") || name.contains("domain"),
                }
        })
}

fn finding(
    view: &View<'_>,
    policies: &[&Policy],
    all: bool,
    classes: &[usize],
    resolvers: &[Resolver],
) -> Option<Finding> {
    // The policy that says most about where these pods go is the one to mend.
    let policy = policies.iter().rev().max_by_key(|p| p.egress.as_ref().map_or(0, Vec::len))?;
    let pods = count(view.count(classes), "pod");
    let what = if all { "cannot look up names" } else { "can look up names over UDP only" };
    let message = format!("{pods} may go out, but {what}: no rule allows DNS");
    let message =
        if all { message } else { message.replace("no rule allows DNS", "TCP is not allowed") };
    let mut finding = Finding::new("PW201", policy, FieldPath::keys("spec.egress"), message)
        .severity(if all { Severity::Warning } else { Severity::Note })
        .about(if all { "" } else { "TCP" })
        .proof(format!(
            "isolated for egress by {}: {}",
            list(policies.iter().map(|p| &*p.name.name)),
            view.name(classes)
        ));
    let (udp, tcp) = resolvers.first().map_or((53, 53), |resolver| (resolver.udp, resolver.tcp));
    let Some(resolver) = resolvers.first() else {
        return Some(
            finding
                .proof("no rule of theirs allows UDP 53, to whomever")
                .help(HELP)
                .fix(Some(fix("kube-system", "k8s-app: kube-dns", (udp, tcp), false))),
        );
    };
    let dns = view.classes[resolver.class].pod;
    let (protocol, port) = if all { (Protocol::UDP, udp) } else { (Protocol::TCP, tcp) };
    let way = classes.first().and_then(|class| {
        let (_, way) = view.between(*class, resolver.class).into_iter().next()?;
        let pod = view.classes[*class].pod;
        let refused = if way.egress.denied.contains(protocol, port) {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        Some((
            format!(
                "{} to resolver {} is denied on {protocol} {port}, by {refused}",
                party(Party::Pod(pod)),
                who(dns)
            ),
            refused,
        ))
    });
    let by_ingress = way.as_ref().is_some_and(|(_, refused)| *refused == Direction::Ingress);
    finding.proof.extend(way.map(|(sentence, _)| sentence));
    if by_ingress {
        return Some(finding.help(format!(
            "let the policies of namespace {} take DNS from these pods",
            dns.name.namespace
        )));
    }
    let label = dns
        .labels
        .iter()
        .find(|(key, _)| *key == "k8s-app")
        .or_else(|| dns.labels.iter().find(|(key, _)| *key != "pod-template-hash"));
    let selector = label.map_or_else(|| "{}".to_owned(), |(key, value)| format!("{key}: {value}"));
    Some(
        finding
            .help(format!(
                "allow UDP {udp} and TCP {tcp} to pods {selector} in namespace {}",
                dns.name.namespace
            ))
            .fix(Some(fix(&dns.name.namespace, &selector, (udp, tcp), all))),
    )
}

fn fix(namespace: &str, selector: &str, (udp, tcp): (u16, u16), sure: bool) -> Fix {
    let lines = [
        "to:".to_owned(),
        "- namespaceSelector:".to_owned(),
        "    matchLabels:".to_owned(),
        format!("      {METADATA_NAME}: {namespace}"),
        "  podSelector:".to_owned(),
        "    matchLabels:".to_owned(),
        format!("      {selector}"),
        "ports:".to_owned(),
        format!("- {{protocol: UDP, port: {udp}}}"),
        format!("- {{protocol: TCP, port: {tcp}}}"),
    ];
    Fix {
        what: format!("allow DNS to pods {selector} in namespace {namespace}"),
        changes: vec![Change::Append(FieldPath::keys("spec.egress"), lines.into())],
        sure,
    }
}
