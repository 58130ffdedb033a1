//! How does the ruleset look in netlink attributes?
//!
//! Numbers are from `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h`; each stands once,
//! under the name that it has there. Userdata is what nft(8) keeps its own notes in (libnftnl's
//! `udata.h`): byte orders, so that it prints numbers right, and comments.

use std::net::IpAddr;

use podwall_compile::tables::{PortKey, SubjectId};
use podwall_policy::address::AddressRange;

use super::ir::{Chain, Expr, Fate, Field, Hook, Reg, Rule, Test};
use super::set::{Data, DataKind, Key, KeyField, SetId};
use crate::netlink::attribute::Writer;
use crate::netlink::connections;

/// The family of a table (`NFPROTO_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TableFamily {
    Inet = 1,
    /// Packets at an interface, before anything else sees them.
    Netdev = 5,
}

impl TableFamily {
    /// As nft(8) calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Netdev => "netdev",
        }
    }
}

pub(crate) const SUBSYSTEM: u16 = 10;
pub(crate) const BATCH_BEGIN: u16 = 16;
pub(crate) const BATCH_END: u16 = 17;
pub(crate) const BATCH_GENID: u16 = 1;

/// A message type of the nftables subsystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Op {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    DelChain = 5,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    NewSet = 9,
    NewElement = 12,
    GetElement = 13,
    DelElement = 14,
    GetGeneration = 16,
}

impl Op {
    pub(crate) fn message(self) -> u16 {
        SUBSYSTEM << 8 | self as u16
    }
}

// NFTA_*_TABLE and the name of the thing itself are the same in all messages of a kind.
pub(crate) const TABLE_NAME: u16 = 1;
pub(crate) const TABLE_FLAGS: u16 = 2;
pub(crate) const TABLE_USERDATA: u16 = 6;
pub(crate) const RULE_TABLE: u16 = 1;
pub(crate) const RULE_CHAIN: u16 = 2;
pub(crate) const RULE_USERDATA: u16 = 7;
pub(crate) const ELEMENTS_TABLE: u16 = 1;
pub(crate) const ELEMENTS_SET: u16 = 2;
pub(crate) const ELEMENTS_LIST: u16 = 3;
pub(crate) const GENERATION_ID: u16 = 1;
pub(crate) const LIST_ELEM: u16 = 1;
pub(crate) const ELEM_KEY: u16 = 1;
pub(crate) const ELEM_DATA: u16 = 2;
pub(crate) const ELEM_FLAGS: u16 = 3;
pub(crate) const ELEM_EXPR: u16 = 7;
pub(crate) const ELEM_KEY_END: u16 = 10;
pub(crate) const EXPR_DATA: u16 = 2;
pub(crate) const COUNTER_PACKETS: u16 = 2;
pub(crate) const ELEM_INTERVAL_END: u32 = 1;
pub(crate) const ELEM_CATCHALL: u32 = 2;
pub(crate) const DATA_VALUE: u16 = 1;
pub(crate) const DATA_VERDICT: u16 = 2;
pub(crate) const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

const CODE_ACCEPT: u32 = 1;
pub(crate) const CODE_CONTINUE: u32 = -1i32 as u32;
pub(crate) const CODE_BREAK: u32 = -2i32 as u32;
pub(crate) const CODE_RETURN: u32 = -5i32 as u32;

/// nft's notes: type, length, value.
pub(crate) mod userdata {
    pub(crate) const TABLE_COMMENT: u8 = 0;
    pub(crate) const RULE_COMMENT: u8 = 0;
    const SET_KEY_BYTEORDER: u8 = 0;
    const SET_DATA_BYTEORDER: u8 = 1;
    const SET_COMMENT: u8 = 7;
    const NONE: u32 = 0;
    const HOST: u32 = 1;
    const BIG_ENDIAN: u32 = 2;

    /// A comment as nft keeps it: with a final zero.
    pub(crate) fn comment(kind: u8, text: &str) -> Vec<u8> {
        let mut out = vec![kind, (text.len() + 1) as u8];
        out.extend_from_slice(text.as_bytes());
        out.push(0);
        out
    }

