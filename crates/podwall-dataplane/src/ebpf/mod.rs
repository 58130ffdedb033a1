//! How does eBPF decide as the tables say?
//!
//! ```text
//!   NodeTables, Delta ──▶ entries (edit) ──▶ the copy that is not in force ──▶ turn `control`
//!                                        └─▶ then the other copy
//!   POSTROUTING before source NAT, INPUT ──▶ podwall.bpf.c, of type NETFILTER, both families
//! ```
//!
//! One program whatever the policies say. It reads the connection's state that conntrack left in
//! the packet and keeps none itself. Program, links and maps are pinned in a bpffs, so they outlive
//! the process; a new process takes them over if its program is the same, and else attaches its own
//! beside them before it takes the old ones away: until then a packet has to pass both.
//!
//! Two copies of the tables (see `podwall.bpf.c`): a change is visible to packets all at once, and
//! neither packets nor changes ever wait.

mod counts;
mod edit;
mod events;
mod glance;
mod hash;
pub(crate) mod layout;
mod mapped;
mod maps;
mod needs;
mod pinned;
mod text;

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;

use podwall_compile::tables::{Delta, NodeTables, RuleId, SubjectId};
use rustc_hash::FxHashMap;

use self::counts::Counts;
use self::edit::{Edit, Model};
use self::layout::Table;
use self::maps::{Copies, Written};
pub use self::needs::Missing;
use self::pinned::Pinned;
use crate::counters::{self, Counters, Owners};
use crate::limits::{self, Limited, Limiter};
use crate::namespace::Namespace;
use crate::nft::conntrack;
use crate::{DataPlane, Denials, Drift, Error, Fill, Limits};

/// How the eBPF data plane is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where programs, links and maps are pinned: a directory of its own for each network
    /// namespace. If it does not lie in a bpffs, one is mounted on it.
    pub pins: PathBuf,
    /// How many rules, and how many subject classes, have counters of their own; 8 bytes each and
    /// CPU.
    pub counters: u32,
    /// How much the tables may hold.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pins: PathBuf::from("/sys/fs/bpf/podwall"),
            counters: 16_384,
            limits: Limits::default(),
        }
    }
}

/// The eBPF data plane of one network namespace.
///
/// Holds the maps, and what of their content a change has to know. What is in the kernel outlives
/// it.
pub struct Ebpf {
    config: Config,
    limiter: Limiter,
    /// The namespace in which it was opened, where programs are attached.
    namespace: Namespace,
    /// `None` before the first full load.
    pinned: Option<Pinned>,
    /// What the kernel holds; `None` before the first full load and after a failed change.
    model: Option<Model>,
    /// Of rules, of classes; `None` if they are not known to be right.
    numbers: Option<[Numbers; 2]>,
    classes: counters::Classes,
    /// What was told last, by name.
    told: [FxHashMap<u64, u64>; 2],
}

/// One kind of counters, and whose they are.
struct Numbers {
    counts: Counts,
    owners: Owners,
}

/// As their maps' names begin.
const KINDS: [&str; 2] = ["rule", "default"];

/// So many entries of one table are worth a thread.
const LARGE: usize = 10_000;

/// The upper half of `control`.
const HAS_BLOCKS4: u64 = 1 << 32;
const HAS_BLOCKS6: u64 = 1 << 33;
const FLAGS: u64 = !0 << 32;

impl Ebpf {
    /// Opens the data plane in the calling thread's network namespace. Changes no packet's way yet.
    ///
    /// # Errors
    /// What the kernel or the process lacks, in words.
    pub fn open(config: Config) -> Result<Self, Error> {
        needs::check()?;
        // What goes wrong is in the errors; the library would print it, too.
        libbpf_rs::set_print(None);
        pinned::ensure_bpffs(&config.pins)?;
        let namespace = Namespace::current()?;
        let limiter = Limiter::new(config.limits);
        let told = Default::default();
        let classes = counters::Classes::default();
        let (pinned, model, numbers) = (None, None, None);
        Ok(Self { config, limiter, namespace, pinned, model, numbers, classes, told })
    }

