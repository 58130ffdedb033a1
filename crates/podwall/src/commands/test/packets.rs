//! Do packets bear an assertion out?
//!
//! ```text
//!   assertion ──▶ who, whom, port, must it pass? ──▶ the lab sends ──▶ passed, dropped, or no proof
//!                      └─ must not: the node of a pod asks the same port, and has to get through
//! ```
//!
//! Traffic from a pod's own node is always let in, so a control that does not arrive says that
//! nobody could: then "dropped" proves nothing, and the assertion is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podwall_analysis::assertions::{Packet, packets};
use podwall_analysis::can::End;
use podwall_lab::client::Client;
use podwall_lab::plan::{self, Families};
use podwall_lab::rpc::{ProbeRequest, Request};
use podwall_lab::trial::Finding;
use podwall_manifest::assertions::AssertionFile;
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::port::{PortSet, Protocol};
use podwall_render::text::test::PacketNote;

use crate::output::Failure;

/// A packet as the lab is asked for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Shot {
    dst: String,
    protocol: Protocol,
    port: u16,
    v6: bool,
    src: String,
}

/// Ports that are tried where a claim is about all of them and pods declare none.
const USUAL: [(Protocol, u16); 2] = [(Protocol::TCP, 80), (Protocol::UDP, 53)];

/// How many ports are tried of a claim about many.
const MOST_PORTS: usize = 4;

/// How many findings of an assertion are told.
const TOLD: usize = 20;

/// Sends what the assertions speak of and says of each what packets did.
pub(super) fn send(
    lab: &str,
    cluster: &Cluster,
    file: &AssertionFile,
    namespace: &str,
) -> Result<Vec<PacketNote>, Failure> {
    let wanted = packets(cluster, file, namespace);
    let mut shots: BTreeSet<Shot> = BTreeSet::new();
    for packet in wanted.iter().flatten() {
        for (shot, control) in shots_of(cluster, packet) {
            shots.extend(control);
            shots.insert(shot);
        }
    }
    let results = fire(lab, &shots)?;
    Ok(wanted.iter().map(|packets| note(cluster, packets, &results)).collect())
}

/// The packets that show whether a claim holds, each with its control.
fn shots_of(cluster: &Cluster, packet: &Packet<'_>) -> Vec<(Shot, Option<Shot>)> {
    let v6 = packet.family == Family::V6;
    let (Some(src), Some(dst)) = (place(&packet.src), place(&packet.dst)) else {
        return Vec::new();
    };
    let node = [&packet.dst, &packet.src].into_iter().find_map(|end| match end {
        End::Pod(pod) => pod.node.as_ref().filter(|node| cluster.nodes.contains_key(*node)),
        _ => None,
    });
    let shot = |src: &str, (protocol, port)| Shot {
        dst: dst.clone(),
        protocol,
        port,
        v6,
        src: src.to_owned(),
    };
    let ports = ports_of(&packet.ports, &packet.dst);
    ports
        .into_iter()
        .map(|port| {
            let control = node.filter(|_| !packet.passes).map(|node| shot(node, port));
            (shot(&src, port), control)
        })
        .collect()
}

/// How the lab is told of an end.
fn place(end: &End<'_>) -> Option<String> {
    match end {
        End::Pod(pod) if pod.host_network => pod.node.as_ref().map(ToString::to_string),
        End::Pod(pod) => Some(pod.name.to_string()),
        End::Node(node) => Some(node.name.to_string()),
        End::Outside(class) if !is_outside(class.example) => None,
        End::Outside(class) => Some(class.example.to_string()),
    }
}

/// Whether the lab's outside has the address: it has every one that is not the cluster's, nor
/// nobody's on any network.
fn is_outside(address: IpAddr) -> bool {
    let pods = plan::cluster_cidrs(Families::Dual);
    let services = plan::service_cidrs(Families::Dual);
    let nobodys = match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 224,
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local() || v6.is_unspecified(),
    };
    !nobodys
        && !address.is_loopback()
        && ![pods, services].concat().iter().any(|net| net.contains(&address))
}

