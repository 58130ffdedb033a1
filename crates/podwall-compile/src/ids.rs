//! Which number is free?
//!
//! ```text
//!   take ──▶ 1 2 3 4 …        give back 2 ──▶ kept aside ──settle──▶ at the end of the queue
//! ```
//!
//! A number that a commit frees is not handed out again in the same commit, so that a change names
//! each number once, and it goes to the end of the queue, so that an event on its way out of the
//! kernel seldom finds its number reused.

use std::collections::VecDeque;

/// Numbers to hand out. Owned by whoever names things with them.
#[derive(Debug)]
pub(crate) struct Ids {
    next: u32,
    free: VecDeque<u32>,
    freed: Vec<u32>,
}

impl Ids {
    /// Numbers from `first` on.
    pub(crate) fn from(first: u32) -> Self {
        Self { next: first, free: VecDeque::new(), freed: Vec::new() }
    }

    /// A number that nobody has.
    pub(crate) fn take(&mut self) -> u32 {
        self.free.pop_front().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// Gives a number back; it can be taken after [`Ids::settle`].
    pub(crate) fn give_back(&mut self, id: u32) {
        self.freed.push(id);
    }

    /// Ends a commit.
    pub(crate) fn settle(&mut self) {
        self.free.extend(self.freed.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_number_is_not_taken_before_the_commit_ends() {
        let mut ids = Ids::from(1);
        assert_eq!((ids.take(), ids.take()), (1, 2));
        ids.give_back(1);
        assert_eq!(ids.take(), 3);
        ids.settle();
        assert_eq!((ids.take(), ids.take()), (1, 4));
    }
}