    /// Whether this kernel loads the program for this process; some 20 ms. Nothing stays.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn check() -> Result<(), Error> {
        needs::check()?;
        pinned::try_loading()
    }

    /// What earlier programs' counters counted, by name; and this process', whose maps may be gone.
    fn known(&self) -> [FxHashMap<u64, u64>; 2] {
        let mut known = self.told.clone();
        for directory in pinned::others(&self.config) {
            for (known, kind) in known.iter_mut().zip(KINDS) {
                // A version without them, or one of which a piece is missing.
                let found = Counts::open(&directory, kind).and_then(|counts| counts.by_name());
                known.extend(found.unwrap_or_default());
            }
        }
        known
    }

    /// Gives counters to the rules and classes of full tables.
    fn give_counters(
        &mut self,
        tables: &NodeTables,
        known: &[FxHashMap<u64, u64>; 2],
    ) -> Result<(), Error> {
        self.numbers = None;
        let pinned = self.pinned.as_ref().ok_or(Error::NotLoaded)?;
        let give = |which: usize, owners: Owners| -> Result<Numbers, Error> {
            let counts = Counts::open(pinned.directory(), KINDS[which])?;
            counts.give(&owners, &known[which])?;
            Ok(Numbers { counts, owners })
        };
        let classes = self.classes.all(tables);
        let numbers = [give(0, counters::rules(tables))?, give(1, classes)?];
        self.numbers = Some(numbers);
        Ok(())
    }

    /// The same after a change.
    fn change_counters(&mut self, delta: &Delta) -> Result<(), Error> {
        let Some([mut rules, mut classes]) = self.numbers.take() else { return Ok(()) };
        for (id, rule) in &delta.rules {
            let name = rule.as_ref().map(counters::rule);
            rules.counts.change(id.0, name.unwrap_or(0))?;
            match name {
                Some(name) => rules.owners.insert(id.0, name),
                None => rules.owners.remove(&id.0),
            };
        }
        let tables = self.limiter.admitted().ok_or(Error::NotLoaded)?;
        if let Some(after) = self.classes.after(tables, delta) {
            for id in classes.owners.keys().filter(|id| !after.contains_key(id)) {
                classes.counts.change(*id, 0)?;
            }
            for (id, name) in &after {
                if classes.owners.get(id) != Some(name) {
                    classes.counts.change(*id, *name)?;
                }
            }
            classes.owners = after;
        }
        self.numbers = Some([rules, classes]);
        Ok(())
    }

    /// Writes the copy that is not in force, puts it in force, and writes the other.
    fn write(pinned: &mut Pinned, edit: &Edit, flags: u64, anew: bool) -> Result<(), Error> {
        for round in 0..2 {
            let control = pinned.control()?;
            let spare = 1 - usize::from(control & 1 == 1);
            let grown = Self::write_copy(&mut pinned.tables, spare, edit, anew)?;
            if let Some(ranges) = &edit.pod_ranges {
                pinned.set_pod_ranges(spare, ranges)?;
            }
            if anew {
                pinned.install(&Table::ALL, &[spare])?;
            } else if !grown.is_empty() {
                // What is in force has the same entries in its larger map: no packet sees a change.
                pinned.install(&grown, &[0, 1])?;
            }
            if round == 0 {
                pinned.turn(flags)?;
            }
        }
        Ok(())
    }

    /// Writes one copy of all tables, large ones at the same time; those that had to grow.
    fn write_copy(
        tables: &mut BTreeMap<Table, Copies>,
        copy: usize,
        edit: &Edit,
        anew: bool,
    ) -> Result<Vec<Table>, Error> {
        let mut grown = Vec::new();
        thread::scope(|scope| -> Result<(), Error> {
            let (mut threads, mut small) = (Vec::new(), Vec::new());
            for (table, copies) in tables {
                let entries = edit.tables.get(table);
                let count = entries.map_or(0, |e| e.keys.len() / table.sizes().0);
                let mut write = move || -> Result<Written, Error> {
                    if anew {
                        copies.renew(copy, count)?;
                    }
                    entries.map_or(Ok(Written::All), |entries| copies.write(copy, entries))
                };
                if count >= LARGE {
                    threads.push((*table, scope.spawn(write)));
                } else {
                    small.push((*table, write()));
                }
            }
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|payload| resume_unwind(payload))
            };
            let large = threads.into_iter().map(|(table, thread)| (table, join(thread)));
            for (table, written) in small.into_iter().chain(large) {
                if written? == Written::Grown {
                    grown.push(table);
                }
            }
            Ok(())
        })?;
        Ok(grown)
    }
}

fn flags(edit: &Edit) -> u64 {
    let has = |table| edit.tables.get(&table).is_some_and(|entries| !entries.keys.is_empty());
    let bit = |table, bit| if has(table) { bit } else { 0 };
    let ranges = edit.pod_ranges.as_ref().map_or(0, layout::pod_range_counts);
    bit(Table::Blocks4, HAS_BLOCKS4) | bit(Table::Blocks6, HAS_BLOCKS6) | ranges
}

