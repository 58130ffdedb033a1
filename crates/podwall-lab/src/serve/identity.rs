//! Who answered, and whom did it see?
//!
//! ```text
//!   probe ── MAGIC token ──▶ server          UDP, and every protocol without an answer of its own
//!   probe ◀── MAGIC token ── Answer as text  TCP and SCTP carry the same text in their own ways
//! ```
//!
//! Every server of the lab says who it is in the same few lines of text, so that a person with
//! `curl` and the prober read the same answer.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use podwall_policy::object::Name;
use podwall_policy::port::Protocol;
use serde::{Deserialize, Serialize, Serializer};

/// What a probe's payload begins with: eight bytes that no client of a real service sends. As a
/// DNS message it would be an answer to nothing, so a DNS server may look for it first.
pub const MAGIC: [u8; 8] = *b"\x80\xffpdwl?\n";

/// The length of a probe's payload: [`MAGIC`] and the token.
pub const PROBE_LEN: usize = MAGIC.len() + 4;

/// Who a server, or a place that packets start from or arrive at, is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// A pod.
    Pod(Name),
    /// A node: its own network namespace.
    Node(Arc<str>),
    /// The world outside the cluster.
    Outside,
}

impl Identity {
    /// A pod.
    pub fn pod(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self::Pod(Name::new(namespace, name))
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "outside" {
            return Some(Self::Outside);
        }
        let (kind, name) = text.split_once(' ')?;
        match kind {
            "node" => Some(Self::Node(name.into())),
            "pod" => name.split_once('/').map(|(ns, pod)| Self::pod(ns, pod)),
            _ => None,
        }
    }
}

impl fmt::Display for Identity {
    /// `pod demo/backend`, `node node-1`, `outside`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => write!(f, "pod {name}"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Outside => f.write_str("outside"),
        }
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Identity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is not `pod NAMESPACE/NAME`, `node NAME` or `outside`"
            ))
        })
    }
}

/// What a server says of itself and of the packet that it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers.
    pub identity: Identity,
    /// Over which protocol.
    #[serde(with = "protocol_name")]
    pub protocol: Protocol,
    /// The address and port that were asked, as the server sees them: after destination NAT.
    pub asked: SocketAddr,
    /// The client as the server sees it: after source NAT.
    pub client: SocketAddr,
}

impl Answer {
    /// Reads what [`fmt::Display`] writes, and ignores lines that it does not know.
    pub fn parse(text: &str) -> Option<Self> {
        let (mut pod, mut namespace, mut other) = (None, None, None);
        let (mut port, mut address, mut client) = (None, None, None);
        for line in text.lines() {
            let Some((key, value)) = line.split_once(": ") else { continue };
            match key {
                "pod" => pod = Some(value),
                "namespace" => namespace = Some(value),
                "node" => other = Some(Identity::Node(value.into())),
                "world" => other = Some(Identity::Outside),
                "port" => port = parse_port(value),
                "address" => address = value.parse().ok(),
                "client" => client = value.parse().ok(),
                _ => {}
            }
        }
        let (protocol, number) = port?;
        Some(Self {
            identity: match (pod, namespace) {
                (Some(pod), Some(namespace)) => Identity::pod(namespace, pod),
                _ => other?,
            },
            protocol,
            asked: SocketAddr::new(address?, number),
            client: client?,
        })
    }
}

fn parse_port(text: &str) -> Option<(Protocol, u16)> {
    let (number, protocol) = text.split_once('/')?;
    Some((Protocol::from_api(protocol)?, number.parse().ok()?))
}

impl fmt::Display for Answer {
    /// A few lines of `key: value`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.identity {
            Identity::Pod(name) => {
                writeln!(f, "pod: {}\nnamespace: {}", name.name, name.namespace)?;
            }
            Identity::Node(name) => writeln!(f, "node: {name}")?,
            Identity::Outside => writeln!(f, "world: outside the cluster")?,
        }
        writeln!(f, "port: {}/{}", self.asked.port(), self.protocol)?;
        writeln!(f, "address: {}", self.asked.ip())?;
        writeln!(f, "client: {}", self.client)
    }
}

/// `TCP`, `UDP` or `SCTP`; nothing else answers in text.
mod protocol_name {
    use podwall_policy::port::Protocol;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(p: &Protocol, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(p)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Protocol, D::Error> {
        let name = String::deserialize(from)?;
        let wrong = || de::Error::custom(format!("{name:?} is not TCP, UDP or SCTP"));
        Protocol::from_api(&name).ok_or_else(wrong)
    }
}

/// A probe's payload.
pub fn probe_payload(token: u32) -> [u8; PROBE_LEN] {
    let mut payload = [0; PROBE_LEN];
    payload[..MAGIC.len()].copy_from_slice(&MAGIC);
    payload[MAGIC.len()..].copy_from_slice(&token.to_be_bytes());
    payload
}

/// The token of a payload that begins as a probe or as the answer to one, and what follows it.
pub fn read_probe(payload: &[u8]) -> Option<(u32, &[u8])> {
    let rest = payload.strip_prefix(&MAGIC)?;
    let (token, rest) = rest.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*token), rest))
}

/// The answer to a probe over UDP: its payload, then the text.
pub fn probe_answer(token: u32, answer: &Answer) -> Vec<u8> {
    let mut payload = probe_payload(token).to_vec();
    payload.extend_from_slice(answer.to_string().as_bytes());
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Vec<Answer> {
        let identities =
            [Identity::pod("demo", "web-0"), Identity::Node("node-1".into()), Identity::Outside];
        identities
            .into_iter()
            .map(|identity| Answer {
                identity,
                protocol: Protocol::SCTP,
                asked: "[fd00::1]:81".parse().unwrap(),
                client: "10.0.0.1:5".parse().unwrap(),
            })
            .collect()
    }

    #[test]
    fn what_a_server_says_is_read_back() {
        for answer in answers() {
            assert_eq!(Answer::parse(&answer.to_string()), Some(answer.clone()));
            assert_eq!(Identity::parse(&answer.identity.to_string()), Some(answer.identity));
        }
        assert_eq!(Answer::parse("pod: web\nport: 80/TCP\n"), None);
    }

    #[test]
    fn a_probe_and_its_answer_carry_the_token() {
        let answer = answers().remove(0);
        assert_eq!(read_probe(&probe_payload(7)), Some((7, &[][..])));
        let bytes = probe_answer(9, &answer);
        let (token, text) = read_probe(&bytes).unwrap();
        assert_eq!(token, 9);
        assert_eq!(Answer::parse(std::str::from_utf8(text).unwrap()), Some(answer));
        assert_eq!(read_probe(b"podwall"), None);
    }
}
