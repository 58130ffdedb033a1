//! How does nftables decide as the tables say?
//!
//! ```text
//!   NodeTables ──▶ elements of 14 sets ─┐            ┌─ rules that never change (program)
//!   Delta ───────▶ elements that change ┴▶ one batch ┴─▶ table inet podwall
//! ```
//!
//! Pure netlink; no nft binary. All policy is in sets, so that a change of policy is a change of
//! elements, all at once. The table is read back only when full tables are loaded or verified, and
//! only ours.
//!
//! What the kernel and nft(8) do that shaped this (Linux 6.18, nft 1.0.6, measured here unless a
//! source stands beside it):
//!
//! - A full load into an existing table changes only the elements that differ. To empty and refill
//!   sets in the same transaction would be right on 6.18, too; but up to 6.16 a lookup that meets
//!   the very moment of the commit may miss an element that goes and comes in it ("restart set
//!   lookup on base_seq change", Linux 6.17), and for a local address a miss means open.
//! - A table that is made anew in one transaction lets nothing slip through: chains of one hook and
//!   priority run in the order in which they were made, so a packet meets the old chain first; if
//!   that is empty already, the new one is in force (`nf_hook_entries_grow`). 200 such loads under
//!   a denied stream, none passed.
//! - A batch is one datagram, limited by the send buffer. In another user namespace than the first
//!   that is `net.core.wmem_max` doubled; more goes in parts, closed in between.
//! - A dump of a hash walks over what it has given out already with each 32 KiB: 100,000 elements
//!   take some 0.3 s, and four times as many take sixteen times as long. Only full loads dump.
//! - A dump in several parts of a hash that is just growing (a worker does it, some milliseconds
//!   after many elements came) leaves elements out or brings them twice, without a word: the kernel
//!   finds its place again by counting. So such a dump counts only when a second one agrees.
//! - A change in a set of concatenated ranges copies the set: 10 ms with 1,000 ranges of ports in
//!   it. Single ports, and ranges of addresses (a tree), do not care how many there are.
//! - nft 1.0.6 ends with a failed assertion where a rule uses a map's result inside a key, and
//!   where a map of verdicts says a byte order; both are avoided ([`program`], [`encode`]). It
//!   shows classes in maps of ranges with their bytes turned round, and crashes when it is told to
//!   add an element to a map of ranges that has a catch-all element.
//! - br_netfilter calls the postrouting hook without an incoming interface ([`program`]).
//! - A log prefix is a constant of its rule; the subject class cannot stand in it.

mod batch;
pub(crate) mod conntrack;
mod dump;
mod encode;
mod ir;
mod program;
mod set;

use std::net::IpAddr;

use nix::sys::utsname::uname;
use podwall_compile::tables::{Delta, NodeTables};
use podwall_policy::policy::Direction;
use rustc_hash::{FxHashMap, FxHashSet};

use self::batch::{Batch, Outcome, Step};
use self::program::{Program, Shape, is_rows};
use self::set::{Element, SetId};
use crate::netlink::socket::Socket;
use crate::{DataPlane, Drift, Error};

/// Catch-all elements came with 5.13; incoming interfaces in postrouting with 5.7.
const NEEDED: (u32, u32) = (5, 13);
/// Starts the comment of every table that Podwall makes.
const OURS: &str = "podwall ";
/// How often to read again when somebody else changes nftables meanwhile, before the table is
/// rewritten without looking.
const PATIENCE: usize = 5;

/// No element takes more bytes in a batch.
const ELEMENT_LIMIT: usize = 128;

/// How the nftables data plane is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name of the table, in family `inet`. Letters, digits, `_` and `-`, at most 64.
    pub table: String,
    /// Where to report denied packets; `None`: nowhere.
    pub log: Option<Log>,
}

impl Default for Config {
    fn default() -> Self {
        Self { table: "podwall".into(), log: None }
    }
}

/// Copies of denied packets for a listener on an NFLOG group. The prefix is `podwall egress ` or
/// `podwall ingress `; the packet itself says the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The NFLOG group.
    pub group: u16,
    /// At most so many packets a second, per direction and family. At least 1.
    pub per_second: u32,
    /// So many more at once.
    pub burst: u32,
}

