//! How do whole tables come into the kernel, whatever it holds?
//!
//! ```text
//!   read ─┬─ ours, same program ─▶ the elements that differ ─┐
//!         └─ nothing, or unfit ──▶ the table made anew ──────┴─▶ one transaction, or parts
//! ```

use podwall_compile::tables::NodeTables;

use super::batch::{Outcome, Step};
use super::counts::Packets;
use super::diff::difference;
use super::program::{Program, Shape, is_rows};
use super::set::{self, Element, SetId};
use super::{Nftables, OURS, PATIENCE, dump, model_of, standing};
use crate::{Drift, Error};

/// No element takes more bytes in a batch.
const ELEMENT_LIMIT: usize = 128;

/// What is in the kernel, as far as a full load needs to know.
pub(super) enum Found {
    Nothing,
    /// Ours, but to be made anew.
    Unfit(Vec<Drift>),
    Ours {
        elements: Vec<Element>,
        packets: Packets,
        rows: Vec<&'static str>,
    },
}

/// What is in the kernel but for what is in the sets.
pub(super) enum Frame {
    Nothing,
    /// Ours, but to be made anew.
    Unfit(Vec<Drift>),
    /// Ours, with the chains of rows that differ.
    Ours(Vec<&'static str>),
}

impl Nftables {
    fn comment(program: &Program) -> String {
        format!("{OURS}layout 6 program {:016x}", program.fingerprint())
    }

    /// Reads our table and its rules, but not what is in its sets.
    pub(super) fn frame(&mut self, program: &Program) -> Result<Frame, Error> {
        let name = self.config.table.clone();
        let Some(table) = dump::table(&mut self.socket, &name)? else { return Ok(Frame::Nothing) };
        if !table.comment.starts_with(OURS) {
            return Err(Error::Foreign { family: "inet", table: name });
        }
        let other = |what: String| Drift::OtherProgram { what };
        let mut unfit = Vec::new();
        if table.comment != Self::comment(program) {
            unfit.push(other(format!("table inet {name} ({})", table.comment)));
            return Ok(Frame::Unfit(unfit));
        }
        if table.dormant {
            unfit.push(other(format!("table inet {name} is dormant and so")));
        }
        let mut rows = Vec::new();
        for chain in &program.chains {
            let found = dump::rules(&mut self.socket, &name, chain.name)?;
            if found.iter().ne(chain.rules.iter().map(|rule| &rule.comment)) {
                if is_rows(chain.name) {
                    rows.push(chain.name);
                } else {
                    unfit.push(other(format!("chain {}", chain.name)));
                }
            }
        }
        Ok(if unfit.is_empty() { Frame::Ours(rows) } else { Frame::Unfit(unfit) })
    }

    /// Reads our table.
    pub(super) fn read(&mut self, program: &Program) -> Result<Found, Error> {
        let rows = match self.frame(program)? {
            Frame::Nothing => return Ok(Found::Nothing),
            Frame::Unfit(drift) => return Ok(Found::Unfit(drift)),
            Frame::Ours(rows) => rows,
        };
        let name = self.config.table.clone();
        let other = |what: String| Drift::OtherProgram { what };
        let mut unfit = Vec::new();
        let (mut elements, mut packets) = (Vec::new(), Packets::default());
        for set in SetId::ALL {
            match dump::elements(&mut self.socket, &name, set)? {
                None => unfit.push(Drift::NotThere { what: format!("set {set}") }),
                Some(content) => {
                    if content.strange > 0 {
                        unfit.push(other(format!("set {set} ({} elements)", content.strange)));
                    }
                    elements.extend(content.elements);
                    packets.extend(content.packets.into_iter().map(|(key, n)| ((set, key), n)));
                }
            }
        }
        let fit = unfit.is_empty();
        Ok(if fit { Found::Ours { elements, packets, rows } } else { Found::Unfit(unfit) })
    }