    /// A set's notes. nft 1.0.6 ends with a failed assertion when it lists a map of verdicts whose
    /// data is said to have a byte order (`netlink_delinearize_setelem`).
    pub(crate) fn set(comment_text: &str, class_key: bool, classes: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let key = if class_key { HOST } else { BIG_ENDIAN };
        let data = if classes { HOST } else { NONE };
        for (kind, order) in [(SET_KEY_BYTEORDER, key), (SET_DATA_BYTEORDER, data)] {
            out.extend_from_slice(&[kind, 4]);
            out.extend_from_slice(&order.to_ne_bytes());
        }
        out.extend(comment(SET_COMMENT, comment_text));
        out
    }

    /// The text of the comment in some userdata.
    pub(crate) fn read(mut bytes: &[u8], wanted: u8) -> Option<&str> {
        while let [kind, len, rest @ ..] = bytes {
            let (value, next) = rest.split_at_checked(usize::from(*len))?;
            if *kind == wanted {
                return std::str::from_utf8(value).ok().map(|t| t.trim_end_matches('\0'));
            }
            bytes = next;
        }
        None
    }
}

/// The body of NEWCHAIN.
pub(crate) fn chain(w: &mut Writer, table: &str, chain: &Chain) {
    w.text(1, table);
    w.text(3, chain.name);
    if let Some((hook, priority)) = chain.base {
        w.nest(4, |w| {
            w.u32(1, if hook == Hook::Input { 1 } else { 4 });
            w.put(2, &priority.to_be_bytes());
        });
        w.u32(5, CODE_ACCEPT);
        w.text(7, "filter");
    }
}

/// The body of NEWSET.
pub(crate) fn set(w: &mut Writer, table: &str, set: SetId, id: u32, size: Option<u32>) {
    const INTERVAL: u32 = 4;
    const MAP: u32 = 8;
    const CONCAT: u32 = 0x80;
    const VERDICT_TYPE: u32 = 0xffff_ff00;
    const MARK: u32 = 19;
    let fields = set.key_fields();
    let concat = set.is_interval() && fields.len() > 1;
    let mut flags = if set.data() == DataKind::Nothing { 0 } else { MAP };
    flags |= if set.is_interval() { INTERVAL } else { 0 };
    flags |= if concat { CONCAT } else { 0 };
    w.text(1, table);
    w.text(2, set.name());
    w.u32(3, flags);
    // nft's type of a concatenation: six bits a field.
    w.u32(4, fields.iter().fold(0, |all, field| all << 6 | key_type(*field)));
    w.u32(5, set.key_len() as u32);
    match set.data() {
        DataKind::Nothing => {}
        DataKind::Class => {
            w.u32(6, MARK << 6 | MARK);
            w.u32(7, 8);
        }
        DataKind::Classes => {
            w.u32(6, MARK << 12 | MARK << 6 | MARK);
            w.u32(7, 12);
        }
        DataKind::Fate => {
            w.u32(6, VERDICT_TYPE);
            w.u32(7, 16);
        }
    }
    if concat {
        w.nest(9, |w| {
            w.nest(2, |w| {
                for field in fields {
                    w.nest(LIST_ELEM, |w| w.u32(1, field.width() as u32));
                }
            });
        });
    }
    if let Some(size) = size {
        w.nest(9, |w| w.u32(1, size));
    }
    w.u32(10, id);
    let class_key = matches!(fields, [KeyField::Class | KeyField::Status]);
    let class_data = matches!(set.data(), DataKind::Class | DataKind::Classes);
    w.put(13, &userdata::set(set.comment(), class_key, class_data));
    if set.counts() {
        // Each element gets one like it.
        w.nest(17, |w| {
            w.text(1, "counter");
            w.nest(EXPR_DATA, |_| {});
        });
    }
}

