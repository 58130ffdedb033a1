//! What is a ruleset made of, before it becomes netlink attributes?
//!
//! ```text
//!   Chain ─▶ Rule ─▶ Expr, Expr, Expr …      each reads packet or registers; the first that does
//!                     │                       not hold ends the rule, the next rule is tried
//!   r1 subject class  r2 peer class  r3 protocol  r4 port   others: addresses, scratch
//! ```
//!
//! Expressions hand values on in registers of four bytes, within one rule. That is how a rule looks
//! a class up and looks the verdict up with it; nft's language has no words for it, so the text
//! here is nft's where it has a word and an arrow into a register where it has none.

use std::fmt;

use ipnet::IpNet;
use podwall_policy::address::Family;

use super::set::SetId;
use crate::netlink::connections;

/// A register of four bytes, 0 to 15 (`NFT_REG32_00` …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg(pub(crate) u8);

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// Something that a packet or its connection says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// NFPROTO_IPV4 or NFPROTO_IPV6.
    Nfproto,
    /// The transport protocol, behind IPv6 extension headers too.
    L4proto,
    /// Index of the interface that it came in by; 0 for none.
    Iif,
    /// Bits of `enum ip_conntrack_info`; see [`state`].
    CtState,
    /// 0 original, 1 reply. Does not hold for a packet without a connection.
    CtDirection,
    /// Bits of `enum ip_conntrack_status`; see [`connections`].
    CtStatus,
    Source(Family),
    Destination(Family),
    /// The last four bytes of an IPv6 address.
    SourceEnd,
    DestinationEnd,
    /// The two bytes where TCP, UDP and SCTP have the destination port.
    DestinationPort,
    /// IPv6 hop limit.
    HopLimit,
    IcmpType,
    /// First byte of the link layer's header. Does not hold where a packet has none, as when this
    /// node has just made it.
    LinkByte,
}

/// Values of [`Field::CtState`] (`NF_CT_STATE_BIT` in the kernel's nf_conntrack_common.h).
pub(crate) mod state {
    pub(crate) const ESTABLISHED: u32 = 2;
    pub(crate) const RELATED: u32 = 4;
}

impl Field {
    /// Bytes that the field fills, from the start of its first register.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::Nfproto
            | Self::L4proto
            | Self::CtDirection
            | Self::HopLimit
            | Self::IcmpType
            | Self::LinkByte => 1,
            Self::DestinationPort => 2,
            Self::Iif | Self::CtState | Self::CtStatus | Self::SourceEnd | Self::DestinationEnd => {
                4
            }
            Self::Source(family) | Self::Destination(family) => address_width(family),
        }
    }
}

/// Bytes of an address.
pub(crate) fn address_width(family: Family) -> usize {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nfproto => "meta nfproto",
            Self::L4proto => "meta l4proto",
            Self::Iif => "meta iif",
            Self::CtState => "ct state",
            Self::CtDirection => "ct direction",
            Self::CtStatus => "ct status",
            Self::Source(Family::V4) => "ip saddr",
            Self::Source(Family::V6) => "ip6 saddr",
            Self::Destination(Family::V4) => "ip daddr",
            Self::Destination(Family::V6) => "ip6 daddr",
            Self::SourceEnd => "end of ip6 saddr",
            Self::DestinationEnd => "end of ip6 daddr",
            Self::DestinationPort => "th dport",
            Self::HopLimit => "ip6 hoplimit",
            Self::IcmpType => "icmpv6 type",
            Self::LinkByte => "@ll,0,8",
        })
    }
}

/// A comparison of a field of at most four bytes, in the machine's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Eq(u32),
    Ne(u32),
    /// Any of these bits is set.
    Bits(u32),
    /// Both ends included; for fields of one byte.
    Within(u8, u8),
    /// At least so much; for fields of one byte.
    AtLeast(u8),
}

