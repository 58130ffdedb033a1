//! What does the kernel hold of the guard's table?
//!
//! ```text
//!   GETTABLE ─▶ comment │ GETCHAIN ─▶ chain, interface's name │ GETRULE ─▶ comments, counters
//!   GETSETELEM own4, own6, mac ─▶ entries
//! ```

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

use super::rules::{self, FORGED, read_mac};
use super::state::{Entry, Held, State};
use super::steps::Set;
use crate::error::Error;
use crate::netlink;
use crate::netlink::attribute::{Attributes, Writer};
use crate::netlink::socket::{Socket, refused};
use crate::nft::dump::{question_of, table_of, value};
use crate::nft::encode::{self, Op, TableFamily, userdata};

const FAMILY: TableFamily = TableFamily::Netdev;
/// Starts the name of an interface's chain; its number follows.
const PREFIX: &str = "p";

/// The name of an interface's chain.
pub(super) fn chain_name(index: u32) -> String {
    format!("{PREFIX}{index}")
}

fn index_of(chain: &str) -> Option<u32> {
    let index = chain.strip_prefix(PREFIX)?.parse().ok()?;
    (chain_name(index) == chain).then_some(index)
}

/// The table as it was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The table's comment; `None`: there is no table.
    pub(super) comment: Option<String>,
    /// What can be read of it, whoever wrote it.
    pub(super) state: State,
    /// What is not as this program writes it.
    pub(super) strange: Vec<String>,
}

/// A chain as the kernel describes it.
#[derive(Default)]
struct Listed {
    /// Where it hangs; `None`: it is no base chain.
    device: Option<String>,
    /// Comments of its rules.
    rules: Vec<String>,
    packets: Option<u64>,
}

/// Reads the table.
pub(super) fn read(socket: &mut Socket, table: &str, dhcp: bool) -> Result<Found, Error> {
    let Some(found) = table_of(FAMILY, socket, table)? else { return Ok(Found::default()) };
    let mut strange = Vec::new();
    if found.dormant {
        strange.push(format!("table netdev {table} is dormant and so"));
    }
    let mut chains = chains(socket, table)?;
    for chain in rules::chains(dhcp) {
        let comments = chain.rules.iter().map(|rule| &rule.comment);
        match chains.remove(chain.name) {
            Some(found) if found.device.is_none() && comments.eq(&found.rules) => {}
            _ => strange.push(format!("chain {}", chain.name)),
        }
    }
    let mut state = State::default();
    for (name, listed) in chains {
        let (Some(index), Some(device)) = (index_of(&name), listed.device) else {
            strange.push(format!("chain {name}"));
            continue;
        };
        let mac = match &listed.rules[..] {
            [_, _, mac, last] if last == FORGED => read_mac(mac),
            _ => None,
        };
        if mac.is_none() {
            strange.push(format!("chain {name} of interface {device}"));
        }
        state.chains.insert(index, Held { name: device, mac: mac.flatten() });
    }
    for set in Set::ALL {
        match entries(socket, table, set)? {
            Some((entries, 0)) => state.entries.extend(entries),
            Some(_) | None => strange.push(format!("set {}", set.name())),
        }
    }
    Ok(Found { comment: Some(found.comment), state, strange })
}

/// Packets that each interface's chain has dropped.
pub(super) fn dropped(socket: &mut Socket, table: &str) -> Result<BTreeMap<u32, u64>, Error> {
    let mut chains = BTreeMap::new();
    read_rules(socket, table, "", &mut chains)?;
    let packets = |(name, listed): (String, Listed)| Some((index_of(&name)?, listed.packets?));
    Ok(chains.into_iter().filter_map(packets).collect())
}

/// The same of one.
pub(super) fn dropped_by(socket: &mut Socket, table: &str, index: u32) -> Result<u64, Error> {
    let mut chains = BTreeMap::new();
    let name = chain_name(index);
    read_rules(socket, table, &name, &mut chains)?;
    Ok(chains.get(&name).and_then(|listed| listed.packets).unwrap_or(0))
}

