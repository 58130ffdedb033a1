//! Is our table there as it should be, and does it know the pods of this node?
//!
//! ```text
//!   table, chains, rules ─▶ as programmed?      local addresses, some rows and pods ─▶ asked by key
//! ```
//!
//! Sets are never listed: a dump of 100,000 elements takes half a second of the kernel's time.

use podwall_compile::tables::NodeTables;
use rustc_hash::FxHashMap;

use super::load::Frame;
use super::program::{Program, Shape};
use super::set::{self, Data, Element, Key, SetId};
use super::{Nftables, dump};
use crate::sample::{self, SAMPLE};
use crate::{Drift, Error};

impl Nftables {
    /// What can be seen of a difference without listing sets.
    pub(super) fn look(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
        let program =
            Program::new(self.shape.with(Shape::of(tables)), &tables.pod_ranges, self.config.log);
        let mut drift = match self.frame(&program)? {
            Frame::Nothing => {
                let what = format!("table inet {}", self.config.table);
                return Ok(vec![Drift::NotThere { what }]);
            }
            Frame::Unfit(drift) => return Ok(drift),
            Frame::Ours(rows) => super::diff::drift_of_rows(&rows),
        };
        let wanted = some(tables);
        let keys: Vec<(SetId, Key)> = wanted.iter().map(|it| (it.set, it.key)).collect();
        let found: FxHashMap<(SetId, Key), Data> =
            dump::data_of(&mut self.socket, &self.config.table, &keys)?;
        for element in wanted {
            match found.get(&(element.set, element.key)) {
                Some(data) if *data == element.data => {}
                Some(data) => drift
                    .push(Drift::Different { entry: element.to_string(), found: data.to_string() }),
                None => drift.push(Drift::Missing { entry: element.to_string() }),
            }
        }
        drift.sort();
        Ok(drift)
    }
}

/// Elements that should be there: of local addresses, of other pods, and verdicts, some of each; in
/// order of their sets.
fn some(tables: &NodeTables) -> Vec<Element> {
    let subjects = tables.subjects.iter();
    let subjects = sample::of(tables.subjects.len(), SAMPLE, subjects);
    let peers = sample::of(tables.peers.len(), SAMPLE, tables.peers.iter());
    let rows = sample::of(tables.verdicts.len(), SAMPLE, tables.verdicts.iter());
    let mut all: Vec<Element> = Vec::new();
    for ((direction, address), class) in subjects {
        all.push(Element::subject(*direction, *address, *class));
        all.push(Element::own(*address));
    }
    all.extend(peers.into_iter().map(|(address, peer)| Element::peer(*address, *peer)));
    all.extend(rows.into_iter().filter_map(|(key, it)| Element::row(*key, it.allow)));
    // What the tables make of them, where that is not one element each.
    all.retain(|it| set::wanted(tables, it.set, it.key) == Some(it.data));
    all.sort();
    all.dedup();
    all
}