/// The nftables data plane of one network namespace.
///
/// Holds a netlink socket in the namespace of the thread that opened it, and what it last put into
/// the kernel. The kernel's state outlives it.
pub struct Nftables {
    config: Config,
    socket: Socket,
    /// What the kernel holds; `None` before the first full load and after a lost answer.
    model: Option<NodeTables>,
    /// What the `_rows` chains look up. Grows with changes, is exact after a full load.
    shape: Shape,
}

/// What is in the kernel, as far as a full load needs to know.
enum Found {
    Nothing,
    /// Ours, but to be made anew.
    Unfit(Vec<Drift>),
    Ours {
        elements: Vec<Element>,
        rows: Vec<&'static str>,
    },
}

impl Nftables {
    /// Opens the data plane in the calling thread's network namespace. Changes nothing yet.
    ///
    /// # Errors
    /// The kernel is too old, the configuration cannot be, or there is no netlink.
    pub fn open(config: Config) -> Result<Self, Error> {
        let name = config.table.as_str();
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if name.is_empty()
            || name.len() > 64
            || !name.chars().all(fits)
            || !name.starts_with(|c: char| c.is_ascii_alphabetic())
        {
            return Err(Error::Config(format!(
                "table name {name:?} cannot be: a letter, then letters, digits, `_` and `-`, \
                 at most 64"
            )));
        }
        if config.log.is_some_and(|log| log.per_second == 0) {
            return Err(Error::Config("a log limit of 0 packets a second logs nothing".into()));
        }
        check_kernel()?;
        let socket = Socket::open()?;
        Ok(Self { config, socket, model: None, shape: Shape::default() })
    }

    /// The rules that full tables would be enforced with, as text for people.
    pub fn ruleset(&self, tables: &NodeTables) -> String {
        Program::new(Shape::of(tables), self.config.log).to_string()
    }

    fn comment(program: &Program) -> String {
        format!("{OURS}layout 1 program {:016x}", program.fingerprint())
    }

    /// Reads our table.
    fn read(&mut self, program: &Program) -> Result<Found, Error> {
        let name = self.config.table.clone();
        let Some(table) = dump::table(&mut self.socket, &name)? else { return Ok(Found::Nothing) };
        if !table.comment.starts_with(OURS) {
            return Err(Error::Foreign { table: name });
        }
        let other = |what: String| Drift::OtherProgram { what };
        let mut unfit = Vec::new();
        if table.comment != Self::comment(program) {
            unfit.push(other(format!("table inet {name} ({})", table.comment)));
            return Ok(Found::Unfit(unfit));
        }
        if table.dormant {
            unfit.push(other(format!("table inet {name} is dormant and so")));
        }
        let mut rows = Vec::new();
        for chain in &program.chains {
            let found = dump::rules(&mut self.socket, &name, chain.name)?;
            if found.iter().ne(chain.rules.iter().map(|rule| &rule.comment)) {
                if is_rows(chain.name) {
                    rows.push(chain.name);
                } else {
                    unfit.push(other(format!("chain {}", chain.name)));
                }
            }
        }
        let mut elements = Vec::new();
        for set in SetId::ALL {
            match dump::elements(&mut self.socket, &name, set)? {
                None => unfit.push(Drift::NotThere { what: format!("set {set}") }),
                Some(content) => {
                    if content.strange > 0 {
                        unfit.push(other(format!("set {set} ({} elements)", content.strange)));
                    }
                    elements.extend(content.elements);
                }
            }
        }
        let fit = unfit.is_empty();
        Ok(if fit { Found::Ours { elements, rows } } else { Found::Unfit(unfit) })
    }

    /// The steps that make the table with everything but its elements.
    fn build(program: &Program) -> Vec<Step> {
        let mut steps = vec![
            // Makes one if there is none, so that the deletion cannot fail.
            Step::NewTable { comment: String::new() },
            Step::DelTable,
            Step::NewTable { comment: Self::comment(program) },
        ];
        steps.extend(SetId::ALL.map(Step::NewSet));
        steps.extend(program.chains.iter().cloned().map(Step::NewChain));
        for chain in &program.chains {
            steps.extend(chain.rules.iter().map(|rule| Step::NewRule(chain.name, rule.clone())));
        }
        steps
    }

    /// One transaction.
    fn commit(
        &mut self,
        steps: &[Step],
        remove: &[Element],
        add: &[Element],
        generation: Option<u32>,
    ) -> Result<Outcome, Error> {
        let mut batch = Batch::new(&self.config.table, &mut self.socket, generation);
        for step in steps {
            batch.step(step);
        }
        batch.delete(remove);
        batch.add(add);
        let capacity = self.socket.capacity(batch.len());
        if batch.len() > capacity {
            return Ok(Outcome::TooLarge(capacity));
        }
        batch.commit(&mut self.socket)
    }

