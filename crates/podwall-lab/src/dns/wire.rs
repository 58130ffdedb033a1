//! How is a DNS query read and an answer written?
//!
//! ```text
//!   header (12) │ question │ …          query:   one question, perhaps EDNS behind it
//!   header (12) │ question │ answers │ authority │ EDNS        answer: the question repeated
//! ```
//!
//! RFC 1035 §4, RFC 6891. Queries come from anybody, so reading never panics, never follows a
//! compression pointer and looks at each byte once. Answers name the question by a pointer to it.

use std::net::IpAddr;

/// Record types, by number.
pub(super) const A: u16 = 1;
/// Start of a zone: how long a "no" may be kept.
pub(super) const SOA: u16 = 6;
/// Address to name.
pub(super) const PTR: u16 = 12;
/// IPv6 address.
pub(super) const AAAA: u16 = 28;
/// Port and host of a service.
pub(super) const SRV: u16 = 33;
/// EDNS.
const OPT: u16 = 41;
/// Everything.
pub(super) const ANY: u16 = 255;

/// The Internet's class, and any.
const CLASSES: [u16; 2] = [1, 255];

/// The length of a header, and so where the question's name stands.
const HEADER: usize = 12;

/// What is written into an EDNS record as our own limit (the size of DNS Flag Day 2020), in bytes.
const EDNS_SIZE: u16 = 1232;

/// The limit without EDNS (RFC 1035 §4.2.1), in bytes.
const PLAIN_SIZE: usize = 512;

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    Malformed = 1,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query<'a> {
    /// The whole message's header.
    header: [u8; HEADER],
    /// The question as it came: name, type, class.
    question: &'a [u8],
    /// The name's labels in lower case; bytes that are not UTF-8 match nothing.
    pub(super) labels: Vec<String>,
    /// The type asked for.
    pub(super) kind: u16,
    /// The client's EDNS limit, if it speaks EDNS of version 0.
    edns: Option<u16>,
}

/// Why a message is not a query that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoQuery {
    /// It is an answer, or too short to be anything: answering would make loops.
    Silence,
    /// The answer, without a question in it.
    Reply(Vec<u8>),
}

impl<'a> Query<'a> {
    /// Reads a message.
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, NoQuery> {
        let header = *message.first_chunk::<HEADER>().ok_or(NoQuery::Silence)?;
        if header[2] & 0x80 != 0 {
            return Err(NoQuery::Silence);
        }
        let refuse = |code| {
            let bare = Query { header, question: &[], labels: Vec::new(), kind: 0, edns: None };
            NoQuery::Reply(Reply::new(code).to_bytes(&bare, usize::MAX))
        };
        if header[2] & 0x78 != 0 {
            return Err(refuse(Code::NotImplemented));
        }
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let records = [count(6), count(8), count(10)];
        let query = (|| {
            let (labels, after) = labels(message, HEADER)?;
            let (kind, class) = (u16_at(message, after)?, u16_at(message, after + 2)?);
            let end = after + 4;
            let edns = find_edns(message, end, records.map(usize::from))?;
            let question = message.get(HEADER..end)?;
            Some((Self { header, question, labels, kind, edns }, class))
        })();
        match query {
            Some((query, class)) if count(4) == 1 && CLASSES.contains(&class) => Ok(query),
            Some(_) if count(4) == 1 => Err(refuse(Code::Refused)),
            _ => Err(refuse(Code::Malformed)),
        }
    }

    /// How long an answer over UDP may be, in bytes.
    pub(super) fn udp_limit(&self) -> usize {
        self.edns.map_or(PLAIN_SIZE, |size| usize::from(size.clamp(512, EDNS_SIZE)))
    }

    /// A number that differs from query to query, for turning lists of addresses round.
    pub(super) fn turn(&self) -> usize {
        usize::from(u16::from_be_bytes([self.header[0], self.header[1]]))
    }
}

/// The labels of an uncompressed name, and where it ends.
fn labels(message: &[u8], mut at: usize) -> Option<(Vec<String>, usize)> {
    let (start, mut labels) = (at, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels, at));
        }
        // 0xC0 is a pointer, which no question needs; names have at most 255 bytes.
        if length > 63 || at + length - start >= 255 {
            return None;
        }
        let label = message.get(at..at + length)?.to_ascii_lowercase();
        labels.push(String::from_utf8(label).unwrap_or_default());
        at += length;
    }
}

