//! Which rules read the sets?
//!
//! ```text
//!  postrouting_egress  (srcnat - 5) ─┐ source address @egress:      goto egress4
//!  input_egress        (filter)     ─┘
//!  postrouting_ingress (srcnat - 4) ─▶ unless made by this node: goto ingress
//!                                       destination @ingress:       goto ingress4
//!
//!  egress4   ICMP errors of known connections pass ▶ jump egress4_rows ▶ self4 passes ▶ count, drop
//!  egress4_rows   addresses → r1 subject, r2 peer ▶ r1 . r2 . protocol . port vmap @by_port …
//!                 accept: passes this direction. return, or no row: back, to the drop
//! ```
//!
//! The rules are the same whatever the policies say; only the `_rows` chains leave out lookups for
//! kinds of entries that do not exist ([`Shape`]). A packet of a pod that nothing isolates costs
//! one lookup that misses per direction; a reply costs none.
//!
//! - Both directions have a base chain of their own because `accept` ends a base chain: passing
//!   egress must not skip ingress.
//! - Replies pass before any lookup. Packets in the original direction are looked up every time, so
//!   that a connection that is newly denied stops at once.
//! - "Made by this node" is: no incoming interface *and* no link-layer header. The interface alone
//!   does not say it: br_netfilter calls the postrouting hook without one for packets that it
//!   bridges between two pods (`br_nf_post_routing` in net/bridge/br_netfilter_hooks.c).
//! - Neighbour discovery passes with hop limit 255 only, which no routed packet can have
//!   (RFC 4861 §6.1.1), so that it is no way out for a pod.
//! - A pod found in the hash never falls through to the small ranges: its class covers them.

use std::fmt;

use podwall_compile::tables::{Delta, NodeTables, PeerKey, PortKey, VerdictKey};
use podwall_policy::address::Family;
use podwall_policy::policy::Direction;

use super::Log;
use super::ir::{Chain, Expr, Fate, Field, Hook, Reg, Rule, Test, state};
use super::set::SetId;

/// NF_IP_PRI_NAT_SRC is 100.
const BEFORE_SOURCE_NAT: i32 = 95;
/// NF_IP_PRI_FILTER.
const FILTER: i32 = 0;

// The key of a verdict, side by side. A map of classes writes two words: whether it holds the key,
// and the class; see [`class`].
const FOUND: Reg = Reg(0);
const SUBJECT: Reg = Reg(1);
const PEER: Reg = Reg(2);
const PROTOCOL: Reg = Reg(3);
const PORT: Reg = Reg(4);
/// An address; an IPv6 address fills this and the next three.
const ADDRESS: Reg = Reg(8);

/// The kinds of entries that the tables have, as bits. Lookups for absent kinds are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape(u32);

/// Whose rows.
#[derive(Clone, Copy)]
enum Rows {
    Own,
    Group,
    Net,
    Any,
}

const KINDS: [SetId; 4] = [SetId::ByPort, SetId::ByRange, SetId::ByProtocol, SetId::ByPeer];

impl Shape {
    fn row(key: &VerdictKey) -> Self {
        let kind = match key.ports {
            PortKey::Port(..) => 0,
            PortKey::Range(..) => 1,
            PortKey::AnyPort(_) => 2,
            PortKey::AnyProtocol => 3,
        };
        let whose = match key.peer {
            PeerKey::Own(_) => Rows::Own,
            PeerKey::Group(_) => Rows::Group,
            PeerKey::Net(_) => Rows::Net,
            PeerKey::Any => Rows::Any,
        };
        Self(1 << (4 * whose as u32 + kind))
    }

    fn block(family: Family) -> Self {
        Self(if family == Family::V4 { 1 << 16 } else { 1 << 17 })
    }

    fn net(family: Family) -> Self {
        Self(if family == Family::V4 { 1 << 18 } else { 1 << 19 })
    }

    /// What either has.
    #[must_use]
    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The kinds of entries in the tables.
    pub(crate) fn of(tables: &NodeTables) -> Self {
        let rows = tables.verdicts.keys().map(Self::row);
        let blocks = tables.blocks.keys().map(|range| Self::block(range.family()));
        let nets = tables.nets.keys().map(|range| Self::net(range.family()));
        rows.chain(blocks).chain(nets).fold(Self::default(), Self::with)
    }

