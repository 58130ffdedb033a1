//! Which rules read the sets?
//!
//! ```text
//!  postrouting_rows (srcnat - 5) ─▶ replies pass ▶ jump egress_rows ▶ unless made by this node: goto ingress_rows
//!  input_rows       (filter)     ─▶ replies pass ▶ goto egress_rows
//!        └ protocols without ports: ICMP errors and neighbour discovery pass ▶ the same with *_portless_rows
//!
//!  egress_rows   one rule:  local address @egress4 → subject   (not there: the next rule)
//!                           remote address @peer4 → peer, group
//!                           subject . peer . protocol . port vmap @by_port, @by_range …
//!                             return: passes this direction    break: the next rule, denied
//!                             continue: the next lookup; behind the last: goto egress_unmatched
//!                next rule: local address @egress4: goto egress_denied
//!
//!                last rules:  local address in a pod range, and not in @self4: goto egress_stranger
//!
//!  egress_unmatched   self4 passes ▶ count ▶ goto egress_dropped: report, drop
//!  egress_denied      self4 passes ▶ goto egress_dropped
//!  egress_stranger    this node itself passes ▶ goto egress_strange: count, report, drop
//! ```
//!
//! The chains whose names end in `_rows` leave out what has no entries ([`Shape`]); with nothing
//! isolated they are empty, base chains included. A packet of a pod that nothing isolates costs two
//! lookups that miss per direction where others are isolated, three where there are small ranges,
//! too; a reply costs none. Where strangers are isolated it costs a comparison more, and a lookup if
//! it is one of this node's pods.
//!
//! - To pass is to `return`, not to `accept`, which would end the base chain: passing egress must
//!   not skip ingress. So one base chain does for both.
//! - All lookups of a direction stand in one rule, since the kernel lets no rule read a register
//!   that it has not written itself: each rule more would have to look the classes up again. A map
//!   of verdicts has an element for every other key, which says `continue`, or a miss would end the
//!   rule.
//! - The second rule is what denies, and also what holds if the first ends for a reason that nobody
//!   thought of (a header that cannot be read, an element that somebody took away): an isolated pod
//!   is closed then, not open. It costs those only that the first did not decide.
//! - Protocols without ports have rules of their own, without a step that reads a port: there may be
//!   none to read, and the rule would end.
//! - Replies pass before any lookup. The direction alone says it: only a packet of a known
//!   connection has one, in the reply direction it is established, or an ICMP error (or a reset
//!   that this node made, `nf_ct_attach`) that answers the other side. Packets in the original
//!   direction are looked up every time, so that a connection that is newly denied stops at once.
//! - Who is known in a pod range has an entry in both directions, so that `self4` says who is not; a
//!   map cannot be asked the other way round. It comes after the comparison, which most addresses
//!   fail.
//! - "Made by this node" is: no incoming interface *and* no link-layer header; to itself, the
//!   loopback interface, whose number is 1 (`LOOPBACK_IFINDEX` in the kernel's net/flow.h). The interface alone
//!   does not say it: br_netfilter calls the postrouting hook without one for packets that it
//!   bridges between two pods (`br_nf_post_routing` in net/bridge/br_netfilter_hooks.c).
//! - Neighbour discovery passes with hop limit 255 only, which no routed packet can have
//!   (RFC 4861 §6.1.1), so that it is no way out for a pod.
//! - A pod found in the hash never falls through to the small ranges: its class covers them. Where
//!   there are small ranges, pods and others have a rule each.

mod strangers;

use std::fmt;

use podwall_compile::tables::{Delta, NodeTables, PeerKey, PortKey, SubjectId, VerdictKey};
use podwall_policy::address::{AddressSet, Family};
use podwall_policy::policy::Direction;

use super::Log;
use super::ir::{Chain, Expr, Fate, Field, Hook, Reg, Rule, Test, state};
use super::set::SetId;
use crate::netlink::connections;

/// NF_IP_PRI_NAT_SRC is 100.
const BEFORE_SOURCE_NAT: i32 = 95;
/// Behind IPVS, which has taken packets to its Services by then (net/netfilter/ipvs/ip_vs_core.c:
/// NF_IP_PRI_NAT_SRC - 1): they come by again with a pod as their destination.
const AFTER_IPVS: i32 = 119;