/// nft's number of a type (`enum datatypes`).
fn key_type(field: KeyField) -> u32 {
    match field {
        KeyField::Address(podwall_policy::address::Family::V4) => 7,
        KeyField::Address(podwall_policy::address::Family::V6) => 8,
        KeyField::Class => 19,
        KeyField::Protocol => 12,
        KeyField::Port => 13,
        KeyField::Status => 28,
    }
}

/// The body of NEWRULE.
pub(crate) fn rule(w: &mut Writer, table: &str, chain: &str, rule: &Rule) {
    w.text(RULE_TABLE, table);
    w.text(RULE_CHAIN, chain);
    w.nest(4, |w| {
        for step in &rule.steps {
            expr(w, step);
        }
    });
    w.put(RULE_USERDATA, &userdata::comment(userdata::RULE_COMMENT, &rule.comment));
}

/// Where [`Expr::Is`] puts the field: no rule keeps anything in the last register.
const SCRATCH: Reg = Reg(15);

pub(crate) fn register(reg: Reg) -> u32 {
    const REG32_00: u32 = 8;
    REG32_00 + u32::from(reg.0)
}

/// One expression of a rule.
pub(crate) fn named(w: &mut Writer, name: &str, fill: impl FnOnce(&mut Writer)) {
    w.nest(LIST_ELEM, |w| {
        w.text(1, name);
        w.nest(2, fill);
    });
}

fn expr(w: &mut Writer, step: &Expr) {
    match step {
        Expr::Is(field, test) => {
            load(w, *field, SCRATCH);
            check(w, *field, *test);
        }
        Expr::Load(field, to) => load(w, *field, *to),
        Expr::Holds(reg, value) => compare(w, *reg, 0, &value.to_ne_bytes()),
        Expr::HoldsNot(reg, value) => compare(w, *reg, 1, &value.to_ne_bytes()),
        Expr::Put(reg, value) => named(w, "immediate", |w| {
            w.u32(1, register(*reg));
            w.nest(2, |w| w.put(DATA_VALUE, &value.to_ne_bytes()));
        }),
        Expr::Copy(from, to) => bitwise(w, *from, *to, &u32::MAX.to_ne_bytes()),
        Expr::Keep(reg, bits) => bitwise(w, *reg, *reg, &bits.to_ne_bytes()),
        Expr::Inside(reg, net, spoilt) => {
            bitwise(w, *reg, *spoilt, &octets(net.netmask()));
            compare(w, *spoilt, 0, &octets(net.network()));
        }
        Expr::Map(set, key, to) => lookup(w, *set, *key, Some(register(*to)), 0),
        Expr::Vmap(set, key) => lookup(w, *set, *key, Some(0), 0),
        Expr::In(set, key) => lookup(w, *set, *key, None, 0),
        Expr::NotIn(set, key) => lookup(w, *set, *key, None, LOOKUP_INVERSE),
        Expr::Counter => named(w, "counter", |_| {}),
        Expr::Limit { per_second, burst } => named(w, "limit", |w| {
            w.put(1, &u64::from(*per_second).to_be_bytes());
            w.put(2, &1u64.to_be_bytes());
            w.u32(3, *burst);
        }),
        Expr::Log { group, prefix } => named(w, "log", |w| {
            w.put(1, &group.to_be_bytes());
            w.text(2, prefix);
        }),
        Expr::Fate(fate) => named(w, "immediate", |w| {
            w.u32(1, 0);
            w.nest(2, |w| verdict(w, *fate));
        }),
    }
}

pub(crate) fn verdict(w: &mut Writer, fate: Fate) {
    let (code, chain) = match fate {
        Fate::Drop => (0, None),
        Fate::Accept => (CODE_ACCEPT, None),
        Fate::Return => (CODE_RETURN, None),
        Fate::Continue => (CODE_CONTINUE, None),
        Fate::Break => (CODE_BREAK, None),
        Fate::Jump(chain) => (-3i32 as u32, Some(chain)),
        Fate::Goto(chain) => (-4i32 as u32, Some(chain)),
    };
    w.nest(DATA_VERDICT, |w| {
        w.u32(VERDICT_CODE, code);
        if let Some(chain) = chain {
            w.text(VERDICT_CHAIN, chain);
        }
    });
}