    /// Makes the table anew in several transactions, which is for user namespaces only: there the
    /// send buffer, and with it a transaction, cannot be larger than `net.core.wmem_max` allows.
    /// Until the last one every isolated pod is closed.
    fn load_in_parts(
        &mut self,
        program: &Program,
        tables: &NodeTables,
        capacity: usize,
    ) -> Result<(), Error> {
        let is_subject = |e: &Element| matches!(e.set, SetId::Egress(_) | SetId::Ingress(_));
        let (mut subjects, mut others): (Vec<_>, Vec<_>) =
            set::elements(tables).partition(is_subject);
        subjects.sort_by_key(|element| element.set);
        others.sort_by_key(|element| element.set);
        let closed: Vec<Element> =
            subjects.iter().map(|e| Element { data: set::CLOSED, ..*e }).collect();
        self.part(&Self::build(program), &[], &closed)?;
        for chunk in others.chunks((capacity / ELEMENT_LIMIT).saturating_sub(2).max(1)) {
            self.part(&[], &[], chunk)?;
        }
        self.part(&[], &closed, &subjects)
    }

    fn part(&mut self, steps: &[Step], remove: &[Element], add: &[Element]) -> Result<(), Error> {
        match self.commit(steps, remove, add, None)? {
            Outcome::Done => Ok(()),
            Outcome::Conflict(error) => Err(error),
            Outcome::Stale => Err(Error::Busy { table: self.config.table.clone() }),
            Outcome::TooLarge(capacity) => Err(Error::TooLarge { capacity }),
        }
    }

    fn load(&mut self, tables: &NodeTables) -> Result<(), Error> {
        let shape = Shape::of(tables);
        let program = Program::new(shape, self.config.log);
        self.model = None;
        for attempt in 0..=PATIENCE {
            let generation = dump::generation(&mut self.socket)?;
            let outcome = match self.read(&program)? {
                Found::Ours { elements, rows } if attempt < PATIENCE => {
                    let steps = rewrite(&program, |chain| rows.contains(&chain));
                    let (remove, add) = difference(&elements, tables);
                    self.commit(&steps, &remove, &add, Some(generation))?
                }
                Found::Nothing | Found::Unfit(_) | Found::Ours { .. } => {
                    let mut add: Vec<Element> = set::elements(tables).collect();
                    add.sort_by_key(|element| element.set);
                    self.commit(&Self::build(&program), &[], &add, None)?
                }
            };
            match outcome {
                Outcome::Done => {}
                Outcome::TooLarge(capacity) => self.load_in_parts(&program, tables, capacity)?,
                Outcome::Stale => continue,
                Outcome::Conflict(error) => return Err(error),
            }
            self.shape = shape;
            self.model = Some(model_of(tables));
            return Ok(());
        }
        Err(Error::Busy { table: self.config.table.clone() })
    }
}

