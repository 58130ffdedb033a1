//! How do tables and changes pass the limits?
//!
//! ```text
//!   DataPlane::update ── Delta ──▶ Limiter::change ──▶ Step ──▶ kernel ── Ok ──▶ Limiter::commit
//!                                                                   └── Err ─▶ forgotten
//! ```
//!
//! As long as everything fits a change passes as it is, for a look at its entries alone. Else what
//! fits is found anew and compared with what the kernel holds, which takes time with the size of
//! the tables; that is for clusters that are larger than they were meant to be.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use podwall_compile::tables::{Delta, NodeTables};
use podwall_policy::address::AddressRange;
use podwall_policy::policy::Direction;
use rustc_hash::{FxHashMap, FxHashSet};

use super::admit::{Cut, admit, sizes};
use super::{Fill, Limits, Sizes, Table, TableFill, block_size, check_pod_ranges, verdict_size};
use crate::{Drift, Error};

/// What was asked for last and has come into force, and how much of it fitted.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    limits: Limits,
    state: Option<State>,
}

#[derive(Debug)]
struct State {
    wanted: NodeTables,
    size: Sizes,
    /// `None`: all of it fits.
    cut: Option<Cut>,
}

impl State {
    fn admitted(&self) -> &NodeTables {
        self.cut.as_ref().map_or(&self.wanted, |cut| &cut.admitted)
    }
}

/// What comes true when the kernel has made a change.
#[derive(Debug)]
pub(crate) struct Next(Becomes);

#[derive(Debug)]
enum Becomes {
    /// The tables with the change, all of which fits.
    Changed(Sizes),
    Whole(Box<State>),
}

impl Limiter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: None }
    }

    /// The size of these tables, and what of them fits, if not all does.
    ///
    /// # Errors
    /// The local addresses do not fit, or the pod ranges.
    fn load(&self, tables: &NodeTables) -> Result<(Sizes, Option<Cut>), Error> {
        let before = self.state.as_ref().map(State::admitted);
        check_pod_ranges(&tables.pod_ranges)?;
        let size = sizes(tables);
        Ok((size, admit(tables, size, &self.limits, before)?))
    }

    /// What of a change, and of what was left out before, fits.
    ///
    /// # Errors
    /// Nothing is loaded, or the local addresses do not fit, or the pod ranges.
    pub(crate) fn change<'a>(&self, delta: &'a Delta) -> Result<(Cow<'a, Delta>, Next), Error> {
        let state = self.state.as_ref().ok_or(Error::NotLoaded)?;
        delta.pod_ranges.as_ref().map_or(Ok(()), check_pod_ranges)?;
        let size = changed(state, delta);
        if state.cut.is_none() && size.fit(&self.limits) {
            return Ok((Cow::Borrowed(delta), Next(Becomes::Changed(size))));
        }
        let mut wanted = state.wanted.clone();
        wanted.apply(delta);
        let cut = admit(&wanted, size, &self.limits, Some(state.admitted()))?;
        let next = State { wanted, size, cut };
        let fits = Delta::between(state.admitted(), next.admitted());
        Ok((Cow::Owned(fits), Next(Becomes::Whole(Box::new(next)))))
    }

    /// The change is in force.
    pub(crate) fn commit(&mut self, delta: &Delta, next: Next) {
        match (next.0, &mut self.state) {
            (Becomes::Whole(state), _) => self.state = Some(*state),
            (Becomes::Changed(size), Some(state)) => {
                state.wanted.apply(delta);
                state.size = size;
            }
            (Becomes::Changed(_), None) => {}
        }
    }

    /// What the kernel should hold of these tables.
    pub(crate) fn view<'a>(&'a self, tables: &'a NodeTables) -> Cow<'a, NodeTables> {
        match &self.state {
            Some(state) if state.wanted == *tables => Cow::Borrowed(state.admitted()),
            // Tables that could not be loaded at all differ from what is there anyway.
            _ => match self.load(tables).map(|(_, cut)| cut) {
                Ok(Some(cut)) => Cow::Owned(cut.admitted),
                Ok(None) | Err(_) => Cow::Borrowed(tables),
            },
        }
    }

    /// What the kernel holds; `None` before the first full load.
    pub(crate) fn admitted(&self) -> Option<&NodeTables> {
        self.state.as_ref().map(State::admitted)
    }

    /// How full the tables are.
    pub(crate) fn fill(&self) -> Fill {
        let Some(state) = &self.state else { return Fill::default() };
        let used = match &state.cut {
            Some(cut) => sizes(&cut.admitted),
            None => state.size,
        };
        let fill = |table: Table| TableFill {
            table,
            used: used.0.of(table),
            wanted: state.size.0.of(table),
            size: self.limits.of(table),
        };
        let mut out = Fill { tables: Table::ALL.map(fill).to_vec(), ..Fill::default() };
        if let Some(cut) = &state.cut {
            out.isolated = cut.isolated.clone();
            out.addresses = cut.addresses.clone();
            out.ranges = cut.ranges.clone();
        }
        out
    }

    /// Nothing is in the kernel any more.
    pub(crate) fn forget(&mut self) {
        self.state = None;
    }
}

