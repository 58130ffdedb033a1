//! How does a change become one transaction, and its failure words?
//!
//! ```text
//!   BEGIN (generation) │ del table │ new table, sets, chains, rules │ del elements │ new elements │ END
//! ```
//!
//! The kernel runs all of it or nothing (`nfnetlink_rcv_batch`). An attribute's length has 16 bits,
//! so that elements go in lists of some hundreds to thousands.

use nix::errno::Errno;

use super::encode::{self, Op, TableFamily, userdata};
use super::ir::{Chain, Rule};
use super::set::{Element, SetId};
use crate::error::Error;
use crate::netlink;
use crate::netlink::attribute::Writer;
use crate::netlink::socket::{Answer, Socket, io_error};

/// A list of elements ends before this many bytes: the length of an attribute has 16 bits, one
/// element has at most 120 bytes.
const LIST_LIMIT: usize = 60_000;

/// So many bytes one element mostly has.
const ELEMENT_SIZE: usize = 48;

/// A part of a change that is not an element.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Makes the table; nothing happens if it is there.
    NewTable {
        comment: String,
    },
    /// Deletes the table with all that is in it.
    DelTable,
    /// Makes a set of at most so many elements, where the kernel can make use of that.
    NewSet(SetId, Option<u32>),
    NewChain(Chain),
    /// Deletes a chain's rules.
    Flush(&'static str),
    NewRule(&'static str, Rule),
}

/// What the kernel said to a batch.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    /// The ruleset is not of the generation any more that the batch was made for.
    Stale,
    /// It does not fit into one transaction of so many bytes; nothing was sent.
    TooLarge(usize),
    /// A set is too small for its elements.
    Full,
    /// An element is there that should not be, or the other way round, or collides with one.
    Conflict(Error),
}

/// What one message does, to name it when the kernel refuses it.
enum Sent {
    Step(String),
    /// Elements that the caller has written.
    Written(String),
    /// Elements from the list from `first` on; where in the message each starts.
    Elements {
        list: usize,
        first: usize,
        offsets: Vec<u32>,
    },
}

/// A transaction in the making. Borrows the elements that it sends.
pub(crate) struct Batch<'a> {
    family: TableFamily,
    table: &'a str,
    writer: Writer,
    first_seq: u32,
    sent: Vec<Sent>,
    /// Lists of elements with what happens to them.
    lists: Vec<(&'static str, &'a [Element])>,
    sets: u32,
}

impl<'a> Batch<'a> {
    /// An empty batch; with a generation, it is refused if the ruleset has changed since.
    pub(crate) fn new(table: &'a str, socket: &mut Socket, generation: Option<u32>) -> Self {
        Self::of(TableFamily::Inet, table, socket, generation)
    }

    /// The same for a table of any family.
    pub(crate) fn of(
        family: TableFamily,
        table: &'a str,
        socket: &mut Socket,
        generation: Option<u32>,
    ) -> Self {
        let first_seq = socket.next_seq();
        let mut writer = Writer::default();
        let (begin, request) = (encode::BATCH_BEGIN, netlink::NLM_F_REQUEST);
        writer.begin(begin, request, first_seq, 0, encode::SUBSYSTEM);
        if let Some(generation) = generation {
            writer.u32(encode::BATCH_GENID, generation);
        }
        writer.end();
        Self { family, table, writer, first_seq, sent: Vec::new(), lists: Vec::new(), sets: 0 }
    }

    fn message(
        &mut self,
        op: Op,
        flags: u16,
        sent: Sent,
        fill: impl FnOnce(&mut Writer, &mut Sent),
    ) {
        self.sent.push(sent);
        let seq = self.first_seq.wrapping_add(self.sent.len() as u32);
        let flags = netlink::NLM_F_REQUEST | flags;
        self.writer.begin(op.message(), flags, seq, self.family as u8, 0);
        if let Some(sent) = self.sent.last_mut() {
            fill(&mut self.writer, sent);
        }
        self.writer.end();
    }

