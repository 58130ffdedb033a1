//! Which number does a probe carry?
//!
//! ```text
//!   31          22 21                              0
//!   ┌─────────────┬─────────────────────────────────┐
//!   │ quarters of │ this process's part, and what   │   of TCP the first sequence number, too
//!   │ a second    │ it has handed out               │
//!   └─────────────┴─────────────────────────────────┘
//! ```
//!
//! Two runs at a time must not take each other's probes for their own; and the number grows with
//! time, as RFC 6528 §3 asks of first sequence numbers. A probe that was dropped leaves an attempt in
//! the connection tracking of the nodes before the firewall that dropped it. For one more attempt
//! between the same two ports, connection tracking takes no answer that acknowledges less than it
//! knows to be sent (`net/netfilter/nf_conntrack_proto_tcp.c`, `tcp_in_window`): with a number made
//! up at random every second of such attempts gets no address translation for the rest of its life.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

/// Bits that say when. The number turns over after 262 seconds, so that one is ahead of another for
/// 131: an attempt without an answer is forgotten after 120 (`tcp_timeouts`).
const WHEN: u32 = 10;
/// Bits for the count within a tick.
const COUNT: u32 = 32 - WHEN;
/// How far processes are apart whose numbers follow each other.
const APART: u32 = 1 << 11;
/// How long a tick lasts.
const TICK: Duration = Duration::from_millis(256);

/// What this process has handed out, of all its runs.
static HANDED_OUT: AtomicU32 = AtomicU32::new(0);

/// The first of as many numbers in a row as a run has tasks.
pub(super) fn first(tasks: usize) -> u32 {
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |up| up.num_milliseconds());
    let count = HANDED_OUT.fetch_add(tasks as u32, Ordering::Relaxed);
    at(Duration::from_millis(up as u64), process::id(), count)
}

fn at(up: Duration, process: u32, count: u32) -> u32 {
    let when = (up.as_millis() / TICK.as_millis()) as u32;
    let part = process.wrapping_mul(APART).wrapping_add(count) & ((1 << COUNT) - 1);
    when << COUNT | part
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether connection tracking takes `later` for the later one (`after()` of net/tcp.h).
    fn is_after(later: u32, earlier: u32) -> bool {
        (later.wrapping_sub(earlier) as i32) > 0
    }

    #[test]
    fn a_later_number_is_larger_for_as_long_as_an_attempt_is_remembered() {
        for process in [1, 77, 8191, 32_768, 4_194_304] {
            for other in [1, 78, 8192, 4_194_000] {
                for start in (0..600).step_by(7).map(Duration::from_secs) {
                    for later in [256, 1000, 60_000, 121_000, 130_000].map(Duration::from_millis) {
                        let (first, second) = (at(start, process, 40), at(start + later, other, 3));
                        assert!(is_after(second, first), "{process} {other} {start:?}+{later:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn runs_at_a_time_have_numbers_of_their_own() {
        // Processes that were started one after the other, each with a window full of probes.
        let now = Duration::from_secs(1000);
        let ranges: Vec<_> = (5000..5200).map(|process| at(now, process, 0)).collect();
        for (index, range) in ranges.iter().enumerate() {
            for other in &ranges[index + 1..] {
                assert!(range.abs_diff(*other) >= 1024, "{range:#x} {other:#x}");
            }
        }
        // And runs of one process.
        let (one, two) = (first(486), first(486));
        assert!(is_after(two, one) && two - one >= 486, "{one:#x} {two:#x}");
    }
}