/// The client's limit from the EDNS record among the records behind the question. `None` if the
/// message ends too early, `Some(None)` without EDNS.
fn find_edns(message: &[u8], mut at: usize, records: [usize; 3]) -> Option<Option<u16>> {
    let mut found = None;
    for _ in 0..records.iter().sum() {
        // The name: labels, then the root or a pointer.
        loop {
            match *message.get(at)? {
                0 => {
                    at += 1;
                    break;
                }
                length @ 1..=63 => at += 1 + usize::from(length),
                192.. => {
                    at += 2;
                    break;
                }
                _ => return None,
            }
        }
        if u16_at(message, at)? == OPT && message.get(at + 5) == Some(&0) {
            found = Some(u16_at(message, at + 2)?);
        }
        at += 10 + usize::from(u16_at(message, at + 8)?);
        message.get(..at)?;
    }
    Some(found)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The data of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// SRV: port and host.
    Service(u16, String),
    /// PTR.
    Name(String),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: Code,
    /// Records that answer the question, all of the question's name.
    pub(super) answers: Vec<Data>,
    /// The zone that says no, if there is nothing to say; the root is the empty text.
    pub(super) zone: Option<&'static str>,
    /// Whether the name lies in a zone of our own.
    pub(super) authoritative: bool,
    /// How long the answer may be kept, in seconds.
    pub(super) ttl: u32,
}

impl Reply {
    pub(super) fn new(code: Code) -> Self {
        Self { code, answers: Vec::new(), zone: None, authoritative: false, ttl: 0 }
    }

    /// The message, at most `limit` bytes long: an answer that does not fit is sent without its
    /// records and marked as cut short, so that the client asks again over TCP.
    pub(super) fn to_bytes(&self, query: &Query<'_>, limit: usize) -> Vec<u8> {
        let whole = self.write(query, false);
        if whole.len() <= limit { whole } else { self.write(query, true) }
    }

    fn write(&self, query: &Query<'_>, cut: bool) -> Vec<u8> {
        let answers = if cut { &[] } else { self.answers.as_slice() };
        let zone = self.zone.filter(|_| !cut);
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(&query.header[..2]);
        // Answer, the query's opcode and "recursion desired"; "recursion available" and the code.
        let authoritative = if self.authoritative { 4 } else { 0 };
        bytes.push(0x80 | (query.header[2] & 0x79) | authoritative | (u8::from(cut) << 1));
        bytes.push(0x80 | self.code as u8);
        let counts = [
            usize::from(!query.question.is_empty()),
            answers.len(),
            usize::from(zone.is_some()),
            usize::from(query.edns.is_some()),
        ];
        for count in counts {
            put16(&mut bytes, u16::try_from(count).unwrap_or(u16::MAX));
        }
        bytes.extend(query.question);
        for data in answers {
            // A pointer to the question's name.
            put16(&mut bytes, 0xc000 | HEADER as u16);
            self.record(&mut bytes, data);
        }
        if let Some(zone) = zone {
            put_name(&mut bytes, zone);
            let mut soa = Vec::new();
            put_name(&mut soa, &join("ns.dns", zone));
            put_name(&mut soa, &join("hostmaster", zone));
            // Serial, refresh, retry, expire, minimum (RFC 1035 §3.3.13).
            for number in [1, 7200, 1800, 86400, self.ttl] {
                soa.extend(number.to_be_bytes());
            }
            self.head(&mut bytes, SOA, soa.len());
            bytes.extend(soa);
        }
        if query.edns.is_some() {
            // The root, OPT, our limit, no extended code, version 0, no flags, no options.
            bytes.push(0);
            put16(&mut bytes, OPT);
            put16(&mut bytes, EDNS_SIZE);
            bytes.extend([0; 6]);
        }
        bytes
    }

    fn record(&self, bytes: &mut Vec<u8>, data: &Data) {
        match data {
            Data::Address(IpAddr::V4(address)) => {
                self.head(bytes, A, 4);
                bytes.extend(address.octets());
            }
            Data::Address(IpAddr::V6(address)) => {
                self.head(bytes, AAAA, 16);
                bytes.extend(address.octets());
            }
            Data::Service(port, host) => {
                // Priority 0, weight 100; the target is never compressed (RFC 2782).
                let mut value = vec![0, 0, 0, 100];
                put16(&mut value, *port);
                put_name(&mut value, host);
                self.head(bytes, SRV, value.len());
                bytes.extend(value);
            }
            Data::Name(name) => {
                let mut value = Vec::new();
                put_name(&mut value, name);
                self.head(bytes, PTR, value.len());
                bytes.extend(value);
            }
        }
    }

    /// Type, class, time to live and length of a record.
    fn head(&self, bytes: &mut Vec<u8>, kind: u16, length: usize) {
        put16(bytes, kind);
        put16(bytes, CLASSES[0]);
        bytes.extend(self.ttl.to_be_bytes());
        put16(bytes, u16::try_from(length).unwrap_or(u16::MAX));
    }
}

fn put16(bytes: &mut Vec<u8>, number: u16) {
    bytes.extend(number.to_be_bytes());
}

/// Writes a name of labels between dots. Labels longer than 63 bytes do not occur: every name here
/// is made from Kubernetes names.
fn put_name(bytes: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        bytes.push(label.len() as u8);
        bytes.extend(label);
    }
    bytes.push(0);
}

fn join(name: &str, zone: &str) -> String {
    if zone.is_empty() { name.to_owned() } else { format!("{name}.{zone}") }
}
