//! How does nftables decide as the tables say?
//!
//! ```text
//!   NodeTables ──▶ elements of 18 sets ─┐            ┌─ rules that never change (program)
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
//! - A hash that grows by itself (one without a size) makes a full load slower by a quarter, since
//!   its chains are long until a worker gets to it; lookups in it cost more; and a dump in several
//!   parts leaves elements out or brings them twice while it grows, without a word. So each hash
//!   has a size ([`set::sizes`]). What other versions left may be without: a dump counts only when
//!   a second one agrees.
//! - A change in a set of concatenated ranges copies the set: 10 ms with 1,000 ranges of ports in
//!   it. Single ports, and ranges of addresses (a tree), do not care how many there are.
//! - nft 1.0.6 ends with a failed assertion where a rule uses a map's result inside a key, and
//!   where a map of verdicts says a byte order; both are avoided ([`program`], [`encode`]). It
//!   shows classes in maps of ranges with their bytes turned round, and crashes when it is told to
//!   add an element to a map of ranges that has a catch-all element.
//! - What packets cost (a connection of some ten, 30 µs, both pods isolated), about: an empty base
//!   chain 1 % of it, rules before the lookups 1.5 %, the lookups 4 %. Counters of elements cost
//!   less than 0.5 %.
//! - br_netfilter calls the postrouting hook without an incoming interface ([`program`]).
//! - A log prefix is a constant of its rule; the subject class cannot stand in it.

pub(crate) mod batch;
pub(crate) mod conntrack;
mod counts;
mod diff;
pub(crate) mod dump;
pub(crate) mod encode;
mod glance;
pub(crate) mod ir;
mod load;
mod log;
mod program;
mod set;
mod standing;

use std::time::Duration;

use nix::sys::utsname::uname;
use podwall_compile::tables::{Delta, NodeTables};

use self::batch::{Batch, Outcome, Step};
use self::counts::Book;
use self::diff::{changes, drift};
use self::load::{Found, rewrite};
use self::program::{Program, Shape};
use self::set::Element;
use self::standing::Standing;
use crate::counters::Counters;
use crate::limits::{self, Limited, Limiter};
use crate::namespace::Namespace;
use crate::netlink::socket::Socket;
use crate::{DataPlane, Denials, Drift, Error, Fill, Limits};

/// Catch-all elements came with 5.13; incoming interfaces in postrouting with 5.7.
const NEEDED: (u32, u32) = (5, 13);
/// Starts the comment of every table that Podwall makes.
const OURS: &str = "podwall ";
/// How often to read again when somebody else changes nftables meanwhile, before the table is
/// rewritten without looking.
const PATIENCE: usize = 5;

/// How the nftables data plane is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name of the table, in family `inet`. Letters, digits, `_` and `-`, at most 64.
    pub table: String,
    /// Where to report denied packets; `None`: nowhere.
    pub log: Option<Log>,
    /// How much the tables may hold.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self { table: "podwall".into(), log: None, limits: Limits::default() }
    }
}

/// Copies of denied packets for a listener on an NFLOG group. The prefix is `podwall egress ` or
/// `podwall ingress `; the packet itself says the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The NFLOG group.
    pub group: u16,
    /// At most so many packets a second, per direction. At least 1.
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
    limiter: Limiter,
    namespace: Namespace,
    socket: Socket,
    /// What the kernel holds; `None` before the first full load and after a lost answer.
    model: Option<NodeTables>,
    /// Whose the numbers are that elements have counted.
    book: Book,
    /// What the `_rows` chains look up. Grows with changes, is exact after a full load.
    shape: Shape,
    /// Whether some row has denied since the last full load.
    denies: bool,
    standing: Standing,
}

impl Nftables {
    /// Opens the data plane in the calling thread's network namespace. Changes nothing yet.
    ///
    /// # Errors
    /// The kernel is too old, the configuration cannot be, or there is no netlink.
    pub fn open(config: Config) -> Result<Self, Error> {
        check_name(&config.table)?;
        if config.log.is_some_and(|log| log.per_second == 0) {
            return Err(Error::Config("a log limit of 0 packets a second logs nothing".into()));
        }
        check_kernel()?;
        let socket = Socket::open()?;
        Ok(Self {
            limiter: Limiter::new(config.limits),
            config,
            namespace: Namespace::current()?,
            socket,
            model: None,
            book: Book::default(),
            shape: Shape::default(),
            denies: false,
            standing: Standing::new(),
        })
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
}

impl Limited for Nftables {
    fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }

    fn load(&mut self, tables: &NodeTables) -> Result<(), Error> {
        let before = self.model.take();
        self.write_all(tables, before.as_ref())
    }

