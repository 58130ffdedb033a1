//! Which pods belong to this?
//!
//! ```text
//!   id=i77 ──▶ ● ●                 few: in place, nothing allocated
//!   app=web  ──▶ { ● ● ● ● ● … }   many: a hash set
//!   env=prod ──▶ 0110111011…       most: a bit for each pod
//! ```
//!
//! Most labels of a large cluster are on a handful of pods, and there are as many of these as pods.

use rustc_hash::FxHashSet;

use crate::world::PodSlot;

/// So many fit in the room of a hash set's own words.
const FEW: usize = 6;

/// From here on a bit for each pod of the largest clusters takes less room than a hash.
const MOST: usize = 4096;

/// A set of pods. Owned by an index of the world.
#[derive(Debug)]
pub(crate) enum Slots {
    Few(u8, [PodSlot; FEW]),
    Many(FxHashSet<PodSlot>),
    Most(Bits),
}

/// One bit for each slot, and how many are set.
#[derive(Debug, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
    len: usize,
}

impl Bits {
    fn place(slot: PodSlot) -> (usize, u64) {
        (usize::try_from(slot / 64).unwrap_or(usize::MAX), 1 << (slot % 64))
    }

    fn insert(&mut self, slot: PodSlot) {
        let (at, bit) = Self::place(slot);
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.len += usize::from(self.words[at] & bit == 0);
        self.words[at] |= bit;
    }

    fn remove(&mut self, slot: PodSlot) {
        let (at, bit) = Self::place(slot);
        if let Some(word) = self.words.get_mut(at) {
            self.len -= usize::from(*word & bit != 0);
            *word &= !bit;
        }
    }

    fn iter(&self) -> impl Iterator<Item = PodSlot> {
        self.words.iter().zip(0..).flat_map(|(word, at): (&u64, PodSlot)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(at * 64 + bit)
            })
        })
    }
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
            Self::Most(bits) => bits.len,
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = PodSlot> {
        let (few, many, most) = match self {
            Self::Few(len, slots) => (&slots[..usize::from(*len)], None, None),
            Self::Many(set) => (&[][..], Some(set), None),
            Self::Most(bits) => (&[][..], None, Some(bits)),
        };
        let few = few.iter().chain(many.into_iter().flatten()).copied();
        few.chain(most.into_iter().flat_map(Bits::iter))
    }

    /// Adds one.
    pub(crate) fn insert(&mut self, slot: PodSlot) {
        match self {
            Self::Most(bits) => bits.insert(slot),
            Self::Many(set) => {
                set.insert(slot);
                if set.len() >= MOST {
                    let mut bits = Bits::default();
                    set.iter().for_each(|slot| bits.insert(*slot));
                    *self = Self::Most(bits);
                }
            }
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
            Self::Most(bits) => bits.remove(slot),
            Self::Many(set) => {
                set.remove(&slot);
            }
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

    #[test]
    fn a_set_of_most_pods_is_a_set_too() {
        let mut slots = Slots::default();
        for slot in 0..10_000 {
            slots.insert(slot);
            slots.insert(slot / 2);
        }
        assert!(matches!(slots, Slots::Most(_)));
        assert_eq!(slots.iter().collect::<Vec<_>>(), (0..10_000).collect::<Vec<_>>());
        for slot in (0..20_000).filter(|slot| slot % 3 > 0) {
            slots.remove(slot);
        }
        assert!(slots.iter().eq((0..10_000).step_by(3)));
        assert_eq!(slots.len(), 3334);
    }

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