    /// Makes the table anew in several transactions, which is for user namespaces only: there the
    /// send buffer, and with it a transaction, cannot be larger than `net.core.wmem_max` allows.
    /// Until the last one every isolated pod is closed: no verdict names its class, and where a map
    /// has not even its element for every other key yet, the rule behind the lookups denies.
    fn load_in_parts(
        &mut self,
        program: &Program,
        tables: &NodeTables,
        capacity: usize,
    ) -> Result<(), Error> {
        let is_subject = |e: &Element| matches!(e.set, SetId::Egress(_) | SetId::Ingress(_));
        let (mut subjects, mut others): (Vec<_>, Vec<_>) =
            set::elements(tables).partition(is_subject);
        subjects.sort_unstable_by_key(|element| element.set);
        others.sort_unstable_by_key(|element| element.set);
        let closed: Vec<Element> =
            subjects.iter().map(|e| Element { data: set::CLOSED, ..*e }).collect();
        self.part(&Self::build(program, tables), &[], &closed)?;
        for chunk in others.chunks((capacity / ELEMENT_LIMIT).saturating_sub(2).max(1)) {
            self.part(&[], &[], chunk)?;
        }
        self.part(&[], &closed, &subjects)
    }

    fn part(&mut self, steps: &[Step], remove: &[Element], add: &[Element]) -> Result<(), Error> {
        match self.commit(steps, remove, add, None)? {
            Outcome::Done => Ok(()),
            Outcome::Conflict(error) => Err(error),
            Outcome::Stale | Outcome::Full => {
                Err(Error::Busy { family: "inet", table: self.config.table.clone() })
            }
            Outcome::TooLarge(capacity) => Err(Error::TooLarge { capacity }),
        }
    }

    /// Loads whole tables; `before` is what this process knows the kernel to hold.
    pub(super) fn write_all(
        &mut self,
        tables: &NodeTables,
        before: Option<&NodeTables>,
    ) -> Result<(), Error> {
        let shape = Shape::of(tables);
        let program = Program::new(shape, &tables.pod_ranges, self.config.log);
        self.model = None;
        let mut outgrown = false;
        for attempt in 0..=PATIENCE {
            let generation = dump::generation(&mut self.socket)?;
            let mut counted = None;
            let outcome = match self.read(&program)? {
                Found::Ours { elements, packets, rows } if attempt < PATIENCE && !outgrown => {
                    let steps = rewrite(&program, |chain| rows.contains(&chain));
                    let (remove, add) = difference(&elements, tables);
                    let outcome = self.commit(&steps, &remove, &add, Some(generation))?;
                    counted = Some((packets, remove));
                    outcome
                }
                found @ (Found::Nothing | Found::Unfit(_) | Found::Ours { .. }) => {
                    let mut steps = Self::build(&program, tables);
                    match found {
                        Found::Nothing => {
                            // Sets without elements change no packet's way, as little as no table
                            // does. The kernel holds each rule against each element that is there
                            // already.
                            self.part(&std::mem::take(&mut steps), &[], &[])?;
                        }
                        Found::Ours { elements, packets, .. } => {
                            counted = Some((packets, elements));
                        }
                        Found::Unfit(_) => {}
                    }
                    let mut add: Vec<Element> = Vec::with_capacity(set::count(tables));
                    add.extend(set::elements(tables));
                    add.sort_unstable_by_key(|element| element.set);
                    self.commit(&steps, &[], &add, None)?
                }
            };
            match outcome {
                Outcome::Done => {}
                Outcome::TooLarge(capacity) => {
                    counted = None;
                    self.load_in_parts(&program, tables, capacity)?;
                }
                Outcome::Full if !outgrown => {
                    outgrown = true;
                    continue;
                }
                Outcome::Stale | Outcome::Full => continue,
                Outcome::Conflict(error) => return Err(error),
            }
            match counted {
                Some((packets, remove)) => self.count_load(&packets, before, tables, &remove),
                None => self.count_from_zero(),
            }
            self.shape = shape;
            self.denies = standing::denies(tables);
            self.standing.end();
            self.model = Some(model_of(tables));
            return Ok(());
        }
        Err(Error::Busy { family: "inet", table: self.config.table.clone() })
    }

