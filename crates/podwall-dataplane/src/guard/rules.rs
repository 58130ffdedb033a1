//! What may leave a pod's interface?
//!
//! ```text
//!  p5 (ingress of interface 5)
//!    from its MAC, IPv4: source own                                     accept
//!    from its MAC, IPv6: jump check_ip6 ─ ICMPv6: check_icmp6 ─ neighbour discovery, reports …
//!    from its MAC:       jump check ─ ARP: check_arp │ asks for a lease (DHCP)
//!    all that comes back: count, drop
//! ```
//!
//! What is not accepted is dropped, so that whatever cannot be read is dropped, too: a step that finds
//! nothing to read ends its rule. *Own* is a pair (interface, address) of a set, so that the rules are
//! the same for all interfaces and never change.
//!
//! - *Ethertype* is that of the link layer's header. The kernel takes an outer VLAN tag off a frame
//!   before this hook and then calls what is inside the frame's protocol; the header says what came.
//!   So frames with a tag (802.1Q, 802.1ad; also "priority" tags for VLAN 0) are dropped, and so is all
//!   that is not IPv4, IPv6 or ARP: a bridge would carry PPPoE, MPLS, spanning tree or anything else to
//!   a neighbour, by every policy.
//! - *IPv4*: fragments and packets with options have their source where all have it. 0.0.0.0 may ask
//!   for a lease, in one packet, of everybody (RFC 2131 §4.1), and nothing else.
//! - *ARP*: the sender's address is own, and its hardware address the interface's own if that is known:
//!   no neighbour learns a wrong one. Probes (RFC 5227 §2.1.1: of 0.0.0.0) are for own addresses.
//! - *IPv6*: the source is own. Link-local addresses are in no policy, so to them and from them only
//!   what the link needs may pass: neighbour discovery (RFC 4861; hop limit 255), multicast listener
//!   reports (RFC 2710, RFC 3810; hop limit 1) and DHCPv6. `::` may ask for routers, and whether an own
//!   or a link-local address is free (RFC 4862 §5.4.2). An advertisement is for an own or a link-local
//!   address. Nobody is a router: no router advertisement and no redirect passes.
//! - Link-local addresses are not known to be anybody's: on one bridge a pod can claim that of another
//!   in neighbour discovery. It gains packets of neighbour discovery, since no others pass to it.
//! - *Fragments of IPv6*: headers of the first must be readable up to the transport header, as RFC 7112
//!   §5 demands. The others pass with an own source; none of them can hold the start of an ICMPv6
//!   message. What stands behind an authentication header (RFC 4302) is not looked at: whoever takes it
//!   has asked for the key.
//! - What all have in common is not asked twice: one look at the link layer's header, which costs more
//!   than other steps, says hardware address and ethertype, and IPv4 needs no second rule
//!   (`benches/guard.rs`).

use super::steps::{Chain, Part, Place, Rule, Set, Step, part};
use crate::netlink::attribute::Writer;
use crate::nft::ir::Fate;

const PROTOCOL: Part = part("meta l4proto", Place::Protocol, 1);
const LINK_SOURCE: Part = part("ether saddr", Place::Link(6), 6);
/// In one: to read from the link layer's header is slow.
const LINK_SOURCE_AND_ETHERTYPE: Part = part("ether saddr . type", Place::Link(6), 8);
const ETHERTYPE: Part = part("ether type", Place::Link(12), 2);
const SOURCE4: Part = part("ip saddr", Place::Network(12), 4);
const DESTINATION4: Part = part("ip daddr", Place::Network(16), 4);
/// With the bit for more fragments, without the other two.
const FRAGMENT4: Part = part("ip frag-off & 0x3fff", Place::Network(6), 2);
const SOURCE6: Part = part("ip6 saddr", Place::Network(8), 16);
const DESTINATION6: Part = part("ip6 daddr", Place::Network(24), 16);
const SOURCE6_NET: Part = part("ip6 saddr & ffc0::", Place::Network(8), 2);
const DESTINATION6_NET: Part = part("ip6 daddr & ffc0::", Place::Network(24), 2);
const DESTINATION6_START: Part = part("ip6 daddr & ff00::", Place::Network(24), 1);
const HOP_LIMIT: Part = part("ip6 hoplimit", Place::Network(7), 1);
const FRAGMENT6: Part = part("frag frag-off & 0xfff8", Place::Fragment, 2);
const PORTS: Part = part("th sport . th dport", Place::Transport(0), 4);
const ICMP_TYPE: Part = part("icmpv6 type", Place::Transport(0), 1);
const TARGET: Part = part("icmpv6 taddr", Place::Transport(8), 16);
const TARGET_NET: Part = part("icmpv6 taddr & ffc0::", Place::Transport(8), 2);
/// Hardware and protocol with the lengths of their addresses (RFC 826).
const ARP_KIND: Part = part("arp htype . ptype . hlen . plen", Place::Network(0), 6);
const ARP_OPERATION: Part = part("arp operation", Place::Network(6), 2);
const ARP_MAC: Part = part("arp saddr ether", Place::Network(8), 6);
const ARP_SENDER: Part = part("arp saddr ip", Place::Network(14), 4);
const ARP_TARGET: Part = part("arp daddr ip", Place::Network(24), 4);
const ANY_MAC: Part = part("0", Place::Zero, 6);