    /// The kinds of entries that a change adds.
    pub(crate) fn added(delta: &Delta) -> Self {
        let rows =
            delta.verdicts.iter().filter(|(_, v)| v.is_some()).map(|(key, _)| Self::row(key));
        let blocks = delta.blocks_added.iter().map(|(range, _)| Self::block(range.family()));
        let nets = delta.nets_added.iter().map(|(range, _)| Self::net(range.family()));
        rows.chain(blocks).chain(nets).fold(Self::default(), Self::with)
    }

    fn kinds(self, whose: Rows) -> impl Iterator<Item = SetId> {
        let bits = self.0 >> (4 * whose as u32);
        KINDS.into_iter().enumerate().filter(move |(i, _)| bits & (1 << i) != 0).map(|(_, s)| s)
    }

    fn has_blocks(self, family: Family) -> bool {
        self.0 & Self::block(family).0 != 0
    }

    fn has_nets(self, family: Family) -> bool {
        self.0 & Self::net(family).0 != 0
    }
}

/// The chains of the table. Those whose name ends in `_rows` depend on the shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// In the order in which they are made; a rule may jump to any of them.
    pub(crate) chains: Vec<Chain>,
}

impl Program {
    pub(crate) fn new(shape: Shape, log: Option<Log>) -> Self {
        let mut chains = Vec::new();
        for family in Family::BOTH {
            for direction in Direction::BOTH {
                let mut rows = rows(shape, direction, family);
                rows.rules.extend(unmatched(direction, family));
                chains.push(rows);
                chains.push(isolated(direction, family, log));
            }
        }
        chains.push(Chain {
            name: "ingress",
            base: None,
            rules: Family::BOTH.map(|f| subjects(Direction::Ingress, f)).to_vec(),
        });
        let egress = || {
            let lookups = Family::BOTH.map(|family| subjects(Direction::Egress, family));
            [vec![replies()], lookups.to_vec()].concat()
        };
        chains.push(Chain {
            name: "postrouting_egress",
            base: Some((Hook::Postrouting, BEFORE_SOURCE_NAT)),
            rules: egress(),
        });
        chains.push(Chain {
            name: "postrouting_ingress",
            base: Some((Hook::Postrouting, BEFORE_SOURCE_NAT + 1)),
            rules: vec![
                replies(),
                rule("routed", [Expr::Is(Field::Iif, Test::Ne(0)), goto("ingress")]),
                rule("bridged", [Expr::Is(Field::LinkByte, Test::AtLeast(0)), goto("ingress")]),
            ],
        });
        chains.push(Chain {
            name: "input_egress",
            base: Some((Hook::Input, FILTER)),
            rules: egress(),
        });
        Self { chains }
    }

    /// The chains that depend on the shape.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Chain> {
        self.chains.iter().filter(|chain| is_rows(chain.name))
    }

    /// A number that changes whenever sets or rules do that no change of policy changes.
    pub(crate) fn fingerprint(&self) -> u64 {
        let chains = self.chains.iter().filter(|chain| !is_rows(chain.name));
        let text: String = chains.map(ToString::to_string).chain([sets_text()]).collect();
        // FNV-1a, 64 bits.
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// Whether a chain depends on the shape.
pub(crate) fn is_rows(chain: &str) -> bool {
    chain.ends_with("_rows")
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sets_text())?;
        for chain in &self.chains {
            writeln!(f, "\n{chain}")?;
        }
        Ok(())
    }
}

fn sets_text() -> String {
    let mut text = String::new();
    for set in SetId::ALL {
        let fields: Vec<_> = set.key_fields().iter().map(|f| format!("{f:?}")).collect();
        text += &format!("{set}: {} : {:?}", fields.join(" . "), set.data());
        text += if set.is_interval() { ", ranges" } else { "" };
        text += if set.counts() { ", counted" } else { "" };
        if let Some(data) = set.otherwise() {
            text += &format!(", otherwise {data}");
        }
        text += &format!("    # {}\n", set.comment());
    }
    text
}

fn rule<const N: usize>(comment: &str, steps: [Expr; N]) -> Rule {
    Rule { comment: comment.to_owned(), steps: steps.into() }
}

