//! How do entries get into the kernel?
//!
//! ```text
//!   Tables (one a table) ── outer map of two ─┬─ copy 0: inner map ◀── write, read, replace
//!                                             └─ copy 1: inner map
//! ```
//!
//! An inner map is a trie of the kernel's, or an array that holds a hash of ours (`hash`).

use std::io;

use libbpf_rs::libbpf_sys::{
    BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_map_create_opts,
};
use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, MapType};

use super::edit::Entries;
use super::hash::{self, Bucket, Buckets, Form};
use super::layout::Table;
use super::mapped::Mapped;
use crate::Error;

/// With fewer entries one call each is quicker than a batch.
const BATCH: usize = 16;
/// With more changes a hash is mapped into memory, which costs some ten calls.
const CALLS: usize = 16;
/// The smallest trie; growing one waits for the kernel.
const SMALLEST: usize = 1024;
/// A table with fewer entries grows fourfold, so that it seldom does; a larger one by half.
const SMALL: usize = 1 << 16;
/// How often a table is made larger before something else must be wrong.
const GROWTHS: usize = 5;

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

/// A new inner map with room for so many entries and some more.
fn make(table: Table, entries: usize) -> Result<MapHandle, Error> {
    let (kind, key, value, room, map_flags) = match table.form() {
        Some(form) => {
            let flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP;
            (MapType::Array, 4, form.bucket(), hash::buckets(entries), flags)
        }
        None => {
            let (key, value) = table.sizes();
            let room = (entries * 2).next_power_of_two().max(SMALLEST);
            let room = u32::try_from(room).unwrap_or(u32::MAX);
            (MapType::LpmTrie, key, value, room, BPF_F_NO_PREALLOC)
        }
    };
    let options = bpf_map_create_opts {
        sz: size_of::<bpf_map_create_opts>() as u64,
        map_flags,
        ..Default::default()
    };
    let [key, value] = [key, value].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    MapHandle::create(kind, Some(table.name()), key, value, room, &options)
        .map_err(cannot("make", table))
}

/// A hash in the kernel, bucket by bucket.
struct Direct<'a>(&'a MapHandle);

impl Buckets for Direct<'_> {
    type Error = libbpf_rs::Error;

    fn count(&self) -> u32 {
        self.0.max_entries()
    }

    fn get(&self, at: u32) -> Result<Bucket, Self::Error> {
        let bytes = self.0.lookup(&at.to_ne_bytes(), MapFlags::ANY)?;
        Ok(Bucket::of(&bytes.unwrap_or_default()))
    }

    fn set(&mut self, at: u32, bucket: &Bucket) -> Result<(), Self::Error> {
        let length = self.0.value_size() as usize;
        let bytes = bucket.first(length);
        self.0.update(&at.to_ne_bytes(), bytes, MapFlags::ANY)
    }
}

/// Changes a hash; whether there was room for all.
fn change<B: Buckets>(table: &mut B, form: Form, entries: &Entries) -> Result<bool, B::Error> {
    for gone in entries.gone.chunks_exact(form.key) {
        hash::remove(table, form, gone)?;
    }
    let pairs = entries.keys.chunks_exact(form.key).zip(entries.values.chunks_exact(form.value));
    for (key, value) in pairs {
        if !hash::set(table, form, key, value)? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Copies {
    /// New inner maps for a new outer map, not installed yet.
    pub(crate) fn fresh(table: Table, outer: MapHandle, entries: usize) -> Result<Self, Error> {
        let inner = [make(table, entries)?, make(table, entries)?];
        Ok(Self { table, outer, inner })
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
        if self.change(copy, entries)? {
            return Ok(Written::All);
        }
        // Both, so that the kernel is waited for once.
        let key = self.table.sizes().0;
        let had = |(keys, values)| Entries { gone: Vec::new(), keys, values };
        let held = [had(self.read(0)?), had(self.read(1)?)];
        let count = (held[copy].keys.len() + entries.keys.len()) / key;
        let mut room = if count < SMALL { 4 * count } else { count + count / 2 };
        for _ in 0..GROWTHS {
            let mut all = true;
            for (grown, held) in held.iter().enumerate() {
                self.renew(grown, room)?;
                all = all && self.change(grown, held)?;
            }
            if all && self.change(copy, entries)? {
                return Ok(Written::Grown);
            }
            room *= 2;
        }
        let answer = io::Error::other(format!("{count} entries find no room for {room}")).into();
        Err(cannot("write", self.table)(answer))
    }

    /// Whether there was room for all.
    fn change(&mut self, copy: usize, entries: &Entries) -> Result<bool, Error> {
        let map = &self.inner[copy];
        let all = match self.table.form() {
            None => self.change_trie(copy, entries),
            Some(form) if (entries.gone.len() + entries.keys.len()) / form.key > CALLS => {
                let mut mapped = Mapped::of(map).map_err(|source| self.cannot_map(source))?;
                let Ok(all) = change(&mut mapped, form, entries);
                Ok(all)
            }
            Some(form) => change(&mut Direct(map), form, entries),
        };
        all.map_err(cannot("write", self.table))
    }

    fn cannot_map(&self, source: io::Error) -> Error {
        let doing = format!("map table {}", self.table.name());
        Error::Bpf { doing, answer: source.into() }
    }

    fn change_trie(&self, copy: usize, entries: &Entries) -> Result<bool, libbpf_rs::Error> {
        let (key, value) = self.table.sizes();
        let map = &self.inner[copy];
        for gone in entries.gone.chunks_exact(key) {
            match map.delete(gone) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let (keys, values) = (&entries.keys, &entries.values);
        let count = keys.len() / key;
        let written = if count > BATCH {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            map.update_batch(keys, values, count, MapFlags::ANY, MapFlags::ANY)
        } else {
            let mut pairs = keys.chunks_exact(key).zip(values.chunks_exact(value));
            pairs.try_for_each(|(key, value)| map.update(key, value, MapFlags::ANY))
        };
        match written {
            // ENOSPC, which the library does not tell from others.
            Err(error) if matches!(error.kind(), ErrorKind::Other | ErrorKind::TooBig) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// The value of a key in a copy.
    pub(crate) fn lookup(&self, copy: usize, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let map = &self.inner[copy];
        let found = match self.table.form() {
            Some(form) => hash::get(&Direct(map), form, key),
            None => map.lookup(key, MapFlags::ANY),
        };
        found.map_err(cannot("read", self.table))
    }

    /// All entries of a copy: keys side by side, values side by side.
    pub(crate) fn read(&self, copy: usize) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let map = &self.inner[copy];
        if let Some(form) = self.table.form() {
            let mapped = Mapped::of(map).map_err(|source| self.cannot_map(source))?;
            let Ok(entries) = hash::entries(&mapped, form);
            return Ok(entries);
        }
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for key in map.keys() {
            let value = map.lookup(&key, MapFlags::ANY).map_err(cannot("read", self.table))?;
            if let Some(value) = value {
                keys.extend(key);
                values.extend(value);
            }
        }
        Ok((keys, values))
    }
}