    fn change(&mut self, delta: &Delta) -> Result<(), Error> {
        let Some(model) = self.model.as_ref() else { return Err(Error::NotLoaded) };
        let (mut remove, add) = changes(model, delta);
        let denies = self.denies || delta.verdicts.iter().any(|(_, v)| v.is_some_and(|v| !v.allow));
        let closes = standing::may_close(model, denies, delta);
        if closes && self.standing.on {
            remove.push(Element::STANDING);
        }
        let shape = self.shape.with(Shape::added(delta));
        let mut steps = Vec::new();
        let ranges = delta.pod_ranges.as_ref().unwrap_or(&model.pod_ranges);
        if shape != self.shape || *ranges != model.pod_ranges {
            let old = Program::new(self.shape, &model.pod_ranges, self.config.log);
            let new = Program::new(shape, ranges, self.config.log);
            let differs = |name: &str| {
                let find = |program: &Program| program.rows().find(|c| c.name == name).cloned();
                find(&old) != find(&new)
            };
            steps = rewrite(&new, differs);
        }
        // If they cannot be read, some packets are not counted.
        let packets = self.packets_before(delta).unwrap_or_default();
        let outcome = self.commit(&steps, &remove, &add, None);
        if matches!(outcome, Ok(Outcome::Done)) {
            self.count_change(&packets, delta, &remove);
        }
        let Some(model) = self.model.as_mut() else { return Err(Error::NotLoaded) };
        match outcome {
            Ok(Outcome::Done) => {
                apply(model, delta);
                self.shape = shape;
                self.denies = denies;
                if closes {
                    // Also what was found so far, by the tables before.
                    self.standing.end();
                }
                Ok(())
            }
            Ok(Outcome::Stale | Outcome::Full | Outcome::Conflict(_) | Outcome::TooLarge(_)) => {
                // Somebody else has changed the table, a set is full, or the change is large: what
                // is to be is known, so make it so.
                let mut tables = model.clone();
                apply(&mut tables, delta);
                let before = self.model.take();
                let written = self.write_all(&tables, before.as_ref());
                written.inspect_err(|_| self.model = before)
            }
            Err(error) => {
                if matches!(error, Error::Lost(_)) {
                    self.model = None;
                }
                Err(error)
            }
        }
    }

    fn look(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
        Self::look(self, tables)
    }

    fn compare(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
        let shape = self.shape.with(Shape::of(tables));
        let program = Program::new(shape, &tables.pod_ranges, self.config.log);
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
                    Found::Ours { mut elements, rows, .. } => {
                        // Without it packets are judged that need not be: no drift.
                        elements.retain(|e| !self.standing.on || *e != Element::STANDING);
                        drift(&elements, &rows, tables)
                    }
                });
            }
        }
        Err(Error::Busy { family: "inet", table: self.config.table.clone() })
    }
}

impl DataPlane for Nftables {
    fn name(&self) -> &'static str {
        "nftables"
    }

    fn replace(&mut self, tables: &NodeTables) -> Result<(), Error> {
        limits::replace(self, tables)?;
        self.name_counters(None);
        Ok(())
    }

    fn update(&mut self, delta: &Delta) -> Result<(), Error> {
        limits::update(self, delta)?;
        self.name_counters(Some(delta));
        Ok(())
    }

    fn settle(&mut self) -> Result<Option<Duration>, Error> {
        self.stand()
    }

    fn verify(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
        limits::verify(self, tables)
    }

    fn glance(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
        limits::glance(self, tables)
    }

    fn counters(&mut self) -> Result<Counters, Error> {
        self.read_counters()
    }

    fn fill(&self) -> Fill {
        self.limiter.fill()
    }

    fn denials(&mut self) -> Result<Denials, Error> {
        let Some(log) = self.config.log else {
            return Err(Error::Config(
                "this data plane was opened without a log: nothing reports what it drops".into(),
            ));
        };
        log::follow(&self.namespace, log.group)
    }

    /// The rules, and the sets without their elements.
    fn text(&self, tables: &NodeTables) -> String {
        let tables = self.limiter.view(tables);
        Program::new(Shape::of(&tables), &tables.pod_ranges, self.config.log).to_string()
    }

    fn remove(&mut self) -> Result<(), Error> {
        self.model = None;
        self.standing.on = false;
        self.limiter.forget();
        self.book = Book::default();
        let name = self.config.table.clone();
        match dump::table(&mut self.socket, &name)? {
            None => return Ok(()),
            Some(table) if !table.comment.starts_with(OURS) => {
                return Err(Error::Foreign { family: "inet", table: name });
            }
            Some(_) => {}
        }
        match self.commit(&[Step::DelTable], &[], &[], None)? {
            // At worst somebody else was faster.
            Outcome::Done
            | Outcome::Stale
            | Outcome::Full
            | Outcome::Conflict(_)
            | Outcome::TooLarge(_) => Ok(()),
        }
    }
}

/// Whether a table can have the name.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
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
    Ok(())
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
    NodeTables {
        rules: Default::default(),
        isolated_by: Default::default(),
        policies: Default::default(),
        ..tables.clone()
    }
}

fn apply(model: &mut NodeTables, delta: &Delta) {
    model.apply(&Delta {
        rules: Vec::new(),
        isolated_by: Vec::new(),
        policies: Vec::new(),
        ..delta.clone()
    });
}
