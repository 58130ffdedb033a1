//! What does an SCTP packet look like?
//!
//! ```text
//!   0        2        4            8            12
//!   ┌────────┬────────┬────────────┬────────────┬─────────┬─────────┐
//!   │ source │ dest   │ verif. tag │ CRC32c     │ chunk   │ chunk … │
//!   └────────┴────────┴────────────┴────────────┴─────────┴─────────┘
//!                        chunk: type, flags, length, value, padding to four bytes
//! ```
//!
//! RFC 9260 §3. Kernels without SCTP sockets still route, translate and filter SCTP, so the lab
//! writes and reads the packets itself. Reading never panics and never reads past the end.

/// `INIT`: asks for an association.
pub(crate) const INIT: u8 = 1;
/// `INIT ACK`: the answer, with the state cookie.
pub(crate) const INIT_ACK: u8 = 2;
/// `DATA`.
pub(crate) const DATA: u8 = 0;
/// `SACK`: acknowledges data.
pub(crate) const SACK: u8 = 3;
/// `HEARTBEAT`.
pub(crate) const HEARTBEAT: u8 = 4;
/// `HEARTBEAT ACK`.
pub(crate) const HEARTBEAT_ACK: u8 = 5;
/// `ABORT`: ends or refuses an association.
pub(crate) const ABORT: u8 = 6;
/// `SHUTDOWN`.
pub(crate) const SHUTDOWN: u8 = 7;
/// `SHUTDOWN ACK`.
pub(crate) const SHUTDOWN_ACK: u8 = 8;
/// `COOKIE ECHO`: gives the cookie back.
pub(crate) const COOKIE_ECHO: u8 = 10;
/// `COOKIE ACK`: the association stands.
pub(crate) const COOKIE_ACK: u8 = 11;

/// The parameter of an `INIT ACK` that holds the state cookie (RFC 9260 §3.3.3.1).
pub(crate) const STATE_COOKIE: u16 = 7;

/// The length of the common header, in bytes.
const HEADER: usize = 12;

/// One chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk<'a> {
    /// Which kind: [`INIT`] and so on.
    pub(crate) kind: u8,
    /// Its flags.
    pub(crate) flags: u8,
    /// What follows the chunk's header, without the padding.
    pub(crate) value: &'a [u8],
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// The sender's port.
    pub(crate) source: u16,
    /// The receiver's port.
    pub(crate) destination: u16,
    /// The verification tag: the receiver's, 0 with an `INIT`.
    pub(crate) tag: u32,
    /// The chunks, in their order.
    pub(crate) chunks: Vec<Chunk<'a>>,
}

