//! How long is an address isolated that no pod is known to have?
//!
//! ```text
//!   dropped packet of a stranger ──▶ first seen ── patience ──▶ released ── a pod claims it ──▶ nothing
//! ```
//!
//! A new pod's address is known within seconds. What sends from among the addresses of this node's
//! pods for much longer is none of the cluster's: something else on the machine that shares their
//! bridge, which policies say nothing of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::writer::Writer;

/// More are not kept: a pod can send from any address of an IPv6 range.
const MOST: usize = 4096;

/// Who has an address and is no pod that is known. Owned by the writer.
#[derive(Debug)]
pub(crate) struct Strangers {
    /// How long one is isolated; `None`: for ever.
    patience: Option<Duration>,
    /// Those that are isolated, since when.
    seen: BTreeMap<IpAddr, Instant>,
    released: BTreeSet<IpAddr>,
}

impl Strangers {
    pub(crate) fn new(patience: Option<Duration>) -> Self {
        Self { patience, seen: BTreeMap::new(), released: BTreeSet::new() }
    }

    /// Takes note of one that was kept from sending or receiving. Whether it is new.
    pub(crate) fn note(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.seen.contains_key(&address)
            || self.released.contains(&address)
            || self.seen.len() + self.released.len() >= MOST
        {
            return false;
        }
        self.seen.insert(address, now);
        true
    }

    /// Lets go whose time is over; who they are.
    pub(crate) fn release(&mut self, now: Instant) -> Vec<IpAddr> {
        let Some(patience) = self.patience else { return Vec::new() };
        let over = |since: &Instant| now.saturating_duration_since(*since) >= patience;
        let due: Vec<IpAddr> =
            self.seen.iter().filter(|(_, since)| over(since)).map(|(address, _)| *address).collect();
        for address in &due {
            self.seen.remove(address);
            self.released.insert(*address);
        }
        due
    }

    /// When the next one's time is over.
    pub(crate) fn next(&self) -> Option<Instant> {
        let first = self.seen.values().min()?;
        first.checked_add(self.patience?)
    }

    /// Forgets those that are known by now: when they are strangers again their time begins anew.
    pub(crate) fn forget(&mut self, is_known: impl Fn(IpAddr) -> bool) {
        self.seen.retain(|address, _| !is_known(*address));
        self.released.retain(|address| !is_known(*address));
    }

    /// Those that were let go.
    pub(crate) fn released(&self) -> &BTreeSet<IpAddr> {
        &self.released
    }

    /// How many are isolated.
    pub(crate) fn isolated(&self) -> usize {
        self.seen.len()
    }
}

impl Writer {
    /// Lets go whose time is over.
    pub(crate) fn let_strangers_go(&mut self, now: Instant) {
        let due = self.strangers.release(now);
        if due.is_empty() {
            return;
        }
        let list: Vec<String> = due.iter().map(ToString::to_string).collect();
        let addresses = list.join(", ");
        tracing::warn!(addresses, "no pod has claimed these addresses in time: not isolated any more");
        self.strangers_changed = true;
    }

    /// Tells the compiler who is a stranger.
    pub(crate) fn tell_strangers(&mut self) {
        self.strangers_changed = false;
        let index = &self.index;
        self.strangers.forget(|address| index.has_address(address));
        self.compiler.set_pod_ranges(index.ranges().iter().copied().collect());
        self.compiler.set_released(self.strangers.released().clone());
        self.compiler.set_nameless(index.nameless());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn a_stranger_is_let_go_after_a_time_that_counts_from_its_first_packet() {
        let start = Instant::now();
        let mut all = Strangers::new(Some(MINUTE));
        assert_eq!(all.next(), None);
        assert!(all.note(at(1), start));
        assert!(!all.note(at(1), start + MINUTE / 2), "its first packet counts");
        assert!(all.note(at(2), start + MINUTE / 2));
        assert_eq!(all.next(), Some(start + MINUTE));
        assert!(all.release(start + MINUTE / 2).is_empty());
        assert_eq!(all.release(start + MINUTE), [at(1)]);
        assert_eq!((all.released().len(), all.isolated()), (1, 1));
        assert!(!all.note(at(1), start + MINUTE), "is let go already");
    }

    #[test]
    fn whom_a_pod_claims_begins_anew() {
        let start = Instant::now();
        let mut all = Strangers::new(Some(MINUTE));
        all.note(at(1), start);
        all.note(at(2), start);
        all.release(start + MINUTE);
        all.forget(|address| address == at(1));
        assert_eq!(all.released().iter().collect::<Vec<_>>(), [&at(2)]);
        assert!(all.note(at(1), start + MINUTE));
        assert_eq!(all.next(), Some(start + 2 * MINUTE));
    }

    #[test]
    fn without_a_limit_nobody_is_let_go_and_a_flood_fills_no_memory() {
        let start = Instant::now();
        let mut all = Strangers::new(None);
        for number in 0..=u16::MAX {
            let [a, b] = number.to_be_bytes();
            all.note([10, 0, a, b].into(), start);
        }
        assert_eq!(all.isolated(), MOST);
        assert_eq!(all.next(), None);
        assert!(all.release(start + 1000 * MINUTE).is_empty());
    }
}
