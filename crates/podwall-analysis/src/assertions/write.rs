//! Which assertions hold today, in few words?
//!
//! ```text
//!   workloads that policies isolate ──▶ isolated
//!     into each  ──▶ only: who reaches it, on which ports       alike ones are one assertion
//!     out of each ─▶ only: whom it reaches
//! ```
//!
//! What is written is read again and asked: what does not hold, or is not known, is left out and said.
//! A workload that nothing isolates gets no assertion, because there is nothing that could be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use podwall_manifest::read_assertions;
use podwall_policy::address::{AddressRange, AddressSet, Family};
use podwall_policy::cluster::Cluster;
use podwall_policy::flow::Party;
use podwall_policy::label::Labels;
use podwall_policy::object::Pod;
use podwall_policy::policy::Direction;
use podwall_policy::port::{PortRange, PortSet, Protocol};

use super::ask::{Asker, FlowAnswer};
use super::group::every_port;
use super::{Status, statuses};
use crate::can::End;
use crate::outside::{Class, cidrs};
use crate::peer::resolve;
use crate::reachability::Reachability;
use crate::reachability::factored::Factored;
use crate::reachability::reached::Reached;

/// A first file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file, as YAML.
    pub text: String,
    /// How many assertions it has.
    pub assertions: usize,
    /// What could not be claimed, a line each.
    pub left_out: Vec<String>,
    /// Workloads that nothing isolates.
    pub open: Vec<String>,
}

/// Pods that are written as one peer.
struct Workload<'a> {
    /// As the file writes it.
    peer: String,
    /// All of one class, never empty.
    pods: Vec<&'a Pod>,
    /// On its node's network: no selection has it.
    host: bool,
}

/// One claim, as YAML, and what it is about.
struct Draft {
    about: String,
    yaml: String,
}

/// A file of assertions that hold now. `progress` hears how many workloads of how many are done.
pub fn write(cluster: &Cluster, progress: &mut dyn FnMut(usize, usize)) -> Written {
    let strangers = strangers(cluster);
    let mut writer = Writer::new(cluster, &strangers);
    let mut open = Vec::new();
    let mut isolated: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut only: BTreeMap<(Direction, Vec<String>), Vec<String>> = BTreeMap::new();
    for at in 0..writer.workloads.len() {
        progress(at, writer.workloads.len());
        let (pod, host) = (writer.workloads[at].pods[0], writer.workloads[at].host);
        let peer = writer.workloads[at].peer.clone();
        if host {
            continue;
        }
        let by = Direction::BOTH.map(|way| !writer.asker.isolates(pod, way).is_empty());
        let directions = match by {
            [true, true] => "both",
            [true, false] => "egress",
            [false, true] => "ingress",
            [false, false] => {
                open.push(peer);
                continue;
            }
        };
        isolated.entry(directions).or_default().push(peer.clone());
        for (way, isolated) in Direction::BOTH.into_iter().zip(by) {
            if isolated {
                only.entry((way, writer.entries(at, way))).or_default().push(peer.clone());
            }
        }
    }
    let mut drafts = Vec::new();
    for (directions, pods) in isolated {
        let about = match directions {
            "both" => "isolated in both directions".to_owned(),
            way => format!("isolated for {way}"),
        };
        let mut yaml = String::from("  isolated:\n");
        if directions != "both" {
            let _ = writeln!(yaml, "    direction: {directions}");
        }
        list(&mut yaml, "pods", &pods);
        drafts.push(Draft { about, yaml });
    }
    let mut only: Vec<_> = only.into_iter().collect();
    only.sort_by(|((a, _), pods), ((b, _), others)| (a, &pods[0]).cmp(&(b, &others[0])));
    for ((direction, entries), pods) in only {
        let (subject, field, way) = match direction {
            Direction::Ingress => ("into", "from", "into"),
            Direction::Egress => ("outOf", "to", "out of"),
        };
        let mut yaml = String::from("  only:\n");
        list(&mut yaml, subject, &pods);
        list(&mut yaml, field, &entries);
        let more = if pods.len() > 1 { " and others like it" } else { "" };
        drafts.push(Draft { about: format!("{way} {}{more}", plain(&pods[0])), yaml });
    }
    let (drafts, left_out) = holding(cluster, drafts);
    Written { text: file(&drafts, &left_out, &open), assertions: drafts.len(), left_out, open }
}