/// What a rule or a map entry decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    /// Passes this base chain; the other base chains are asked still.
    Accept,
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// On to the next step of the rule, in a map of verdicts.
    Continue,
    /// On to the next rule.
    Break,
    Jump(&'static str),
    Goto(&'static str),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Continue => f.write_str("continue"),
            Self::Break => f.write_str("break"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    /// Goes on if the field passes the test.
    Is(Field, Test),
    /// Loads the field.
    Load(Field, Reg),
    /// Goes on if the register holds, or does not hold, this number.
    Holds(Reg, u32),
    HoldsNot(Reg, u32),
    /// Puts a number in the register.
    Put(Reg, u32),
    /// Copies the first register to the second.
    Copy(Reg, Reg),
    /// Leaves only these bits in the register.
    Keep(Reg, u32),
    /// Goes on if the address that starts at the first register lies in the net; spoils as many
    /// registers from the second on.
    Inside(Reg, IpNet, Reg),
    /// Looks the key that starts at a register up; goes on with the value if it is there.
    Map(SetId, Reg, Reg),
    /// Looks the key up and does what the entry says.
    Vmap(SetId, Reg),
    /// Goes on if the key is in the set.
    In(SetId, Reg),
    /// Goes on if it is not.
    NotIn(SetId, Reg),
    Counter,
    /// Goes on at most so many times a second.
    Limit {
        per_second: u32,
        burst: u32,
    },
    /// Sends a copy to an NFLOG group.
    Log {
        group: u16,
        prefix: String,
    },
    Fate(Fate),
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(field, test) => {
                write!(f, "{field} ")?;
                let word = |value: u32| -> String {
                    match (field, value) {
                        (Field::Nfproto, 2) => "ipv4".into(),
                        (Field::Nfproto, 10) => "ipv6".into(),
                        (Field::L4proto, 1) => "icmp".into(),
                        (Field::L4proto, 6) => "tcp".into(),
                        (Field::L4proto, 17) => "udp".into(),
                        (Field::L4proto, 132) => "sctp".into(),
                        (Field::L4proto, 58) => "ipv6-icmp".into(),
                        (Field::CtDirection, 1) => "reply".into(),
                        (Field::CtStatus, connections::CONFIRMED) => "confirmed".into(),
                        (Field::CtState, state::ESTABLISHED) => "established".into(),
                        (Field::CtState, state::RELATED) => "related".into(),
                        _ => value.to_string(),
                    }
                };
                match test {
                    Test::Eq(value) | Test::Bits(value) => f.write_str(&word(*value)),
                    Test::Ne(value) => write!(f, "!= {}", word(*value)),
                    Test::Within(first, last) => write!(f, "{first}-{last}"),
                    Test::AtLeast(least) => write!(f, ">= {least}"),
                }
            }
            Self::Load(field, to) => write!(f, "{field} → {to}"),
            Self::Holds(reg, value) => write!(f, "{reg} == {value:#x}"),
            Self::HoldsNot(reg, value) => write!(f, "{reg} != {value:#x}"),
            Self::Put(reg, value) => write!(f, "{value:#x} → {reg}"),
            Self::Copy(from, to) => write!(f, "{from} → {to}"),
            Self::Keep(reg, bits) => write!(f, "{reg} & {bits:#x}"),
            Self::Inside(reg, net, _) => write!(f, "{reg} in {net}"),
            Self::Map(set, key, to) => write!(f, "{} map @{set} → {to}", registers(*set, *key)),
            Self::Vmap(set, key) => write!(f, "{} vmap @{set}", registers(*set, *key)),
            Self::In(set, key) => write!(f, "{} @{set}", registers(*set, *key)),
            Self::NotIn(set, key) => write!(f, "{} != @{set}", registers(*set, *key)),
            Self::Counter => f.write_str("counter"),
            Self::Limit { per_second, burst } => {
                write!(f, "limit rate {per_second}/second burst {burst} packets")
            }
            Self::Log { group, prefix } => write!(f, "log prefix {prefix:?} group {group}"),
            Self::Fate(fate) => write!(f, "{fate}"),
        }
    }
}

/// The registers that a set's key is read from: `r0 . r1 . r2`.
fn registers(set: SetId, first: Reg) -> String {
    let mut at = first.0;
    let mut parts = Vec::new();
    for field in set.key_fields() {
        parts.push(Reg(at).to_string());
        at += (field.width().div_ceil(4)) as u8;
    }
    parts.join(" . ")
}

/// A rule: steps, and a word on what it is for, which the kernel keeps as the rule's comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// At most 127 bytes.
    pub(crate) comment: String,
    pub(crate) steps: Vec<Expr>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            write!(f, "{step}; ")?;
        }
        write!(f, "comment {:?}", self.comment)
    }
}

/// Where a base chain hangs in the packet's way (`enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Input,
    Postrouting,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Input { "input" } else { "postrouting" })
    }
}

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    /// Hook and priority of a base chain; its policy is always accept.
    pub(crate) base: Option<(Hook, i32)>,
    pub(crate) rules: Vec<Rule>,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "chain {} {{", self.name)?;
        if let Some((hook, priority)) = self.base {
            writeln!(f, "    type filter hook {hook} priority {priority}; policy accept;")?;
        }
        for rule in &self.rules {
            writeln!(f, "    {rule}")?;
        }
        f.write_str("}")
    }
}