/// A few ports that stand for a set: those that the destination declares, else the first of each
/// range.
fn ports_of(set: &PortSet, dst: &End<'_>) -> Vec<(Protocol, u16)> {
    let mut out: BTreeSet<(Protocol, u16)> = BTreeSet::new();
    if let End::Pod(pod) = dst {
        let declared = pod.ports.iter().map(|port| (port.protocol, port.number));
        out.extend(declared.filter(|(protocol, port)| set.contains(*protocol, *port)));
    }
    let whole = |first: u16, last: u16| last - first >= u16::MAX - 1;
    for (protocol, range) in set.iter() {
        if whole(range.first, range.last) {
            out.extend(USUAL.into_iter().filter(|(usual, _)| *usual == protocol));
        } else if out.len() < MOST_PORTS {
            out.insert((protocol, range.first.max(1)));
        }
    }
    if set.has_other_protocols() {
        out.insert((Protocol::ICMP, 0));
    }
    out.into_iter().take(MOST_PORTS).collect()
}

/// Sends all shots, one request for each destination and port.
fn fire(lab: &str, shots: &BTreeSet<Shot>) -> Result<BTreeMap<Shot, Finding>, Failure> {
    let failed = |error: podwall_lab::client::ClientError| Failure::new(error.to_string());
    let mut client = Client::connect(lab).map_err(failed)?;
    let mut by_target: BTreeMap<(String, Protocol, u16, bool), Vec<&Shot>> = BTreeMap::new();
    for shot in shots {
        let target = (shot.dst.clone(), shot.protocol, shot.port, shot.v6);
        by_target.entry(target).or_default().push(shot);
    }
    let mut results = BTreeMap::new();
    for ((dst, protocol, port, v6), shots) in by_target {
        let request = ProbeRequest {
            sources: shots.iter().map(|shot| shot.src.clone()).collect(),
            destinations: vec![dst],
            namespace: "default".to_owned(),
            ports: (port > 0).then_some(port).into_iter().collect(),
            protocols: vec![protocol.to_string()],
            outside: false,
            family: Some(if v6 { Families::V6 } else { Families::V4 }),
            patience_ms: 0,
        };
        let found: Vec<Finding> = client.call(&Request::Probe(request)).map_err(failed)?;
        for shot in shots {
            let own = |finding: &&Finding| finding.src == shot.src;
            if let Some(finding) = found.iter().find(own) {
                results.insert(shot.clone(), finding.clone());
            }
        }
    }
    Ok(results)
}

/// What packets say of one assertion.
fn note(
    cluster: &Cluster,
    packets: &[Packet<'_>],
    results: &BTreeMap<Shot, Finding>,
) -> PacketNote {
    let mut note = PacketNote::default();
    let mut sent: BTreeSet<Shot> = BTreeSet::new();
    for packet in packets {
        let shots = shots_of(cluster, packet);
        let passed = |shot: &Shot| results.get(shot).and_then(|finding| finding.passed);
        // Of a claim that some port passes one is enough.
        let one_is_enough = packet.any && packet.passes;
        if one_is_enough && shots.iter().any(|(shot, _)| passed(shot) == Some(true)) {
            sent.extend(shots.into_iter().map(|(shot, _)| shot));
            continue;
        }
        for (shot, control) in shots {
            let what = format!("{} to {} on {}", shot.src, shot.dst, port(&shot));
            let did = results.get(&shot).map_or("were not sent", |finding| &*finding.packets);
            match (packet.passes, passed(&shot)) {
                (true, Some(true)) => {}
                (true, Some(false)) => {
                    note.fails = true;
                    note.sentences.push(format!("packets from {what} were dropped"));
                }
                (false, Some(true)) => {
                    note.fails = true;
                    note.sentences.push(format!("packets from {what} got through"));
                }
                (false, Some(false)) => match control.as_ref().map(|it| (it, passed(it))) {
                    Some((_, Some(true))) => {}
                    Some((control, _)) => {
                        note.unproven = true;
                        note.sentences.push(format!(
                            "packets from {what} were dropped, but so was the control from {}: that \
                             proves nothing",
                            control.src
                        ));
                    }
                    // Nobody knows the node of a pod that is not there any more.
                    None => {
                        note.unproven = true;
                        note.sentences
                            .push(format!("packets from {what} were dropped, without a control"));
                    }
                },
                (_, None) => {
                    note.unproven = true;
                    note.sentences.push(format!("packets from {what} proved nothing: {did}"));
                }
            }
            sent.insert(shot);
            sent.extend(control);
        }
    }
    note.sent = sent.len();
    let more = note.sentences.len().saturating_sub(TOLD);
    note.sentences.truncate(TOLD);
    if more > 0 {
        note.sentences.push(format!("and {more} more"));
    }
    note
}

fn port(shot: &Shot) -> String {
    match shot.port {
        0 => shot.protocol.to_string(),
        port => format!("{} {port}", shot.protocol),
    }
}
