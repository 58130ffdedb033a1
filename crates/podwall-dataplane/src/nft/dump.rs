//! What does the kernel hold of our table?
//!
//! ```text
//!   GETTABLE podwall ─▶ comment with layout and fingerprint
//!   GETRULE  table, chain ─▶ comments, in order        (a chain at a time)
//!   GETSETELEM table, set ─▶ elements                  (a set at a time)
//! ```
//!
//! Each question names our table, so that the cost does not depend on what others have in theirs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::errno::Errno;
use podwall_compile::tables::{PeerKey, PortKey, SubjectId, VerdictKey};
use podwall_policy::address::{AddressRange, Family};
use podwall_policy::port::{PortRange, Protocol};
use rustc_hash::{FxHashMap, FxHashSet};

use super::encode::{self, Op, TableFamily, userdata};
use super::set::{Data, DataKind, Element, Key, SetId};
use crate::error::Error;
use crate::netlink::attribute::{Attributes, Writer};
use crate::netlink::socket::{Socket, refused};
use crate::netlink::{self, connections};

/// How often to dump a set until two dumps agree; with the pauses a second in all.
const PATIENCE: u32 = 10;

/// What the kernel says of the table itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Empty if it has none.
    pub(crate) comment: String,
    /// A dormant table's chains are not asked.
    pub(crate) dormant: bool,
}

/// The elements of one set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) elements: Vec<Element>,
    /// What they have counted, in a set that counts.
    pub(crate) packets: FxHashMap<Key, u64>,
    /// Elements that Podwall cannot have written.
    pub(crate) strange: usize,
}

fn question(
    socket: &mut Socket,
    op: Op,
    flags: u16,
    fill: impl FnOnce(&mut Writer),
) -> (Vec<u8>, u32) {
    question_of(TableFamily::Inet, socket, op, flags, fill)
}

/// A question about a table of a family, and its number.
pub(crate) fn question_of(
    family: TableFamily,
    socket: &mut Socket,
    op: Op,
    flags: u16,
    fill: impl FnOnce(&mut Writer),
) -> (Vec<u8>, u32) {
    let seq = socket.next_seq();
    let mut w = Writer::default();
    w.begin(op.message(), netlink::NLM_F_REQUEST | flags, seq, family as u8, 0);
    fill(&mut w);
    w.end();
    (w.bytes().to_vec(), seq)
}

/// The generation of the ruleset of this network namespace: changes with every transaction of
/// anybody.
pub(crate) fn generation(socket: &mut Socket) -> Result<u32, Error> {
    let (ask, seq) = question(socket, Op::GetGeneration, netlink::NLM_F_ACK, |_| {});
    let mut id = 0;
    socket
        .ask(&ask, seq, |m| id = m.attributes().u32(encode::GENERATION_ID).unwrap_or(id))?
        .map_err(refused("the question for the ruleset's generation"))?;
    Ok(id)
}

/// The table; `None`: there is none.
pub(crate) fn table(socket: &mut Socket, name: &str) -> Result<Option<Table>, Error> {
    table_of(TableFamily::Inet, socket, name)
}

