//! SYNs that nobody wants.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, SockaddrIn, sendmmsg,
    socket,
};

const BATCH: usize = 32;
const LENGTH: usize = 40;

/// Sends SYNs with ever new source ports as fast as they go; packets a second.
pub(super) fn flood(source: Ipv4Addr, server: SocketAddrV4, time: Duration) -> Result<f64> {
    let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
        .context("a raw socket")?;
    let to = vec![Some(SockaddrIn::from(SocketAddrV4::new(*server.ip(), 0))); BATCH];
    let mut packets: Vec<[u8; LENGTH]> = (0..BATCH).map(|_| syn(source, server)).collect();
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut port = 1024u16;
    let mut count = 0usize;
    let start = Instant::now();
    while start.elapsed() < time {
        for packet in &mut packets {
            port = port.checked_add(1).unwrap_or(1024);
            packet[20..22].copy_from_slice(&port.to_be_bytes());
            seal(packet);
        }
        let slices: Vec<[IoSlice<'_>; 1]> = packets.iter().map(|p| [IoSlice::new(p)]).collect();
        let sent = sendmmsg(fd.as_raw_fd(), &mut headers, &slices, &to, [], MsgFlags::empty())?;
        count += sent.count();
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// IPv4 (RFC 791) and TCP (RFC 9293) headers of a SYN; the kernel fills in the outer checksum.
fn syn(source: Ipv4Addr, server: SocketAddrV4) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(LENGTH as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&server.ip().octets());
    packet[22..24].copy_from_slice(&server.port().to_be_bytes());
    packet[24..28].copy_from_slice(&1u32.to_be_bytes());
    packet[32] = 0x50;
    packet[33] = 2;
    packet[34..36].copy_from_slice(&65_000u16.to_be_bytes());
    packet
}

/// The TCP checksum: conntrack drops packets where it is wrong.
fn seal(packet: &mut [u8; LENGTH]) {
    packet[36..38].fill(0);
    let tcp = (LENGTH - 20) as u32;
    let words = packet[12..].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum::<u32>() + 6 + tcp;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !(sum as u16);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
}