/// `field: peer`, or a list of them.
fn list(yaml: &mut String, field: &str, items: &[String]) {
    match items {
        [] => _ = writeln!(yaml, "    {field}: []"),
        [one] if !one.starts_with('{') => _ = writeln!(yaml, "    {field}: {one}"),
        many => {
            let _ = writeln!(yaml, "    {field}:");
            for item in many {
                let _ = writeln!(yaml, "    - {item}");
            }
        }
    }
}

fn file(drafts: &[Draft], left_out: &[String], open: &[String]) -> String {
    let mut text = String::from(
        "# What holds today, written by `podwall test --write`. Read it before you keep it: it says what\n\
         # the policies do, not what they should do.\n",
    );
    for line in left_out {
        let _ = writeln!(text, "# Not claimed: {line}");
    }
    if !open.is_empty() {
        text.push_str("# No policy isolates these, so nothing is claimed of them:\n");
        for peer in open {
            let _ = writeln!(text, "#   {}", plain(peer));
        }
    }
    text.push_str("apiVersion: podwall/v1\nkind: PolicyTest\nassertions:");
    if drafts.is_empty() {
        text.push_str(" []\n");
        return text;
    }
    text.push('\n');
    for Draft { about, yaml } in drafts {
        let _ = write!(text, "- name: {about}\n{yaml}");
    }
    text
}

/// A peer without quotes.
fn plain(peer: &str) -> &str {
    peer.trim_matches('\'')
}

/// The drafts that hold, and what of the others is not known or not so.
fn holding(cluster: &Cluster, drafts: Vec<Draft>) -> (Vec<Draft>, Vec<String>) {
    let mut left_out = Vec::new();
    let text = file(&drafts, &[], &[]);
    let Ok(read) = read_assertions("written", text.as_bytes()) else {
        // Nothing to claim, or a name that YAML takes for something else: nothing is better.
        let why = drafts.iter().map(|draft| format!("{} (cannot be written)", draft.about));
        return (Vec::new(), why.collect());
    };
    let mut kept = Vec::new();
    for (draft, status) in drafts.into_iter().zip(statuses(cluster, &read, "default")) {
        match status {
            Status::Holds => kept.push(draft),
            Status::Unknown => left_out.push(format!("{} (facts are missing)", draft.about)),
            _ => left_out.push(format!("{} (differs by family or pod)", draft.about)),
        }
    }
    (kept, left_out)
}

/// A pod without labels in each namespace, and one in a namespace that there is not yet: what holds
/// for all pods of a namespace has to hold for the next one, too.
fn strangers(cluster: &Cluster) -> Vec<Pod> {
    let mut first: BTreeMap<&str, &Pod> = BTreeMap::new();
    for pod in cluster.pods.values().filter(|pod| pod.is_subject()) {
        first.entry(&pod.name.namespace).or_insert(pod);
    }
    let stranger = |namespace: &str, pod: &Pod| {
        let mut stranger = Pod::new(namespace, "-", Labels::default());
        // Wherever blocks see the others.
        stranger.ips.clone_from(&pod.ips);
        stranger
    };
    let elsewhere = first.values().next().map(|pod| stranger("-", pod));
    first.iter().map(|(namespace, pod)| stranger(namespace, pod)).chain(elsewhere).collect()
}