const LINK_LOCAL: &[u8] = &[0xfe, 0x80];
const NET_MASK: &[u8] = &[0xff, 0xc0];

fn rule(comment: &str, steps: impl IntoIterator<Item = Step>) -> Rule {
    Rule { comment: comment.to_owned(), steps: steps.into_iter().collect() }
}

const IP6: &str = "check_ip6";
const CHECK: &str = "check";
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ACCEPT: Step = Step::Fate(Fate::Accept);

fn jump(chain: &'static str) -> Step {
    Step::Fate(Fate::Jump(chain))
}

fn goto(chain: &'static str) -> Step {
    Step::Fate(Fate::Goto(chain))
}

fn is(part: Part, bytes: impl AsRef<[u8]>) -> Step {
    Step::Is(part, bytes.as_ref().to_vec())
}

/// The chains that all interfaces share, each behind those that it names.
pub(super) fn chains(dhcp: bool) -> Vec<Chain> {
    vec![near(), near_or_none(), icmp6(), ip6(dhcp), arp(), check(dhcp)]
}

fn check(dhcp: bool) -> Chain {
    let mut rules = vec![rule("ARP", [is(ETHERTYPE, [0x08, 0x06]), goto("check_arp")])];
    if dhcp {
        rules.push(rule(
            "asks for a lease",
            [
                is(ETHERTYPE, IPV4),
                is(SOURCE4, [0; 4]),
                is(DESTINATION4, [0xff; 4]),
                Step::MaskedIs(FRAGMENT4, &[0x3f, 0xff], &[0, 0]),
                is(PROTOCOL, [17]),
                is(PORTS, [0, 68, 0, 67]),
                ACCEPT,
            ],
        ));
    }
    Chain { name: CHECK, rules }
}

fn ip6(dhcp: bool) -> Chain {
    let mut rules = vec![
        rule(
            "own IPv6 address",
            [
                Step::MaskedIsNot(DESTINATION6_NET, NET_MASK, LINK_LOCAL),
                Step::IsNot(PROTOCOL, vec![58]),
                Step::Own(Set::Own6, SOURCE6),
                ACCEPT,
            ],
        ),
        rule("ICMPv6", [is(PROTOCOL, [58]), goto("check_icmp6")]),
        later_fragment(),
    ];
    if dhcp {
        // ff02::1:2, and the ports of RFC 8415 §7.2.
        let mut servers = [0; 16];
        [servers[0], servers[1], servers[13], servers[15]] = [0xff, 2, 1, 2];
        rules.push(rule(
            "asks for a lease",
            [
                is(DESTINATION6, servers),
                Step::MaskedIs(SOURCE6_NET, NET_MASK, LINK_LOCAL),
                is(PROTOCOL, [17]),
                is(PORTS, [0x02, 0x22, 0x02, 0x23]),
                ACCEPT,
            ],
        ));
    }
    Chain { name: IP6, rules }
}

fn later_fragment() -> Rule {
    rule(
        "later fragment of an own IPv6 address",
        [
            Step::MaskedIsNot(DESTINATION6_NET, NET_MASK, LINK_LOCAL),
            Step::MaskedIsNot(FRAGMENT6, &[0xff, 0xf8], &[0, 0]),
            Step::Own(Set::Own6, SOURCE6),
            ACCEPT,
        ],
    )
}

fn icmp6() -> Chain {
    const ROUTER_SOLICITATION: u8 = 133;
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    const REDIRECT: u8 = 137;
    let discovery = |number: u8| [is(ICMP_TYPE, [number]), is(HOP_LIMIT, [255])];
    let with = |steps: [Step; 2], more: &[Step]| [&steps[..], more].concat();
    let listener = |types: Step| {
        let to_many = is(DESTINATION6_START, [0xff]);
        [types, is(HOP_LIMIT, [1]), to_many, goto("near_or_none")]
    };
    let own = Step::Own(Set::Own6, TARGET);
    let link_local = Step::MaskedIs(TARGET_NET, NET_MASK, LINK_LOCAL);
    let nobody = is(SOURCE6, [0; 16]);
    let ask = |more: &[Step]| with(discovery(SOLICITATION), more);
    let advertise = |more: &[Step]| with(discovery(ADVERTISEMENT), more);
    let rules = vec![
        rule(
            "ICMPv6 of an own address",
            [
                Step::MaskedIsNot(DESTINATION6_NET, NET_MASK, LINK_LOCAL),
                Step::Outside(ICMP_TYPE, ROUTER_SOLICITATION, REDIRECT),
                Step::Own(Set::Own6, SOURCE6),
                ACCEPT,
            ],
        ),
        later_fragment(),
        rule("neighbour solicitation", ask(&[Step::IsNot(SOURCE6, vec![0; 16]), goto("near")])),
        rule("is an own address free", ask(&[nobody.clone(), own.clone(), ACCEPT])),
        rule("is a link-local address free", ask(&[nobody, link_local.clone(), ACCEPT])),
        rule("advertisement of an own address", advertise(&[own, goto("near")])),
        rule("advertisement of a link-local address", advertise(&[link_local, goto("near")])),
        rule("router solicitation", with(discovery(ROUTER_SOLICITATION), &[goto("near_or_none")])),
        rule("listener report and its end", listener(Step::Within(ICMP_TYPE, 131, 132))),
        rule("listener report, version 2", listener(is(ICMP_TYPE, [143]))),
    ];
    Chain { name: "check_icmp6", rules }
}