impl Limited for Ebpf {
    fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }

    fn load(&mut self, tables: &NodeTables) -> Result<(), Error> {
        self.model = None;
        let (model, edit) = Model::new(tables);
        // Both are gone after `remove`, the rule also after somebody's `nft flush ruleset`.
        pinned::ensure_bpffs(&self.config.pins)?;
        self.namespace.run(conntrack::switch_on)?;
        // Looked for again each time: somebody may have taken away what this process had pinned.
        self.pinned = Pinned::find(&self.config);
        let mut known = [FxHashMap::default(), FxHashMap::default()];
        if let Some(pinned) = &mut self.pinned {
            Self::write(pinned, &edit, flags(&edit), true)?;
        } else {
            let mut pinned = Pinned::load(&self.config, &model)?;
            Self::write(&mut pinned, &edit, flags(&edit), false)?;
            pinned.attach(&self.namespace)?;
            self.pinned = Some(pinned);
            known = self.known();
        }
        pinned::sweep(&self.config)?;
        self.model = Some(model);
        // Whoever asks for the counters is told what is wrong with them; packets are decided.
        let _ = self.give_counters(tables, &known);
        Ok(())
    }

    fn change(&mut self, delta: &Delta) -> Result<(), Error> {
        let (Some(pinned), Some(mut model), Some(before)) =
            (&mut self.pinned, self.model.take(), self.limiter.admitted())
        else {
            return Err(Error::NotLoaded);
        };
        let edit = model.change(before, delta);
        if !edit.is_empty() {
            let stay = match edit.pod_ranges {
                None => FLAGS,
                Some(_) => FLAGS & !layout::POD_RANGE_COUNTS,
            };
            let flags = flags(&edit) | pinned.control()? & stay;
            Self::write(pinned, &edit, flags, false)?;
        }
        self.model = Some(model);
        Ok(())
    }

    fn look(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
        Self::look(self, tables)
    }

    fn compare(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
        let mut found = None;
        let Some(pinned) = self.in_force(&mut found) else {
            return Ok(vec![Drift::NotThere { what: "the eBPF program".to_owned() }]);
        };
        let mut drift = pinned.missing_links();
        if !self.namespace.run(conntrack::is_on)? {
            drift.push(Drift::NotThere { what: format!("table inet {}", conntrack::TABLE) });
        }
        let (_, edit) = Model::new(tables);
        drift.extend(pinned.other_pod_ranges(tables)?);
        for copy in 0..2 {
            for (table, copies) in &pinned.tables {
                let (key, value) = table.sizes();
                let pairs = |keys: &[u8], values: &[u8]| -> BTreeMap<Vec<u8>, Vec<u8>> {
                    let keys = keys.chunks_exact(key).map(<[u8]>::to_vec);
                    keys.zip(values.chunks_exact(value).map(<[u8]>::to_vec)).collect()
                };
                let (keys, values) = copies.read(copy)?;
                let mut found = pairs(&keys, &values);
                let empty = edit::Entries::default();
                let wanted = edit.tables.get(table).unwrap_or(&empty);
                for (key, value) in pairs(&wanted.keys, &wanted.values) {
                    let entry = || format!("{} {} (copy {copy})", table.name(), hex(&key));
                    match found.remove(&key) {
                        Some(there) if there == value => {}
                        Some(there) => drift.push(Drift::Different {
                            entry: format!("{} = {}", entry(), hex(&value)),
                            found: hex(&there),
                        }),
                        None => drift.push(Drift::Missing { entry: entry() }),
                    }
                }
                drift.extend(found.into_keys().map(|key| Drift::Extra {
                    entry: format!("{} {} (copy {copy})", table.name(), hex(&key)),
                }));
            }
        }
        drift.sort();
        Ok(drift)
    }
}

impl DataPlane for Ebpf {
    fn name(&self) -> &'static str {
        "ebpf"
    }

    fn replace(&mut self, tables: &NodeTables) -> Result<(), Error> {
        limits::replace(self, tables)
    }

    fn update(&mut self, delta: &Delta) -> Result<(), Error> {
        limits::update(self, delta)?;
        let _ = self.change_counters(delta); // as after a full load
        Ok(())
    }

    fn verify(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
        limits::verify(self, tables)
    }

    fn glance(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
        limits::glance(self, tables)
    }

    fn counters(&mut self) -> Result<Counters, Error> {
        if self.numbers.is_none() {
            let tables = self.limiter.admitted().cloned().ok_or(Error::NotLoaded)?;
            self.give_counters(&tables, &Default::default())?;
        }
        let numbers = self.numbers.as_ref().ok_or(Error::NotLoaded)?;
        let mut told = [FxHashMap::default(), FxHashMap::default()];
        let mut read = |which: usize| -> Result<Vec<(u32, u64)>, Error> {
            let Numbers { counts, owners } = &numbers[which];
            let packets = counts.read(owners)?;
            let by_name = packets.iter().filter_map(|(id, n)| Some((*owners.get(id)?, *n)));
            told[which] = by_name.collect();
            Ok(packets)
        };
        let (rules, defaults) = (read(0)?, read(1)?);
        self.told = told;
        Ok(Counters {
            rules: rules.into_iter().map(|(id, n)| (RuleId(id), n)).collect(),
            defaults: defaults.into_iter().map(|(id, n)| (SubjectId(id), n)).collect(),
        })
    }

    fn fill(&self) -> Fill {
        self.limiter.fill()
    }

    fn denials(&mut self) -> Result<Denials, Error> {
        let pinned = self.pinned.as_ref().ok_or(Error::NotLoaded)?;
        events::follow(pinned.events())
    }

    /// Which table has how many entries, and which they are.
    fn text(&self, tables: &NodeTables) -> String {
        text::text(&self.limiter.view(tables))
    }

    fn remove(&mut self) -> Result<(), Error> {
        self.pinned = None;
        self.model = None;
        self.numbers = None;
        self.told = Default::default();
        self.limiter.forget();
        pinned::remove_all(&self.config)?;
        self.namespace.run(conntrack::forget)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