struct Writer<'a> {
    asker: Asker<'a>,
    workloads: Vec<Workload<'a>>,
    /// By namespace: those that selections have.
    members: BTreeMap<&'a str, Vec<usize>>,
    strangers: &'a [Pod],
    outside: Vec<End<'a>>,
    /// By workload, for egress and ingress: with whom anything may pass at all. Numbers from
    /// `workloads.len()` on are addresses outside.
    near: [Vec<Vec<usize>>; 2],
}

impl<'a> Writer<'a> {
    fn new(cluster: &'a Cluster, strangers: &'a [Pod]) -> Self {
        let asker = Asker::new(cluster);
        let mut by_owner: BTreeMap<String, Vec<&'a Pod>> = BTreeMap::new();
        for pod in asker.pods() {
            let label = match &pod.owner {
                Some(owner) => format!("{}/{}/{}", pod.name.namespace, owner.kind, owner.name),
                None => pod.name.to_string(),
            };
            by_owner.entry(label).or_default().push(pod);
        }
        let mut workloads = Vec::new();
        for (label, pods) in by_owner {
            let alike = pods.windows(2).all(|two| asker.traits(two[0]) == asker.traits(two[1]));
            let named = resolve(cluster, &label, "default").is_ok();
            let parts: Vec<(String, Vec<&'a Pod>)> = match alike && named {
                true => vec![(label, pods)],
                false => pods.into_iter().map(|pod| (pod.name.to_string(), vec![pod])).collect(),
            };
            workloads.extend(parts.into_iter().map(|(peer, pods)| Workload {
                peer,
                host: pods[0].host_network,
                pods,
            }));
        }
        let outside = asker.outside(&AddressSet::everything());
        let near = near(cluster, &workloads, &outside);
        let mut members: BTreeMap<&'a str, Vec<usize>> = BTreeMap::new();
        for (at, workload) in workloads.iter().enumerate().filter(|(_, it)| !it.host) {
            members.entry(&*workload.pods[0].name.namespace).or_default().push(at);
        }
        Self { asker, workloads, members, strangers, outside, near }
    }

    /// With which addresses outside anything may pass.
    fn near_outside(&self, own: usize, direction: Direction) -> Vec<usize> {
        let near = &self.near[usize::from(direction == Direction::Ingress)][own];
        let first = near.partition_point(|other| *other < self.workloads.len());
        near[first..].iter().map(|other| other - self.workloads.len()).collect()
    }

    /// Who passes into a workload, or whom it reaches: items of a list, as YAML.
    fn entries(&mut self, own: usize, direction: Direction) -> Vec<String> {
        let subject = self.workloads[own].pods[0];
        // Each other workload with which something passes, and what.
        let mut found: Vec<(usize, PortSet)> = Vec::new();
        let near = self.near[usize::from(direction == Direction::Ingress)][own].clone();
        let many = self.workloads.len();
        for other in near.into_iter().filter(|other| *other < many) {
            let pods = &self.workloads[other].pods;
            let Some(peer) = (if other == own { pods.get(1) } else { pods.first() }).copied()
            else {
                continue;
            };
            let ports = self.passing(subject, &End::Pod(peer), direction);
            if !ports.is_empty() {
                found.push((other, ports));
            }
        }
        let mut out = Vec::new();
        self.stars(own, direction, &mut found, &mut out);
        for (other, ports) in found {
            out.push(entry(&self.workloads[other].peer, &ports));
        }
        let outside = self.addresses(own, direction, &mut out);
        for node in self.asker.cluster.nodes.values() {
            let Some(address) = node.addresses.first() else { continue };
            // A node is its own pods' and another to the others.
            let pods = self.workloads[own].pods.clone();
            let passing = pods
                .into_iter()
                .map(|pod| self.passing(pod, &End::Node(node), direction))
                .find(|ports| !ports.is_empty());
            let known = |ports: &PortSet| {
                outside.iter().any(|(known, all)| known == ports && all.contains(*address))
            };
            if let Some(ports) = passing.filter(|ports| !known(ports)) {
                out.push(entry(&quoted(&address.to_string()), &ports));
            }
        }
        out
    }

