//! Does the kernel let exactly those frames pass that the guard's rules say, as read by somebody else?
//!
//! [`judge`] says for the bytes of a frame what becomes of it, and why; random frames, most of them
//! just beside what is allowed, go through the kernel and through it. `PODWALL_FRAMES` says how many
//! (50,000), `PODWALL_SEED` with which case to start.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests stops the test")]

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podwall_dataplane::guard::{Allowed, Config, Guard, Interface};
use support::frames::*;
use support::hub::{Hub, MAC, OWN, fence, with_token};
use support::random::Dice;
use support::transport;

/// What is known of the pod.
struct Pod {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    mac: Option<Mac>,
    dhcp: bool,
}

/// Why a frame passes, or why it does not.
type Word = Result<&'static str, &'static str>;

fn judge(frame: &[u8], pod: &Pod) -> Word {
    if pod.mac.is_some_and(|mac| frame[6..12] != mac) {
        return Err("forged hardware address");
    }
    let packet = &frame[14..];
    match u16::from_be_bytes([frame[12], frame[13]]) {
        IP4 => ip4_word(packet, pod),
        IP6 => ip6_word(packet, pod),
        ARP => arp_word(packet, pod),
        VLAN | PROVIDER_VLAN => Err("a tag"),
        0..0x600 => Err("no ethertype"),
        _ => Err("another ethertype"),
    }
}

fn at4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).unwrap()))
}

fn at6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).unwrap()))
}

fn ip4_word(packet: &[u8], pod: &Pod) -> Word {
    let (Some(source), Some(_)) = (at4(packet, 12), at4(packet, 16)) else {
        return Err("cut IPv4");
    };
    if pod.v4.contains(&source) {
        return Ok("own IPv4");
    }
    if source != Ipv4Addr::UNSPECIFIED {
        return Err("forged IPv4");
    }
    let whole = packet[6] & 0x3f == 0 && packet[7] == 0;
    let header = usize::from(packet[0] & 15) * 4;
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let sound = packet[0] >> 4 == 4 && header >= 20 && (header..=packet.len()).contains(&length);
    let ports = packet.get(header..header + 4);
    let asks = at4(packet, 16) == Some(Ipv4Addr::BROADCAST) && packet[9] == 17 && whole && sound;
    match asks && ports == Some(&[0, 68, 0, 67]) {
        true if pod.dhcp => Ok("lease"),
        true => Err("lease where there are none"),
        false => Err("no lease of 0.0.0.0"),
    }
}

/// The headers of an IPv6 packet behind its own.
enum Headers {
    /// Up to the transport header: its protocol and where it is.
    To(u8, usize),
    /// A fragment but the first.
    Later,
    Unreadable,
}

/// Authentication (51) is a transport: what is behind it is for those who have the key. But a fragment
/// is one there, too.
fn headers(packet: &[u8], through: bool) -> Headers {
    let (mut next, mut at) = (packet[6], 40);
    while matches!(next, 0 | 43 | 44 | 60) || next == 51 && through {
        let Some(&[following, length]) = packet.get(at..at + 2) else { return Headers::Unreadable };
        at += match next {
            44 => {
                let Some(&[high, low]) = packet.get(at + 2..at + 4) else {
                    return Headers::Unreadable;
                };
                if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
                    return Headers::Later;
                }
                8
            }
            51 => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        next = following;
    }
    Headers::To(next, at)
}

