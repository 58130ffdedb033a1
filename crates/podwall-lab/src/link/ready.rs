//! When does what was switched on really work?
//!
//! ```text
//!   both ends of a veth up ──▶ kernel's link watch, later ──▶ queue attached: packets pass
//!   IPv6 address given     ──▶ kernel's work queue, later ──▶ local route: packets are taken in
//! ```
//!
//! The kernel answers "done" before either has happened, and drops packets until it has
//! (`net/core/link_watch.c`, `addrconf_dad_work` in `net/ipv6/addrconf.c`). Whoever says that a pod
//! is ready waits for both, usually for less than a millisecond.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;

use super::wire::{Message, attributes, text};
use super::{LinkError, Links};

/// How long the kernel may take. Its link watch holds events back for up to a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const STEP: Duration = Duration::from_micros(200);

impl Links {
    /// Waits until packets pass by an interface whose both ends are up. Until then a queue that
    /// drops everything (`noop`) stands in for its own.
    pub fn await_link(&self, name: &str) -> Result<(), LinkError> {
        self.wait(&format!("the interface {name} to pass packets"), || {
            let mut queue = None;
            self.look(name, |payload| {
                queue = attributes(payload.get(16..).unwrap_or_default())
                    .find(|(kind, _)| *kind == libc::IFLA_QDISC)
                    .map(|(_, bytes)| text(bytes));
            })?;
            Ok(queue.is_some_and(|queue| queue != "noop"))
        })
    }

    /// Waits until packets to these addresses of the namespace are taken in.
    pub fn await_addresses(&self, addresses: &[IpAddr]) -> Result<(), LinkError> {
        for address in addresses.iter().filter(|address| address.is_ipv6()) {
            self.wait(&format!("the address {address} to be in use"), || self.is_local(*address))?;
        }
        Ok(())
    }

    /// Whether the namespace takes packets to an address in.
    fn is_local(&self, address: IpAddr) -> Result<bool, LinkError> {
        let (family, length) =
            if address.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
        let mut fixed = [0; 12];
        fixed[0] = u8::try_from(family).unwrap_or(0);
        fixed[1] = length;
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let what = format!("look up the route to {address}");
        let mut question = Message::new(libc::RTM_GETROUTE, flags, &fixed, what);
        question.address(libc::RTA_DST, address);
        let mut local = false;
        // Byte 7 of struct rtmsg is the route's type.
        let asked = self.socket.ask(question, |reply| {
            local = reply.payload.get(7) == Some(&libc::RTN_LOCAL);
        });
        match asked {
            Ok(()) => Ok(local),
            // No route at all: not yet either.
            Err(error) if error.errno().is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn wait(
        &self,
        what: &str,
        holds: impl Fn() -> Result<bool, LinkError>,
    ) -> Result<(), LinkError> {
        let end = Instant::now() + PATIENCE;
        while !holds()? {
            if Instant::now() > end {
                return Err(LinkError::Late { what: what.to_owned() });
            }
            thread::sleep(STEP);
        }
        Ok(())
    }
}