/// Entries that the tables take after a change.
fn changed(state: &State, delta: &Delta) -> Sizes {
    let (tables, mut size) = (&state.wanted, state.size.0);
    let mut locals: FxHashMap<IpAddr, [bool; 2]> = FxHashMap::default();
    let isolated = |address: IpAddr| {
        Direction::BOTH.map(|direction| tables.subjects.contains_key(&(direction, address)))
    };
    for ((direction, address), class) in &delta.subjects {
        let now = locals.entry(*address).or_insert_with(|| isolated(*address));
        now[usize::from(*direction == Direction::BOTH[1])] = class.is_some();
    }
    for (address, now) in locals {
        let any = |directions: [bool; 2]| usize::from(directions.contains(&true));
        step(&mut size.locals, any(isolated(address)), any(now));
    }
    for (address, class) in &delta.peers {
        let before = tables.peers.contains_key(address);
        step(&mut size.peers, before.into(), class.is_some().into());
    }
    let added: Vec<_> = delta.blocks_added.iter().map(|(range, _)| *range).collect();
    count_ranges(&mut size.blocks, &tables.blocks, &delta.blocks_removed, &added);
    let added: Vec<_> = delta.nets_added.iter().map(|(range, _)| *range).collect();
    count_ranges(&mut size.blocks, &tables.nets, &delta.nets_removed, &added);
    for (key, verdict) in &delta.verdicts {
        let is = |there: bool| if there { verdict_size(key.ports) } else { 0 };
        let before = tables.verdicts.contains_key(key);
        step(&mut size.verdicts, is(before), is(verdict.is_some()));
    }
    Sizes(size)
}

fn step(size: &mut usize, before: usize, after: usize) {
    *size = (*size + after).saturating_sub(before);
}

fn count_ranges<C>(
    size: &mut usize,
    there: &BTreeMap<AddressRange, C>,
    removed: &[AddressRange],
    added: &[AddressRange],
) {
    let removed: FxHashSet<_> = removed.iter().collect();
    for range in removed.iter().filter(|range| there.contains_key(range)) {
        step(size, block_size(range), 0);
    }
    for range in added {
        if removed.contains(range) || !there.contains_key(range) {
            step(size, 0, block_size(range));
        }
    }
}

/// A data plane below its limits: what it is given fits.
pub(crate) trait Limited {
    fn limiter(&mut self) -> &mut Limiter;

    /// As [`DataPlane::replace`](crate::DataPlane::replace).
    fn load(&mut self, tables: &NodeTables) -> Result<(), Error>;

    /// As [`DataPlane::update`](crate::DataPlane::update).
    fn change(&mut self, delta: &Delta) -> Result<(), Error>;

    /// As [`DataPlane::verify`](crate::DataPlane::verify).
    fn compare(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error>;

    /// As [`DataPlane::glance`](crate::DataPlane::glance).
    fn look(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error>;
}

/// Loads what fits of full tables.
pub(crate) fn replace(plane: &mut impl Limited, tables: &NodeTables) -> Result<(), Error> {
    let (size, cut) = plane.limiter().load(tables)?;
    plane.load(cut.as_ref().map_or(tables, |cut| &cut.admitted))?;
    // Copied when the data plane has given back what it needed for the load.
    plane.limiter().state = Some(State { wanted: tables.clone(), size, cut });
    Ok(())
}

/// Makes what fits of a change.
pub(crate) fn update(plane: &mut impl Limited, delta: &Delta) -> Result<(), Error> {
    let (fits, next) = plane.limiter().change(delta)?;
    plane.change(&fits)?;
    plane.limiter().commit(delta, next);
    Ok(())
}

/// Compares the kernel with what fits of the tables.
pub(crate) fn verify(plane: &mut impl Limited, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
    let admitted = plane.limiter().view(tables).into_owned();
    plane.compare(&admitted)
}

/// The same, at a price that does not grow with the tables.
pub(crate) fn glance(plane: &mut impl Limited, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
    let cut = plane.limiter().state.as_ref().and_then(|state| state.cut.as_ref());
    match cut.map(|cut| cut.admitted.clone()) {
        Some(admitted) => plane.look(&admitted),
        None => plane.look(tables),
    }
}
