//! What was read, each flow once?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podwall_policy::source::Source;
use rustc_hash::FxHashMap;

use super::{FlowParty, MOST_FLOWS, Record, SeenFlow, SeenPorts, SeenVerdict};
use crate::diagnostic::{Code, Diagnostic, Place};

/// How many broken lines are shown.
const SHOWN: usize = 20;

/// Names of one destination that are kept.
const NAMES: usize = 8;

/// When something was seen, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// First.
    pub first: u64,
    /// Last.
    pub last: u64,
}

impl Times {
    /// Both spans.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// How long, in seconds.
    pub fn seconds(self) -> u64 {
        (self.last - self.first) / 1_000_000
    }
}

/// Why a record is no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Left {
    /// It was dropped or denied.
    Denied,
    /// A packet of the answer.
    Reply,
    /// Nobody says which way it goes.
    NoDirection,
    /// Not known whether it passes, in a matrix.
    Unknown,
    /// The observer says that it lost events.
    Lost,
    /// Not a record of a flow.
    NotAFlow,
    /// The last line ends before its end.
    Cut,
}

/// Everything that files of flows say.
#[derive(Clone, Debug, Default)]
pub struct FlowLog {
    /// Ends of flows, each once.
    pub parties: Vec<FlowParty>,
    /// Flows, each once, in the order in which they were first seen.
    pub flows: Vec<SeenFlow>,
    /// Records of flows, those that were left out not counted.
    pub records: u64,
    /// Records that were left out, by reason.
    pub left: BTreeMap<Left, u64>,
    /// First and last record.
    pub times: Option<Times>,
    /// Names by which destinations were looked up, by party.
    pub names: BTreeMap<usize, BTreeSet<Arc<str>>>,
    /// What is wrong, the first lines of each file.
    pub diagnostics: Vec<Diagnostic>,
    /// How many lines are wrong.
    pub broken: u64,
    /// Whether denied flows count as flows.
    pub include_denied: bool,
    known_parties: FxHashMap<FlowParty, usize>,
    known: FxHashMap<(usize, usize, SeenPorts), usize>,
    shown: usize,
}

impl FlowLog {
    /// Nothing read yet; with `include_denied` what was dropped is taken for wanted.
    pub fn new(include_denied: bool) -> Self {
        Self { include_denied, ..Self::default() }
    }

    pub(super) fn begin(&mut self) {
        self.shown = 0;
    }

    /// Counts a record; false if there are too many different flows.
    pub(super) fn add(&mut self, record: Record, file: &Arc<str>, line: u32) -> bool {
        if record.verdict == SeenVerdict::Denied && !self.include_denied {
            self.leave(Left::Denied, record.count);
            return true;
        }
        let (src, dst) = (self.party(record.src), self.party(record.dst));
        let times = record.time.map(|time| Times { first: time, last: time });
        let next = self.flows.len();
        let at = *self.known.entry((src, dst, record.ports)).or_insert(next);
        if at == next {
            if next >= MOST_FLOWS {
                return false;
            }
            let source = Source::new(file.clone(), line, 1);
            self.flows.push(SeenFlow { src, dst, ports: record.ports, count: 0, times, source });
        }
        let flow = &mut self.flows[at];
        flow.count = flow.count.saturating_add(record.count);
        let either = |a: Option<Times>, b: Option<Times>| match (a, b) {
            (Some(a), Some(b)) => Some(a.and(b)),
            (a, b) => a.or(b),
        };
        flow.times = either(flow.times, times);
        self.times = either(self.times, times);
        self.records = self.records.saturating_add(record.count);
        if !record.names.is_empty() {
            let names = self.names.entry(dst).or_default();
            names.extend(record.names.into_iter().take(NAMES.saturating_sub(names.len())));
        }
        true
    }

    fn party(&mut self, party: FlowParty) -> usize {
        if let Some(known) = self.known_parties.get(&party) {
            return *known;
        }
        let next = self.parties.len();
        self.known_parties.insert(party.clone(), next);
        self.parties.push(party);
        next
    }

    pub(super) fn leave(&mut self, why: Left, count: u64) {
        let left = self.left.entry(why).or_default();
        *left = left.saturating_add(count);
    }

    pub(super) fn broken(&mut self, file: &Arc<str>, line: u32, message: String) {
        self.broken += 1;
        if self.shown >= SHOWN {
            return;
        }
        self.shown += 1;
        let mut diagnostic = Diagnostic::error(Code::Syntax, message);
        let source = Source::new(file.clone(), line, 1);
        diagnostic.place = Some(Place { source, length: 1, text: None });
        self.diagnostics.push(diagnostic);
    }
}