// The key of a verdict, side by side. A map of classes writes two words: whether it holds the key,
// and the class; see [`class`].
const SUBJECT: Reg = Reg(1);
const PEER: Reg = Reg(2);
const PROTOCOL: Reg = Reg(3);
const PORT: Reg = Reg(4);
// Out of the way of the lookups; before each, whether a map of classes held the key.
const SAVED_SUBJECT: Reg = Reg(6);
const SAVED_GROUP: Reg = Reg(14);
/// An address; an IPv6 address fills this and the next three.
const ADDRESS: Reg = Reg(8);

// IP protocols.
const ICMP: u32 = 1;
const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMPV6: u32 = 58;
const SCTP: u32 = 132;

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

    fn subject(direction: Direction, family: Family) -> Self {
        let bit =
            20 + 2 * u32::from(direction == Direction::Egress) + u32::from(family == Family::V4);
        Self(1 << bit)
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
        let subjects = tables.subjects.iter().filter(|(_, class)| !class.is_open());
        let subjects = subjects
            .map(|((direction, address), _)| Self::subject(*direction, Family::of(*address)));
        rows.chain(blocks).chain(nets).chain(subjects).fold(Self::default(), Self::with)
    }

    /// The kinds of entries that a change adds.
    pub(crate) fn added(delta: &Delta) -> Self {
        let rows =
            delta.verdicts.iter().filter(|(_, v)| v.is_some()).map(|(key, _)| Self::row(key));
        let blocks = delta.blocks_added.iter().map(|(range, _)| Self::block(range.family()));
        let nets = delta.nets_added.iter().map(|(range, _)| Self::net(range.family()));
        let isolates = |class: Option<SubjectId>| class.is_some_and(|class| !class.is_open());
        let subjects = delta.subjects.iter().filter(|(_, class)| isolates(*class));
        let subjects = subjects
            .map(|((direction, address), _)| Self::subject(*direction, Family::of(*address)));
        rows.chain(blocks).chain(nets).chain(subjects).fold(Self::default(), Self::with)
    }

    fn kinds(self, whose: Rows) -> impl Iterator<Item = SetId> {
        let bits = self.0 >> (4 * whose as u32);
        KINDS.into_iter().enumerate().filter(move |(i, _)| bits & (1 << i) != 0).map(|(_, s)| s)
    }

    fn has_blocks(self, family: Family) -> bool {
        self.0 & Self::block(family).0 != 0
    }

    fn has_subjects(self, direction: Direction, family: Family) -> bool {
        self.0 & Self::subject(direction, family).0 != 0
    }

    fn has_nets(self, family: Family) -> bool {
        self.0 & Self::net(family).0 != 0
    }
}

/// The chains of the table. Those whose name ends in `_rows` depend on the shape and pod ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// In the order in which they are made; a rule may jump to any of them.
    pub(crate) chains: Vec<Chain>,
}