fn goto(chain: &'static str) -> Expr {
    Expr::Fate(Fate::Goto(chain))
}

fn replies() -> Rule {
    rule(
        "replies",
        [
            Expr::Is(Field::CtDirection, Test::Eq(1)),
            Expr::Is(Field::CtState, Test::Bits(state::ESTABLISHED)),
            Expr::Fate(Fate::Accept),
        ],
    )
}

/// The local address of a packet in a direction, then the remote one.
fn sides(direction: Direction, family: Family) -> (Field, Field) {
    match direction {
        Direction::Egress => (Field::Source(family), Field::Destination(family)),
        Direction::Ingress => (Field::Destination(family), Field::Source(family)),
    }
}

fn nfproto(family: Family) -> Expr {
    Expr::Is(Field::Nfproto, Test::Eq(if family == Family::V4 { 2 } else { 10 }))
}

fn chain_name(direction: Direction, family: Family) -> (&'static str, &'static str) {
    match (direction, family) {
        (Direction::Egress, Family::V4) => ("egress4", "egress4_rows"),
        (Direction::Egress, Family::V6) => ("egress6", "egress6_rows"),
        (Direction::Ingress, Family::V4) => ("ingress4", "ingress4_rows"),
        (Direction::Ingress, Family::V6) => ("ingress6", "ingress6_rows"),
    }
}

/// Isolated pods' packets go to their chain; others fall through.
fn subjects(direction: Direction, family: Family) -> Rule {
    let set = SetId::subjects(direction, family);
    rule(
        "isolated",
        [
            nfproto(family),
            Expr::Load(sides(direction, family).0, ADDRESS),
            Expr::Map(set, ADDRESS, FOUND),
            // Always so. Without it `nft list` would not show the lookup.
            Expr::HoldsNot(FOUND, 0),
            goto(chain_name(direction, family).0),
        ],
    )
}

/// Behind the lookups: counts a packet that no rule allows, unless a pod sends it to itself.
fn unmatched(direction: Direction, family: Family) -> [Rule; 2] {
    let mut own = own(family).to_vec();
    own.push(Expr::Fate(Fate::Return));
    let subject = class(SetId::subjects(direction, family), sides(direction, family).0, SUBJECT);
    let count = [vec![nfproto(family)], subject, vec![Expr::In(SetId::Unmatched, SUBJECT)]];
    [
        Rule { comment: "no verdict, a pod reaches itself".to_owned(), steps: own },
        Rule { comment: "no verdict, count".to_owned(), steps: count.concat() },
    ]
}

/// A packet of a pod to itself.
fn own(family: Family) -> [Expr; 4] {
    let words = if family == Family::V4 { 1 } else { 4 };
    [
        nfproto(family),
        Expr::Load(Field::Source(family), ADDRESS),
        Expr::Load(Field::Destination(family), Reg(ADDRESS.0 + words)),
        Expr::In(SetId::Own(family), ADDRESS),
    ]
}

/// What happens to a packet of an isolated pod.
fn isolated(direction: Direction, family: Family, log: Option<Log>) -> Chain {
    let (name, rows) = chain_name(direction, family);
    let icmp = if family == Family::V4 { 1 } else { 58 };
    let mut rules = vec![rule(
        "ICMP errors of known connections",
        [
            Expr::Is(Field::CtState, Test::Bits(state::RELATED)),
            Expr::Is(Field::L4proto, Test::Eq(icmp)),
            Expr::Fate(Fate::Accept),
        ],
    )];
    if family == Family::V6 {
        rules.push(rule(
            "neighbour discovery",
            [
                nfproto(family),
                Expr::Is(Field::L4proto, Test::Eq(icmp)),
                Expr::Is(Field::HopLimit, Test::Eq(255)),
                Expr::Is(Field::IcmpType, Test::Within(133, 137)),
                Expr::Fate(Fate::Accept),
            ],
        ));
    }
    rules.push(rule("verdicts", [Expr::Fate(Fate::Jump(rows))]));
    let mut itself = own(family).to_vec();
    itself.push(Expr::Fate(Fate::Accept));
    rules.push(Rule { comment: "a pod reaches itself".to_owned(), steps: itself });
    if let Some(Log { group, per_second, burst }) = log {
        let way = if direction == Direction::Egress { "egress" } else { "ingress" };
        let prefix = format!("podwall {way} ");
        let steps = [Expr::Limit { per_second, burst }, Expr::Log { group, prefix }];
        rules.push(rule("denied: report", steps));
    }
    rules.push(rule("denied", [Expr::Counter, Expr::Fate(Fate::Drop)]));
    Chain { name, base: None, rules }
}

