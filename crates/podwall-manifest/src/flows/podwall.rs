//! How does a denied packet of our own read?
//!
//! The fields are those of `podwall flows -o json`: time, verdict, src, dst, srcAddress, dstAddress,
//! protocol, port.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwall_policy::object::Name;
use podwall_policy::port::{PortRange, Protocol};
use serde_json::Value as Json;

use super::{FlowParty, Line, Record, SeenPorts, SeenVerdict, field, number, text, time};

pub(super) fn record(value: &Json) -> Result<Line, String> {
    let party = |name: &str, address: &str| -> Result<FlowParty, String> {
        let address: IpAddr = text(value, &[address])
            .ok_or_else(|| format!("`{address}` is missing"))?
            .parse()
            .map_err(|_| format!("`{address}` is no address"))?;
        let mut party = FlowParty { address: Some(address), ..FlowParty::default() };
        match text(value, &[name]).map(|name| (name, name.split_once('/'))) {
            Some((_, Some((namespace, pod)))) => party.pod = Some(Name::new(namespace, pod)),
            Some((node, None)) => party.node = Some(node.into()),
            None => {}
        }
        Ok(party)
    };
    let protocol = protocol(text(value, &["protocol"]).ok_or("`protocol` is missing")?)?;
    let port = field(value, &["port"]).and_then(number).unwrap_or(0);
    Ok(Line::Record(Box::new(Record {
        src: party("src", "srcAddress")?,
        dst: party("dst", "dstAddress")?,
        ports: ports(protocol, port)?,
        verdict: match text(value, &["verdict"]) {
            Some("denied") => SeenVerdict::Denied,
            Some("allowed") => SeenVerdict::Passed,
            _ => return Err("`verdict` is neither \"denied\" nor \"allowed\"".to_owned()),
        },
        time: field(value, &["time"]).and_then(|time| match time {
            Json::String(text) => time::at(text),
            other => number(other),
        }),
        count: 1,
        names: BTreeSet::new(),
    })))
}

/// A protocol by its name in any case, or by its number.
pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    let upper = text.to_ascii_uppercase();
    let number = || upper.strip_prefix("PROTOCOL ").unwrap_or(&upper).parse().ok().map(Protocol);
    let known = match upper.as_str() {
        "ICMP" | "ICMPV4" => Some(Protocol::ICMP),
        "ICMPV6" => Some(Protocol::ICMPV6),
        name => Protocol::from_api(name).or_else(number),
    };
    known.ok_or_else(|| {
        format!("`{}` is no protocol: TCP, UDP, SCTP, ICMP or a number", crate::names::short(text))
    })
}

/// One port. Port 0 is in no policy.
pub(super) fn ports(protocol: Protocol, port: u64) -> Result<SeenPorts, String> {
    if !protocol.has_ports() {
        return Ok(SeenPorts::Portless(protocol));
    }
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(SeenPorts::Ports(protocol, PortRange::one(port))),
        _ => Err(format!("{port} is no port: 1 to 65535")),
    }
}