impl<'a> Packet<'a> {
    /// Reads a packet. `None` for what is too short, broken or wrongly summed. A checksum of zero
    /// is let through: between two namespaces of one machine a kernel leaves the sum to a network
    /// card that is never passed.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, mut rest) = bytes.split_at_checked(HEADER)?;
        let sum = u32_at(header, 8)?;
        if sum != 0 && sum != checksum(bytes) {
            return None;
        }
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let length = usize::from(u16_at(rest, 2)?);
            let value = rest.get(4..length)?;
            chunks.push(Chunk { kind: rest[0], flags: rest[1], value });
            // The last chunk's padding may be missing.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(Self {
            source: u16_at(header, 0)?,
            destination: u16_at(header, 2)?,
            tag: u32_at(header, 4)?,
            chunks,
        })
    }

    /// Writes the packet with its checksum.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        for chunk in &self.chunks {
            let length = u16::try_from(chunk.value.len() + 4).unwrap_or(u16::MAX);
            bytes.extend([chunk.kind, chunk.flags]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(&chunk.value[..usize::from(length) - 4]);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let sum = checksum(&bytes);
        bytes[8..HEADER].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// The fixed part of `INIT` and `INIT ACK`, and the parameters behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Init<'a> {
    /// The initiate tag: what the other side has to put into its packets; never 0.
    pub(crate) tag: u32,
    /// The first transmission sequence number.
    pub(crate) tsn: u32,
    /// Type and value of each parameter.
    pub(crate) parameters: Vec<(u16, &'a [u8])>,
}

impl<'a> Init<'a> {
    /// Reads the value of an `INIT` or `INIT ACK` chunk. `None` where it is broken or its tag is 0,
    /// which RFC 9260 §3.3.2 forbids.
    pub(crate) fn parse(value: &'a [u8]) -> Option<Self> {
        let (fixed, mut rest) = value.split_at_checked(16)?;
        let tag = u32_at(fixed, 0).filter(|tag| *tag != 0)?;
        let mut parameters = Vec::new();
        while !rest.is_empty() {
            let length = usize::from(u16_at(rest, 2)?);
            parameters.push((u16_at(rest, 0)?, rest.get(4..length)?));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(Self { tag, tsn: u32_at(fixed, 12)?, parameters })
    }

    /// Writes the chunk's value: 64 KiB of window, one stream each way.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32);
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend(65_536_u32.to_be_bytes());
        bytes.extend(1_u16.to_be_bytes());
        bytes.extend(1_u16.to_be_bytes());
        bytes.extend(self.tsn.to_be_bytes());
        for (kind, value) in &self.parameters {
            let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
            bytes.extend(kind.to_be_bytes());
            bytes.extend(length.to_be_bytes());
            bytes.extend(&value[..usize::from(length) - 4]);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    /// The state cookie among the parameters.
    pub(crate) fn cookie(&self) -> Option<&'a [u8]> {
        self.parameters.iter().find(|(kind, _)| *kind == STATE_COOKIE).map(|(_, value)| *value)
    }
}

/// A big-endian number at an offset.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A big-endian number at an offset.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The packet's checksum as the number that stands in the header in network order: CRC32c with the
/// checksum field taken as zero (RFC 9260 §6.8, appendix A: the sum's bytes are stored in the
/// order of the reflected polynomial, least significant first).
fn checksum(packet: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in packet.iter().enumerate() {
        let byte = if (8..HEADER).contains(&at) { 0 } else { *byte };
        crc = (crc >> 8) ^ CRC32C[usize::from(crc.to_le_bytes()[0] ^ byte)];
    }
    (!crc).swap_bytes()
}

/// The table of the Castagnoli polynomial, reflected: 0x82F63B78.
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // RFC 3720 appendix B.4: 32 bytes of zeroes give aa 36 91 8a on the wire.
        assert_eq!(checksum(&[0; 32]).to_be_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
    }

    #[test]
    fn a_packet_is_read_back_and_a_broken_sum_is_refused() {
        let value =
            Init { tag: 7, tsn: 8, parameters: vec![(STATE_COOKIE, b"cookie!"), (12, &[])] };
        let init = value.to_bytes();
        let packet = Packet {
            source: 1000,
            destination: 80,
            tag: 0,
            chunks: vec![
                Chunk { kind: INIT, flags: 0, value: &init },
                Chunk { kind: ABORT, flags: 1, value: b"x" },
            ],
        };
        let mut bytes = packet.to_bytes();
        let read = Packet::parse(&bytes).unwrap();
        assert_eq!(read, packet);
        let read = Init::parse(read.chunks[0].value).unwrap();
        assert_eq!(read, value);
        assert_eq!(read.cookie(), Some(&b"cookie!"[..]));
        bytes[20] ^= 1;
        assert_eq!(Packet::parse(&bytes), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_read_without_a_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..256),
            unsummed in any::<bool>(),
        ) {
            if unsummed && bytes.len() >= HEADER {
                bytes[8..HEADER].fill(0);
            }
            if let Some(packet) = Packet::parse(&bytes) {
                for chunk in &packet.chunks {
                    let _ = Init::parse(chunk.value);
                }
            }
            let _ = Init::parse(&bytes);
        }
    }
}