impl DataPlane for Nftables {
    fn name(&self) -> &'static str {
        "nftables"
    }

    fn replace(&mut self, tables: &NodeTables) -> Result<(), Error> {
        self.load(tables)
    }

    fn update(&mut self, delta: &Delta) -> Result<(), Error> {
        let Some(model) = self.model.as_ref() else { return Err(Error::NotLoaded) };
        let (remove, add) = changes(model, delta);
        let shape = self.shape.with(Shape::added(delta));
        let mut steps = Vec::new();
        if shape != self.shape {
            let old = Program::new(self.shape, self.config.log);
            let new = Program::new(shape, self.config.log);
            let differs = |name: &str| {
                let find = |program: &Program| program.rows().find(|c| c.name == name).cloned();
                find(&old) != find(&new)
            };
            steps = rewrite(&new, differs);
        }
        let outcome = self.commit(&steps, &remove, &add, None);
        let Some(model) = self.model.as_mut() else { return Err(Error::NotLoaded) };
        match outcome {
            Ok(Outcome::Done) => {
                apply(model, delta);
                self.shape = shape;
                Ok(())
            }
            Ok(Outcome::Stale | Outcome::Conflict(_) | Outcome::TooLarge(_)) => {
                // Somebody else has changed the table, or the change is as large as a load: what
                // is to be is known, so make it so.
                let mut tables = model.clone();
                apply(&mut tables, delta);
                let before = self.model.take();
                self.load(&tables).inspect_err(|_| self.model = before)
            }
            Err(error) => {
                if matches!(error, Error::Lost(_)) {
                    self.model = None;
                }
                Err(error)
            }
        }
    }

    fn verify(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
        let program = Program::new(self.shape.with(Shape::of(tables)), self.config.log);
        for _ in 0..PATIENCE {
            let before = dump::generation(&mut self.socket)?;
            let found = self.read(&program)?;
            if dump::generation(&mut self.socket)? == before {
                return Ok(match found {
                    Found::Nothing => {
                        let what = format!("table inet {}", self.config.table);
                        vec![Drift::NotThere { what }]
                    }
                    Found::Unfit(drift) => drift,
                    Found::Ours { elements, rows } => drift(&elements, &rows, tables),
                });
            }
        }
        Err(Error::Busy { table: self.config.table.clone() })
    }

    fn remove(&mut self) -> Result<(), Error> {
        self.model = None;
        let name = self.config.table.clone();
        match dump::table(&mut self.socket, &name)? {
            None => return Ok(()),
            Some(table) if !table.comment.starts_with(OURS) => {
                return Err(Error::Foreign { table: name });
            }
            Some(_) => {}
        }
        match self.commit(&[Step::DelTable], &[], &[], None)? {
            // At worst somebody else was faster.
            Outcome::Done | Outcome::Stale | Outcome::Conflict(_) | Outcome::TooLarge(_) => Ok(()),
        }
    }
}

fn check_kernel() -> Result<(), Error> {
    let failed = |source| Error::Socket { doing: "ask for the kernel's version", source };
    let release = uname().map_err(|errno| failed(errno.into()))?;
    let release = release.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut number = || numbers.next().and_then(Result::ok).unwrap_or(0);
    if (number(), number()) < NEEDED {
        return Err(Error::Kernel {
            release: release.into_owned(),
            needs: "5.13",
            reason: "nftables maps with a catch-all element",
        });
    }
    Ok(())
}

/// What the handle keeps of the tables: what the kernel holds, without words.
fn model_of(tables: &NodeTables) -> NodeTables {
    NodeTables { rules: Default::default(), isolated_by: Default::default(), ..tables.clone() }
}

fn apply(model: &mut NodeTables, delta: &Delta) {
    model.apply(&Delta { rules: Vec::new(), isolated_by: Vec::new(), ..delta.clone() });
}

/// Steps that write `_rows` chains anew.
fn rewrite(program: &Program, which: impl Fn(&str) -> bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for chain in program.rows().filter(|chain| which(chain.name)) {
        steps.push(Step::Flush(chain.name));
        steps.extend(chain.rules.iter().map(|rule| Step::NewRule(chain.name, rule.clone())));
    }
    steps
}

/// What leads from the kernel's elements to the tables': removals, then additions, both in order
/// of their sets. What stays is not touched.
fn difference(found: &[Element], tables: &NodeTables) -> (Vec<Element>, Vec<Element>) {
    let mut remove = Vec::new();
    let mut kept = FxHashSet::with_capacity_and_hasher(found.len(), Default::default());
    for element in found {
        if set::wanted(tables, element.set, element.key) == Some(element.data) {
            kept.insert((element.set, element.key));
        } else {
            remove.push(*element);
        }
    }
    let missing = |element: &Element| !kept.contains(&(element.set, element.key));
    let mut add: Vec<Element> = set::elements(tables).filter(missing).collect();
    remove.sort_by_key(|element| element.set);
    add.sort_by_key(|element| element.set);
    (remove, add)
}

