//! How do entries get into the kernel?
//!
//! ```text
//!   Tables (one a table) ── outer map of two ─┬─ copy 0: inner map ◀── write, read, replace
//!                                             └─ copy 1: inner map
//! ```

use libbpf_rs::libbpf_sys::{BPF_F_NO_PREALLOC, bpf_map_create_opts};
use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, MapType};

use super::edit::Entries;
use super::layout::Table;
use crate::Error;

/// With fewer entries one call each is quicker than a batch.
const BATCH: usize = 16;
/// The smallest table; growing one waits for the kernel.
const SMALLEST: usize = 1024;
/// A table with fewer entries grows fourfold, so that it seldom does; a larger one twofold.
const SMALL: usize = 1 << 16;

/// Both copies of one table.
pub(crate) struct Copies {
    table: Table,
    outer: MapHandle,
    inner: [MapHandle; 2],
}

fn cannot(doing: &str, table: Table) -> impl FnOnce(libbpf_rs::Error) -> Error {
    let doing = format!("{doing} table {}", table.name());
    move |source| Error::Bpf { doing, answer: source }
}

/// What became of entries that were to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// All are there.
    All,
    /// There was no room; both copies have larger maps now, which are not installed yet. The one
    /// that was written has all entries, the other one what it had.
    Grown,
}

/// A new inner map with room for so many entries and as many again.
fn make(table: Table, entries: usize) -> Result<MapHandle, Error> {
    let kind = if table.is_prefixes() { MapType::LpmTrie } else { MapType::Hash };
    let (key, value) = table.sizes();
    let room = (entries * 2).next_power_of_two().max(SMALLEST);
    let options = bpf_map_create_opts {
        sz: size_of::<bpf_map_create_opts>() as u64,
        map_flags: BPF_F_NO_PREALLOC,
        ..Default::default()
    };
    let [key, value, room] = [key, value, room].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    MapHandle::create(kind, Some(table.name()), key, value, room, &options)
        .map_err(cannot("make", table))
}

impl Copies {
    /// New inner maps for a new outer map, not installed yet.
    pub(crate) fn fresh(table: Table, outer: MapHandle, entries: usize) -> Result<Self, Error> {
        Ok(Self { table, outer, inner: [make(table, entries)?, make(table, entries)?] })
    }

    /// The inner maps that an outer map has.
    pub(crate) fn found(table: Table, outer: MapHandle) -> Result<Self, Error> {
        let inner = |copy: u32| -> Result<MapHandle, Error> {
            let id = outer
                .lookup(&copy.to_ne_bytes(), MapFlags::ANY)
                .map_err(cannot("read", table))?
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u32::from_ne_bytes);
            MapHandle::from_map_id(id).map_err(cannot("open", table))
        };
        let inner = [inner(0)?, inner(1)?];
        Ok(Self { table, outer, inner })
    }

    /// Puts an empty copy with this much room in place; `copy` must not be in force.
    pub(crate) fn renew(&mut self, copy: usize, entries: usize) -> Result<(), Error> {
        self.inner[copy] = make(self.table, entries)?;
        Ok(())
    }

    /// Shows the inner map to the program. Waits until no packet looks at the one before.
    pub(crate) fn install(&self, copy: usize) -> Result<(), Error> {
        use std::os::fd::{AsFd, AsRawFd};
        let key = u32::try_from(copy).unwrap_or(0).to_ne_bytes();
        let value = self.inner[copy].as_fd().as_raw_fd().to_ne_bytes();
        self.outer.update(&key, &value, MapFlags::ANY).map_err(cannot("install", self.table))
    }

    /// Writes entries into a copy; makes room where there is none.
    pub(crate) fn write(&mut self, copy: usize, entries: &Entries) -> Result<Written, Error> {
        let (key, _) = self.table.sizes();
        for gone in entries.gone.chunks_exact(key) {
            match self.inner[copy].delete(gone) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(cannot("write", self.table)(error));
                }
                _ => {}
            }
        }
        match self.set(copy, &entries.keys, &entries.values) {
            Err(error) if self.is_full(&error) => {}
            other => {
                return other.map(|()| Written::All).map_err(cannot("write", self.table));
            }
        }
        // Both, so that the kernel is waited for once.
        for grown in [0, 1] {
            let held = self.read(grown)?;
            let count = held.0.len() / key + entries.keys.len() / key;
            let room = if count < SMALL { 2 * count } else { count };
            self.renew(grown, room)?;
            self.set(grown, &held.0, &held.1).map_err(cannot("copy", self.table))?;
        }
        self.set(copy, &entries.keys, &entries.values).map_err(cannot("write", self.table))?;
        Ok(Written::Grown)
    }

    /// E2BIG; a trie says ENOSPC, which the library does not tell from others.
    fn is_full(&self, error: &libbpf_rs::Error) -> bool {
        error.kind() == ErrorKind::TooBig
            || self.table.is_prefixes() && error.kind() == ErrorKind::Other
    }

    fn set(&self, copy: usize, keys: &[u8], values: &[u8]) -> Result<(), libbpf_rs::Error> {
        let (key, value) = self.table.sizes();
        let count = keys.len() / key;
        let map = &self.inner[copy];
        if count > BATCH {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            return map.update_batch(keys, values, count, MapFlags::ANY, MapFlags::ANY);
        }
        let pairs = keys.chunks_exact(key).zip(values.chunks_exact(value));
        pairs.into_iter().try_for_each(|(key, value)| map.update(key, value, MapFlags::ANY))
    }

    /// All entries of a copy: keys side by side, values side by side.
    pub(crate) fn read(&self, copy: usize) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let map = &self.inner[copy];
        if self.table.is_prefixes() {
            for key in map.keys() {
                let value = map.lookup(&key, MapFlags::ANY).map_err(cannot("read", self.table))?;
                if let Some(value) = value {
                    keys.extend(key);
                    values.extend(value);
                }
            }
            return Ok((keys, values));
        }
        // All at once: a hash gives less than was asked for where the next bucket does not fit, and
        // the library takes that for the end (libbpf-rs 0.27.2, `BatchedMapIter::next`).
        let batches = map
            .lookup_batch(map.max_entries(), MapFlags::ANY, MapFlags::ANY)
            .map_err(cannot("read", self.table))?;
        for (key, value) in batches {
            keys.extend(key);
            values.extend(value);
        }
        Ok((keys, values))
    }
}
