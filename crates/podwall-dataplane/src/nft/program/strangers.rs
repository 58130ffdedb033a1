//! Who is denied because nobody knows the address?
//!
//! ```text
//!   egress_rows   …, last: local address in a pod range, not in @self4 ─▶ goto egress_stranger
//!   egress_stranger   this node's own packets pass ─▶ goto egress_strange
//! ```

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use podwall_policy::address::{AddressRange, AddressSet, Family};
use podwall_policy::policy::Direction;

use super::super::ir::{Expr, Fate, Field, Reg, Rule, Test};
use super::super::set::SetId;
use super::{ADDRESS, Names, SUBJECT, goto, nfproto, on, rule, sides};

/// The kernel gives its own membership reports an incoming interface (net/ipv4/igmp.c,
/// `igmpv3_newpack`), so they look like routed ones; those of pods are bridged or go nowhere.
const IGMP: u32 = 2;
const MULTICAST: IpNet = IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4);

/// The index of the loopback interface, in every network namespace.
const LOOPBACK: u32 = 1;

/// Whoever has a local address in the pod ranges and is not known. Behind the rules for those that
/// are isolated: who is isolated is known.
pub(super) fn rows(pod_ranges: &AddressSet, direction: Direction) -> impl Iterator<Item = Rule> {
    let nets = pod_ranges.ranges().iter().flat_map(AddressRange::cidrs);
    nets.map(move |net| {
        let family = Family::of(net.network());
        let (local, _) = sides(direction, family);
        let words = if family == Family::V4 { 1 } else { 4 };
        let steps = vec![
            nfproto(family),
            Expr::Load(local, ADDRESS),
            Expr::Inside(ADDRESS, net, SUBJECT),
            Expr::Load(local, Reg(ADDRESS.0 + words)),
            Expr::NotIn(SetId::Own(family), ADDRESS),
            goto(Names::of(direction).stranger),
        ];
        Rule { comment: format!("strangers in {net}"), steps }
    })
}

/// What passes of a stranger: what the node itself sends, which may be from an address in the pod
/// ranges. To a stranger it never gets here.
pub(super) fn denied(direction: Direction, strange: &'static str) -> Vec<Rule> {
    if direction == Direction::Ingress {
        return vec![on(strange)];
    }
    let itself = [Expr::Is(Field::Iif, Test::Eq(LOOPBACK)), Expr::Fate(Fate::Return)];
    let groups = [
        Expr::Is(Field::Iif, Test::Ne(0)),
        nfproto(Family::V4),
        Expr::Is(Field::L4proto, Test::Eq(IGMP)),
        Expr::Load(Field::Destination(Family::V4), ADDRESS),
        Expr::Inside(ADDRESS, MULTICAST, SUBJECT),
        Expr::Fate(Fate::Return),
    ];
    vec![
        rule("this node to itself", itself),
        rule("this node's groups", groups),
        rule("routed", [Expr::Is(Field::Iif, Test::Ne(0)), goto(strange)]),
        rule("bridged", [Expr::Is(Field::LinkByte, Test::AtLeast(0)), goto(strange)]),
    ]
}