    /// Adds a message that no step stands for. `what` names it when the kernel refuses it.
    pub(crate) fn write(
        &mut self,
        op: Op,
        flags: u16,
        what: String,
        fill: impl FnOnce(&mut Writer),
    ) {
        let elements = matches!(op, Op::NewElement | Op::DelElement);
        let sent = if elements { Sent::Written(what) } else { Sent::Step(what) };
        self.message(op, flags, sent, |w, _| fill(w));
    }

    /// Adds a step.
    pub(crate) fn step(&mut self, step: &Step) {
        let (table, family) = (self.table, self.family.name());
        let sent = |words: String| Sent::Step(words);
        match step {
            Step::NewTable { comment } => {
                let words = sent(format!("table {family} {table}"));
                self.message(Op::NewTable, netlink::NLM_F_CREATE, words, |w, _| {
                    w.text(encode::TABLE_NAME, table);
                    w.u32(encode::TABLE_FLAGS, 0);
                    let note = userdata::comment(userdata::TABLE_COMMENT, comment);
                    w.put(encode::TABLE_USERDATA, &note);
                });
            }
            Step::DelTable => {
                let words = sent(format!("the deletion of table {family} {table}"));
                self.message(Op::DelTable, 0, words, |w, _| w.text(encode::TABLE_NAME, table));
            }
            Step::NewSet(set, size) => {
                self.sets += 1;
                let id = self.sets;
                let words = sent(format!("set {set} of table {family} {table}"));
                self.message(Op::NewSet, netlink::NLM_F_CREATE, words, |w, _| {
                    encode::set(w, table, *set, id, *size);
                });
            }
            Step::NewChain(chain) => {
                let words = sent(format!("chain {} of table {family} {table}", chain.name));
                self.message(Op::NewChain, netlink::NLM_F_CREATE, words, |w, _| {
                    encode::chain(w, table, chain);
                });
            }
            Step::Flush(chain) => {
                let words =
                    sent(format!("the emptying of chain {chain} of table {family} {table}"));
                self.message(Op::DelRule, 0, words, |w, _| {
                    w.text(encode::RULE_TABLE, table);
                    w.text(encode::RULE_CHAIN, chain);
                });
            }
            Step::NewRule(chain, rule) => {
                let words = sent(format!("rule \"{}\" of chain {chain}", rule.comment));
                let flags = netlink::NLM_F_CREATE | netlink::NLM_F_APPEND;
                self.message(Op::NewRule, flags, words, |w, _| encode::rule(w, table, chain, rule));
            }
        }
    }

    /// Adds the deletion of elements, which must stand in order of their sets.
    pub(crate) fn delete(&mut self, elements: &'a [Element]) {
        self.elements(Op::DelElement, 0, "the removal of", elements);
    }

    /// Adds new elements, which must stand in order of their sets.
    pub(crate) fn add(&mut self, elements: &'a [Element]) {
        let flags = netlink::NLM_F_CREATE | netlink::NLM_F_EXCL;
        self.elements(Op::NewElement, flags, "", elements);
    }

    fn elements(&mut self, op: Op, flags: u16, words: &'static str, elements: &'a [Element]) {
        let list = self.lists.len();
        self.lists.push((words, elements));
        self.writer.reserve(elements.len() * ELEMENT_SIZE);
        let table = self.table;
        let mut first = 0;
        while let Some(start) = elements.get(first) {
            let set = start.set;
            let mut next = first;
            let sent = Sent::Elements { list, first, offsets: Vec::new() };
            self.message(op, flags, sent, |w, sent| {
                w.text(encode::ELEMENTS_TABLE, table);
                w.text(encode::ELEMENTS_SET, set.name());
                let nest = w.open(encode::ELEMENTS_LIST);
                let mut at = Vec::new();
                while let Some(element) = elements.get(next).filter(|e| e.set == set) {
                    if w.nested(nest) > LIST_LIMIT {
                        break;
                    }
                    at.push(w.offset() as u32);
                    let data = (op == Op::NewElement).then_some(element.data);
                    encode::element(w, set, element.key, data);
                    next += 1;
                }
                w.close(nest);
                if let Sent::Elements { offsets, .. } = sent {
                    *offsets = at;
                }
            });
            first = next;
        }
    }

