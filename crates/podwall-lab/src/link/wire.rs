//! How does a request look on a route netlink socket?
//!
//! ```text
//!   nlmsghdr │ ifinfomsg, ifaddrmsg, rtmsg or ndmsg │ attribute │ attribute ┬ attribute …
//!    16 B    │  the family's fixed header           │           └ nested: attributes inside
//! ```
//!
//! Numbers are in the host's byte order, everything starts on a multiple of four bytes
//! (`include/uapi/linux/netlink.h`). The handful of attributes that a lab needs is written out by
//! hand, so that a whole pod goes to the kernel in a few batches and each message of a batch
//! carries the words for its own failure.

use std::net::IpAddr;

/// Length of `nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// Mark of an attribute that contains attributes (`NLA_F_NESTED`).
const NESTED: u16 = 1 << 15;

/// One request, ready to be sent, and how to speak of it when it fails.
#[derive(Debug)]
pub(super) struct Message {
    /// The bytes, with `nlmsg_len` and `nlmsg_seq` filled in on sending.
    pub(super) bytes: Vec<u8>,
    /// What is attempted: "add the route 10.0.0.0/8 via 172.18.0.2".
    pub(super) what: String,
    /// Kernel errors that mean "already so".
    pub(super) fine: &'static [i32],
}

// === impl Message ===

impl Message {
    /// A request of a message type (`RTM_…`) with its fixed header.
    pub(super) fn new(kind: u16, flags: i32, fixed: &[u8], what: String) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&u16::try_from(flags).unwrap_or(0).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes, what, fine: &[] };
        message.pad();
        message
    }

    /// Adds an attribute.
    pub(super) fn attr(&mut self, kind: u16, payload: &[u8]) {
        let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
    }

    /// Adds a number.
    pub(super) fn number(&mut self, kind: u16, number: u32) {
        self.attr(kind, &number.to_ne_bytes());
    }

    /// Adds a string with the terminating zero that the kernel expects.
    pub(super) fn text(&mut self, kind: u16, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    /// Adds an address in network byte order.
    pub(super) fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.attr(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attr(kind, &v6.octets()),
        }
    }

    /// Adds an attribute that holds `fixed` and then what `fill` adds.
    pub(super) fn nest(&mut self, kind: u16, fixed: &[u8], fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attr(kind | NESTED, fixed);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Fills in length and sequence number.
    pub(super) fn seal(&mut self, sequence: u32) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// One message of a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply<'a> {
    /// `nlmsg_type`.
    pub(super) kind: u16,
    /// `nlmsg_flags`.
    pub(super) flags: u16,
    /// `nlmsg_seq`.
    pub(super) sequence: u32,
    /// What follows the header.
    pub(super) payload: &'a [u8],
}

/// The messages in a datagram; stops at the first that is cut short.
pub(super) fn replies(mut datagram: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
        let payload = datagram.get(HEADER..length)?;
        let reply = Reply {
            kind: u16_at(datagram, 4)?,
            flags: u16_at(datagram, 6)?,
            sequence: u32_at(datagram, 8)?,
            payload,
        };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(reply)
    })
}

/// The attributes in a payload, without the nesting mark; stops at the first that is cut short.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !NESTED;
        let payload = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// A 16 bit number in host order.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A 32 bit number in host order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A string without its terminating zero.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An address of four or sixteen bytes.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut message = Message::new(16, 5, &[7; 16], "try".to_owned());
        message.text(3, "eth0");
        message.nest(18, &[], |m| {
            m.text(1, "veth");
            m.nest(2, &[9; 16], |m| m.number(4, 70_000));
        });
        message.address(1, "fd00::1".parse().unwrap());
        message.seal(42);

        let reply = replies(&message.bytes).next().unwrap();
        assert_eq!((reply.kind, reply.flags, reply.sequence), (16, 5, 42));
        let found: Vec<_> = attributes(&reply.payload[16..]).collect();
        assert_eq!(text(found[0].1), "eth0");
        let inner: Vec<_> = attributes(found[1].1).collect();
        assert_eq!((inner[0].0, text(inner[0].1)), (1, "veth".to_owned()));
        let innermost: Vec<_> = attributes(&inner[1].1[16..]).collect();
        assert_eq!(u32_at(innermost[0].1, 0), Some(70_000));
        assert_eq!(address(found[2].1), Some("fd00::1".parse().unwrap()));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_datagram_that_is_cut_short_ends_the_reading() {
        let mut message = Message::new(16, 0, &[0; 16], String::new());
        message.number(1, 1);
        message.seal(1);
        for length in 0..message.bytes.len() {
            assert_eq!(replies(&message.bytes[..length]).count(), 0);
        }
        assert_eq!(attributes(&[200, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
    }
}
