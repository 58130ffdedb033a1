//! Who was seen talking to whom?
//!
//! ```text
//!   podwall flows -o json ┐
//!   Hubble's export       ├─ a line at a time ──▶ FlowLog: parties, flows (each once, counted),
//!   CSV                   ┘                       the span of time, what was left out, what is broken
//! ```
//!
//! Records are read as a stream and kept once each with a count, so that memory follows the number of
//! different flows and not the size of the file. Who the parties are is looked up later, in the
//! objects: this only knows what records say of them.

mod csv;
mod hubble;
mod log;
mod podwall;
mod time;

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read};
use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::label::Labels;
use podwall_policy::object::Name;
use podwall_policy::port::{PortRange, Protocol};
use serde_json::Value as Json;

pub use self::log::{FlowLog, Left, Times};
pub use self::time::{at, clock};

/// A longer line is no record, in bytes.
pub const LONGEST_LINE: usize = 1 << 20;

/// More different flows than these are refused.
pub const MOST_FLOWS: usize = 500_000;

/// How the records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowFormat {
    /// JSON lines of `podwall flows -o json`.
    Podwall,
    /// JSON lines of Hubble's exporter, or of `hubble observe -o json`.
    Hubble,
    /// A header that names columns, then a line for each flow; also `podwall matrix -o csv`.
    Csv,
}

/// One end of a flow, as far as records say who it is. Of several hints the first that leads to
/// somebody who is there is taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowParty {
    /// A peer as the command line writes it.
    pub written: Option<Arc<str>>,
    /// A pod.
    pub pod: Option<Name>,
    /// The kind and the name of its workload.
    pub workload: Option<(Arc<str>, Name)>,
    /// Its namespace and its labels.
    pub labels: Option<(Arc<str>, Labels)>,
    /// A node by name.
    pub node: Option<Arc<str>>,
    /// The node of the other end, by whatever address.
    pub own_node: bool,
    /// Its address.
    pub address: Option<IpAddr>,
}

/// What was seen to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SeenPorts {
    /// These ports of TCP, UDP or SCTP.
    Ports(Protocol, PortRange),
    /// A protocol without ports.
    Portless(Protocol),
    /// Everything; only `podwall matrix` says so.
    Everything,
}

/// A flow, with all records of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenFlow {
    /// Who opened it: a place in [`FlowLog::parties`].
    pub src: usize,
    /// Who was asked.
    pub dst: usize,
    /// The destination's port.
    pub ports: SeenPorts,
    /// How many records.
    pub count: u64,
    /// When it was seen, if records say so.
    pub times: Option<Times>,
    /// The first record, as `file:line`.
    pub source: podwall_policy::source::Source,
}

/// One record, before it is counted.
#[derive(Clone, Debug)]
struct Record {
    src: FlowParty,
    dst: FlowParty,
    ports: SeenPorts,
    verdict: SeenVerdict,
    time: Option<u64>,
    count: u64,
    /// Names by which the destination was looked up.
    names: BTreeSet<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SeenVerdict {
    Passed,
    Denied,
}

/// What a line is.
enum Line {
    Record(Box<Record>),
    /// Nothing that opens a connection.
    Other(Left, u64),
}

/// Reads a file of flows into a log. What is wrong with its lines stands in
/// [`FlowLog::diagnostics`] afterwards.
///
/// # Errors
/// If the file cannot be read to its end.
pub fn read_flows(
    log: &mut FlowLog,
    name: &str,
    input: &mut dyn BufRead,
    format: Option<FlowFormat>,
) -> io::Result<()> {
    let file: Arc<str> = name.into();
    let mut format = format;
    let mut header: Option<csv::Columns> = None;
    let mut bytes = Vec::new();
    let mut number: u32 = 0;
    log.begin();
    loop {
        bytes.clear();
        let limit = LONGEST_LINE as u64 + 1;
        if Read::take(&mut *input, limit).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(());
        }
        number = number.saturating_add(1);
        let whole = bytes.ends_with(b"\n");
        if !whole && bytes.len() > LONGEST_LINE {
            let limit = LONGEST_LINE >> 20;
            let message = format!("this line is longer than {limit} MiB; the rest is not read");
            log.broken(&file, number, message);
            return Ok(());
        }
        let Ok(line) = std::str::from_utf8(&bytes) else {
            log.broken(&file, number, "this line is not UTF-8".to_owned());
            continue;
        };
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() || (line.starts_with('#') && header.is_none()) {
            continue;
        }
        let format = *format.get_or_insert_with(|| detect(line));
        let read = match (format, &header) {
            (FlowFormat::Csv, None) => match csv::Columns::read(line) {
                Ok(columns) => {
                    header = Some(columns);
                    continue;
                }
                Err(wrong) => {
                    log.broken(&file, number, wrong);
                    return Ok(());
                }
            },
            (FlowFormat::Csv, Some(columns)) => csv::record(line, columns),
            (FlowFormat::Hubble, _) => json(line).and_then(|value| hubble::record(&value)),
            (FlowFormat::Podwall, _) => json(line).and_then(|value| podwall::record(&value)),
        };
        match read {
            Ok(Line::Record(record)) => {
                if !log.add(*record, &file, number) {
                    let message = format!(
                        "more than {MOST_FLOWS} different flows: the rest is not read; take a \
                         shorter observation, or leave scans out of it"
                    );
                    log.broken(&file, number, message);
                    return Ok(());
                }
            }
            Ok(Line::Other(why, count)) => log.leave(why, count),
            // Whoever ends a recording mostly cuts its last line.
            Err(_) if !whole => log.leave(Left::Cut, 1),
            Err(wrong) => log.broken(&file, number, wrong),
        }
    }
}

/// By the first line: objects are JSON, and Hubble's have other fields than ours.
fn detect(line: &str) -> FlowFormat {
    if !line.starts_with(['{', '[']) {
        return FlowFormat::Csv;
    }
    match json(line) {
        Ok(value) if value.get("srcAddress").is_some() => FlowFormat::Podwall,
        _ => FlowFormat::Hubble,
    }
}

fn json(line: &str) -> Result<Json, String> {
    if line.starts_with('[') {
        return Err("this is a list; one object a line is wanted (jq -c '.[]')".to_owned());
    }
    let value: Json =
        serde_json::from_str(line).map_err(|error| format!("this line is not JSON: {error}"))?;
    if value.is_object() { Ok(value) } else { Err("this line is not an object".to_owned()) }
}

/// A field, or the same under another spelling.
fn field<'j>(value: &'j Json, names: &[&str]) -> Option<&'j Json> {
    names.iter().find_map(|name| value.get(name)).filter(|found| !found.is_null())
}

fn text<'j>(value: &'j Json, names: &[&str]) -> Option<&'j str> {
    field(value, names).and_then(Json::as_str).filter(|text| !text.is_empty())
}

/// A number, or a number as a string, as protobuf's JSON writes large ones.
fn number(value: &Json) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests;
