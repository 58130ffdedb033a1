//! Does what leaves a pod's interface come from that pod?
//!
//! ```text
//!   pod eth0 ══ veth ══▶ v5 ─ ingress hook ─ p5: own address? ─▶ bridge or routing ─▶ policies
//!                                            └ no: counted, dropped
//! ```
//!
//! Policies know a pod by its address, so a pod must not use another's. The guard is a table of family
//! `netdev` of its own, beside any data plane: it sees a frame before bridge, routing and connection
//! tracking do. What passes stands in `rules.rs`; rules are constant, and each interface has a base
//! chain that jumps to them and entries (interface, address) in sets. The state outlives the process.
//!
//! What the kernel does with an interface's chain (Linux 6.18, tried in `tests/guard.rs`):
//!
//! - Since 6.16 a chain hangs at interfaces by *name*: it stays when the interface goes, catches the
//!   next one of that name at once, and lets go of one that gets another name. Up to 6.15 the chain goes
//!   with its interface. Entries have the interface's *number*, and the kernel gives numbers again only
//!   after two billion others, or on demand. So the next interface of a name is closed until it is
//!   guarded for itself, and the next one of a number begins with nothing of the one before.
//! - A chain for an interface that is not there is taken without a word since 6.16. So interfaces are
//!   looked up by number before a change, and again behind it.
//! - A change of a chain has the kernel look through all chains of the table; a change of addresses has
//!   not. Either is one transaction about one interface, whatever the others are.
//! - Programs at tc's ingress run earlier. Those that take a packet straight to another interface, as
//!   some network plugins do, take it past the guard.

mod found;
mod link;
mod rules;
mod state;
mod steps;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use self::found::chain_name;
pub use self::link::{PodLink, pod_link};
use self::link::{Which, ask, other_end};
use self::state::{Changes, Fresh, Held, State};
use self::table::{build, comment, write};
use crate::netlink::socket::Socket;
use crate::nft::batch::{Batch, Outcome, Step};
use crate::nft::dump;
use crate::nft::encode::TableFamily;
use crate::{Drift, Error};

const FAMILY: TableFamily = TableFamily::Netdev;
/// Before all others: flow tables, other filters. Of a netdev hook any number will do.
const PRIORITY: i32 = -500;
/// Starts the comment of every table of ours.
const OURS: &str = "podwall guard ";
/// How often to read again when somebody else changes nftables meanwhile.
const PATIENCE: usize = 8;

/// How the guard is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name of the table, in family `netdev`. Letters, digits, `_` and `-`, at most 64.
    pub table: String,
    /// Whether pods may ask for leases: DHCP of 0.0.0.0, DHCPv6 of link-local addresses.
    pub dhcp: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { table: "podwall_guard".to_owned(), dhcp: true }
    }
}

/// An interface of the guard's network namespace: the node's end of a pod's veth pair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface {
    /// Its number, from 1.
    pub index: u32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (number {})", self.name, self.index)
    }
}

/// What may come from an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Source addresses of either family, in any order: the pod's own, and others that its operator
    /// allows. None: nothing but what every interface may send to get an address.
    pub addresses: Vec<IpAddr>,
    /// The pod's hardware address; `None`: any.
    pub mac: Option<[u8; 6]>,
}

/// The guard of one network namespace: of the thread that opens it. Used from any thread.
pub struct Guard {
    config: Config,
    nftables: Socket,
    interfaces: Socket,
    /// `None`: not read yet, or not known any more.
    known: Option<Known>,
}

/// What the kernel is known to hold.
struct Known {
    state: State,
    table: Table,
    /// The generation that it was read at; `None`: it is what this process has made of it.
    generation: Option<u32>,
}

/// What there is to build on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Absent,
    /// To be made anew: of another version or configuration, damaged, or too small.
    Unfit,
    Fit,
}

impl Guard {
    /// Opens the guard in the calling thread's network namespace. Changes nothing: what an earlier
    /// process left stays in force.
    ///
    /// # Errors
    /// The table's name cannot be, or there is no netlink.
    pub fn open(config: Config) -> Result<Self, Error> {
        crate::nft::check_name(&config.table)?;
        let (nftables, interfaces) = (Socket::open()?, Socket::route()?);
        Ok(Self { config, nftables, interfaces, known: None })
    }

