//! What does a line of Hubble's export say?
//!
//! ```text
//!   {"flow": {"verdict", "source": {"namespace", "pod_name", "labels", "workloads"}, "destination",
//!             "IP", "l4": {"TCP": {"destination_port"}}, "is_reply", "time"}, "time", "node_name"}
//! ```
//!
//! Field names as in Cilium's `flow.proto`, in both spellings of protobuf's JSON. What `hubble observe`
//! prints without the wrapping object is read, too.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::label::Labels;
use podwall_policy::object::Name;
use podwall_policy::port::Protocol;
use serde_json::Value as Json;

use super::podwall::ports;
use super::{FlowParty, Left, Line, Record, SeenPorts, SeenVerdict, field, number, text, time};

pub(super) fn record(value: &Json) -> Result<Line, String> {
    if let Some(lost) = field(value, &["lost_events", "lostEvents"]) {
        let count = field(lost, &["num_events_lost", "numEventsLost"]).and_then(number);
        return Ok(Line::Other(Left::Lost, count.unwrap_or(1)));
    }
    let flow = match (value.get("flow"), value.get("verdict")) {
        (Some(flow), _) => flow,
        (None, Some(_)) => value,
        (None, None) if field(value, &["node_status", "agent_event", "debug_event"]).is_some() => {
            return Ok(Line::Other(Left::NotAFlow, 1));
        }
        (None, None) => {
            return Err("this is no flow: there is neither `flow` nor `verdict`".to_owned());
        }
    };
    let verdict = match text(flow, &["verdict"]) {
        Some("FORWARDED" | "REDIRECTED" | "TRACED" | "TRANSLATED" | "AUDIT") => SeenVerdict::Passed,
        Some("DROPPED" | "ERROR") => SeenVerdict::Denied,
        _ => return Ok(Line::Other(Left::NotAFlow, 1)),
    };
    let Some(l4) = field(flow, &["l4"]) else { return Ok(Line::Other(Left::NotAFlow, 1)) };
    let Some((ports, flags)) = l4_ports(l4)? else {
        return Ok(Line::Other(Left::NotAFlow, 1));
    };
    match field(flow, &["is_reply", "isReply", "reply"]).and_then(Json::as_bool) {
        Some(true) => return Ok(Line::Other(Left::Reply, 1)),
        Some(false) => {}
        None => {
            // Only the first packet of a connection tells who opened it.
            let set = |name: &str| flags.is_some_and(|f| f.get(name) == Some(&Json::Bool(true)));
            if flags.is_some() && (!set("SYN") || set("ACK")) {
                return Ok(Line::Other(Left::NoDirection, 1));
            }
        }
    }
    let ip = field(flow, &["IP", "ip"]);
    let party = |names: &[&str], side: &str| {
        let address = ip.and_then(|ip| text(ip, &[side]));
        let address: Option<IpAddr> = match address.map(str::parse) {
            Some(Err(_)) => return Err(format!("`IP.{side}` is no address")),
            Some(Ok(address)) => Some(address),
            None => None,
        };
        Ok(party(field(flow, names), address))
    };
    let names = field(flow, &["destination_names", "destinationNames"]).and_then(Json::as_array);
    let names: BTreeSet<Arc<str>> =
        names.into_iter().flatten().filter_map(Json::as_str).map(Arc::from).collect();
    Ok(Line::Record(Box::new(Record {
        src: party(&["source"], "source")?,
        dst: party(&["destination"], "destination")?,
        ports,
        verdict,
        time: text(flow, &["time"]).or_else(|| text(value, &["time"])).and_then(time::at),
        count: 1,
        names,
    })))
}

/// The destination's port, and TCP's flags.
fn l4_ports(l4: &Json) -> Result<Option<(SeenPorts, Option<&Json>)>, String> {
    for (name, protocol) in
        [("TCP", Protocol::TCP), ("UDP", Protocol::UDP), ("SCTP", Protocol::SCTP)]
    {
        let lower = name.to_ascii_lowercase();
        if let Some(layer) = field(l4, &[name, &lower]) {
            let port = field(layer, &["destination_port", "destinationPort"]).and_then(number);
            let flags = field(layer, &["flags"]);
            return Ok(Some((ports(protocol, port.unwrap_or(0))?, flags)));
        }
    }
    let icmp = [(["ICMPv4", "icmpv4"], Protocol::ICMP), (["ICMPv6", "icmpv6"], Protocol::ICMPV6)];
    let found = icmp.into_iter().find(|(names, _)| field(l4, names).is_some());
    Ok(found.map(|(_, protocol)| (SeenPorts::Portless(protocol), None)))
}

fn party(endpoint: Option<&Json>, address: Option<IpAddr>) -> FlowParty {
    let mut party = FlowParty { address, ..FlowParty::default() };
    let Some(endpoint) = endpoint else { return party };
    let labels = field(endpoint, &["labels"]).and_then(Json::as_array);
    let labels: Vec<&str> = labels.into_iter().flatten().filter_map(Json::as_str).collect();
    party.own_node = labels.contains(&"reserved:host");
    let Some(namespace) = text(endpoint, &["namespace"]) else { return party };
    party.pod = text(endpoint, &["pod_name", "podName"]).map(|pod| Name::new(namespace, pod));
    let workloads = field(endpoint, &["workloads"]).and_then(Json::as_array);
    party.workload = workloads.and_then(|list| list.first()).and_then(|workload| {
        let (kind, name) = (text(workload, &["kind"])?, text(workload, &["name"])?);
        Some((kind.into(), Name::new(namespace, name)))
    });
    // The agent adds labels of its own to those of the pod.
    let own: Labels = labels
        .iter()
        .filter_map(|label| label.strip_prefix("k8s:"))
        .filter(|label| !label.starts_with("io.cilium.") && !label.starts_with("io.kubernetes."))
        .map(|label| label.split_once('=').unwrap_or((label, "")))
        .collect();
    party.labels = (!own.is_empty()).then(|| (namespace.into(), own));
    party
}
