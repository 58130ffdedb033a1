//! Is this packet a probe, or the answer to one?
//!
//! ```text
//!   TCP    the first sequence number is the token      the answer acknowledges token + 1
//!   SCTP   the initiate tag is the token               the answer's verification tag is the token
//!   others the payload begins with MAGIC, token        the answer repeats it and goes on
//! ```
//!
//! Address translation changes addresses and ports, never these; so a probe is known wherever it
//! arrives.

use podwall_policy::port::Protocol;

use crate::serve::identity::read_probe;
use crate::serve::sctp_wire::{ABORT, INIT, INIT_ACK, u16_at, u32_at};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A probe.
    Request,
    /// An answer, also a refusal.
    Reply,
}

/// Reads an IP packet, perhaps cut short.
pub(super) fn read(packet: &[u8]) -> Option<(Way, u32)> {
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            let later_fragment = u16_at(packet, 6)? & 0x1fff != 0;
            let protocol = Protocol(*packet.get(9)?);
            (!later_fragment).then(|| read_transport(protocol, packet.get(header..)?))?
        }
        6 => read_transport(Protocol(*packet.get(6)?), packet.get(40..)?),
        _ => None,
    }
}

/// Reads what stands behind the IP header.
pub(super) fn read_transport(protocol: Protocol, bytes: &[u8]) -> Option<(Way, u32)> {
    match protocol {
        Protocol::TCP => {
            const SYN: u8 = 2;
            const RST: u8 = 4;
            const ACK: u8 = 16;
            match bytes.get(13)? & (SYN | RST | ACK) {
                SYN => Some((Way::Request, u32_at(bytes, 4)?)),
                flags if flags & ACK != 0 && flags & (SYN | RST) != 0 => {
                    Some((Way::Reply, u32_at(bytes, 8)?.wrapping_sub(1)))
                }
                _ => None,
            }
        }
        Protocol::UDP => {
            let (token, _) = read_probe(bytes.get(8..)?)?;
            // The length in the header, since the packet may be cut short.
            let probe = 8 + crate::serve::identity::PROBE_LEN;
            let is_probe = usize::from(u16_at(bytes, 4)?) == probe;
            Some((if is_probe { Way::Request } else { Way::Reply }, token))
        }
        Protocol::SCTP => match *bytes.get(12)? {
            INIT => Some((Way::Request, u32_at(bytes, 16)?)),
            INIT_ACK | ABORT => Some((Way::Reply, u32_at(bytes, 4)?)),
            _ => None,
        },
        Protocol::ICMP | Protocol::ICMPV6 => {
            let way = match (protocol, *bytes.first()?) {
                (Protocol::ICMP, 8) | (Protocol::ICMPV6, 128) => Way::Request,
                (Protocol::ICMP, 0) | (Protocol::ICMPV6, 129) => Way::Reply,
                _ => return None,
            };
            read_probe(bytes.get(8..)?).map(|(token, _)| (way, token))
        }
        _ => read_probe(bytes).map(|(token, _)| (Way::Request, token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::identity::probe_payload;
    use proptest::prelude::*;

    #[test]
    fn tokens_are_found_behind_both_headers() {
        let mut udp = vec![0, 1, 0, 2, 0, 20, 0, 0];
        udp.extend(probe_payload(99));
        let mut v4 = vec![0; 24];
        v4[0] = 0x46;
        v4[9] = 17;
        v4.extend(&udp);
        assert_eq!(read(&v4), Some((Way::Request, 99)));
        v4[7] = 1;
        assert_eq!(read(&v4), None, "a later fragment has no ports");
        let mut v6 = vec![0; 40];
        (v6[0], v6[6]) = (0x60, 17);
        udp[5] = 40;
        v6.extend(&udp);
        assert_eq!(read(&v6), Some((Way::Reply, 99)));
    }

    #[test]
    fn a_syn_is_a_probe_and_what_acknowledges_it_an_answer() {
        let segment = |flags: u8| {
            let mut bytes = vec![0; 20];
            bytes[4..8].copy_from_slice(&7_u32.to_be_bytes());
            bytes[8..12].copy_from_slice(&0_u32.to_be_bytes());
            bytes[13] = flags;
            read_transport(Protocol::TCP, &bytes)
        };
        assert_eq!(segment(2), Some((Way::Request, 7)));
        assert_eq!(segment(2 | 16), Some((Way::Reply, u32::MAX)));
        assert_eq!(segment(4 | 16), Some((Way::Reply, u32::MAX)));
        assert_eq!(segment(4), None);
        assert_eq!(segment(16 | 8), None);
    }

    proptest! {
        #[test]
        fn hostile_packets_never_panic(
            first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
            protocol in prop_oneof![Just(6u8), Just(17), Just(132), Just(1), any::<u8>()],
            mut bytes in proptest::collection::vec(any::<u8>(), 1..120),
        ) {
            bytes[0] = first;
            let at = if first == 0x45 { 9 } else { 6 };
            if let Some(byte) = bytes.get_mut(at) { *byte = protocol; }
            let _ = read(&bytes);
            let _ = read_transport(Protocol(protocol), &bytes);
        }
    }
}