    /// Whether this kernel can guard, in the calling thread's network namespace: has it take all the
    /// rules and take them away again, in one transaction, at the interface `lo`.
    ///
    /// # Errors
    /// [`Error::NoGuard`], or no right to change nftables.
    pub fn check() -> Result<(), Error> {
        // A name that nobody else takes, in this moment either.
        let table = format!("podwall_guard_check_{}", std::process::id());
        let config = Config { table, ..Config::default() };
        let mut guard = Self::open(config.clone())?;
        let lo = Interface { index: 1, name: "lo".to_owned() };
        let state = State::of([(&lo, &Allowed::default())]);
        let none = BTreeMap::new();
        let outcome = guard.commit(None, |batch| {
            build(batch, &config, Table::Absent, &state, &none);
            batch.step(&Step::DelTable);
        });
        match outcome {
            Ok(Outcome::Done) => Ok(()),
            Ok(Outcome::Conflict(Error::Refused { what, source, .. }))
            | Err(Error::Refused { what, source, .. }) => Err(Error::NoGuard { what, source }),
            Ok(Outcome::Conflict(error)) | Err(error) => Err(error),
            Ok(Outcome::Stale | Outcome::Full) => Err(guard.busy()),
            Ok(Outcome::TooLarge(capacity)) => Err(Error::TooLarge { capacity }),
        }
    }

    /// The interface of this namespace that is the other end of a pod's ([`pod_link`]).
    ///
    /// # Errors
    /// There is none of that number, or it is not the other end: that is elsewhere.
    pub fn interface_of(&mut self, pod: &PodLink) -> Result<Interface, Error> {
        other_end(&mut self.interfaces, pod)
    }

    /// Makes the kernel guard exactly these interfaces, whatever it held before. All at once; one that
    /// was guarded is at no moment open. Gives back those that are not there (any more): they are not
    /// guarded.
    ///
    /// # Errors
    /// [`Error::Foreign`]: a table of that name is not Podwall's. Or the kernel refuses: it then holds
    /// what it held before.
    pub fn set(&mut self, wanted: &BTreeMap<Interface, Allowed>) -> Result<Vec<Interface>, Error> {
        let mut gone = Vec::new();
        let mut there = BTreeMap::new();
        for (interface, allowed) in wanted {
            if self.is_there(interface)? {
                there.insert(interface, allowed);
            } else {
                gone.push(interface.clone());
            }
        }
        let state = State::of(there.iter().map(|(interface, allowed)| (*interface, *allowed)));
        let made = self.reach(|held| Changes::between(held, &state))?;
        for interface in made {
            if !self.is_there(&interface)? {
                self.remove(&interface)?;
                gone.push(interface);
            }
        }
        Ok(gone)
    }

    /// Guards one interface, or changes what may come from it. Nothing else changes, but that
    /// whatever was known of an interface of its number or its name, which is gone, goes.
    ///
    /// # Errors
    /// [`Error::NoInterface`]: it is not there, and not guarded. Else as [`Self::set`].
    pub fn add(&mut self, interface: &Interface, allowed: &Allowed) -> Result<(), Error> {
        let gone = || Error::NoInterface { interface: interface.to_string() };
        if !self.is_there(interface)? {
            return Err(gone());
        }
        let state = State::of([(interface, allowed)]);
        self.reach(|held| Changes::between(&held.about(interface), &state))?;
        if self.is_there(interface)? {
            return Ok(());
        }
        self.remove(interface)?;
        Err(gone())
    }