fn ip6_word(packet: &[u8], pod: &Pod) -> Word {
    let near = |address: Ipv6Addr| address.is_unicast_link_local();
    let (Some(source), Some(to)) = (at6(packet, 8), at6(packet, 24)) else {
        return Err("cut IPv6");
    };
    let own = |address: Ipv6Addr| pod.v6.contains(&address);
    let nobody = source.is_unspecified();
    let hop_limit = packet[7];
    let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    if matches!(headers(packet, true), Headers::Later) {
        let passes = own(source) && !near(to);
        let no = "later fragment of another, or to a link-local address";
        return if passes { Ok("later fragment") } else { Err(no) };
    }
    let sound = packet[0] >> 4 == 6 && packet.len() >= 40 + length;
    let (protocol, at) = match headers(packet, false) {
        Headers::To(protocol, at) if sound => (protocol, at),
        _ => return Err("unreadable headers"),
    };
    if protocol != 58 {
        let servers: Ipv6Addr = "ff02::1:2".parse().unwrap();
        let ports = packet.get(at..at + 4) == Some(&[2, 34, 2, 35]);
        return match () {
            () if own(source) && !near(to) => Ok("own IPv6"),
            () if own(source) => Err("own IPv6 to a link-local address"),
            () if near(source) && to == servers && protocol == 17 && ports => {
                if pod.dhcp {
                    Ok("lease of IPv6")
                } else {
                    Err("lease where there are none")
                }
            }
            () if near(source) => Err("link-local IPv6"),
            () if nobody => Err(":: sends"),
            () => Err("forged IPv6"),
        };
    }
    let Some(number) = packet.get(at).copied() else { return Err("cut ICMPv6") };
    let target = at6(packet, at + 8);
    // The start says it, even of an address that is cut, which nobody takes.
    let start = packet.get(at + 8..at + 10);
    let near_target = start.is_some_and(|start| start[0] == 0xfe && start[1] & 0xc0 == 0x80);
    match number {
        133..=137 if hop_limit != 255 => Err("discovery from afar"),
        133 if near(source) || own(source) || nobody => Ok("router solicitation"),
        135 if near(source) || own(source) => Ok("neighbour solicitation"),
        135 if nobody => match target {
            _ if near_target => Ok("is it free"),
            Some(target) if own(target) => Ok("is it free"),
            Some(_) => Err("is another's address free"),
            None => Err("cut solicitation"),
        },
        136 => match target {
            None if !near_target => Err("cut advertisement"),
            Some(target) if !(own(target) || near_target) => Err("advertisement of another"),
            _ if near(source) || own(source) => Ok("advertisement"),
            _ => Err("advertisement from another"),
        },
        134 => Err("router advertisement"),
        137 => Err("redirect"),
        133 | 135 => Err("solicitation of another"),
        131 | 132 | 143 if hop_limit == 1 && to.is_multicast() && (near(source) || nobody) => {
            Ok("listener report")
        }
        _ if own(source) && !near(to) => Ok("own ICMPv6"),
        _ if own(source) => Err("own ICMPv6 to a link-local address"),
        _ if near(source) => Err("link-local ICMPv6"),
        _ => Err("forged ICMPv6"),
    }
}

fn arp_word(packet: &[u8], pod: &Pod) -> Word {
    if packet.get(..6) != Some(&[0, 1, 8, 0, 6, 4]) {
        return Err("strange ARP");
    }
    let Some(sender) = at4(packet, 14) else { return Err("cut ARP") };
    if pod.mac.is_some_and(|mac| packet[8..14] != mac) {
        return Err("ARP for another hardware address");
    }
    match packet[6..8] {
        [0, 1] if pod.v4.contains(&sender) => Ok("ARP request"),
        [0, 2] if pod.v4.contains(&sender) => Ok("ARP answer"),
        [0, 1] if sender.is_unspecified() => match at4(packet, 24) {
            Some(target) if pod.v4.contains(&target) => Ok("ARP probe"),
            Some(_) => Err("ARP probe for another"),
            None => Err("cut ARP"),
        },
        [0, 1 | 2] => Err("forged ARP"),
        _ => Err("strange ARP"),
    }
}

const NEIGHBOUR: Mac = [2, 0, 0, 0, 0, 0x12];
const V4: [&str; 9] = [
    "10.0.0.11",
    "10.1.0.11",
    "10.0.0.12",
    "10.0.0.1",
    "198.18.0.1",
    "127.0.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "0.0.0.0",
];
const V6: [&str; 14] = [
    "fd00::b",
    "fd01::b",
    "fd00::c",
    "fd00::1",
    "2001:db8::1",
    "::1",
    "::",
    "::ffff:10.0.0.11",
    "fe80::b",
    "febf::c",
    "fec0::b",
    "fe7f::b",
    "ff02::1",
    "ff02::1:2",
];

/// Mostly the first two of a list, which are own.
fn source<T: Copy>(dice: &mut Dice, all: &[T]) -> T {
    if dice.chance(40) { all[dice.roll(2)] } else { dice.pick(all) }
}

fn random_frame(dice: &mut Dice) -> Vec<u8> {
    let src = if dice.chance(6) { dice.pick(&[NEIGHBOUR, [2, 0, 0, 0, 0, 1]]) } else { MAC };
    let dst = dice.pick(&[BROADCAST, NEIGHBOUR, [0x33, 0x33, 0, 0, 0, 1], [1, 0, 0x5e, 0, 0, 1]]);
    let frame = match dice.roll(10) {
        0..3 => ether(dst, src, IP4, &random_ip4(dice)),
        3..8 => ether(dst, src, IP6, &random_ip6(dice)),
        _ => ether(dst, src, ARP, &random_arp(dice)),
    };
    let mut frame = match dice.roll(40) {
        0 => tagged(&frame, VLAN, dice.pick(&[0, 1, 5, 0x2005])),
        1 => tagged(&frame, PROVIDER_VLAN, 5),
        2 => tagged(&tagged(&frame, VLAN, 5), dice.pick(&[VLAN, PROVIDER_VLAN]), 6),
        3 => {
            // PPPoE, MPLS, RARP, TEB; lengths of 802.3; the next to IPv4's.
            let kind = dice.pick(&[0x8864, 0x8847, 0x8035, 0x6558, 0x0026, 0x05dc, 0x0801, 0x9100]);
            ether(dst, src, kind, &frame[14..])
        }
        4 => {
            // What is another's protocol by its ethertype.
            let kind = dice.pick(&[IP4, IP6, ARP]);
            ether(dst, src, kind, &frame[14..])
        }
        _ => frame,
    };
    if dice.chance(5) {
        frame.truncate(14 + dice.roll(frame.len() - 13));
    }
    frame
}