    /// What passes over every family that is asked about; nothing of a pod's own node, which comes
    /// in whatever policies say.
    fn passing(&mut self, subject: &'a Pod, other: &End<'a>, direction: Direction) -> PortSet {
        let own = End::Pod(subject);
        let flows = match direction {
            Direction::Ingress => self.asker.flows(other, &own),
            Direction::Egress => self.asker.flows(&own, other),
        };
        if flows.is_empty() || flows.iter().any(|flow| flow.own_node) {
            return PortSet::empty();
        }
        let cut = |all: PortSet, flow: &FlowAnswer| all.intersection(&flow.allowed);
        flows.iter().fold(every_port(), cut)
    }

    /// Takes together what holds for all pods, or all of a namespace.
    fn stars(
        &mut self,
        own: usize,
        direction: Direction,
        found: &mut Vec<(usize, PortSet)>,
        out: &mut Vec<String>,
    ) {
        let subject = self.workloads[own].pods[0];
        // Of a lone pod nobody else is there to speak with.
        let lone = self.workloads[own].pods.len() < 2;
        let others = |all: &[usize]| all.iter().filter(|at| !(lone && **at == own)).count();
        let same = |all: &[&(usize, PortSet)], of: usize| match all {
            [(_, first), rest @ ..] if all.len() == of => {
                rest.iter().all(|(_, ports)| ports == first).then(|| first.clone())
            }
            _ => None,
        };
        let mut by_namespace: BTreeMap<&str, Vec<&(usize, PortSet)>> = BTreeMap::new();
        let mut pods: Vec<&(usize, PortSet)> = Vec::new();
        for one in found.iter().filter(|(at, _)| !self.workloads[*at].host) {
            let namespace = &*self.workloads[one.0].pods[0].name.namespace;
            by_namespace.entry(namespace).or_default().push(one);
            pods.push(one);
        }
        let all: usize = self.members.values().map(|members| others(members)).sum();
        let everybody = same(&pods, all).filter(|_| pods.len() > 1);
        let mut candidates: Vec<(&str, PortSet)> = Vec::new();
        for (namespace, pods) in by_namespace {
            let of = self.members.get(namespace).map_or(0, |members| others(members));
            candidates.extend(same(&pods, of).map(|ports| (namespace, ports)));
        }
        let strangers = self.strangers;
        if let Some(ports) = everybody
            && strangers
                .iter()
                .all(|next| self.passing(subject, &End::Pod(next), direction) == ports)
        {
            out.push(entry("'*'", &ports));
            found.retain(|(at, _)| self.workloads[*at].host);
            return;
        }
        let mut said: BTreeSet<&str> = BTreeSet::new();
        for (namespace, ports) in candidates {
            let next = strangers.iter().find(|next| *next.name.namespace == *namespace);
            if next.is_some_and(|next| self.passing(subject, &End::Pod(next), direction) == ports) {
                out.push(entry(&quoted(&format!("{namespace}/*")), &ports));
                said.insert(namespace);
            }
        }
        let workloads = &self.workloads;
        found.retain(|(at, _)| {
            let it = &workloads[*at];
            it.host || !said.contains(&*it.pods[0].name.namespace)
        });
    }

