//! Which number has this thing, and what is known of this pair of numbers?
//!
//! ```text
//!   thing ──Numbers──▶ 0 1 2 …          (subject, peer) ──Remembered──▶ side
//! ```

use std::hash::Hash;

use rustc_hash::FxHashMap;

/// The number of a class, of a side, or of a cell.
pub(super) type Id = u32;

/// Entries of what is remembered; beyond that all are forgotten.
const REMEMBERED: usize = 64 << 20;

/// Things with numbers, from 0.
#[derive(Debug)]
pub(super) struct Numbers<T> {
    pub(super) list: Vec<T>,
    numbers: FxHashMap<T, Id>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self { list: Vec::new(), numbers: FxHashMap::default() }
    }
}

impl<T: Clone + Eq + Hash> Numbers<T> {
    /// The thing's number; a new one gets the next.
    pub(super) fn number(&mut self, thing: T) -> Id {
        if let Some(number) = self.numbers.get(&thing) {
            return *number;
        }
        let number = Id::try_from(self.list.len()).unwrap_or(Id::MAX);
        self.list.push(thing.clone());
        self.numbers.insert(thing, number);
        number
    }
}

/// Sides by class of the subject and of the peer.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    rows: Vec<Vec<Id>>,
    entries: usize,
}

impl Remembered {
    /// What is remembered of a pair.
    pub(super) fn get(&self, subject: Id, peer: Id) -> Option<Id> {
        let id = *self.rows.get(subject as usize)?.get(peer as usize)?;
        (id != Id::MAX).then_some(id)
    }

    /// Remembers something of a pair.
    pub(super) fn insert(&mut self, subject: Id, peer: Id, id: Id) {
        if self.entries > REMEMBERED {
            *self = Self::default();
        }
        let (subject, peer) = (subject as usize, peer as usize);
        if self.rows.len() <= subject {
            self.rows.resize_with(subject + 1, Vec::new);
        }
        let row = &mut self.rows[subject];
        if row.len() <= peer {
            let more = (peer + 1).max(row.len() * 5 / 4) - row.len();
            self.entries += more;
            row.resize(row.len() + more, Id::MAX);
        }
        row[peer] = id;
    }
}
