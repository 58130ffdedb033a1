//! Frames, byte for byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::transport;

pub type Mac = [u8; 6];

pub const IP4: u16 = 0x0800;
pub const IP6: u16 = 0x86dd;
pub const ARP: u16 = 0x0806;
pub const VLAN: u16 = 0x8100;
pub const PROVIDER_VLAN: u16 = 0x88a8;
pub const BROADCAST: Mac = [0xff; 6];

/// A frame for a protocol.
pub fn ether(dst: Mac, src: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &kind.to_be_bytes(), body].concat()
}

/// The same with a tag before it.
pub fn tagged(frame: &[u8], tag: u16, number: u16) -> Vec<u8> {
    [&frame[..12], &tag.to_be_bytes(), &number.to_be_bytes(), &frame[12..]].concat()
}

/// An IPv4 packet; `fragment` as in the header: three flags and an offset in units of eight bytes.
pub fn ip4(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    fragment: u16,
    options: &[u8],
    body: &[u8],
) -> Vec<u8> {
    let words = 5 + u8::try_from(options.len() / 4).unwrap();
    let length = u16::try_from(usize::from(words) * 4 + body.len()).unwrap();
    let mut header = vec![0x40 | words, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 7]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(src.octets());
    header.extend(dst.octets());
    header.extend(options);
    let sum: u32 =
        header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(body);
    header
}

/// An IPv6 packet: what the first header behind its own is, and all that follows.
pub fn ip6(src: Ipv6Addr, dst: Ipv6Addr, hop_limit: u8, next: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(body);
    packet
}

/// A UDP datagram in its packet.
pub fn udp(src: IpAddr, dst: IpAddr, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    packet(src, dst, 17, &transport(src, dst, 17, ports.0, ports.1, data))
}

/// A plain packet of either family.
pub fn packet(src: IpAddr, dst: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ip4(src, dst, protocol, 0, &[], body),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ip6(src, dst, 64, protocol, body),
        _ => panic!("{src} and {dst} are of two families"),
    }
}

/// The ethertype of an address.
pub fn kind(address: IpAddr) -> u16 {
    if address.is_ipv4() { IP4 } else { IP6 }
}

/// An ICMPv6 message with its checksum.
pub fn icmp6(src: Ipv6Addr, dst: Ipv6Addr, number: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[number, 0, 0, 0], body].concat();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let all = [&src.octets()[..], &dst.octets(), &length, &[0, 0, 0, 58], &message].concat();
    let sum = all.chunks(2).fold(0_u32, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))
    });
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The rest of a neighbour solicitation (135) or advertisement (136): a target, and the option that
/// says a hardware address.
pub fn neighbour(number: u8, target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    // Advertisement: solicited, override.
    let (flags, option) = if number == 136 { ([0x60, 0, 0, 0], 2) } else { ([0; 4], 1) };
    [&flags[..], &target.octets(), &[option, 1], &mac].concat()
}

/// ARP: 1 asks, 2 answers.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let start = [0, 1, 8, 0, 6, 4];
    let [operation, sender_ip, target_ip] =
        [operation.to_be_bytes().to_vec(), sender.1.octets().to_vec(), target.1.octets().to_vec()];
    [&start[..], &operation, &sender.0, &sender_ip, &target.0, &target_ip].concat()
}