/// Looks a class up and puts it in a register, and in the one before whether the map holds the key.
///
/// The kernel would do with one word. But nft 1.0.6 ends with a failed assertion when it lists a
/// rule in which the result of a map is part of a key (`netlink_parse_concat_expr`: such a result
/// has no length there). It takes only the first register of the result for it, and the others
/// for what was last put there: the address, which makes good reading, or the end of it for IPv6,
/// whose addresses are too long for that.
fn class(set: SetId, field: Field, to: Reg) -> Vec<Expr> {
    lookup(set, field, to, Reg(to.0 - 1))
}

/// The same, with the result in registers from another one on.
fn lookup(set: SetId, field: Field, to: Reg, found: Reg) -> Vec<Expr> {
    let end = match field {
        Field::Source(Family::V6) => Field::SourceEnd,
        Field::Destination(Family::V6) => Field::DestinationEnd,
        _ => return vec![Expr::Load(field, to), Expr::Map(set, to, found)],
    };
    vec![Expr::Load(end, to), Expr::Load(field, ADDRESS), Expr::Map(set, ADDRESS, found)]
}

/// The lookups, in the order of [`NodeTables::decide`]: the rows of the peer's own class, of its
/// group, of its net, then those for any peer; of each, one port, ports, any port, everything.
fn rows(shape: Shape, direction: Direction, family: Family) -> Chain {
    let (local, remote) = sides(direction, family);
    // Behind the peer's, whose lookup writes over the register of this one.
    let subject = class(SetId::subjects(direction, family), local, SUBJECT);
    let peer = class(SetId::Peer(family), remote, PEER);
    let no_pod = [Expr::Holds(SUBJECT, 0)];
    let is_pod = [Expr::HoldsNot(SUBJECT, 0)];
    let mut stages = vec![("pod", [peer.as_slice(), &is_pod].concat(), Rows::Own)];
    if shape.has_blocks(family) {
        let block = class(SetId::Block(family), remote, PEER);
        stages.push(("block", [peer.as_slice(), &no_pod, &block].concat(), Rows::Own));
    }
    // Its third word is the group: one register further down than for the second.
    let group = lookup(SetId::Peer(family), remote, PEER, FOUND);
    let in_hash = [Expr::HoldsNot(FOUND, 0)];
    stages.push(("group", [group.as_slice(), &in_hash].concat(), Rows::Group));
    if shape.has_nets(family) {
        stages.push(("net", class(SetId::Net(family), remote, PEER), Rows::Net));
    }
    stages.push(("any peer", vec![Expr::Put(PEER, PeerKey::Any.number())], Rows::Any));
    let mut rules = Vec::new();
    for (stage, find_peer, whose) in stages {
        for kind in shape.kinds(whose) {
            let protocol = [Expr::Load(Field::L4proto, PROTOCOL)];
            let port = [Expr::Load(Field::DestinationPort, PORT)];
            let (word, load): (_, &[&[Expr]]) = match kind {
                SetId::ByPort => ("one port", &[&protocol, &port]),
                SetId::ByRange => ("ports", &[&protocol, &port]),
                SetId::ByProtocol => ("any port", &[&protocol]),
                _ => ("everything", &[]),
            };
            let lookup = [Expr::Vmap(kind, SUBJECT)];
            rules.push(Rule {
                comment: format!("{stage}, {word}"),
                // The family is known here. It stands for `nft list`, which could not name the
                // fields of an address without.
                steps: [
                    &[nfproto(family)],
                    find_peer.as_slice(),
                    &subject,
                    &load.concat(),
                    &lookup,
                ]
                .concat(),
            });
        }
    }
    Chain { name: chain_name(direction, family).1, base: None, rules }
}