impl Program {
    pub(crate) fn new(shape: Shape, pod_ranges: &AddressSet, log: Option<Log>) -> Self {
        let mut chains = Vec::new();
        for direction in Direction::BOTH {
            let names = Names::of(direction);
            let Names { dropped, denied, unmatched, strange, stranger, ports, portless } = names;
            chains.push(chain(strange, drops(direction, log, true)));
            chains.push(chain(stranger, strangers::denied(direction, strange)));
            chains.push(chain(dropped, drops(direction, log, false)));
            chains.push(chain(denied, itself().into_iter().chain([on(dropped)]).collect()));
            let counts = Family::BOTH.map(|family| count(direction, family));
            let steps = itself().into_iter().chain(counts).chain([on(dropped)]);
            chains.push(chain(unmatched, steps.collect()));
            for (name, has_ports) in [(ports, true), (portless, false)] {
                let rules = rows(shape, direction, has_ports).into_iter();
                chains.push(chain(
                    name,
                    rules.chain(strangers::rows(pod_ranges, direction)).collect(),
                ));
            }
        }
        // A chain with nothing to look up has no rules.
        let isolated = |direction| {
            let subjects = Family::BOTH.into_iter().any(|f| shape.has_subjects(direction, f));
            subjects || !pod_ranges.is_empty()
        };
        let (egress, ingress) = (Direction::Egress, Direction::Ingress);
        let both = |of: fn(Direction) -> &'static str| {
            let mut rules = Vec::new();
            if isolated(egress) {
                rules.push(rule("egress", [Expr::Fate(Fate::Jump(of(egress)))]));
            }
            if isolated(ingress) {
                let (routed, bridged) = (Test::Ne(0), Test::AtLeast(0));
                rules.push(rule(
                    "routed: ingress",
                    [Expr::Is(Field::Iif, routed), goto(of(ingress))],
                ));
                rules.push(rule(
                    "bridged: ingress",
                    [Expr::Is(Field::LinkByte, bridged), goto(of(ingress))],
                ));
            }
            rules
        };
        let from = |of: fn(Direction) -> &'static str| vec![rule("egress", [goto(of(egress))])];
        let ports = |direction| Names::of(direction).ports;
        let portless = |direction| Names::of(direction).portless;
        chains.push(chain("postrouting_portless_rows", [known(), both(portless)].concat()));
        chains.push(chain("input_portless_rows", [known(), from(portless)].concat()));
        let (mut forwarded, mut received) = (Vec::new(), Vec::new());
        if isolated(egress) || isolated(ingress) {
            forwarded = [first("postrouting_portless_rows"), both(ports)].concat();
        }
        if isolated(egress) {
            received = [first("input_portless_rows"), from(ports)].concat();
        }
        let base =
            |name, hook, priority, rules| Chain { name, base: Some((hook, priority)), rules };
        chains.push(base("postrouting_rows", Hook::Postrouting, BEFORE_SOURCE_NAT, forwarded));
        chains.push(base("input_rows", Hook::Input, AFTER_IPVS, received));
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

/// Whether a chain depends on the shape. The comments of its rules must say all that it does.
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

fn chain(name: &'static str, rules: Vec<Rule>) -> Chain {
    Chain { name, base: None, rules }
}

fn on(chain: &'static str) -> Rule {
    rule("denied", [goto(chain)])
}

/// What every packet meets first.
fn first(portless: &'static str) -> Vec<Rule> {
    let not = |number| Expr::Is(Field::L4proto, Test::Ne(number));
    vec![
        rule(
            "standing",
            [
                Expr::Load(Field::CtStatus, ADDRESS),
                Expr::Keep(ADDRESS, connections::CONFIRMED | connections::FIXED_TIMEOUT),
                Expr::In(SetId::Standing, ADDRESS),
                Expr::Fate(Fate::Accept),
            ],
        ),
        rule("replies", [Expr::Is(Field::CtDirection, Test::Eq(1)), Expr::Fate(Fate::Accept)]),
        rule("no ports", [not(TCP), not(UDP), not(SCTP), goto(portless)]),
    ]
}

/// What passes both directions of the protocols without ports.
fn known() -> Vec<Rule> {
    let protocol = |number| Expr::Is(Field::L4proto, Test::Eq(number));
    let related = |icmp| {
        let steps = [
            protocol(icmp),
            Expr::Is(Field::CtState, Test::Bits(state::RELATED)),
            Expr::Fate(Fate::Accept),
        ];
        rule("ICMP errors of known connections", steps)
    };
    let neighbours = [
        nfproto(Family::V6),
        protocol(ICMPV6),
        Expr::Is(Field::HopLimit, Test::Eq(255)),
        Expr::Is(Field::IcmpType, Test::Within(133, 137)),
        Expr::Fate(Fate::Accept),
    ];
    vec![related(ICMP), related(ICMPV6), rule("neighbour discovery", neighbours)]
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

/// The chains of a direction.
struct Names {
    /// Reports, counts and drops.
    dropped: &'static str,
    /// Denied by a verdict.
    denied: &'static str,
    /// No verdict.
    unmatched: &'static str,
    /// From, or to, an address that nobody knows: denied; the same, unless by the node itself.
    strange: &'static str,
    stranger: &'static str,
    /// The lookups for protocols with ports, and for the others.
    ports: &'static str,
    portless: &'static str,
}

impl Names {
    fn of(direction: Direction) -> Self {
        match direction {
            Direction::Egress => Self {
                dropped: "egress_dropped",
                denied: "egress_denied",
                unmatched: "egress_unmatched",
                strange: "egress_strange",
                stranger: "egress_stranger",
                ports: "egress_rows",
                portless: "egress_portless_rows",
            },
            Direction::Ingress => Self {
                dropped: "ingress_dropped",
                denied: "ingress_denied",
                unmatched: "ingress_unmatched",
                strange: "ingress_strange",
                stranger: "ingress_stranger",
                ports: "ingress_rows",
                portless: "ingress_portless_rows",
            },
        }
    }
}

/// A packet of a pod to itself passes.
fn itself() -> [Rule; 2] {
    Family::BOTH.map(|family| {
        let words = if family == Family::V4 { 1 } else { 4 };
        rule(
            "a pod reaches itself",
            [
                nfproto(family),
                Expr::Load(Field::Source(family), ADDRESS),
                Expr::Load(Field::Destination(family), Reg(ADDRESS.0 + words)),
                Expr::In(SetId::Own(family), ADDRESS),
                Expr::Fate(Fate::Return),
            ],
        )
    })
}

/// Counts a packet that no rule allows.
fn count(direction: Direction, family: Family) -> Rule {
    let subject = class(SetId::subjects(direction, family), sides(direction, family).0, SUBJECT);
    let steps = [vec![nfproto(family)], subject, vec![Expr::In(SetId::Unmatched, SUBJECT)]];
    Rule { comment: "count".to_owned(), steps: steps.concat() }
}

/// What begins a reported packet's prefix.
pub(crate) fn prefix(direction: Direction, stranger: bool) -> &'static str {
    match (direction, stranger) {
        (Direction::Egress, false) => "podwall egress ",
        (Direction::Egress, true) => "podwall egress stranger ",
        (Direction::Ingress, false) => "podwall ingress ",
        (Direction::Ingress, true) => "podwall ingress stranger ",
    }
}

fn drops(direction: Direction, log: Option<Log>, stranger: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    if stranger {
        let class = Expr::Put(SUBJECT, SubjectId::STRANGER.0);
        rules.push(rule("count", [class, Expr::In(SetId::Unmatched, SUBJECT)]));
    }
    if let Some(Log { group, per_second, burst }) = log {
        let prefix = prefix(direction, stranger).to_owned();
        let steps = [Expr::Limit { per_second, burst }, Expr::Log { group, prefix }];
        rules.push(rule("report", steps));
    }
    rules.push(rule("denied", [Expr::Counter, Expr::Fate(Fate::Drop)]));
    rules
}

/// Looks a class up and puts it in a register, and in the one before whether the map holds the key.
///
/// The kernel would do with one word. But nft 1.0.6 ends with a failed assertion when it lists a
/// rule in which the result of a map is part of a key (`netlink_parse_concat_expr`: such a result
/// has no length there). It takes only the first register of the result for it, and the others
/// for what was last put there: the address, which makes good reading, or the end of it for IPv6,
/// whose addresses are too long for that.
fn class(set: SetId, field: Field, to: Reg) -> Vec<Expr> {
    lookup(set, field, to, &[])
}

/// The same with more words of the result in the registers behind, each read as the address.
fn lookup(set: SetId, field: Field, to: Reg, more: &[Reg]) -> Vec<Expr> {
    let (end, key) = match field {
        Field::Source(Family::V6) => (Field::SourceEnd, ADDRESS),
        Field::Destination(Family::V6) => (Field::DestinationEnd, ADDRESS),
        _ => (field, to),
    };
    let mut steps: Vec<Expr> = [&[to], more].concat().iter().map(|r| Expr::Load(end, *r)).collect();
    if key != to {
        steps.push(Expr::Load(field, key));
    }
    steps.push(Expr::Map(set, key, Reg(to.0 - 1)));
    steps
}

/// The rules of a direction: one a family, that ends with a verdict on every packet of an isolated
/// pod, and one behind it for those that it denies.
fn rows(shape: Shape, direction: Direction, ports: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::BOTH {
        if !shape.has_subjects(direction, family) {
            continue;
        }
        let own = shape.kinds(Rows::Own).any(|set| ports || set == SetId::ByPeer);
        let whom: &[Whom] = match own && shape.has_blocks(family) {
            true => &[Whom::Pods, Whom::Others],
            false => &[Whom::All],
        };
        rules.extend(whom.iter().map(|whom| verdicts(shape, direction, family, ports, *whom)));
        let mut steps = vec![nfproto(family)];
        steps.extend(subject(direction, family));
        steps.push(goto(Names::of(direction).denied));
        rules.push(Rule { comment: "a verdict denies".to_owned(), steps });
    }
    rules
}

/// The peers that a rule is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    All,
    Pods,
    Others,
}

