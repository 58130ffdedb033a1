//! What are the guard's rules made of, and how do they look in netlink attributes?
//!
//! ```text
//!   Part  some bytes of a packet      Step  Part is …, is own, count, verdict      Rule  steps, comment
//! ```
//!
//! Numbers are from `include/uapi/linux/netfilter/nf_tables.h`.

use std::fmt;

use crate::netlink::attribute::Writer;
use crate::nft::encode::{self, DATA_VALUE, compare, named, register, userdata, verdict};
use crate::nft::ir::{Fate, Reg};

/// One of the sets of pairs (interface, something that is its own).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    Own4,
    Own6,
    /// Hardware addresses for ARP. 0 stands for any: it is not known.
    Mac,
}

impl Set {
    pub(super) const ALL: [Self; 3] = [Self::Own4, Self::Own6, Self::Mac];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Own4 => "own4",
            Self::Own6 => "own6",
            Self::Mac => "mac",
        }
    }

    fn comment(self) -> &'static str {
        match self {
            Self::Own4 | Self::Own6 => "interface and address that its packets may come from",
            Self::Mac => "interface and hardware address, 0 for any, that it may name in ARP",
        }
    }

    /// Bytes of what stands behind the interface, without padding.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Own4 => 4,
            Self::Own6 => 16,
            Self::Mac => 6,
        }
    }

    /// The body of NEWSET; at most so many elements.
    pub(super) fn write(self, w: &mut Writer, table: &str, size: u32) {
        // `enum datatypes` of nft(8), six bits a field.
        const INTERFACE: u32 = 20;
        let of = match self {
            Self::Own4 => 7,
            Self::Own6 => 8,
            Self::Mac => 9,
        };
        w.text(1, table);
        w.text(2, self.name());
        w.u32(3, 0);
        w.u32(4, INTERFACE << 6 | of);
        w.u32(5, 4 + self.width().next_multiple_of(4) as u32);
        w.nest(9, |w| w.u32(1, size));
        w.u32(10, 1 + self as u32);
        w.put(13, &userdata::set(self.comment(), false, false));
    }
}

/// Where in a packet something stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Index of the interface, in the machine's byte order.
    Interface,
    /// The transport protocol, behind extension headers, too.
    Protocol,
    Link(u32),
    Network(u32),
    /// Not in fragments but the first.
    Transport(u32),
    /// The two bytes of the fragment header that say where (RFC 8200 §4.5).
    Fragment,
    /// Nothing of the packet: bytes that are 0.
    Zero,
}

/// Some bytes of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    name: &'static str,
    place: Place,
    len: usize,
}

pub(super) const fn part(name: &'static str, place: Place, len: usize) -> Part {
    Part { name, place, len }
}
const INTERFACE: Part = part("iif", Place::Interface, 4);

/// One step of a rule; the first that does not hold ends it.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Is(Part, Vec<u8>),
    IsNot(Part, Vec<u8>),
    /// The same with the bits of a mask alone.
    MaskedIs(Part, &'static [u8], &'static [u8]),
    MaskedIsNot(Part, &'static [u8], &'static [u8]),
    Within(Part, u8, u8),
    Outside(Part, u8, u8),
    /// The interface and this are a pair of the set.
    Own(Set, Part),
    NotOwn(Set, Part),
    /// Counts packets, from so many on.
    Count(u64),
    Fate(Fate),
}

/// A rule with the comment that says what it is for, in the kernel, too.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) comment: String,
    pub(super) steps: Vec<Step>,
}

/// A chain that all interfaces share.
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) rules: Vec<Rule>,
}

const SCRATCH: Reg = Reg(0);
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;

impl Rule {
    /// The body of NEWRULE.
    pub(super) fn write(&self, w: &mut Writer, table: &str, chain: &str) {
        w.text(encode::RULE_TABLE, table);
        w.text(encode::RULE_CHAIN, chain);
        w.nest(4, |w| self.steps.iter().for_each(|step| step.write(w)));
        let note = userdata::comment(userdata::RULE_COMMENT, &self.comment);
        w.put(encode::RULE_USERDATA, &note);
    }
}

