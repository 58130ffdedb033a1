//! Is the program in force, and does it know the pods of this node?
//!
//! ```text
//!   links, conntrack, pod ranges; local addresses and some others ── a lookup each ──▶ Drift
//! ```

use std::net::IpAddr;

use podwall_compile::tables::NodeTables;
use podwall_policy::address::Family;

use super::edit::Model;
use super::layout::{self, Table};
use super::pinned::Pinned;
use super::{Ebpf, conntrack, hex};
use crate::sample::{self, SAMPLE};
use crate::{Drift, Error};

impl Ebpf {
    /// What decides packets: this process' program, or another of the same form.
    pub(super) fn in_force<'a>(&'a self, found: &'a mut Option<Pinned>) -> Option<&'a Pinned> {
        match &self.pinned {
            Some(ours) if ours.is_in_force() => Some(ours),
            _ => {
                *found = Pinned::find(&self.config);
                found.as_ref()
            }
        }
    }

    /// What can be seen of a difference without reading whole tables.
    pub(super) fn look(&self, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
        let mut found = None;
        let (Some(pinned), Some(model)) = (self.in_force(&mut found), &self.model) else {
            return Ok(vec![Drift::NotThere { what: "the eBPF program".to_owned() }]);
        };
        let mut drift = pinned.missing_links();
        if !self.namespace.run(conntrack::is_on)? {
            drift.push(Drift::NotThere { what: format!("table inet {}", conntrack::TABLE) });
        }
        drift.extend(pinned.other_pod_ranges(tables)?);
        let locals = tables.subjects.keys().map(|(_, address)| *address);
        let locals = sample::of(tables.subjects.len(), SAMPLE, locals);
        let others = sample::of(tables.peers.len(), SAMPLE, tables.peers.keys().copied());
        for address in locals.into_iter().chain(others) {
            drift.extend(entry(pinned, model, tables, address)?);
        }
        drift.sort();
        drift.dedup();
        Ok(drift)
    }
}

/// How the entries of an address, in both copies, differ from what they should be.
fn entry(
    pinned: &Pinned,
    model: &Model,
    tables: &NodeTables,
    address: IpAddr,
) -> Result<Vec<Drift>, Error> {
    let table = Table::addresses(Family::of(address));
    let wanted = model.known(&address, tables.peers.get(&address).copied());
    let (Some(copies), Some(wanted)) = (pinned.tables.get(&table), wanted) else {
        return Ok(Vec::new());
    };
    let mut key = Vec::new();
    layout::put_address(address, &mut key);
    let mut drift = Vec::new();
    for copy in 0..2 {
        let entry = || format!("{} {address} (copy {copy})", table.name());
        match copies.lookup(copy, &key)? {
            Some(there) if there == wanted => {}
            Some(there) => {
                drift.push(Drift::Different {
                    entry: format!("{} = {}", entry(), hex(&wanted)),
                    found: hex(&there),
                });
            }
            None => drift.push(Drift::Missing { entry: entry() }),
        }
    }
    Ok(drift)
}