/// What a change comes to in elements: removals, then additions, both in order of their sets.
fn changes(model: &NodeTables, delta: &Delta) -> (Vec<Element>, Vec<Element>) {
    let (mut remove, mut add) = (Vec::new(), Vec::new());
    let mut change = |before: Option<Element>, after: Option<Element>| {
        if before != after {
            remove.extend(before);
            add.extend(after);
        }
    };
    let mut touched: FxHashMap<IpAddr, [bool; 2]> = FxHashMap::default();
    for ((direction, address), class) in &delta.subjects {
        let element = |class| Element::subject(*direction, *address, class);
        let before = model.subjects.get(&(*direction, *address)).copied();
        change(before.map(element), class.map(element));
        let isolated = touched.entry(*address).or_insert_with(|| {
            [Direction::Egress, Direction::Ingress]
                .map(|direction| model.subjects.contains_key(&(direction, *address)))
        });
        isolated[usize::from(*direction == Direction::Ingress)] = class.is_some();
    }
    for (address, isolated) in touched {
        let own = |there: bool| there.then(|| Element::own(address));
        change(own(set::is_subject(model, address)), own(isolated.contains(&true)));
    }
    for (address, class) in &delta.peers {
        let element = |class| Element::peer(*address, class);
        change(model.peers.get(address).copied().map(element), class.map(element));
    }
    for (key, verdict) in &delta.verdicts {
        let before = model.verdicts.get(key).and_then(|v| Element::row(*key, v.allow));
        change(before, verdict.and_then(|v| Element::row(*key, v.allow)));
    }
    for range in &delta.blocks_removed {
        change(model.blocks.get(range).map(|class| Element::block(*range, *class)), None);
    }
    for (range, class) in &delta.blocks_added {
        change(None, Some(Element::block(*range, *class)));
    }
    remove.sort_by_key(|element| element.set);
    add.sort();
    (remove, add)
}

fn drift(found: &[Element], rows: &[&str], tables: &NodeTables) -> Vec<Drift> {
    let mut out: Vec<Drift> =
        rows.iter().map(|chain| Drift::OtherProgram { what: format!("chain {chain}") }).collect();
    let mut seen = FxHashSet::with_capacity_and_hasher(found.len(), Default::default());
    for element in found {
        seen.insert((element.set, element.key));
        match set::wanted(tables, element.set, element.key) {
            Some(data) if data == element.data => {}
            Some(data) => out.push(Drift::Different {
                entry: Element { data, ..*element }.to_string(),
                found: element.data.to_string(),
            }),
            None => out.push(Drift::Extra { entry: element.to_string() }),
        }
    }
    let missing = set::elements(tables).filter(|e| !seen.contains(&(e.set, e.key)));
    out.extend(missing.map(|element| Drift::Missing { entry: element.to_string() }));
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use nix::sched::{CloneFlags, unshare};
    use podwall_compile::tables::{PeerId, PortKey, SubjectId, Verdict, VerdictKey};
    use podwall_policy::port::Protocol;

    use super::*;

    fn tables(peers: u32) -> NodeTables {
        let mut tables = NodeTables::default();
        for index in 0..peers {
            tables.peers.insert(Ipv4Addr::from(0x0a00_0000 + index).into(), PeerId(index % 9));
        }
        for index in 0..5 {
            let address = Ipv4Addr::from(0x0a00_0000 + index).into();
            tables.subjects.insert((Direction::Egress, address), SubjectId(1 + index));
            let ports = PortKey::Port(Protocol::TCP, index as u16);
            let key = VerdictKey { subject: SubjectId(1 + index), peer: PeerId(2), ports };
            tables.verdicts.insert(key, Verdict { allow: true, rule: None });
        }
        tables
    }

    #[test]
    fn what_does_not_fit_into_one_transaction_goes_in_parts() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut plane = Nftables::open(Config::default()).unwrap();
            plane.socket.limit = 30_000;
            for count in [3000, 10, 5000] {
                let next = tables(count);
                plane.replace(&next).unwrap();
                assert_eq!(plane.verify(&next).unwrap(), []);
            }
            let mut peers: Vec<_> = (0..2000)
                .map(|i| (Ipv4Addr::from(0x0b00_0000 + i).into(), Some(PeerId(3))))
                .collect();
            plane.update(&Delta { peers: peers.clone(), ..Delta::default() }).unwrap();
            let mut now = tables(5000);
            now.apply(&Delta { peers: peers.clone(), ..Delta::default() });
            assert_eq!(plane.verify(&now).unwrap(), []);
            peers.iter_mut().for_each(|(_, class)| *class = None);
            plane.update(&Delta { peers, ..Delta::default() }).unwrap();
            assert_eq!(plane.verify(&tables(5000)).unwrap(), []);
            plane.socket.limit = 1000;
            let error = plane.replace(&tables(6000)).unwrap_err();
            assert!(error.to_string().contains("wmem_max"), "{error}");
        };
        std::thread::spawn(inside).join().unwrap();
    }
}