    /// The addresses outside, by what passes.
    fn addresses(
        &mut self,
        own: usize,
        direction: Direction,
        out: &mut Vec<String>,
    ) -> Vec<(PortSet, AddressSet)> {
        let subject = self.workloads[own].pods[0];
        let mut by_ports: Vec<(PortSet, AddressSet)> = Vec::new();
        for at in self.near_outside(own, direction) {
            let end = self.outside[at].clone();
            let End::Outside(class) = &end else { continue };
            let ports = self.passing(subject, &end, direction);
            if ports.is_empty() {
                continue;
            }
            match by_ports.iter_mut().find(|(known, _)| *known == ports) {
                Some((_, all)) => *all = all.union(&class.addresses),
                None => by_ports.push((ports, class.addresses.clone())),
            }
        }
        let speaks = Family::BOTH.map(|family| Party::Pod(subject).speaks(family));
        let spoken = |class: &Class| speaks[usize::from(class.family == Family::V6)];
        let everywhere = |addresses: &AddressSet| {
            let mut classes = self.outside.iter().filter_map(|end| match end {
                End::Outside(class) => Some(class),
                _ => None,
            });
            classes.all(|class| !spoken(class) || class.addresses.is_within(addresses))
        };
        for (ports, addresses) in &by_ports {
            if everywhere(addresses) {
                out.push(entry("internet", ports));
                continue;
            }
            for family in Family::BOTH {
                let own = addresses.intersection(&AddressSet::from(AddressRange::all(family)));
                out.extend(blocks(&own, ports));
            }
        }
        by_ports
    }
}

/// With whom anything may pass, by workload: whom each may reach, and who may reach it.
fn near(
    cluster: &Cluster,
    workloads: &[Workload<'_>],
    outside: &[End<'_>],
) -> [Vec<Vec<usize>>; 2] {
    let engine = Reachability::of(cluster);
    let mut factored = Factored::new(&engine);
    let mut ends: Vec<_> = workloads.iter().map(|it| factored.pod(it.pods[0])).collect();
    ends.extend(outside.iter().filter_map(|end| match end {
        End::Outside(class) => Some(factored.outside(class.example)),
        _ => None,
    }));
    let reached = Reached::of(&factored, &ends);
    let mut near = [vec![Vec::new(); ends.len()], vec![Vec::new(); ends.len()]];
    for src in 0..ends.len() {
        for dst in reached.from(src) {
            near[0][src].push(dst);
            near[1][dst].push(src);
        }
    }
    near
}

/// Addresses as one block with exceptions, or as several blocks, whichever is shorter.
fn blocks(addresses: &AddressSet, ports: &PortSet) -> Vec<String> {
    let all = cidrs(addresses);
    let around = crate::outside::around(addresses).filter(|_| all.len() > 1);
    if let Some(around) = around {
        let except = cidrs(&AddressSet::from(around).difference(addresses));
        if except.len() < all.len() {
            let except: Vec<String> = except.iter().map(|net| quoted(net)).collect();
            let net = quoted(&around.to_string());
            let block = format!("cidr: {net}, except: [{}]", except.join(", "));
            return vec![with_ports(&block, ports)];
        }
    }
    all.iter().map(|net| entry(&quoted(net), ports)).collect()
}

fn quoted(text: &str) -> String {
    if text.contains([':', '*']) { format!("'{text}'") } else { text.to_owned() }
}

/// `peer`, or `{peer: …, ports: […]}`.
fn entry(peer: &str, ports: &PortSet) -> String {
    if *ports == every_port() {
        peer.to_owned()
    } else {
        with_ports(&format!("peer: {peer}"), ports)
    }
}

fn with_ports(fields: &str, ports: &PortSet) -> String {
    if *ports == every_port() {
        return format!("{{{fields}}}");
    }
    let whole = |range: PortRange| range.first <= 1 && range.last == u16::MAX;
    let mut list: Vec<String> = ports
        .iter()
        .map(|(protocol, range)| match (protocol, whole(range)) {
            (protocol, true) => protocol.to_string(),
            (Protocol::TCP, false) => range.to_string(),
            (protocol, false) => format!("{protocol} {range}"),
        })
        .collect();
    if ports.has_other_protocols() {
        list.push("ICMP".to_owned());
    }
    match &list[..] {
        [one] => format!("{{{fields}, ports: {one}}}"),
        _ => format!("{{{fields}, ports: [{}]}}", list.join(", ")),
    }
}