const LOOKUP_INVERSE: u32 = 1;

fn lookup(w: &mut Writer, set: SetId, key: Reg, to: Option<u32>, flags: u32) {
    named(w, "lookup", |w| {
        w.text(1, set.name());
        w.u32(2, register(key));
        if let Some(to) = to {
            w.u32(3, to);
        }
        if flags != 0 {
            w.u32(5, flags);
        }
    });
}

fn load(w: &mut Writer, field: Field, to: Reg) {
    use podwall_policy::address::Family::{V4, V6};
    const LINK: u32 = 0;
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let mut meta = |key| {
        named(w, "meta", |w| {
            w.u32(1, register(to));
            w.u32(2, key);
        });
    };
    let connection = |w: &mut Writer, key| {
        named(w, "ct", |w| {
            w.u32(1, register(to));
            w.u32(2, key);
        });
    };
    let (base, offset) = match field {
        Field::Nfproto => return meta(15),
        Field::L4proto => return meta(16),
        Field::Iif => return meta(4),
        Field::CtState => return connection(w, 0),
        Field::CtDirection => return connection(w, 1),
        Field::CtStatus => return connection(w, 2),
        Field::Source(V4) => (NETWORK, 12),
        Field::Destination(V4) => (NETWORK, 16),
        Field::Source(V6) => (NETWORK, 8),
        Field::Destination(V6) => (NETWORK, 24),
        Field::SourceEnd => (NETWORK, 20),
        Field::DestinationEnd => (NETWORK, 36),
        Field::HopLimit => (NETWORK, 7),
        Field::DestinationPort => (TRANSPORT, 2),
        Field::IcmpType => (TRANSPORT, 0),
        Field::LinkByte => (LINK, 0),
    };
    named(w, "payload", |w| {
        w.u32(1, register(to));
        w.u32(2, base);
        w.u32(3, offset);
        w.u32(4, field.width() as u32);
    });
}

pub(crate) fn compare(w: &mut Writer, reg: Reg, op: u32, value: &[u8]) {
    named(w, "cmp", |w| {
        w.u32(1, register(reg));
        w.u32(2, op);
        w.nest(3, |w| w.put(DATA_VALUE, value));
    });
}

fn bitwise(w: &mut Writer, from: Reg, to: Reg, mask: &[u8]) {
    named(w, "bitwise", |w| {
        w.u32(1, register(from));
        w.u32(2, register(to));
        w.u32(3, mask.len() as u32);
        w.nest(4, |w| w.put(DATA_VALUE, mask));
        w.nest(5, |w| w.put(DATA_VALUE, &vec![0; mask.len()]));
    });
}

fn check(w: &mut Writer, field: Field, test: Test) {
    const EQ: u32 = 0;
    const NE: u32 = 1;
    const LE: u32 = 3;
    const GE: u32 = 5;
    let mut exact = |op, value: u32| match field.width() {
        1 => compare(w, SCRATCH, op, &[value as u8]),
        _ => compare(w, SCRATCH, op, &value.to_ne_bytes()),
    };
    match test {
        Test::Eq(value) => exact(EQ, value),
        Test::Ne(value) => exact(NE, value),
        Test::AtLeast(least) => exact(GE, u32::from(least)),
        Test::Within(first, last) => {
            exact(GE, u32::from(first));
            exact(LE, u32::from(last));
        }
        Test::Bits(bits) => {
            bitwise(w, SCRATCH, SCRATCH, &bits.to_ne_bytes());
            compare(w, SCRATCH, NE, &0u32.to_ne_bytes());
        }
    }
}

