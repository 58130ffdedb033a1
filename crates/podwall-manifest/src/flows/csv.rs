//! Which columns has this file, and what does a line say?
//!
//! ```text
//!   src,dst,protocol,port                        peers as the command line writes them, addresses
//!   src,dst,verdict,protocol,from,to             as `podwall matrix -o csv` has them
//!   further: count, time; what else there is, is passed over
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwall_policy::port::{PortRange, Protocol};

use super::podwall::protocol;
use super::{FlowParty, Left, Line, Record, SeenPorts, SeenVerdict, time};
use crate::names::short;

/// More columns than these are no table of flows.
const MOST_COLUMNS: usize = 256;

/// Where the columns stand.
pub(super) struct Columns {
    separator: char,
    src: usize,
    dst: usize,
    protocol: Option<usize>,
    port: Option<usize>,
    to: Option<usize>,
    verdict: Option<usize>,
    time: Option<usize>,
    count: Option<usize>,
}

impl Columns {
    /// Reads the header.
    pub(super) fn read(line: &str) -> Result<Self, String> {
        let separator = if line.contains('\t') { '\t' } else { ',' };
        let names: Vec<String> =
            split(line, separator)?.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
        let column = |known: &[&str]| names.iter().position(|name| known.contains(&name.as_str()));
        let missing = |what: &str| {
            format!(
                "the first line must name the columns src,dst,protocol,port; there is no {what} in \
                 `{}`",
                short(line)
            )
        };
        Ok(Self {
            separator,
            src: column(&["src", "source", "from_peer"]).ok_or_else(|| missing("src"))?,
            dst: column(&["dst", "destination", "dest"]).ok_or_else(|| missing("dst"))?,
            protocol: column(&["protocol", "proto"]),
            port: column(&["port", "from", "dport", "dst_port", "destination_port"]),
            to: column(&["to", "endport", "end_port"]),
            verdict: column(&["verdict", "action"]),
            time: column(&["time", "timestamp"]),
            count: column(&["count"]),
        })
    }
}

pub(super) fn record(line: &str, columns: &Columns) -> Result<Line, String> {
    let cells = split(line, columns.separator)?;
    let get = |column: Option<usize>| {
        column.and_then(|at| cells.get(at)).map(|cell| cell.trim()).filter(|cell| !cell.is_empty())
    };
    let party = |column: usize, name: &str| match get(Some(column)) {
        None => Err(format!("{name} is empty")),
        Some(cell) => Ok(match cell.parse::<IpAddr>() {
            Ok(address) => FlowParty { address: Some(address), ..FlowParty::default() },
            Err(_) => FlowParty { written: Some(cell.into()), ..FlowParty::default() },
        }),
    };
    let verdict = match get(columns.verdict).map(str::to_ascii_lowercase).as_deref() {
        None | Some("allowed" | "allow" | "accept" | "accepted" | "forwarded") => {
            SeenVerdict::Passed
        }
        Some("denied" | "deny" | "drop" | "dropped" | "reject" | "rejected") => SeenVerdict::Denied,
        Some("unknown") => return Ok(Line::Other(Left::Unknown, 1)),
        Some(other) => {
            return Err(format!("`{}` is no verdict: allowed or denied", short(other)));
        }
    };
    let count = match get(columns.count) {
        None => 1,
        Some(cell) => cell.parse().map_err(|_| format!("count `{}` is no number", short(cell)))?,
    };
    Ok(Line::Record(Box::new(Record {
        src: party(columns.src, "src")?,
        dst: party(columns.dst, "dst")?,
        ports: ports(get(columns.protocol), get(columns.port), get(columns.to))?,
        verdict,
        time: get(columns.time).and_then(time::at),
        count,
        names: BTreeSet::new(),
    })))
}

fn ports(proto: Option<&str>, from: Option<&str>, to: Option<&str>) -> Result<SeenPorts, String> {
    let port = |text: &str| {
        let number = text.parse::<u16>().ok().filter(|port| *port > 0);
        number.ok_or_else(|| format!("`{}` is no port: 1 to 65535", short(text)))
    };
    let of = match proto {
        Some("any") => return Ok(SeenPorts::Everything),
        Some("other") => return Ok(SeenPorts::Portless(Protocol::ICMP)),
        Some(text) => protocol(text)?,
        None => Protocol::TCP,
    };
    if !of.has_ports() {
        return Ok(SeenPorts::Portless(of));
    }
    let Some(from) = from else { return Err(format!("a flow with {of} needs its port")) };
    let (first, last) = match (from.split_once('-'), to) {
        (Some((first, last)), None) => (port(first)?, port(last)?),
        (_, Some(to)) => (port(from)?, port(to)?),
        (None, None) => (port(from)?, port(from)?),
    };
    let range = PortRange::new(first, last);
    let range = range.ok_or_else(|| format!("ports {first} to {last} are turned round"))?;
    Ok(SeenPorts::Ports(of, range))
}

/// The cells of a line (RFC 4180, but that a line has its own end).
fn split(line: &str, separator: char) -> Result<Vec<String>, String> {
    let mut cells = Vec::new();
    let mut rest = line.chars().peekable();
    loop {
        if cells.len() >= MOST_COLUMNS {
            return Err(format!("this line has more than {MOST_COLUMNS} columns"));
        }
        let mut cell = String::new();
        if rest.peek() == Some(&'"') {
            rest.next();
            loop {
                match rest.next() {
                    Some('"') if rest.peek() == Some(&'"') => {
                        rest.next();
                        cell.push('"');
                    }
                    Some('"') => break,
                    Some(c) => cell.push(c),
                    None => return Err("a quote is not closed on its line".to_owned()),
                }
            }
        }
        loop {
            match rest.next() {
                Some(c) if c == separator => break,
                Some(c) => cell.push(c),
                None => {
                    cells.push(cell);
                    return Ok(cells);
                }
            }
        }
        cells.push(cell);
    }
}
