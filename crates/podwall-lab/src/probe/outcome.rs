//! What can happen to a probe?
//!
//! ```text
//!   source ──▶ ✗ Dropped            nothing arrived: some firewall or route swallowed it
//!          ──▶ destination ✗        arrived, Unanswered: nobody answers, or the answer was lost
//!          ◀── no                   Refused: reset, port unreachable, abort
//!          ◀── cannot               Unreachable: an ICMP error of a router, host or firewall
//!          ◀── here I am            Answered
//! ```

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::serve::identity::{Answer, Identity};

/// What happened to one probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// What the source learnt.
    pub outcome: Outcome,
    /// Where the probe was seen to arrive, if anywhere that was watched.
    pub arrived: Option<Identity>,
}

impl ProbeResult {
    /// Whether the probe got through to its destination: it was seen there, or somebody answered.
    /// A refusal alone proves nothing, since a firewall can refuse in the destination's name.
    pub fn got_through(&self) -> bool {
        self.arrived.is_some() || matches!(self.outcome, Outcome::Answered { .. })
    }
}

impl fmt::Display for ProbeResult {
    /// For people: `answered by pod demo/web in 0.4 ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.outcome, &self.arrived) {
            (Outcome::Answered { by: Some(answer), millis }, _) => {
                write!(f, "answered by {} in {millis:.1} ms", answer.identity)
            }
            (Outcome::Answered { by: None, millis }, Some(place)) => {
                write!(f, "answered in {millis:.1} ms; arrived at {place}")
            }
            (Outcome::Answered { by: None, millis }, None) => {
                write!(f, "answered in {millis:.1} ms")
            }
            (Outcome::Refused { how, .. }, Some(place)) => {
                write!(f, "refused ({how}); arrived at {place}")
            }
            (Outcome::Refused { how, .. }, None) => {
                write!(f, "refused ({how}) before it arrived")
            }
            (Outcome::Unreachable { icmp, from }, _) => {
                write!(f, "{icmp}")?;
                from.map_or(Ok(()), |from| write!(f, ", says {from}"))
            }
            (Outcome::Dropped, _) => f.write_str("dropped: it never arrived"),
            (Outcome::Unanswered { answer_left: true }, Some(place)) => {
                write!(f, "arrived at {place}, the answer did not come back")
            }
            (Outcome::Unanswered { answer_left: false }, Some(place)) => {
                write!(f, "arrived at {place}, which did not answer")
            }
            (Outcome::Unanswered { .. }, None) => f.write_str("no answer"),
            (Outcome::Error { what }, _) => f.write_str(what),
        }
    }
}

/// What the source of a probe learnt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Outcome {
    /// An answer came back.
    Answered {
        /// What the server said; `None` if it is not one of the lab's, or the protocol has no room
        /// for it (ICMP).
        by: Option<Answer>,
        /// From the first packet to the answer, in milliseconds.
        millis: f64,
    },
    /// Somebody said no.
    Refused {
        /// How.
        how: Refusal,
        /// From the first packet to the answer, in milliseconds.
        millis: f64,
    },
    /// An ICMP error came back.
    Unreachable {
        /// Which.
        icmp: Icmp,
        /// Who sent it; `None` for the source's own kernel.
        from: Option<IpAddr>,
    },
    /// The probe was not seen at any place where it could arrive, and nothing came back. Also: the
    /// source's own kernel refused to send it, as a filter on a node does to the node's packets.
    Dropped,
    /// Nothing came back. [`ProbeResult::arrived`] says whether the probe arrived; without it, no
    /// place was watched or packets were lost while watching, so nobody knows.
    Unanswered {
        /// Whether an answer was seen to leave the place where the probe arrived.
        answer_left: bool,
    },
    /// The probe could not be sent.
    Error {
        /// What went wrong, in a sentence.
        what: String,
    },
}

/// How somebody says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Refusal {
    /// A TCP segment with RST.
    Reset,
    /// An ICMP "port unreachable".
    PortUnreachable,
    /// An SCTP ABORT.
    Abort,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "connection reset",
            Self::PortUnreachable => "port unreachable",
            Self::Abort => "association aborted",
        })
    }
}

/// The kinds of ICMP errors, of both families (RFC 792, RFC 1812 §5.2.7.1, RFC 4443 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Icmp {
    /// No route.
    Network,
    /// The host does not answer.
    Host,
    /// Nobody speaks the protocol.
    Protocol,
    /// The port is closed.
    Port,
    /// A firewall says so: "administratively prohibited".
    Prohibited,
    /// The packet went round in circles.
    TimeExceeded,
    /// Anything else.
    Other {
        /// The ICMP type.
        kind: u8,
        /// The ICMP code.
        code: u8,
    },
}

impl Icmp {
    /// The kind of an error with this type and code.
    pub fn of(v6: bool, kind: u8, code: u8) -> Self {
        match (v6, kind, code) {
            (false, 3, 0 | 6 | 11) | (true, 1, 0 | 6) => Self::Network,
            (false, 3, 1 | 7 | 12) | (true, 1, 3) => Self::Host,
            (false, 3, 2) | (true, 4, 1) => Self::Protocol,
            (false, 3, 3) | (true, 1, 4) => Self::Port,
            (false, 3, 9 | 10 | 13) | (true, 1, 1 | 5) => Self::Prohibited,
            (false, 11, _) | (true, 3, _) => Self::TimeExceeded,
            _ => Self::Other { kind, code },
        }
    }
}

impl fmt::Display for Icmp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network => f.write_str("network unreachable"),
            Self::Host => f.write_str("host unreachable"),
            Self::Protocol => f.write_str("protocol unreachable"),
            Self::Port => f.write_str("port unreachable"),
            Self::Prohibited => f.write_str("administratively prohibited"),
            Self::TimeExceeded => f.write_str("time to live exceeded"),
            Self::Other { kind, code } => write!(f, "ICMP type {kind} code {code}"),
        }
    }
}
