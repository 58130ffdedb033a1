//! How does a change of the guard become messages of one transaction?
//!
//! ```text
//!   del table │ table, sets, shared chains │ chains that go │ entries that go, that come │ chains that come
//! ```

use std::collections::BTreeMap;

use super::found::{chain_name, write_entries};
use super::rules;
use super::state::{Changes, Fresh, State};
use super::steps::{Rule, Set};
use super::{Config, OURS, PRIORITY, Table};
use crate::netlink::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use crate::nft::batch::{Batch, Step};
use crate::nft::encode::{self, Op};

/// Entries that each set has room for at least, and how much more than it needs now.
const ROOM: (usize, usize) = (4096, 4);
/// Entries in one message: the length of a list has 16 bits, an entry takes at most 36.
const AT_ONCE: usize = 1000;

/// What the kernel keeps with our table.
pub(super) fn comment(config: &Config) -> String {
    format!("{OURS}layout 1 program {:016x}", rules::fingerprint(config.dhcp))
}

/// The whole table.
pub(super) fn build(
    batch: &mut Batch<'_>,
    config: &Config,
    before: Table,
    state: &State,
    dropped: &BTreeMap<u32, u64>,
) {
    let table = &config.table;
    if before != Table::Absent {
        batch.step(&Step::DelTable);
    }
    batch.step(&Step::NewTable { comment: comment(config) });
    let (least, factor) = ROOM;
    let size = (factor * state.largest()).max(least) as u32;
    for set in Set::ALL {
        let what = format!("set {} of table netdev {table}", set.name());
        batch.write(Op::NewSet, NLM_F_CREATE, what, |w| set.write(w, table, size));
    }
    for chain in rules::chains(config.dhcp) {
        let what = format!("chain {} of table netdev {table}", chain.name);
        batch.write(Op::NewChain, NLM_F_CREATE, what, |w| {
            w.text(1, table);
            w.text(3, chain.name);
        });
        for rule in &chain.rules {
            write_rule(batch, table, chain.name, rule);
        }
    }
    write(batch, table, &Changes::between(&State::default(), state), dropped);
}

/// A change of the table.
pub(super) fn write(
    batch: &mut Batch<'_>,
    table: &str,
    changes: &Changes,
    dropped: &BTreeMap<u32, u64>,
) {
    for index in &changes.chains_gone {
        let chain = chain_name(*index);
        let what = format!("the deletion of chain {chain} of table netdev {table}");
        batch.write(Op::DelChain, 0, what, |w| {
            w.text(1, table);
            w.text(3, &chain);
        });
    }
    let lists = [
        (Op::DelElement, 0, "the removal of", &changes.entries_gone),
        (Op::NewElement, NLM_F_CREATE | NLM_F_EXCL, "", &changes.entries),
    ];
    for (op, flags, words, entries) in lists {
        for same in entries.chunk_by(|a, b| a.set() == b.set()) {
            for part in same.chunks(AT_ONCE) {
                let Some(first) = part.first() else { continue };
                let set = first.set();
                let what = format!(
                    "{words} {} entries from {} of set {} of table netdev {table}",
                    part.len(),
                    first.text(),
                    set.name()
                );
                let what = what.trim_start().to_owned();
                batch.write(op, flags, what, |w| write_entries(w, table, set, part));
            }
        }
    }
    for (index, held, fresh) in &changes.chains {
        let chain = chain_name(*index);
        let interface = &held.name;
        match fresh {
            Fresh::Made => {
                let what = format!("chain {chain} of table netdev {table} for {interface}");
                batch.write(Op::NewChain, NLM_F_CREATE, what, |w| {
                    w.text(1, table);
                    w.text(3, &chain);
                    w.nest(4, |w| {
                        // NF_NETDEV_INGRESS
                        w.u32(1, 0);
                        w.put(2, &PRIORITY.to_be_bytes());
                        w.text(3, interface);
                    });
                    // NF_ACCEPT: the last rule drops. A chain that comes has its hook before it has
                    // its rules, and is to disturb nobody meanwhile.
                    w.u32(5, 1);
                    w.text(7, "filter");
                });
            }
            Fresh::Rewritten => {
                let what = format!("the emptying of chain {chain} of table netdev {table}");
                batch.write(Op::DelRule, 0, what, |w| {
                    w.text(encode::RULE_TABLE, table);
                    w.text(encode::RULE_CHAIN, &chain);
                });
            }
        }
        let dropped = dropped.get(index).copied().unwrap_or(0);
        for rule in &rules::of_interface(held.mac, dropped) {
            write_rule(batch, table, &chain, rule);
        }
    }
}

fn write_rule(batch: &mut Batch<'_>, table: &str, chain: &str, rule: &Rule) {
    let what = format!("rule \"{}\" of chain {chain} of table netdev {table}", rule.comment);
    let flags = NLM_F_CREATE | NLM_F_APPEND;
    batch.write(Op::NewRule, flags, what, |w| rule.write(w, table, chain));
}