/// Sources of neighbour discovery.
fn near() -> Chain {
    let rules = vec![
        rule("link-local", [Step::MaskedIs(SOURCE6_NET, NET_MASK, LINK_LOCAL), ACCEPT]),
        rule("own", [Step::Own(Set::Own6, SOURCE6), ACCEPT]),
    ];
    Chain { name: "near", rules }
}

fn near_or_none() -> Chain {
    let rules =
        vec![rule("no address yet", [is(SOURCE6, [0; 16]), ACCEPT]), rule("near", [goto("near")])];
    Chain { name: "near_or_none", rules }
}

fn arp() -> Chain {
    let operation = |number: u8| is(ARP_OPERATION, [0, number]);
    let sender = || Step::Own(Set::Own4, ARP_SENDER);
    let rules = vec![
        rule(
            "not for IPv4 on Ethernet",
            [Step::IsNot(ARP_KIND, vec![0, 1, 0x08, 0x00, 6, 4]), Step::Fate(Fate::Return)],
        ),
        rule(
            "hardware address of another",
            [
                Step::NotOwn(Set::Mac, ARP_MAC),
                Step::NotOwn(Set::Mac, ANY_MAC),
                Step::Fate(Fate::Return),
            ],
        ),
        rule("request", [operation(1), sender(), ACCEPT]),
        rule("answer", [operation(2), sender(), ACCEPT]),
        rule(
            "probe",
            [operation(1), is(ARP_SENDER, [0; 4]), Step::Own(Set::Own4, ARP_TARGET), ACCEPT],
        ),
    ];
    Chain { name: "check_arp", rules }
}

/// The rules of an interface's chain: a hardware address that is known, and what was dropped so far.
pub(super) fn of_interface(mac: Option<[u8; 6]>, dropped: u64) -> [Rule; 4] {
    let (from, kind_of) = match mac {
        Some(_) => (Some(LINK_SOURCE), LINK_SOURCE_AND_ETHERTYPE),
        None => (None, ETHERTYPE),
    };
    let mac = mac.as_ref().map_or(&[][..], |mac| mac);
    let kind = |number: [u8; 2]| is(kind_of, [mac, &number].concat());
    let from = from.map(|part| is(part, mac));
    [
        rule("own IPv4 address", [kind(IPV4), Step::Own(Set::Own4, SOURCE4), ACCEPT]),
        rule("IPv6", [kind(IPV6), jump(IP6)]),
        rule(&mac_comment(mac.try_into().ok()), from.into_iter().chain([jump(CHECK)])),
        rule(FORGED, [Step::Count(dropped), Step::Fate(Fate::Drop)]),
    ]
}

/// The comment of an interface's last rule.
pub(super) const FORGED: &str = "not its own";
const ANY: &str = "from any hardware address";
const FROM: &str = "from ";

fn mac_comment(mac: Option<[u8; 6]>) -> String {
    mac.map_or_else(|| ANY.to_owned(), |mac| format!("{FROM}{}", mac_text(mac)))
}

/// A hardware address as people write it.
pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What the comment of an interface's third rule says; `None`: it is no such comment.
pub(super) fn read_mac(comment: &str) -> Option<Option<[u8; 6]>> {
    if comment == ANY {
        return Some(None);
    }
    let mut bytes = comment.strip_prefix(FROM)?.split(':').map(|it| u8::from_str_radix(it, 16));
    let mut mac = [0; 6];
    for byte in &mut mac {
        *byte = bytes.next()?.ok()?;
    }
    bytes.next().is_none().then_some(Some(mac))
}

/// A number of all that the constant part is, to tell versions and configurations apart.
pub(super) fn fingerprint(dhcp: bool) -> u64 {
    let mut w = Writer::default();
    Set::ALL.into_iter().for_each(|set| set.write(&mut w, "", 0));
    for chain in chains(dhcp) {
        chain.rules.iter().for_each(|rule| rule.write(&mut w, "", chain.name));
    }
    of_interface(None, 0).iter().for_each(|rule| rule.write(&mut w, "", ""));
    // FNV-1a, 64 bits.
    w.bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
