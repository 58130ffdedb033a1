//! How do dropped packets come out of the ring buffer?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use libbpf_rs::{MapHandle, RingBufferBuilder};
use nix::time::{ClockId, clock_gettime};
use podwall_compile::tables::RuleId;
use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;

use super::layout::STRANGER;
use crate::Error;
use crate::denied::{Denials, Denied};

/// Instead of a rule, where none allows the packet.
const NO_RULE: u32 = u32::MAX;
/// Bytes of `struct event`.
const SIZE: usize = 56;

/// Follows the ring buffer that is pinned there. It has one reader: what two would read, each would
/// have a part of.
pub(crate) fn follow(pinned: PathBuf) -> Result<Denials, Error> {
    let cannot = |answer| Error::Bpf { doing: "read the ring buffer of events".to_owned(), answer };
    Denials::from_thread(move |sender| {
        let map = MapHandle::from_pinned_path(pinned).map_err(cannot)?;
        let mut builder = RingBufferBuilder::new();
        let start = SystemTime::now();
        let read = move |bytes: &[u8]| {
            // What was dropped before somebody asked is not news.
            if let Some(event) = event(bytes).filter(|event| event.when >= start) {
                let _ = sender.send(event); // nobody listens any more
            }
            0
        };
        builder.add(&map, read).map_err(cannot)?;
        let ring = builder.build().map_err(cannot)?;
        let source = map.as_fd().try_clone_to_owned().map_err(|source| Error::Socket {
            doing: "wait for the ring buffer of events",
            source,
        })?;
        let read = move || match ring.consume() {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::Interrupted => Err(cannot(error)),
            _ => Ok(()),
        };
        Ok((source, read))
    })
}

fn event(bytes: &[u8]) -> Option<Denied> {
    let bytes: &[u8; SIZE] = bytes.try_into().ok()?;
    let number = |at: usize| -> Option<u64> {
        bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
    };
    let port = |at: usize| -> Option<u16> {
        bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
    };
    let address = |at: usize| -> Option<IpAddr> {
        let all: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        let [a, b, c, d, ..] = all;
        Some(if bytes[12] == 4 {
            Ipv4Addr::new(a, b, c, d).into()
        } else {
            Ipv6Addr::from(all).into()
        })
    };
    let subject = bytes.get(20..24)?.try_into().ok().map(u32::from_ne_bytes);
    let rule = bytes.get(16..20)?.try_into().ok().map(u32::from_ne_bytes);
    let rule = rule.filter(|rule| *rule != NO_RULE);
    Some(Denied {
        when: clock(number(0)?),
        direction: if bytes[14] == 1 { Direction::Ingress } else { Direction::Egress },
        src: address(24)?,
        dst: address(40)?,
        protocol: Protocol(bytes[13]),
        src_port: port(8)?,
        port: port(10)?,
        rule: rule.map(RuleId),
        stranger: subject == Some(STRANGER),
    })
}

/// The time of day of a moment counted in nanoseconds since the machine started.
fn clock(since_boot: u64) -> SystemTime {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    let ago = now.saturating_sub(Duration::from_nanos(since_boot));
    SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
}