    /// The steps that make the table with everything but its elements.
    fn build(program: &Program, tables: &NodeTables) -> Vec<Step> {
        let mut steps = vec![
            // Makes one if there is none, so that the deletion cannot fail.
            Step::NewTable { comment: String::new() },
            Step::DelTable,
            Step::NewTable { comment: Self::comment(program) },
        ];
        steps.extend(set::sizes(tables).map(|(set, size)| Step::NewSet(set, size)));
        steps.extend(program.chains.iter().cloned().map(Step::NewChain));
        for chain in &program.chains {
            steps.extend(chain.rules.iter().map(|rule| Step::NewRule(chain.name, rule.clone())));
        }
        steps
    }
}

/// Steps that write `_rows` chains anew.
pub(super) fn rewrite(program: &Program, which: impl Fn(&str) -> bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for chain in program.rows().filter(|chain| which(chain.name)) {
        steps.push(Step::Flush(chain.name));
        steps.extend(chain.rules.iter().map(|rule| Step::NewRule(chain.name, rule.clone())));
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use nix::sched::{CloneFlags, unshare};
    use podwall_compile::tables::{
        Delta, GroupId, Peer, PeerId, PeerKey, PortKey, SubjectId, Verdict, VerdictKey,
    };
    use podwall_policy::policy::Direction;
    use podwall_policy::port::Protocol;

    use super::*;
    use crate::{Config, DataPlane};

    fn pod(own: u32) -> Peer {
        Peer { own: PeerId(own), group: GroupId(1) }
    }

    fn tables(peers: u32) -> NodeTables {
        let mut tables = NodeTables::default();
        for index in 0..peers {
            tables.peers.insert(Ipv4Addr::from(0x0a00_0000 + index).into(), pod(index % 9));
        }
        for index in 0..5 {
            let address = Ipv4Addr::from(0x0a00_0000 + index).into();
            tables.subjects.insert((Direction::Egress, address), SubjectId(1 + index));
            let ports = PortKey::Port(Protocol::TCP, index as u16);
            let key =
                VerdictKey { subject: SubjectId(1 + index), peer: PeerKey::Own(PeerId(2)), ports };
            tables.verdicts.insert(key, Verdict { allow: true, rule: None });
        }
        tables
    }

    #[test]
    fn what_does_not_fit_into_one_transaction_goes_in_parts() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut plane = Nftables::open(Config::default()).unwrap();
            plane.socket.limit = 30_000;
            for count in [3000, 10, 5000] {
                let next = tables(count);
                plane.replace(&next).unwrap();
                assert_eq!(plane.verify(&next).unwrap(), []);
            }
            let mut peers: Vec<_> =
                (0..2000).map(|i| (Ipv4Addr::from(0x0b00_0000 + i).into(), Some(pod(3)))).collect();
            plane.update(&Delta { peers: peers.clone(), ..Delta::default() }).unwrap();
            let mut now = tables(5000);
            now.apply(&Delta { peers: peers.clone(), ..Delta::default() });
            assert_eq!(plane.verify(&now).unwrap(), []);
            peers.iter_mut().for_each(|(_, class)| *class = None);
            plane.update(&Delta { peers, ..Delta::default() }).unwrap();
            assert_eq!(plane.verify(&tables(5000)).unwrap(), []);
            plane.socket.limit = 1000;
            let error = plane.replace(&tables(6000)).unwrap_err();
            assert!(error.to_string().contains("wmem_max"), "{error}");
        };
        std::thread::spawn(inside).join().unwrap();
    }
}