/// The table of a family; `None`: there is none.
pub(crate) fn table_of(
    family: TableFamily,
    socket: &mut Socket,
    name: &str,
) -> Result<Option<Table>, Error> {
    // With an acknowledgement, so that an end comes behind the answer.
    let ack = netlink::NLM_F_ACK;
    let (ask, seq) =
        question_of(family, socket, Op::GetTable, ack, |w| w.text(encode::TABLE_NAME, name));
    let mut table = Table::default();
    let answer = socket.ask(&ask, seq, |m| {
        let attributes = m.attributes();
        table.dormant = attributes.u32(encode::TABLE_FLAGS).unwrap_or(0) & 1 != 0;
        let notes = attributes.get(encode::TABLE_USERDATA).unwrap_or_default();
        table.comment = userdata::read(notes, userdata::TABLE_COMMENT).unwrap_or("").to_owned();
    })?;
    match answer {
        Ok(()) => Ok(Some(table)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => {
            Err(refused(format!("the question for table {} {name}", family.name()))(errno))
        }
    }
}

/// The comments of a chain's rules, in order; none if there is no such chain.
pub(crate) fn rules(socket: &mut Socket, table: &str, chain: &str) -> Result<Vec<String>, Error> {
    let (ask, seq) = question(socket, Op::GetRule, netlink::NLM_F_DUMP, |w| {
        w.text(encode::RULE_TABLE, table);
        w.text(encode::RULE_CHAIN, chain);
    });
    let mut comments = Vec::new();
    let answer = socket.ask(&ask, seq, |m| {
        let notes = m.attributes().get(encode::RULE_USERDATA).unwrap_or_default();
        comments.push(userdata::read(notes, userdata::RULE_COMMENT).unwrap_or("").to_owned());
    })?;
    match answer {
        Ok(()) | Err(Errno::ENOENT) => Ok(comments),
        Err(errno) => Err(refused(format!("the question for chain {chain}"))(errno)),
    }
}

/// A set's elements, each once; `None`: there is no such set.
///
/// A dump in several parts finds its place again by counting, which goes wrong while the hash is
/// being rebuilt; two dumps that agree were not disturbed.
pub(crate) fn elements(
    socket: &mut Socket,
    table: &str,
    set: SetId,
) -> Result<Option<Content>, Error> {
    let mut last: Option<FxHashSet<Element>> = None;
    for attempt in 0..PATIENCE {
        let Some((mut content, parts)) = dump(socket, table, set)? else { return Ok(None) };
        let distinct: FxHashSet<Element> = content.elements.iter().copied().collect();
        let agreed = last.as_ref() == Some(&distinct);
        if agreed || parts < 2 || set.is_interval() {
            if distinct.len() < content.elements.len() {
                content.elements = distinct.into_iter().collect();
            }
            return Ok(Some(content));
        }
        if last.replace(distinct).is_some() {
            // The worker that rebuilds the hash needs the processor.
            std::thread::sleep(Duration::from_millis(1 << attempt));
        }
    }
    Err(Error::Busy { family: "inet", table: table.to_owned() })
}

/// One dump, and in how many parts it came.
fn dump(socket: &mut Socket, table: &str, set: SetId) -> Result<Option<(Content, usize)>, Error> {
    let (ask, seq) = question(socket, Op::GetElement, netlink::NLM_F_DUMP, |w| {
        w.text(encode::ELEMENTS_TABLE, table);
        w.text(encode::ELEMENTS_SET, set.name());
    });
    let mut content = Content::default();
    let mut tree = Tree::default();
    let mut parts = 0;
    let answer = socket.ask(&ask, seq, |m| {
        let list = m.attributes().nest(encode::ELEMENTS_LIST);
        parts += usize::from(!list.0.is_empty());
        for (_, element) in list {
            let element = Attributes(element);
            let known = match set {
                SetId::Block(family) | SetId::Net(family) => {
                    tree.read(set, family, element, &mut content.elements)
                }
                _ => read(set, element).map(|e| {
                    if set.counts() {
                        content.packets.insert(e.key, packets(element));
                    }
                    content.elements.push(e);
                }),
            };
            content.strange += usize::from(known.is_none());
        }
    })?;
    tree.finish(set, &mut content);
    match answer {
        Ok(()) => Ok(Some((content, parts))),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(refused(format!("the question for set {set}"))(errno)),
    }
}

/// Packets that some elements, in order of their sets, have counted. Those that are not there any
/// more are left out.
pub(crate) fn packets_of(
    socket: &mut Socket,
    table: &str,
    wanted: &[(SetId, Key)],
) -> Result<FxHashMap<(SetId, Key), u64>, Error> {
    let mut found = FxHashMap::default();
    each_of(socket, table, wanted, &mut |element, attributes| {
        found.insert((element.set, element.key), packets(attributes));
    })?;
    Ok(found)
}

/// What some elements, in order of their sets, say. Those that are not there are left out.
pub(crate) fn data_of(
    socket: &mut Socket,
    table: &str,
    wanted: &[(SetId, Key)],
) -> Result<FxHashMap<(SetId, Key), Data>, Error> {
    let mut found = FxHashMap::default();
    each_of(socket, table, wanted, &mut |element, _| {
        found.insert((element.set, element.key), element.data);
    })?;
    Ok(found)
}

/// Asks for elements, in order of their sets. Those that are not there are left out.
fn each_of(
    socket: &mut Socket,
    table: &str,
    wanted: &[(SetId, Key)],
    take: &mut impl FnMut(Element, Attributes<'_>),
) -> Result<(), Error> {
    for same in wanted.chunk_by(|a, b| a.0 == b.0) {
        for part in same.chunks(AT_ONCE) {
            if !some_of(socket, table, part, take)? {
                // The kernel stops at the first that is not there.
                for one in part.chunks(1) {
                    some_of(socket, table, one, take)?;
                }
            }
        }
    }
    Ok(())
}

/// Asks for elements of one set; whether all are there.
fn some_of(
    socket: &mut Socket,
    table: &str,
    part: &[(SetId, Key)],
    take: &mut impl FnMut(Element, Attributes<'_>),
) -> Result<bool, Error> {
    let Some((set, _)) = part.first().copied() else { return Ok(true) };
    let (ask, seq) = question(socket, Op::GetElement, netlink::NLM_F_ACK, |w| {
        w.text(encode::ELEMENTS_TABLE, table);
        w.text(encode::ELEMENTS_SET, set.name());
        w.nest(encode::ELEMENTS_LIST, |w| {
            part.iter().for_each(|(_, key)| encode::element(w, set, *key, None));
        });
    });
    let answer = socket.ask(&ask, seq, |m| {
        for (_, element) in m.attributes().nest(encode::ELEMENTS_LIST) {
            let element = Attributes(element);
            if let Some(it) = read(set, element) {
                take(it, element);
            }
        }
    })?;
    match answer {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(refused(format!("the question for elements of {set}"))(errno)),
    }
}

/// So many elements one question is for.
const AT_ONCE: usize = 200;

/// Packets that an element has counted.
fn packets(element: Attributes<'_>) -> u64 {
    let counter = element.nest(encode::ELEM_EXPR).nest(encode::EXPR_DATA);
    let bytes = counter.get(encode::COUNTER_PACKETS).unwrap_or_default();
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

fn flags(element: Attributes<'_>) -> u32 {
    element.u32(encode::ELEM_FLAGS).unwrap_or(0)
}

pub(crate) fn value(element: Attributes<'_>, kind: u16) -> Option<&[u8]> {
    element.nest(kind).get(encode::DATA_VALUE)
}

fn data(set: SetId, element: Attributes<'_>) -> Data {
    let read = || match set.data() {
        DataKind::Nothing => Some(Data::Nothing),
        kind @ (DataKind::Class | DataKind::Classes) => {
            let bytes = value(element, encode::ELEM_DATA)?;
            let mut words = [0_u32; 3];
            let count = if kind == DataKind::Class { 2 } else { 3 };
            if bytes.len() != 4 * count {
                return None;
            }
            for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
                *word = u32::from_ne_bytes(bytes.try_into().ok()?);
            }
            let [found, own, group] = words;
            let otherwise = flags(element) & encode::ELEM_CATCHALL != 0;
            let data = if count == 2 { Data::Class(own) } else { Data::Classes(own, group) };
            (found == encode::found(otherwise, own)).then_some(data)
        }
        DataKind::Fate => {
            let verdict = element.nest(encode::ELEM_DATA).nest(encode::DATA_VERDICT);
            match verdict.u32(encode::VERDICT_CODE)? {
                encode::CODE_RETURN => Some(Data::Allow),
                encode::CODE_BREAK => Some(Data::Deny),
                encode::CODE_CONTINUE => Some(Data::Silent),
                _ => None,
            }
        }
    };
    read().unwrap_or(Data::Strange)
}

fn read(set: SetId, element: Attributes<'_>) -> Option<Element> {
    let data = data(set, element);
    if flags(element) & encode::ELEM_CATCHALL != 0 {
        return set.otherwise().map(|_| Element { set, key: Key::Otherwise, data });
    }
    let start = value(element, encode::ELEM_KEY)?;
    let end = value(element, encode::ELEM_KEY_END);
    let key = match set {
        SetId::Egress(f) | SetId::Ingress(f) | SetId::Peer(f) | SetId::Block(f) | SetId::Net(f) => {
            Key::Address(address(f, start)?)
        }
        SetId::Own(family) => {
            let (first, second) = start.split_at_checked(start.len() / 2)?;
            if first != second {
                return None;
            }
            Key::Address(address(family, first)?)
        }
        SetId::Standing => {
            (*start == connections::CONFIRMED.to_ne_bytes()).then_some(Key::Confirmed)?
        }
        SetId::Unmatched => Key::Class(SubjectId(u32::from_ne_bytes(start.try_into().ok()?))),
        SetId::ByPort | SetId::ByRange | SetId::ByProtocol | SetId::ByPeer => {
            Key::Row(row(set, start, end)?)
        }
    };
    Some(Element { set, key, data })
}

fn row(set: SetId, start: &[u8], end: Option<&[u8]>) -> Option<VerdictKey> {
    let class = |at: usize| Some(u32::from_ne_bytes(start.get(at..at + 4)?.try_into().ok()?));
    let port = |key: &[u8]| Some(u16::from_be_bytes(key.get(12..14)?.try_into().ok()?));
    let protocol = || start.get(8).copied().map(Protocol).filter(|p| p.has_ports());
    let ports = match set {
        SetId::ByPort => PortKey::Port(protocol()?, port(start)?),
        SetId::ByRange => {
            // The kernel leaves the end out where it equals the start.
            let end = end.unwrap_or(start);
            if start.get(..12) != end.get(..12) {
                return None;
            }
            PortKey::Range(protocol()?, PortRange::new(port(start)?, port(end)?)?)
        }
        SetId::ByProtocol => PortKey::AnyPort(protocol()?),
        _ => PortKey::AnyProtocol,
    };
    Some(VerdictKey { subject: SubjectId(class(0)?), peer: PeerKey::of_number(class(4)?), ports })
}

fn address(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    Some(match family {
        Family::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        Family::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
    })
}

/// The starts and ends in a tree of ranges, which come one by one.
#[derive(Default)]
struct Tree {
    starts: Vec<(u128, Data)>,
    ends: Vec<u128>,
}

impl Tree {
    fn read(
        &mut self,
        set: SetId,
        family: Family,
        element: Attributes<'_>,
        out: &mut Vec<Element>,
    ) -> Option<()> {
        if flags(element) & encode::ELEM_CATCHALL != 0 {
            out.push(Element { set, key: Key::Otherwise, data: data(set, element) });
            return Some(());
        }
        let at = address(family, value(element, encode::ELEM_KEY)?)?;
        let at = AddressRange::one(at).bits().0;
        if flags(element) & encode::ELEM_INTERVAL_END != 0 {
            self.ends.push(at);
        } else {
            self.starts.push((at, data(set, element)));
        }
        Some(())
    }

    /// Each start goes with the next end above it; the last may go without.
    fn finish(mut self, set: SetId, content: &mut Content) {
        let (SetId::Block(family) | SetId::Net(family)) = set else { return };
        self.starts.sort_unstable();
        self.ends.sort_unstable();
        let mut ends = self.ends.into_iter().peekable();
        let mut starts = self.starts.into_iter().peekable();
        while let Some((first, data)) = starts.next() {
            // An end with no start before it: somebody else's.
            while ends.next_if(|end| *end <= first).is_some() {
                content.strange += 1;
            }
            let limit = starts.peek().map(|(next, _)| *next);
            let last = match ends.next_if(|end| limit.is_none_or(|limit| *end <= limit)) {
                Some(end) => Some(end - 1),
                None if limit.is_none() => Some(AddressRange::all(family).bits().1),
                None => None,
            };
            match last.and_then(|last| AddressRange::from_bits(family, first, last)) {
                Some(range) => content.elements.push(Element { set, key: Key::Range(range), data }),
                None => content.strange += 1,
            }
        }
        content.strange += ends.count();
    }
}