/// The bytes of a key and, for ranges, of its end: for a tree the first key behind it (`None`: it
/// reaches to the end of the family), for a concatenation its last key.
pub(crate) fn key_bytes(set: SetId, key: Key) -> (Vec<u8>, Option<Vec<u8>>) {
    let address = octets;
    match key {
        Key::Otherwise => (Vec::new(), None),
        Key::Address(a) if matches!(set, SetId::Own(_)) => {
            ([address(a), address(a)].concat(), None)
        }
        Key::Address(a) => (address(a), None),
        Key::Range(range) => (address(range.first()), after(&range).map(address)),
        Key::Class(class) => (class.0.to_ne_bytes().to_vec(), None),
        Key::Confirmed => (connections::CONFIRMED.to_ne_bytes().to_vec(), None),
        Key::Row(row) => {
            let mut bytes = Vec::with_capacity(16);
            bytes.extend_from_slice(&row.subject.0.to_ne_bytes());
            bytes.extend_from_slice(&row.peer.number().to_ne_bytes());
            let with = |protocol: u8, port: u16| {
                let port = port.to_be_bytes();
                [&bytes[..], &[protocol, 0, 0, 0, port[0], port[1], 0, 0]].concat()
            };
            match row.ports {
                PortKey::Port(protocol, port) => (with(protocol.0, port), None),
                PortKey::Range(protocol, range) => {
                    (with(protocol.0, range.first), Some(with(protocol.0, range.last)))
                }
                PortKey::AnyPort(protocol) => {
                    bytes.extend_from_slice(&[protocol.0, 0, 0, 0]);
                    (bytes, None)
                }
                PortKey::AnyProtocol => (bytes, None),
            }
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The first address behind a range.
fn after(range: &AddressRange) -> Option<IpAddr> {
    let next = range.bits().1.checked_add(1)?;
    Some(AddressRange::from_bits(range.family(), next, next)?.first())
}

/// What a map of classes holds before them: 1, or 0 for every other key and what is open.
pub(crate) fn found(otherwise: bool, class: u32) -> u32 {
    u32::from(!otherwise && class != SubjectId::OPEN.0)
}

/// What a map of classes holds.
fn class_words(key: Key, classes: &[u32]) -> Vec<u8> {
    let class = classes.first().copied().unwrap_or_default();
    let found = found(key == Key::Otherwise, class);
    [&[found], classes].concat().into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// One element in the list of NEWSETELEM or DELSETELEM; two for a range in a tree.
pub(crate) fn element(w: &mut Writer, set: SetId, key: Key, data: Option<Data>) {
    let (start, end) = key_bytes(set, key);
    let tree = set.is_tree();
    w.nest(LIST_ELEM, |w| {
        if key == Key::Otherwise {
            w.u32(ELEM_FLAGS, ELEM_CATCHALL);
        } else {
            w.nest(ELEM_KEY, |w| w.put(DATA_VALUE, &start));
            if let Some(end) = end.as_ref().filter(|_| !tree) {
                w.nest(ELEM_KEY_END, |w| w.put(DATA_VALUE, end));
            }
        }
        match data {
            Some(Data::Class(class)) => {
                w.nest(ELEM_DATA, |w| w.put(DATA_VALUE, &class_words(key, &[class])));
            }
            Some(Data::Classes(own, group)) => {
                w.nest(ELEM_DATA, |w| w.put(DATA_VALUE, &class_words(key, &[own, group])));
            }
            Some(Data::Allow) => w.nest(ELEM_DATA, |w| verdict(w, Fate::Return)),
            Some(Data::Deny) => w.nest(ELEM_DATA, |w| verdict(w, Fate::Break)),
            Some(Data::Silent) => w.nest(ELEM_DATA, |w| verdict(w, Fate::Continue)),
            Some(Data::Nothing | Data::Strange) | None => {}
        }
    });
    if let Some(end) = end.filter(|_| tree) {
        w.nest(LIST_ELEM, |w| {
            w.u32(ELEM_FLAGS, ELEM_INTERVAL_END);
            w.nest(ELEM_KEY, |w| w.put(DATA_VALUE, &end));
        });
    }
}