fn random_ip4(dice: &mut Dice) -> Vec<u8> {
    let [src, dst] = [source(dice, &V4), dice.pick(&V4)].map(|it| it.parse::<Ipv4Addr>().unwrap());
    let (mut src, mut dst) = (src, dst);
    let mut ports = (dice.pick(&[68, 67, 1000]), dice.pick(&[67, 68, 53]));
    let mut protocol = dice.pick(&[1, 6, 17, 17, 4, 253]);
    if dice.chance(30) {
        (src, dst, ports, protocol) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, (68, 67), 17);
        match dice.roll(8) {
            0 => src = Ipv4Addr::new(0, 0, 0, 1),
            1 => dst = Ipv4Addr::new(10, 0, 0, 12),
            2 => ports = (68, 68),
            3 => ports = (67, 67),
            4 => protocol = 6,
            _ => {}
        }
    }
    let body = transport(src.into(), dst.into(), protocol, ports.0, ports.1, b"data");
    let fragment = if dice.chance(20) { dice.pick(&[0x2000, 0x2001, 1, 185]) } else { 0x4000 };
    // A source route by way of the neighbour; no operations.
    let options: &[u8] = match dice.roll(8) {
        0 => &[131, 7, 4, 10, 0, 0, 12, 0],
        1 => &[1, 1, 1, 0],
        _ => &[],
    };
    ip4(src, dst, protocol, fragment, options, &body)
}

