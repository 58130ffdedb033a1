//! How much may a node's tables hold, and what happens when there is more?
//!
//! ```text
//!   NodeTables, Delta ──▶ Limiter ──▶ what fits ──▶ a data plane's tables
//!                            └──────▶ Fill: used, size, and what was left out
//! ```
//!
//! What does not fit is never cut in half, and never makes the kernel allow what the whole tables
//! deny:
//!
//! - *Verdicts*: a subject class whose verdicts do not fit has none; its pods are isolated with no
//!   rule ([`SubjectId::CLOSED`]). Classes that were there before and have not grown stay.
//! - *Peers, blocks*: an address that does not fit is like one that nobody knows. Whoever would let
//!   that pass what the address itself may not (a rule that denies, `except`) is isolated, too.
//! - *Locals*: a local address that is not in the tables is open, so that there is no safe way to
//!   leave one out. The whole change is refused, and what was in force stays in force: the caller
//!   keeps new pods off, and every later change is tried as a whole again.
//!
//! As soon as there is room what was left out comes back, by itself.

mod admit;
mod limiter;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use podwall_compile::tables::{PortKey, SubjectId};
use podwall_policy::address::{AddressRange, AddressSet, Family};

pub(crate) use self::limiter::{Limited, Limiter, glance, replace, update, verify};
use crate::Error;
use crate::ebpf::layout::port_prefixes;

/// How many entries each kind of table may have in the kernel.
///
/// The defaults have room for eight times 100,000 pods with two addresses each and 10,000 policies.
/// They keep a mistake from filling the machine's memory; tables take what their content needs and
/// grow with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Local addresses that some policy isolates, and known ones in the pod ranges. Default 65,536.
    pub locals: usize,
    /// Addresses of pods. Default 2,097,152.
    pub peers: usize,
    /// CIDR blocks that make up the ranges of rules; a range that is no block itself is several.
    /// Default 524,288.
    pub blocks: usize,
    /// Verdicts; one for a range of ports counts once for each aligned block of ports in it, up to
    /// 30. Default 2,097,152.
    pub verdicts: usize,
}

/// How many CIDRs the pod ranges of tables may be made of, of each family. A node has one, mostly;
/// tables with more are refused.
pub const POD_RANGES: usize = 8;

impl Default for Limits {
    fn default() -> Self {
        Self { locals: 1 << 16, peers: 1 << 21, blocks: 1 << 19, verdicts: 1 << 21 }
    }
}

/// `verdicts=1000,peers=500`; what is not named has its default.
impl FromStr for Limits {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut limits = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = || {
                Error::Config(format!(
                    "{part:?} is no limit of a table; write locals=N, peers=N, blocks=N or \
                     verdicts=N, with commas between them"
                ))
            };
            let (name, number) = part.split_once('=').ok_or_else(wrong)?;
            let table = Table::ALL.into_iter().find(|table| table.name() == name);
            let number = number.parse::<u32>().map_err(|_| wrong())?;
            *limits.of_mut(table.ok_or_else(wrong)?) = number as usize;
        }
        Ok(limits)
    }
}

/// As [`FromStr`] reads it.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = Table::ALL.map(|table| format!("{}={}", table.name(), self.of(table)));
        f.write_str(&parts.join(","))
    }
}

impl Limits {
    fn of(&self, table: Table) -> usize {
        match table {
            Table::Locals => self.locals,
            Table::Peers => self.peers,
            Table::Blocks => self.blocks,
            Table::Verdicts => self.verdicts,
        }
    }

    fn of_mut(&mut self, table: Table) -> &mut usize {
        match table {
            Table::Locals => &mut self.locals,
            Table::Peers => &mut self.peers,
            Table::Blocks => &mut self.blocks,
            Table::Verdicts => &mut self.verdicts,
        }
    }
}

/// The kinds of tables that have a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Local addresses.
    Locals,
    /// Known remote addresses.
    Peers,
    /// Ranges of other addresses.
    Blocks,
    /// Verdicts.
    Verdicts,
}

impl Table {
    /// All.
    pub const ALL: [Self; 4] = [Self::Locals, Self::Peers, Self::Blocks, Self::Verdicts];

    /// Its name in [`Limits`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Locals => "locals",
            Self::Peers => "peers",
            Self::Blocks => "blocks",
            Self::Verdicts => "verdicts",
        }
    }
}

/// How full one kind of table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFill {
    /// Which.
    pub table: Table,
    /// Entries in the kernel.
    pub used: usize,
    /// Entries that there would be if all fitted.
    pub wanted: usize,
    /// Entries that there may be.
    pub size: usize,
}

/// Why a subject class is isolated although policies allow it something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its verdicts do not fit.
    Verdicts,
    /// It would allow an address that does not fit something that it denies it.
    Addresses,
}

/// How full the tables are, and what had to be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// One for each kind of table; none before the first full load.
    pub tables: Vec<TableFill>,
    /// Subject classes that are isolated, and why.
    pub isolated: BTreeMap<SubjectId, Why>,
    /// Pods' and nodes' addresses that are treated like those that nobody knows.
    pub addresses: BTreeSet<IpAddr>,
    /// Ranges that are treated like those that no rule names.
    pub ranges: BTreeSet<AddressRange>,
}

impl Fill {
    /// Whether something does not fit.
    pub fn overflows(&self) -> bool {
        !self.isolated.is_empty() || !self.addresses.is_empty() || !self.ranges.is_empty()
    }
}

/// `locals 4 of 16384, peers …`.
impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.tables.iter().map(|fill| {
            let TableFill { table, used, wanted, size } = fill;
            let left = if wanted > used { format!(" ({wanted} wanted)") } else { String::new() };
            format!("{} {used} of {size}{left}", table.name())
        });
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
    }
}

/// Entries by kind of table: counted as limits are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes(Limits);

impl Sizes {
    fn fit(self, limits: &Limits) -> bool {
        Table::ALL.into_iter().all(|table| self.0.of(table) <= limits.of(table))
    }
}

/// Entries that a range takes in a table of prefixes.
fn block_size(range: &AddressRange) -> usize {
    range.cidrs().len()
}

/// Refuses more pod ranges than there is room for.
fn check_pod_ranges(ranges: &AddressSet) -> Result<(), Error> {
    for family in Family::BOTH {
        let of_family = ranges.ranges().iter().filter(|range| range.family() == family);
        let wanted = of_family.map(block_size).sum();
        if wanted > POD_RANGES {
            return Err(Error::PodRanges { wanted, family, size: POD_RANGES });
        }
    }
    Ok(())
}

/// Entries that a verdict takes where ports are kept as prefixes.
fn verdict_size(ports: PortKey) -> usize {
    match ports {
        PortKey::Range(..) => port_prefixes(ports).len(),
        _ => 1,
    }
}
