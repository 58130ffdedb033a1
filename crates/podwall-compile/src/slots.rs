//! Which pods belong to this?
//!
//! ```text
//!   id=i77 ──▶ ● ●                 few: in place, nothing allocated
//!   tier=web ──▶ { ● ● ● ● ● … }   many: a hash set
//! ```
//!
//! Most labels of a large cluster are on a handful of pods, and there are as many of these as pods.

use rustc_hash::FxHashSet;

use crate::world::PodSlot;

/// So many fit in the room of a hash set's own words.
const FEW: usize = 6;

/// A set of pods. Owned by an index of the world.
#[derive(Debug)]
pub(crate) enum Slots {
    Few(u8, [PodSlot; FEW]),
    Many(FxHashSet<PodSlot>),
}

impl Default for Slots {
    fn default() -> Self {
        Self::Few(0, [0; FEW])
    }
}

impl Slots {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(len, _) => usize::from(*len),
            Self::Many(set) => set.len(),
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = PodSlot> {
        let (few, many) = match self {
            Self::Few(len, slots) => (&slots[..usize::from(*len)], None),
            Self::Many(set) => (&[][..], Some(set)),
        };
        few.iter().chain(many.into_iter().flatten()).copied()
    }

    /// Adds one.
    pub(crate) fn insert(&mut self, slot: PodSlot) {
        match self {
            Self::Many(set) => drop(set.insert(slot)),
            Self::Few(len, slots) => {
                let there = usize::from(*len);
                if slots[..there].contains(&slot) {
                    return;
                }
                if let Some(free) = slots.get_mut(there) {
                    *free = slot;
                    *len += 1;
                } else {
                    *self = Self::Many(slots.iter().copied().chain([slot]).collect());
                }
            }
        }
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, slot: PodSlot) {
        match self {
            Self::Many(set) => drop(set.remove(&slot)),
            Self::Few(len, slots) => {
                let there = usize::from(*len);
                if let Some(at) = slots[..there].iter().position(|its| *its == slot) {
                    slots.swap(at, there - 1);
                    *len -= 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set_however_many_there_are(
            steps in prop::collection::vec((0u32..12, any::<bool>()), 0..60)
        ) {
            let (mut slots, mut model) = (Slots::default(), BTreeSet::new());
            for (slot, comes) in steps {
                if comes {
                    slots.insert(slot);
                    model.insert(slot);
                } else {
                    slots.remove(slot);
                    model.remove(&slot);
                }
                prop_assert_eq!(slots.iter().collect::<BTreeSet<_>>(), model.clone());
                prop_assert_eq!((slots.len(), slots.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