    /// Guards an interface no longer: everything may come from it. Fine if it is not guarded or not
    /// there; another one that has its number or its name by now is left alone.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn remove(&mut self, interface: &Interface) -> Result<(), Error> {
        let plan = |held: &State| {
            let same = |held: &Held| held.name == interface.name;
            let mut about = held.about(interface);
            about.chains.retain(|index, held| *index == interface.index && same(held));
            about.entries.retain(|entry| about.chains.contains_key(&entry.index));
            Changes::between(&about, &State::default())
        };
        self.reach(plan).map(drop)
    }

    /// The interfaces that are guarded, by whomever: what an earlier process left, too. One of them
    /// may be gone.
    ///
    /// # Errors
    /// The kernel cannot be asked, or a table of that name is not Podwall's.
    pub fn guarded(&mut self) -> Result<BTreeMap<Interface, Allowed>, Error> {
        Ok(self.know()?.state.guarded())
    }

    /// Packets that were dropped at each interface since it is guarded. A process that takes over
    /// goes on counting.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn dropped(&mut self) -> Result<BTreeMap<Interface, u64>, Error> {
        self.know()?;
        let packets = found::dropped(&mut self.nftables, &self.config.table)?;
        let chains = self.known.iter().flat_map(|known| &known.state.chains);
        let named = chains.map(|(index, held)| {
            let interface = Interface { index: *index, name: held.name.clone() };
            (interface, packets.get(index).copied().unwrap_or(0))
        });
        Ok(named.collect())
    }

    /// Compares what the kernel holds with what this process has put there; changes nothing. Empty:
    /// as it should be. [`Self::set`] repairs what it finds.
    ///
    /// # Errors
    /// [`Error::NotLoaded`]: nothing was put there yet. Or the kernel cannot be asked.
    pub fn verify(&mut self) -> Result<Vec<Drift>, Error> {
        let Some(known) = &self.known else { return Err(Error::NotLoaded) };
        let wanted = known.state.clone();
        let mut drift = Vec::new();
        let mut missing = Vec::new();
        for (index, held) in &wanted.chains {
            let interface = Interface { index: *index, name: held.name.clone() };
            if !self.is_there(&interface)? {
                missing.push(Drift::NotThere { what: format!("interface {interface}") });
            }
        }
        let table = format!("table netdev {}", self.config.table);
        let (found, _) = self.read()?;
        if found.comment.is_none() && !wanted.chains.is_empty() {
            drift.push(Drift::NotThere { what: table });
        } else if found.comment.is_some() {
            let ours = found.comment == Some(comment(&self.config));
            let other = (!ours).then_some(table).into_iter().chain(found.strange);
            drift.extend(other.map(|what| Drift::OtherProgram { what }));
            let changes = Changes::between(&found.state, &wanted);
            let chain = |index: &u32| format!("chain {}", chain_name(*index));
            let extra = changes.chains_gone.iter().map(chain);
            let extra = extra.chain(changes.entries_gone.iter().map(state::Entry::text));
            drift.extend(extra.map(|entry| Drift::Extra { entry }));
            let lacks = changes.chains.iter().map(|(index, ..)| chain(index));
            let lacks = lacks.chain(changes.entries.iter().map(state::Entry::text));
            drift.extend(lacks.map(|entry| Drift::Missing { entry }));
        }
        if !drift.is_empty() {
            self.known = None;
        }
        drift.extend(missing);
        Ok(drift)
    }

    /// Guards nothing any more, and leaves nothing. Nothing there is no error.
    ///
    /// # Errors
    /// [`Error::Foreign`], or the kernel refuses.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.known = None;
        let found = dump::table_of(FAMILY, &mut self.nftables, &self.config.table)?;
        let Some(found) = found else { return Ok(()) };
        self.ours(&found.comment)?;
        // At worst somebody else was faster.
        self.commit(None, |batch| batch.step(&Step::DelTable)).map(drop)
    }

    /// The rules, as text for people.
    pub fn text(&self) -> String {
        let chains = rules::chains(self.config.dhcp);
        let own = rules::of_interface(None, 0).map(|rule| format!("    {rule}\n")).concat();
        let texts: Vec<String> = chains.iter().map(ToString::to_string).collect();
        format!("{}\nchain p<number> {{  # ingress of that interface\n{own}}}\n", texts.join("\n"))
    }

    fn is_there(&mut self, interface: &Interface) -> Result<bool, Error> {
        let found = ask(&mut self.interfaces, Which::Number(interface.index))?;
        Ok(found.is_some_and(|link| link.index == interface.index && link.name == interface.name))
    }

    /// Reads the table, and the generation before.
    fn read(&mut self) -> Result<(found::Found, u32), Error> {
        for _ in 0..PATIENCE {
            let before = dump::generation(&mut self.nftables)?;
            let found = found::read(&mut self.nftables, &self.config.table, self.config.dhcp)?;
            found.comment.iter().try_for_each(|comment| self.ours(comment))?;
            if dump::generation(&mut self.nftables)? == before {
                return Ok((found, before));
            }
        }
        Err(self.busy())
    }

    fn ours(&self, comment: &str) -> Result<(), Error> {
        let table = self.config.table.clone();
        let foreign = Error::Foreign { family: FAMILY.name(), table };
        if comment.starts_with(OURS) { Ok(()) } else { Err(foreign) }
    }

    fn busy(&self) -> Error {
        Error::Busy { family: FAMILY.name(), table: self.config.table.clone() }
    }

    fn know(&mut self) -> Result<&Known, Error> {
        let known = match self.known.take() {
            Some(known) => known,
            None => {
                let (found, generation) = self.read()?;
                let table = match &found.comment {
                    None => Table::Absent,
                    Some(found_comment) => {
                        let fit =
                            *found_comment == comment(&self.config) && found.strange.is_empty();
                        if fit { Table::Fit } else { Table::Unfit }
                    }
                };
                Known { state: found.state, table, generation: Some(generation) }
            }
        };
        Ok(self.known.insert(known))
    }

    /// Makes the changes that `plan` asks for, of whatever the kernel holds. The interfaces that have
    /// got chains.
    fn reach(&mut self, plan: impl Fn(&State) -> Changes) -> Result<Vec<Interface>, Error> {
        let mut refused = None;
        for attempt in 0..PATIENCE {
            let known = self.know()?;
            let changes = plan(&known.state);
            let (table, generation) = (known.table, known.generation);
            if changes.is_empty() && table != Table::Unfit {
                return Ok(Vec::new());
            }
            // With somebody else always changing something, the last attempt does not look.
            let generation = generation.filter(|_| attempt + 1 < PATIENCE);
            match self.make(&changes, table, generation) {
                Ok(Outcome::Done) => {
                    if let Some(known) = &mut self.known {
                        known.state.apply(&changes);
                        (known.table, known.generation) = (Table::Fit, None);
                    }
                    let made = changes.chains.into_iter();
                    let named = made.map(|(index, Held { name, .. }, _)| Interface { index, name });
                    return Ok(named.collect());
                }
                // Somebody else has changed it, or it is not known so exactly: look again.
                Ok(Outcome::Stale) => self.known = None,
                Ok(Outcome::Conflict(error)) => {
                    self.known = None;
                    refused = Some(error);
                }
                Ok(Outcome::Full) => {
                    if let Some(known) = &mut self.known {
                        known.table = Table::Unfit;
                    }
                }
                Ok(Outcome::TooLarge(capacity)) => return Err(Error::TooLarge { capacity }),
                Err(error) => {
                    if matches!(error, Error::Lost(_)) {
                        self.known = None;
                    }
                    return Err(error);
                }
            }
        }
        Err(refused.unwrap_or_else(|| self.busy()))
    }

    fn make(
        &mut self,
        changes: &Changes,
        table: Table,
        generation: Option<u32>,
    ) -> Result<Outcome, Error> {
        let Some(known) = &self.known else { return Err(Error::NotLoaded) };
        let name = self.config.table.clone();
        if table == Table::Fit {
            // A rule that is written anew counts from where the old one is.
            let mut dropped = BTreeMap::new();
            for (index, _, fresh) in &changes.chains {
                if *fresh == Fresh::Rewritten {
                    let packets = found::dropped_by(&mut self.nftables, &name, *index)?;
                    dropped.insert(*index, packets);
                }
            }
            return self.commit(generation, |batch| write(batch, &name, changes, &dropped));
        }
        let mut state = known.state.clone();
        state.apply(changes);
        let dropped = match table {
            Table::Absent => BTreeMap::new(),
            _ => found::dropped(&mut self.nftables, &name)?,
        };
        let config = self.config.clone();
        self.commit(generation, |batch| build(batch, &config, table, &state, &dropped))
    }

    /// One transaction.
    fn commit(
        &mut self,
        generation: Option<u32>,
        fill: impl FnOnce(&mut Batch<'_>),
    ) -> Result<Outcome, Error> {
        let mut batch = Batch::of(FAMILY, &self.config.table, &mut self.nftables, generation);
        fill(&mut batch);
        let capacity = self.nftables.capacity(batch.len());
        if batch.len() > capacity {
            return Ok(Outcome::TooLarge(capacity));
        }
        batch.commit(&mut self.nftables)
    }
}