fn chains(socket: &mut Socket, table: &str) -> Result<BTreeMap<String, Listed>, Error> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const HOOK_DEVICE: u16 = 3;
    const HOOK_DEVICES: u16 = 4;
    let (ask, seq) = question_of(FAMILY, socket, Op::GetChain, netlink::NLM_F_DUMP, |_| {});
    let mut chains = BTreeMap::new();
    let answer = socket.ask(&ask, seq, |m| {
        let attributes = m.attributes();
        if text(attributes, TABLE) != table {
            return;
        }
        let hook = attributes.nest(HOOK);
        // A chain at one interface names it in the one way, and newer kernels in the other, too.
        let several = hook.nest(HOOK_DEVICES);
        let device = match several.count() {
            0 | 1 => several.get(LIST_NAME).or_else(|| hook.get(HOOK_DEVICE)).map(words),
            _ => Some("several interfaces".to_owned()),
        };
        let base = attributes.get(HOOK).is_some();
        let device = base.then(|| device.unwrap_or_default());
        chains.insert(text(attributes, NAME), Listed { device, ..Listed::default() });
    })?;
    answer.map_err(refused("the question for chains of family netdev"))?;
    read_rules(socket, table, "", &mut chains)?;
    Ok(chains)
}

/// `NFTA_DEVICE_NAME`.
const LIST_NAME: u16 = 1;

/// Adds comments and counters of the rules of one chain or, with no name, of all.
fn read_rules(
    socket: &mut Socket,
    table: &str,
    chain: &str,
    chains: &mut BTreeMap<String, Listed>,
) -> Result<(), Error> {
    const EXPRESSIONS: u16 = 4;
    const NAME: u16 = 1;
    let (ask, seq) = question_of(FAMILY, socket, Op::GetRule, netlink::NLM_F_DUMP, |w| {
        w.text(encode::RULE_TABLE, table);
        if !chain.is_empty() {
            w.text(encode::RULE_CHAIN, chain);
        }
    });
    let answer = socket.ask(&ask, seq, |m| {
        let attributes = m.attributes();
        let listed = chains.entry(text(attributes, encode::RULE_CHAIN)).or_default();
        let notes = attributes.get(encode::RULE_USERDATA).unwrap_or_default();
        let comment = userdata::read(notes, userdata::RULE_COMMENT).unwrap_or("");
        listed.rules.push(comment.to_owned());
        for (_, expression) in attributes.nest(EXPRESSIONS) {
            let expression = Attributes(expression);
            if text(expression, NAME) == "counter" {
                let packets = expression.nest(encode::EXPR_DATA).get(encode::COUNTER_PACKETS);
                let packets = packets.and_then(|bytes| bytes.try_into().ok());
                listed.packets = packets.map(u64::from_be_bytes);
            }
        }
    })?;
    match answer {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => {
            Err(refused(format!("the question for rules of table netdev {table}"))(errno))
        }
    }
}

/// The entries of a set, and how many elements are none; `None`: there is no such set.
fn entries(
    socket: &mut Socket,
    table: &str,
    set: Set,
) -> Result<Option<(BTreeSet<Entry>, usize)>, Error> {
    let (ask, seq) = question_of(FAMILY, socket, Op::GetElement, netlink::NLM_F_DUMP, |w| {
        w.text(encode::ELEMENTS_TABLE, table);
        w.text(encode::ELEMENTS_SET, set.name());
    });
    let mut found = BTreeSet::new();
    let mut strange = 0;
    let answer = socket.ask(&ask, seq, |m| {
        for (_, element) in m.attributes().nest(encode::ELEMENTS_LIST) {
            let key = value(Attributes(element), encode::ELEM_KEY).unwrap_or_default();
            match Entry::read(set, key) {
                Some(entry) => {
                    found.insert(entry);
                }
                None => strange += 1,
            }
        }
    })?;
    match answer {
        Ok(()) => Ok(Some((found, strange))),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(refused(format!("the question for set {}", set.name()))(errno)),
    }
}

/// The body of a message about elements of a set.
pub(super) fn write_entries(w: &mut Writer, table: &str, set: Set, entries: &[Entry]) {
    w.text(encode::ELEMENTS_TABLE, table);
    w.text(encode::ELEMENTS_SET, set.name());
    w.nest(encode::ELEMENTS_LIST, |w| {
        for entry in entries {
            w.nest(encode::LIST_ELEM, |w| {
                w.nest(encode::ELEM_KEY, |w| w.put(encode::DATA_VALUE, &entry.key()));
            });
        }
    });
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn text(attributes: Attributes<'_>, kind: u16) -> String {
    attributes.get(kind).map(words).unwrap_or_default()
}