/// Looks the local address up; ends the rule if nothing isolates it.
fn subject(direction: Direction, family: Family) -> Vec<Expr> {
    let mut steps =
        class(SetId::subjects(direction, family), sides(direction, family).0, SAVED_SUBJECT);
    // Always so. Without it `nft list` would not show the lookup.
    steps.push(Expr::HoldsNot(Reg(SAVED_SUBJECT.0 - 1), 0));
    steps
}

/// The lookups, in the order of [`NodeTables::decide`]: the rows of the peer's own class, of its
/// group, of its net, then those for any peer; of each, one port, ports, any port, everything.
fn verdicts(shape: Shape, direction: Direction, family: Family, ports: bool, whom: Whom) -> Rule {
    let remote = sides(direction, family).1;
    let kinds = |whose| shape.kinds(whose).filter(move |set| ports || *set == SetId::ByPeer);
    let has = |whose| kinds(whose).next().is_some();
    let group = whom != Whom::Others && has(Rows::Group);
    let mut steps = vec![nfproto(family)];
    steps.extend(subject(direction, family));
    if whom != Whom::All || group || has(Rows::Own) {
        // The group comes to rest where the protocol goes, and is put aside.
        let more = if group { &[PROTOCOL][..] } else { &[] };
        steps.extend(lookup(SetId::Peer(family), remote, PEER, more));
        match whom {
            Whom::All => steps.push(Expr::HoldsNot(SUBJECT, u32::MAX)),
            Whom::Pods => steps.push(Expr::HoldsNot(SUBJECT, 0)),
            Whom::Others => steps.push(Expr::Holds(SUBJECT, 0)),
        }
        if group {
            steps.push(Expr::Copy(PROTOCOL, SAVED_GROUP));
        }
        if whom == Whom::Others {
            steps.extend(class(SetId::Block(family), remote, PEER));
            steps.push(Expr::HoldsNot(SUBJECT, u32::MAX));
        }
    }
    steps.push(Expr::Copy(SAVED_SUBJECT, SUBJECT));
    if ports {
        steps.push(Expr::Load(Field::L4proto, PROTOCOL));
        steps.push(Expr::Load(Field::DestinationPort, PORT));
    }
    let vmaps = |whose| kinds(whose).map(|set| Expr::Vmap(set, SUBJECT));
    steps.extend(vmaps(Rows::Own));
    if group {
        steps.push(Expr::Copy(SAVED_GROUP, PEER));
        steps.extend(vmaps(Rows::Group));
    }
    if shape.has_nets(family) && has(Rows::Net) {
        steps.extend(class(SetId::Net(family), remote, SAVED_GROUP));
        steps.push(Expr::HoldsNot(Reg(SAVED_GROUP.0 - 1), u32::MAX));
        steps.push(Expr::Copy(SAVED_GROUP, PEER));
        steps.extend(vmaps(Rows::Net));
    }
    if has(Rows::Any) {
        steps.push(Expr::Put(PEER, PeerKey::Any.number()));
        steps.extend(vmaps(Rows::Any));
    }
    steps.push(goto(Names::of(direction).unmatched));
    let on = match whom {
        Whom::All => "all",
        Whom::Pods => "pods",
        Whom::Others => "others",
    };
    // A chain whose comments are right is not written again: they must say all that the shape does.
    let mut comment = format!("verdicts on {on}");
    for (word, whose) in
        [("own", Rows::Own), ("group", Rows::Group), ("net", Rows::Net), ("any", Rows::Any)]
    {
        let words: Vec<&str> = kinds(whose).map(kind_word).collect();
        if !words.is_empty() {
            comment += &format!(", {word} {}", words.join("+"));
        }
    }
    Rule { comment, steps }
}

/// The kind of a set of verdicts, in a rule's comment, which has no room for more.
fn kind_word(set: SetId) -> &'static str {
    match set {
        SetId::ByPort => "port",
        SetId::ByRange => "ports",
        SetId::ByProtocol => "proto",
        _ => "rest",
    }
}
