//! Which entries stand for all, when a look must cost little?

use std::hash::{BuildHasher as _, RandomState};

/// How many entries of a kind are looked at.
pub(crate) const SAMPLE: usize = 256;

/// At most so many that stand side by side, from a place that chance says.
pub(crate) fn of<T>(length: usize, most: usize, all: impl Iterator<Item = T>) -> Vec<T> {
    let from = chance(length.saturating_sub(most).saturating_add(1));
    all.skip(from).take(most).collect()
}

/// A number below this one; 0 below 0.
pub(crate) fn chance(below: usize) -> usize {
    // The standard library's own seeds differ from call to call.
    let number = RandomState::new().hash_one(0_u8);
    usize::try_from(number % u64::try_from(below.max(1)).unwrap_or(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn chance_comes_to_every_entry_and_never_behind_the_last() {
        let mut seen = BTreeSet::new();
        for _ in 0..2000 {
            let sample = of(10, 4, 0..10);
            assert_eq!(sample.len(), 4);
            seen.extend(sample);
        }
        assert_eq!(seen, (0..10).collect());
        assert_eq!(of(3, 4, 0..3), [0, 1, 2]);
        assert!(of(0, 4, 0..0).is_empty());
    }
}