fn random_ip6(dice: &mut Dice) -> Vec<u8> {
    let [src, dst] = [source(dice, &V6), dice.pick(&V6)].map(|it| it.parse::<Ipv6Addr>().unwrap());
    let (mut src, mut dst) = (src, dst);
    let mut hop_limit = dice.pick(&[255, 255, 64, 1]);
    let (protocol, body) = match dice.roll(10) {
        0 => (6, transport(src.into(), dst.into(), 6, 1000, 80, b"")),
        1 => (dice.pick(&[50, 59, 4, 253]), vec![0; 16]),
        2 => {
            if dice.chance(60) {
                [src, dst] = ["fe80::b", "ff02::1:2"].map(|it| it.parse().unwrap());
            }
            let ports = (dice.pick(&[546, 546, 547]), dice.pick(&[547, 547, 546]));
            (17, transport(src.into(), dst.into(), 17, ports.0, ports.1, b"lease"))
        }
        3 => (17, transport(src.into(), dst.into(), 17, 1000, 53, b"")),
        _ => {
            let number = dice.pick(&[1, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143]);
            if dice.chance(40) {
                src = dice.pick(&["fe80::b", "::", "fd00::b"]).parse().unwrap();
            }
            if let 131 | 132 | 143 = number
                && dice.chance(60)
            {
                (dst, hop_limit) = ("ff02::16".parse().unwrap(), 1);
            }
            let target = source(dice, &V6).parse().unwrap();
            let message = icmp6(src, dst, number, &neighbour(number, target, MAC));
            (58, message)
        }
    };
    let (mut next, mut inside) = (protocol, body);
    if dice.chance(8) {
        inside.truncate(dice.roll(24));
    }
    let mut wrap = |number: u8, mut header: Vec<u8>| {
        header[0] = std::mem::replace(&mut next, number);
        inside.splice(0..0, header);
    };
    let mut whole = true;
    for _ in 0..dice.pick(&[0, 0, 0, 1, 2]) {
        match dice.roll(6) {
            0 => wrap(60, vec![0, 0, 1, 4, 0, 0, 0, 0]),
            1 => wrap(60, vec![0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            2 => wrap(0, vec![0, 0, 5, 2, 0, 0, 1, 0]),
            3 => wrap(51, [&[0, 4, 0, 0][..], &[0; 20]].concat()),
            // Fragments of fragments: kernels differ in what they can read of them, and drop them.
            _ if whole => {
                whole = false;
                // Whole, first, second, last.
                let [high, low] = dice.pick(&[0_u16, 1, 9, 1480]).to_be_bytes();
                wrap(44, vec![0, 0, high, low, 0, 0, 0, 7]);
            }
            _ => {}
        }
    }
    ip6(src, dst, hop_limit, next, &inside)
}

fn random_arp(dice: &mut Dice) -> Vec<u8> {
    let mac = if dice.chance(15) { dice.pick(&[NEIGHBOUR, [0; 6], BROADCAST]) } else { MAC };
    let sender = if dice.chance(30) { "0.0.0.0" } else { source(dice, &V4) };
    let [sender, target] = [sender, source(dice, &V4)].map(|it| it.parse().unwrap());
    let operation = dice.pick(&[1, 1, 1, 2, 2, 0, 3, 8, 257]);
    let mut packet = arp(operation, (mac, sender), ([0; 6], target));
    if dice.chance(10) {
        // Another kind of hardware or protocol, other lengths of addresses.
        packet[dice.roll(6)] ^= 1 << dice.roll(3);
    }
    packet
}

/// All but those that need an end where the padding of these frames is.
const WORDS: [Word; 45] = [
    Err("forged hardware address"),
    Err("a tag"),
    Err("no ethertype"),
    Err("another ethertype"),
    Err("cut IPv4"),
    Ok("own IPv4"),
    Err("forged IPv4"),
    Ok("lease"),
    Err("lease where there are none"),
    Err("no lease of 0.0.0.0"),
    Err("cut IPv6"),
    Ok("later fragment"),
    Err("later fragment of another, or to a link-local address"),
    Err("unreadable headers"),
    Ok("own IPv6"),
    Err("own IPv6 to a link-local address"),
    Ok("lease of IPv6"),
    Err("link-local IPv6"),
    Err(":: sends"),
    Err("forged IPv6"),
    Err("discovery from afar"),
    Ok("router solicitation"),
    Ok("neighbour solicitation"),
    Ok("is it free"),
    Err("is another's address free"),
    Err("cut solicitation"),
    Err("cut advertisement"),
    Err("advertisement of another"),
    Ok("advertisement"),
    Err("advertisement from another"),
    Err("router advertisement"),
    Err("redirect"),
    Err("solicitation of another"),
    Ok("listener report"),
    Ok("own ICMPv6"),
    Err("own ICMPv6 to a link-local address"),
    Err("link-local ICMPv6"),
    Err("forged ICMPv6"),
    Err("strange ARP"),
    Err("ARP for another hardware address"),
    Ok("ARP request"),
    Ok("ARP answer"),
    Ok("ARP probe"),
    Err("ARP probe for another"),
    Err("forged ARP"),
];

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// How many frames are sent where nobody says otherwise.
const USUAL: u64 = 25_000;

#[test]
fn the_kernel_lets_pass_what_the_rules_say_and_nothing_else() {
    if support::skipped() {
        return;
    }
    let mut hub = Hub::new();
    let mut reached: BTreeMap<Word, u64> = BTreeMap::new();
    let (frames, mut seed) = (number("PODWALL_FRAMES", USUAL), number("PODWALL_SEED", 1));
    let mut tried = 0;
    while tried < frames {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mac = (seed % 3 != 0).then_some(MAC);
        let dhcp = seed % 4 != 0;
        let own: Vec<IpAddr> = OWN.iter().map(|it| it.parse().unwrap()).collect();
        let mut guard = hub.node.run(|| Guard::open(Config { dhcp, ..Config::default() }).unwrap());
        let interface = Interface { index: hub.index("v1"), name: "v1".to_owned() };
        let allowed = Allowed { addresses: own.clone(), mac };
        guard.set(&BTreeMap::from([(interface, allowed)])).unwrap();
        let pod = Pod {
            v4: own
                .iter()
                .filter_map(|it| if let IpAddr::V4(it) = it { Some(*it) } else { None })
                .collect(),
            v6: own
                .iter()
                .filter_map(|it| if let IpAddr::V6(it) = it { Some(*it) } else { None })
                .collect(),
            mac,
            dhcp,
        };
        let all: Vec<Vec<u8>> = (0..500).map(|_| random_frame(&mut dice)).collect();
        let came = hub.send_with(&all, &fence());
        for ((frame, came), token) in all.iter().zip(came).zip(hub.first..) {
            // Whatever stands behind a packet as padding can be read as part of it.
            let whole = with_token(frame, token);
            let word = judge(&whole, &pod);
            *reached.entry(word).or_default() += 1;
            assert_eq!(
                came,
                word.is_ok(),
                "{word:?}: {whole:02x?}\nagain: PODWALL_SEED={seed} PODWALL_FRAMES=1 cargo test \
                 -p podwall-dataplane --test guard_differential"
            );
        }
        tried += 500;
        seed += 1;
    }
    println!("{tried} frames");
    for (word, times) in &reached {
        println!("{times:8} {word:?}");
    }
    if frames >= USUAL {
        let missing: Vec<&Word> = WORDS.iter().filter(|word| !reached.contains_key(word)).collect();
        assert!(missing.is_empty(), "never tried: {missing:?}");
    }
}