    /// Bytes, with the end that is still to come.
    pub(crate) fn len(&self) -> usize {
        self.writer.bytes().len() + netlink::attribute::HEADER
    }

    /// Sends it and reads what the kernel says. Nothing to do: done.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> Result<Outcome, Error> {
        if self.sent.is_empty() {
            return Ok(Outcome::Done);
        }
        self.writer.ask_for_answer(netlink::NLM_F_ACK);
        let last = self.first_seq.wrapping_add(self.sent.len() as u32);
        let end = last.wrapping_add(1);
        self.writer.begin(encode::BATCH_END, netlink::NLM_F_REQUEST, end, 0, encode::SUBSYSTEM);
        self.writer.end();
        socket.skip(self.sent.len() as u32 + 1);
        socket.send(self.writer.bytes())?;
        let answers: Vec<Answer> = socket
            .answers()?
            .into_iter()
            .filter(|answer| answer.seq.wrapping_sub(self.first_seq) <= self.sent.len() as u32)
            .collect();
        match answers.iter().find(|answer| answer.errno != 0) {
            None if answers.iter().any(|answer| answer.seq == last) => Ok(Outcome::Done),
            None => Err(Error::Lost("no answer came".into())),
            Some(answer) => self.refused(answer),
        }
    }

    fn refused(&self, answer: &Answer) -> Result<Outcome, Error> {
        let index = answer.seq.wrapping_sub(self.first_seq);
        let errno = Errno::from_raw(answer.errno);
        if index == 0 {
            // The batch as a whole, before its first message or when it was to take effect.
            match errno {
                Errno::ERESTART => return Ok(Outcome::Stale),
                Errno::EPERM => return Err(Error::Permission),
                _ => {}
            }
        }
        let sent = (index as usize).checked_sub(1).and_then(|i| self.sent.get(i));
        let (what, is_element) = match sent {
            None => (format!("the change of table {} {}", self.family.name(), self.table), false),
            Some(Sent::Step(words)) => (words.clone(), false),
            Some(Sent::Written(words)) => (words.clone(), true),
            Some(Sent::Elements { list, first, offsets }) => {
                (self.name_element(*list, *first, offsets, answer.offset), true)
            }
        };
        let error =
            Error::Refused { what, source: io_error(answer.errno), text: answer.text.clone() };
        match errno {
            Errno::EPERM => Err(Error::Permission),
            Errno::ENOENT | Errno::EEXIST | Errno::EBUSY | Errno::ENOTEMPTY if is_element => {
                Ok(Outcome::Conflict(error))
            }
            Errno::ENFILE if is_element => Ok(Outcome::Full),
            // A table, chain or set of ours that somebody else has deleted.
            Errno::ENOENT => Ok(Outcome::Conflict(error)),
            _ => Err(error),
        }
    }

    /// The element at an offset of its message, or the span of the list if the kernel gave none.
    fn name_element(&self, list: usize, first: usize, offsets: &[u32], at: Option<u32>) -> String {
        let Some((words, elements)) = self.lists.get(list) else { return String::new() };
        let space = if words.is_empty() { "" } else { " " };
        // A range in a tree is two elements; the offset of the second lies behind the first's.
        let index = at.and_then(|at| offsets.partition_point(|o| *o <= at).checked_sub(1));
        let element = |index: usize| elements.get(first + index).map(ToString::to_string);
        let (table, family) = (self.table, self.family.name());
        if let Some(element) = index.and_then(element) {
            return format!("{words}{space}{element} in table {family} {table}");
        }
        let from = element(0).unwrap_or_default();
        let to = element(offsets.len().saturating_sub(1)).unwrap_or_default();
        let count = offsets.len();
        format!(
            "{words}{space}one of {count} elements from {from} to {to} in table {family} {table}"
        )
    }
}
