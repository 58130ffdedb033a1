//! Which ports does an assertion speak of?
//!
//! ```text
//!   443   8000-8080   "UDP 53"   "UDP 1000-2000"   UDP   ICMP   http      one, or a list of them
//!   (nothing), all     every protocol and port
//!   any                at least one, whichever
//! ```

use podwall_policy::port::{PortMatch, PortRange, PortSpec, Protocol};

use crate::diagnostic::Code;
use crate::names::short;
use crate::node::{Map, Node, Value};
use crate::walk::{Path, Walk};

/// Ports of an assertion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every protocol and port; of a Service every port that it has.
    All,
    /// At least one, whichever it is.
    Any,
    /// These; never empty. Names are those of container ports, or of a Service's ports.
    These(Vec<PortSpec>),
}

/// The `ports` of a claim.
pub(super) fn of(walk: &mut Walk<'_>, map: &Map<'_>, path: &Path<'_>) -> Option<Ports> {
    match map.get("ports") {
        None => Some(Ports::All),
        Some(entry) => read(walk, &entry.value, &path.field("ports")),
    }
}

fn read(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Ports> {
    match &node.value {
        Value::Text(word) if word == "all" => Some(Ports::All),
        Value::Text(word) if word == "any" => Some(Ports::Any),
        Value::List(items) if items.is_empty() => {
            let message = format!("`{path}` is empty");
            walk.error(Code::MissingField, node.at, path, message)
                .help("name ports, or leave `ports` out for every protocol and port");
            None
        }
        Value::List(items) => {
            let items = items.iter().enumerate();
            let read: Vec<_> = items.map(|(i, item)| one(walk, item, &path.index(i))).collect();
            read.into_iter().collect::<Option<Vec<_>>>().map(Ports::These)
        }
        _ => one(walk, node, path).map(|port| Ports::These(vec![port])),
    }
}

fn one(walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<PortSpec> {
    let text = match &node.value {
        Value::Int(number) => {
            let port = walk.port_number(*number, node.at, path)?;
            let port = PortMatch::Range(PortRange::one(port));
            return Some(PortSpec { protocol: Protocol::TCP, port });
        }
        Value::Text(text) => text,
        _ => {
            walk.wrong_type(node, path, "a port")
                .help("ports are written 443, 8000-8080, \"UDP 53\", UDP, ICMP or a port's name");
            return None;
        }
    };
    match parse(text) {
        Ok(port) => Some(port),
        Err(why) => {
            let message = format!("\"{}\" is no port: {why}", short(text));
            walk.error(Code::InvalidPort, node.at, path, message)
                .help("ports are written 443, 8000-8080, \"UDP 53\", UDP, ICMP or a port's name");
            None
        }
    }
}

fn parse(text: &str) -> Result<PortSpec, &'static str> {
    let parts: Vec<&str> = text.split([' ', '/']).filter(|part| !part.is_empty()).collect();
    let (protocol, port) = match parts[..] {
        [one] => match protocol(one) {
            Some(protocol) => (Some(protocol), None),
            None => (None, Some(one)),
        },
        [first, second] => match (protocol(first), protocol(second)) {
            (Some(protocol), None) => (Some(protocol), Some(second)),
            (None, Some(protocol)) => (Some(protocol), Some(first)),
            _ => return Err("protocols are TCP, UDP, SCTP and ICMP"),
        },
        _ => return Err("it has more than a protocol and a port"),
    };
    let protocol = protocol.unwrap_or(Protocol::TCP);
    let Some(port) = port else {
        return Ok(PortSpec { protocol, port: PortMatch::Any });
    };
    if !protocol.has_ports() {
        return Err("this protocol has no ports");
    }
    let port = match range(port)? {
        Some(range) => PortMatch::Range(range),
        None => PortMatch::Named(port.into()),
    };
    Ok(PortSpec { protocol, port })
}

/// `80` or `8000-8080`; `None` if it is a name.
fn range(text: &str) -> Result<Option<PortRange>, &'static str> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: &str| match text.parse::<u16>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("ports are numbers from 1 to 65535"),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    if !digits(first) || !digits(last) {
        return Ok(None);
    }
    let range = PortRange::new(number(first)?, number(last)?);
    range.map(Some).ok_or("its end is before its start")
}

fn protocol(text: &str) -> Option<Protocol> {
    match text.to_ascii_uppercase().as_str() {
        "ICMP" => Some(Protocol::ICMP),
        name => Protocol::from_api(name),
    }
}
