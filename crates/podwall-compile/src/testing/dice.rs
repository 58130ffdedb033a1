//! Where do random choices come from?

use std::collections::VecDeque;

/// Random choices: from a seed in tests, from a fuzzer's bytes when fuzzing. The same source gives
/// the same choices on every machine.
#[derive(Clone, Debug)]
pub struct Dice(Source);

#[derive(Clone, Debug)]
enum Source {
    Seed(u64),
    Bytes(VecDeque<u8>),
}

impl Dice {
    /// Choices that follow from a number.
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seed(seed))
    }

    /// Choices that a fuzzer makes; when the bytes are used up the first choice is always taken.
    pub fn bytes(bytes: &[u8]) -> Self {
        Self(Source::Bytes(bytes.iter().copied().collect()))
    }

    /// A number below `sides`; 0 if there are none.
    pub fn below(&mut self, sides: usize) -> usize {
        let raw = match &mut self.0 {
            Source::Seed(state) => {
                // SplitMix64 (Steele, Lea, Flood 2014).
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z ^ (z >> 31)) >> 16
            }
            Source::Bytes(bytes) => u64::from(bytes.pop_front().unwrap_or(0)),
        };
        // Sides are few; what does not fit in 48 bits never comes up.
        usize::try_from(raw).unwrap_or(0).checked_rem(sides).unwrap_or(0)
    }

    /// A number from `from` to `to`, both possible.
    pub fn between(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to - from + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of a list, which must not be empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// As many as `from` to `to` of what `make` makes.
    pub fn some<T>(
        &mut self,
        from: usize,
        to: usize,
        mut make: impl FnMut(&mut Self) -> T,
    ) -> Vec<T> {
        (0..self.between(from, to)).map(|_| make(self)).collect()
    }
}
