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
use std::str::FromStr;
use std::time::{Duration, Instant};

use podwall_policy::address::AddressSet;

use crate::writer::Writer;

/// More are not kept: a pod can send from any address of an IPv6 range.
const MOST: usize = 4096;

/// How long an address in the pod ranges is isolated that no pod is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// It is not.
    Off,
    /// For a time, from its first packet.
    For(Duration),
    /// Until a pod is known to have it.
    UntilKnown,
}

/// `off`, `forever`, or a time.
impl FromStr for Isolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "forever" => Ok(Self::UntilKnown),
            _ => time(text).map(Self::For).map_err(|error| format!("{error}, or forever, or off")),
        }
    }
}

/// A time as people write it: `500ms`, `60s`, `5m`, `1h`.
///
/// # Errors
/// A sentence, for text that is none.
pub fn time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let number = number.parse::<u64>().ok().filter(|number| *number > 0);
    let time = number.and_then(|number| number.checked_mul(millis)).filter(|time| *time > 0);
    let wrong = || format!("{text:?} is no time; write a number and ms, s, m or h, as 60s");
    time.map(Duration::from_millis).ok_or_else(wrong)
}

/// Who has an address and is no pod that is known. Owned by the writer.
#[derive(Debug)]
pub(crate) struct Strangers {
    isolation: Isolation,
    /// Those that are isolated, since when.
    seen: BTreeMap<IpAddr, Instant>,
    released: BTreeSet<IpAddr>,
}

impl Strangers {
    pub(crate) fn new(isolation: Isolation) -> Self {
        Self { isolation, seen: BTreeMap::new(), released: BTreeSet::new() }
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
        let Isolation::For(patience) = self.isolation else { return Vec::new() };
        let over = |since: &Instant| now.saturating_duration_since(*since) >= patience;
        let due: Vec<IpAddr> = self
            .seen
            .iter()
            .filter(|(_, since)| over(since))
            .map(|(address, _)| *address)
            .collect();
        for address in &due {
            self.seen.remove(address);
            self.released.insert(*address);
        }
        due
    }

    /// When the next one's time is over.
    pub(crate) fn next(&self) -> Option<Instant> {
        let Isolation::For(patience) = self.isolation else { return None };
        self.seen.values().min()?.checked_add(patience)
    }

    /// Forgets those that are known by now: when they are strangers again their time begins anew.
    pub(crate) fn forget(&mut self, is_known: impl Fn(IpAddr) -> bool) {
        self.seen.retain(|address, _| !is_known(*address));
        self.released.retain(|address| !is_known(*address));
    }

    /// Whether anybody is isolated.
    pub(crate) fn is_on(&self) -> bool {
        self.isolation != Isolation::Off
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
        tracing::warn!(
            addresses,
            "no pod has claimed these addresses in time: not isolated any more"
        );
        self.index.strangers_change();
    }

    /// Tells the compiler who is a stranger, if that may have changed.
    pub(crate) fn tell_strangers(&mut self) {
        if !self.index.take_strangers_changed() {
            return;
        }
        let index = &self.index;
        let known = index.addresses();
        self.strangers.forget(|address| known.contains(&address));
        let ranges = index.ranges().iter().filter(|_| self.strangers.is_on());
        let ranges = ranges.copied().map(AddressSet::from);
        let ranges = ranges.fold(AddressSet::empty(), |all, range| all.union(&range));
        self.compiler.set_pod_ranges(ranges);
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
        let mut all = Strangers::new(Isolation::For(MINUTE));
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
        let mut all = Strangers::new(Isolation::For(MINUTE));
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
        let mut all = Strangers::new(Isolation::UntilKnown);
        for number in 0..=u16::MAX {
            let [a, b] = number.to_be_bytes();
            all.note([10, 0, a, b].into(), start);
        }
        assert_eq!(all.isolated(), MOST);
        assert_eq!(all.next(), None);
        assert!(all.release(start + 1000 * MINUTE).is_empty());
    }

    #[test]
    fn times_are_a_number_and_a_unit() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("1h"), Ok(60 * MINUTE));
        for wrong in ["", "5", "s", "0s", "-5s", "1.5s", "5 s", "5d", "99999999999999999999s"] {
            assert!(time(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(
            time("5").unwrap_err(),
            "\"5\" is no time; write a number and ms, s, m or h, as 60s"
        );
        assert_eq!("off".parse(), Ok(Isolation::Off));
        assert_eq!("forever".parse(), Ok(Isolation::UntilKnown));
        assert_eq!("2m".parse(), Ok(Isolation::For(2 * MINUTE)));
        assert!("never".parse::<Isolation>().unwrap_err().ends_with(", or forever, or off"));
    }
}