impl Step {
    fn write(&self, w: &mut Writer) {
        match self {
            Self::Is(part, bytes) => {
                part.load(w, SCRATCH);
                compare(w, SCRATCH, EQUAL, bytes);
            }
            Self::IsNot(part, bytes) => {
                part.load(w, SCRATCH);
                compare(w, SCRATCH, UNEQUAL, bytes);
            }
            Self::MaskedIs(part, mask, bytes) => masked(w, *part, mask, EQUAL, bytes),
            Self::MaskedIsNot(part, mask, bytes) => masked(w, *part, mask, UNEQUAL, bytes),
            Self::Within(part, first, last) => range(w, *part, EQUAL, *first, *last),
            Self::Outside(part, first, last) => range(w, *part, UNEQUAL, *first, *last),
            Self::Own(set, part) => lookup(w, *set, *part, false),
            Self::NotOwn(set, part) => lookup(w, *set, *part, true),
            Self::Count(from) => named(w, "counter", |w| {
                w.put(1, &0u64.to_be_bytes());
                w.put(encode::COUNTER_PACKETS, &from.to_be_bytes());
            }),
            Self::Fate(fate) => named(w, "immediate", |w| {
                w.u32(1, 0);
                w.nest(2, |w| verdict(w, *fate));
            }),
        }
    }
}

fn masked(w: &mut Writer, part: Part, mask: &[u8], op: u32, value: &[u8]) {
    part.load(w, SCRATCH);
    named(w, "bitwise", |w| {
        w.u32(1, register(SCRATCH));
        w.u32(2, register(SCRATCH));
        w.u32(3, part.len as u32);
        w.nest(4, |w| w.put(DATA_VALUE, mask));
        w.nest(5, |w| w.put(DATA_VALUE, &vec![0; part.len]));
    });
    compare(w, SCRATCH, op, value);
}

fn range(w: &mut Writer, part: Part, op: u32, first: u8, last: u8) {
    part.load(w, SCRATCH);
    named(w, "range", |w| {
        w.u32(1, register(SCRATCH));
        w.u32(2, op);
        w.nest(3, |w| w.put(DATA_VALUE, &[first]));
        w.nest(4, |w| w.put(DATA_VALUE, &[last]));
    });
}

fn lookup(w: &mut Writer, set: Set, part: Part, inverted: bool) {
    INTERFACE.load(w, SCRATCH);
    part.load(w, Reg(SCRATCH.0 + 1));
    named(w, "lookup", |w| {
        w.text(1, set.name());
        w.u32(2, register(SCRATCH));
        if inverted {
            w.u32(5, 1);
        }
    });
}

impl Part {
    fn load(self, w: &mut Writer, to: Reg) {
        let meta = |w: &mut Writer, key| {
            named(w, "meta", |w| {
                w.u32(1, register(to));
                w.u32(2, key);
            });
        };
        let (base, offset) = match self.place {
            Place::Interface => return meta(w, 4),
            Place::Protocol => return meta(w, 16),
            Place::Link(offset) => (0, offset),
            Place::Network(offset) => (1, offset),
            Place::Transport(offset) => (2, offset),
            Place::Fragment => {
                return named(w, "exthdr", |w| {
                    w.u32(1, register(to));
                    w.put(2, &[44]);
                    w.u32(3, 2);
                    w.u32(4, self.len as u32);
                });
            }
            Place::Zero => {
                return named(w, "immediate", |w| {
                    w.u32(1, register(to));
                    w.nest(2, |w| w.put(DATA_VALUE, &vec![0; self.len.next_multiple_of(4)]));
                });
            }
        };
        named(w, "payload", |w| {
            w.u32(1, register(to));
            w.u32(2, base);
            w.u32(3, offset);
            w.u32(4, self.len as u32);
        });
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        match self {
            Self::Is(part, bytes) => write!(f, "{part} 0x{}", hex(bytes)),
            Self::IsNot(part, bytes) => write!(f, "{part} != 0x{}", hex(bytes)),
            Self::MaskedIs(part, _, bytes) => write!(f, "{part} == 0x{}", hex(bytes)),
            Self::MaskedIsNot(part, _, bytes) => write!(f, "{part} != 0x{}", hex(bytes)),
            Self::Within(part, first, last) => write!(f, "{part} {first}-{last}"),
            Self::Outside(part, first, last) => write!(f, "{part} != {first}-{last}"),
            Self::Own(set, part) => write!(f, "{INTERFACE} . {part} @{}", set.name()),
            Self::NotOwn(set, part) => write!(f, "{INTERFACE} . {part} != @{}", set.name()),
            Self::Count(_) => f.write_str("counter"),
            Self::Fate(fate) => write!(f, "{fate}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| write!(f, "{step}; "))?;
        write!(f, "comment {:?}", self.comment)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "chain {} {{", self.name)?;
        self.rules.iter().try_for_each(|rule| writeln!(f, "    {rule}"))?;
        f.write_str("}")
    }
}
