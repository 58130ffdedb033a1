//! Which pairs need no asking, because pairs that no policy can tell apart were asked before?
//!
//! ```text
//!   pod ──▶ subject class: policies that select it (and port names, for ingress)
//!      └──▶ peer class: selectors that it meets, blocks around its address (port names, for egress)
//!
//!   side   (subject class, peer class) ──asked once──▶ what it lets pass
//!   cell    what src lets out to dst's class  ∩  what dst lets in from src's class
//! ```
//!
//! So a matrix asks as often as there are classes of subjects times classes of peers, and never
//! about pairs of pods. Facts that are missing name pods; the address of the peer itself is kept as
//! a mark, and gets its name when the cell is read.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podwall_policy::address::Family;
use podwall_policy::evaluate::{Setting, setting};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::{Phase, Pod};
use podwall_policy::policy::Direction;
use podwall_policy::port::{PortMatch, Protocol};
use podwall_policy::reason::MissingFact;
use podwall_policy::walk::Decided;
use rustc_hash::{FxHashMap, FxHashSet};

use super::selectors::{PolicySlot, ScopeId, side};
use super::shapes::ShapeId;
use super::{Passage, Reachability};
use crate::blocks::Blocks;
use crate::outside;

/// The number of a class, of a side, or of a cell.
type Id = u32;

/// Entries of remembered sides; beyond that all are forgotten.
const REMEMBERED: usize = 64 << 20;

/// A matrix by classes, which grows with what is asked. Owned by who prints it.
#[derive(Debug)]
pub struct Factored<'e> {
    engine: &'e Reachability<'e>,
    blocks: Blocks,
    /// The port names that rules of egress, ingress ask for.
    names: [FxHashSet<(Arc<str>, Protocol)>; 2],
    shapes: FxHashMap<ShapeId, ShapeClasses>,
    met: Numbers<(Vec<ScopeId>, Perhaps<ScopeId>)>,
    port_names: Numbers<Vec<(Arc<str>, Protocol, u16)>>,
    addresses: Numbers<AddressClass>,
    /// By direction: the policies, and the port names.
    subjects: [Numbers<(Vec<PolicySlot>, Perhaps<PolicySlot>, Id)>; 2],
    /// By direction and family.
    peers: [[Numbers<PeerClass>; 2]; 2],
    sides: Numbers<SideTemplate>,
    /// By direction and family.
    known: [[Remembered; 2]; 2],
    cells: FxHashMap<[Id; 4], Id>,
    passages: Vec<Template>,
    asked: usize,
}

/// Members that depend on the labels of a namespace, with its name; `None` where there are none.
type Perhaps<T> = Option<(Arc<str>, Vec<T>)>;

/// How large a matrix is in its factored form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Classes of subjects, both directions together.
    pub subjects: usize,
    /// Classes of peers, both directions and families together.
    pub peers: usize,
    /// Different answers of one side.
    pub sides: usize,
    /// How often the engine was asked.
    pub asked: usize,
}

/// One end of a cell.
#[derive(Clone, Debug)]
pub struct End<'e> {
    party: Party<'e>,
    /// Its classes as a subject of egress, ingress; `None` if no policy selects such a party.
    subject: [Option<Id>; 2],
    /// Its classes as a peer, by direction and family.
    peer: [[Id; 2]; 2],
    speaks: [bool; 2],
    states_address: bool,
    /// Whether it is no node, nor a hostNetwork pod, nor a loopback address, so that policies alone
    /// decide.
    ordinary: bool,
}

/// What a cell is; for pairs whose ends are told apart by no policy it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell(Id);

impl Cell {
    /// The ends have no family in common.
    pub const IMPOSSIBLE: Self = Self(0);
    /// Nothing passes, certainly.
    pub const NOTHING: Self = Self(1);
}

/// Classes of a shape, by direction.
#[derive(Clone, Copy, Debug)]
struct ShapeClasses {
    met: [Id; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum AddressClass {
    /// In these blocks.
    Known(Vec<Id>),
    /// Not known, but from this range if there is one.
    Open(Option<IpNet>),
    /// Not known, of a party that only its name tells from others.
    Named(String),
    /// No block matches.
    Nobodys,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PeerClass {
    /// `None` for whom no selector can match.
    met: Option<Id>,
    address: Id,
    /// For rules of egress.
    names: Id,
}

/// What one side lets pass, whoever of the peer class asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SideTemplate {
    decided: Decided,
    /// The peer's own address is missing, too.
    peer_address: bool,
}

#[derive(Clone, Debug)]
struct Template {
    passage: Passage,
    /// Whether the addresses of src and dst are missing, by family.
    addresses: [[bool; 2]; 2],
}

impl<'e> Factored<'e> {
    /// The matrix of an engine's cluster; nothing is asked yet.
    pub fn new(engine: &'e Reachability<'e>) -> Self {
        let mut names = [FxHashSet::default(), FxHashSet::default()];
        for program in engine.programs.iter().flatten() {
            for direction in Direction::BOTH {
                let specs = program.names(direction);
                names[side(direction)].extend(specs.filter_map(|spec| match &spec.port {
                    PortMatch::Named(name) => Some((name.clone(), spec.protocol)),
                    _ => None,
                }));
            }
        }
        let passage = |possible| Template {
            passage: Passage { possible, ..Passage::default() },
            addresses: [[false; 2]; 2],
        };
        let mut factored = Self {
            engine,
            blocks: Blocks::new(outside::blocks(engine.cluster())),
            names,
            shapes: FxHashMap::default(),
            met: Numbers::default(),
            port_names: Numbers::default(),
            addresses: Numbers::default(),
            subjects: Default::default(),
            peers: Default::default(),
            sides: Numbers::default(),
            known: Default::default(),
            cells: FxHashMap::default(),
            passages: vec![passage(false), passage(true)],
            asked: 0,
        };
        factored.sides.number(SideTemplate { decided: Decided::open(), peer_address: false });
        factored.sides.number(SideTemplate { decided: Decided::closed(), peer_address: false });
        factored
    }

    /// Sizes.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            subjects: self.subjects.iter().map(|its| its.list.len()).sum(),
            peers: self.peers.iter().flatten().map(|its| its.list.len()).sum(),
            sides: self.sides.list.len(),
            asked: self.asked,
        }
    }

    /// A pod as an end.
    pub fn pod(&mut self, pod: &'e Pod) -> End<'e> {
        let met = pod.is_subject().then(|| self.met_by(pod));
        let subject = Direction::BOTH
            .map(|direction| pod.is_subject().then(|| self.subject_class(pod, direction)));
        self.end(Party::Pod(pod), subject, met)
    }

    /// An address as an end: a pod's is the pod, a node's is the node.
    pub fn address(&mut self, address: IpAddr) -> End<'e> {
        let party = Party::at(self.engine.cluster(), address);
        match party {
            Party::Pod(pod) => self.pod(pod),
            _ => self.end(party, [None; 2], None),
        }
    }

    /// An address that no pod and no node has, as an end.
    pub fn outside(&mut self, address: IpAddr) -> End<'e> {
        self.end(Party::Address(address), [None; 2], None)
    }

    fn end(&mut self, party: Party<'e>, subject: [Option<Id>; 2], met: Option<[Id; 2]>) -> End<'e> {
        let peer = Direction::BOTH.map(|direction| {
            let names = match (direction, party.subject()) {
                (Direction::Egress, Some(pod)) => self.names_of(pod, direction),
                _ => self.port_names.number(Vec::new()),
            };
            [0, 1].map(|f| {
                let class = self.address_class(party, Family::BOTH[f]);
                let address = self.addresses.number(class);
                let met = met.map(|met| met[side(direction)]);
                self.peers[side(direction)][f].number(PeerClass { met, address, names })
            })
        });
        let speaks = Family::BOTH.map(|family| party.speaks(family));
        let states_address = Family::BOTH.iter().any(|family| party.address(*family).is_some());
        let cluster = self.engine.cluster();
        let ordinary = cluster.strangers.is_empty()
            && match party {
                Party::Pod(pod) => pod.is_subject(),
                Party::Node(_) => false,
                Party::Address(address) => {
                    !address.is_loopback() && cluster.node_by_ip(address).is_none()
                }
            };
        End { party, subject, peer, speaks, states_address, ordinary }
    }

    /// The selectors that a pod meets, as numbers by direction.
    fn met_by(&mut self, pod: &Pod) -> [Id; 2] {
        let shape = self.engine.pods.get(&pod.name).copied();
        if let Some(classes) = shape.and_then(|shape| self.shapes.get(&shape)) {
            return classes.met;
        }
        let engine = self.engine;
        let met = Direction::BOTH.map(|direction| {
            let (mut certain, mut perhaps) = (Vec::new(), Vec::new());
            engine.with_subject(pod, |side| {
                for (id, facts) in side.scopes() {
                    if engine.selectors.is_peer(id, direction) {
                        if facts.is_none() { &mut certain } else { &mut perhaps }.push(id);
                    }
                }
            });
            self.met.number((sorted(certain), depending(pod, perhaps)))
        });
        if let Some(shape) = shape {
            self.shapes.insert(shape, ShapeClasses { met });
        }
        met
    }

    fn subject_class(&mut self, pod: &Pod, direction: Direction) -> Id {
        let engine = self.engine;
        let (mut certain, mut perhaps) = (Vec::new(), Vec::new());
        engine.with_subject(pod, |side| {
            for (slot, facts) in side.policies() {
                let speaks =
                    engine.program(slot).is_some_and(|its| its.clauses(direction).is_some());
                if speaks {
                    if facts.is_none() { &mut certain } else { &mut perhaps }.push(slot);
                }
            }
        });
        let names = match direction {
            Direction::Ingress => self.names_of(pod, direction),
            Direction::Egress => self.port_names.number(Vec::new()),
        };
        let class = (sorted(certain), depending(pod, perhaps), names);
        self.subjects[side(direction)].number(class)
    }

    /// The port names of a pod that rules of a direction ask for, and their numbers.
    fn names_of(&mut self, pod: &Pod, direction: Direction) -> Id {
        let asked = &self.names[side(direction)];
        let named = pod.ports.iter().filter_map(|port| {
            let key = (port.name.clone()?, port.protocol);
            asked.contains(&key).then_some((key.0, key.1, port.number))
        });
        let mut named: Vec<_> = if asked.is_empty() { Vec::new() } else { named.collect() };
        named.sort_unstable();
        named.dedup();
        self.port_names.number(named)
    }

    fn address_class(&self, party: Party<'_>, family: Family) -> AddressClass {
        if let Some(address) = party.address(family) {
            return match party {
                Party::Pod(pod) if pod.phase == Phase::Terminated => AddressClass::Nobodys,
                _ => AddressClass::Known(self.blocks.of(address)),
            };
        }
        let nodes = &self.engine.cluster().nodes;
        let node = |pod: &Pod| nodes.get(pod.node.as_ref()?);
        match party {
            Party::Pod(pod) if pod.phase == Phase::Terminated => AddressClass::Nobodys,
            Party::Pod(pod) if pod.host_network => {
                match node(pod).and_then(|node| Party::Node(node).address(family)) {
                    Some(address) => AddressClass::Known(self.blocks.of(address)),
                    None => AddressClass::Open(None),
                }
            }
            Party::Pod(pod) => AddressClass::Open(node(pod).and_then(|node| {
                node.pod_cidrs.iter().copied().find(|net| Family::of(net.addr()) == family)
            })),
            Party::Node(node) => AddressClass::Named(node.name.to_string()),
            Party::Address(address) => AddressClass::Named(address.to_string()),
        }
    }

    /// What passes from one end to another; equal cells say the same but for the names of pods
    /// whose addresses are missing.
    pub fn cell(&mut self, src: &End<'e>, dst: &End<'e>) -> Cell {
        let mut key = [Id::MAX; 4];
        let mut closed = true;
        for (f, family) in Family::BOTH.into_iter().enumerate() {
            let asked = src.states_address || dst.states_address || family == Family::V4;
            if !asked || !src.speaks[f] || !dst.speaks[f] {
                continue;
            }
            let egress = self.side(src, dst, src, dst, Direction::Egress, f);
            let ingress = self.side(dst, src, src, dst, Direction::Ingress, f);
            closed &= egress == CLOSED || ingress == CLOSED;
            key[2 * f] = egress;
            key[2 * f + 1] = ingress;
        }
        if key == [Id::MAX; 4] {
            return Cell::IMPOSSIBLE;
        }
        if closed {
            return Cell::NOTHING;
        }
        if let Some(cell) = self.cells.get(&key) {
            return Cell(*cell);
        }
        let cell = Id::try_from(self.passages.len()).unwrap_or(Id::MAX);
        self.passages.push(self.template(&key));
        self.cells.insert(key, cell);
        Cell(cell)
    }

    fn template(&self, key: &[Id; 4]) -> Template {
        let mut addresses = [[false; 2]; 2];
        let mut flows = Vec::new();
        for (f, family) in Family::BOTH.into_iter().enumerate() {
            let of = |id: Id| self.sides.list.get(id as usize);
            let (Some(egress), Some(ingress)) = (of(key[2 * f]), of(key[2 * f + 1])) else {
                continue;
            };
            // Rules of egress ask for the destination's address, those of ingress for the source's.
            addresses[1][f] = egress.peer_address;
            addresses[0][f] = ingress.peer_address;
            flows.push((family, [egress.decided.clone(), ingress.decided.clone()]));
        }
        Template { passage: Passage::of(flows.into_iter()), addresses }
    }

    /// What a cell says of these ends.
    pub fn passage(&self, cell: Cell, src: &End<'e>, dst: &End<'e>) -> Passage {
        let Some(template) = self.passages.get(cell.0 as usize) else { return Passage::default() };
        let mut passage = template.passage.clone();
        if passage.open.is_empty() {
            return passage;
        }
        for (end, missing) in [src, dst].into_iter().zip(&template.addresses) {
            let Party::Pod(pod) = end.party else { continue };
            let families = Family::BOTH.into_iter().zip(missing).filter(|(_, missing)| **missing);
            passage.missing.extend(
                families.map(|(family, _)| MissingFact::PodAddress { pod: pod.name.clone(), family }),
            );
        }
        passage.missing.sort();
        passage.missing.dedup();
        passage
    }

    /// One side of the flow from `src` to `dst`: what the policies of `subject` say of `peer`.
    fn side(
        &mut self,
        subject: &End<'e>,
        peer: &End<'e>,
        src: &End<'e>,
        dst: &End<'e>,
        direction: Direction,
        f: usize,
    ) -> Id {
        let family = Family::BOTH[f];
        let flow = || Flow { src: src.party, dst: dst.party, family };
        if let (Some(class), Party::Pod(pod)) = (subject.subject[side(direction)], subject.party)
            && peer.ordinary
            && self.engine.cluster().strangers.is_empty()
            && !is_itself(pod, peer.party)
        {
            return self.policies(class, pod, peer, &flow(), direction, f);
        }
        if self.engine.cluster().strangers.is_empty() && !matches!(subject.party, Party::Pod(_)) {
            return OPEN;
        }
        match setting(self.engine.cluster(), &flow(), direction) {
            Setting::Open(_) => OPEN,
            Setting::Stranger { perhaps_own_node, .. } => {
                let mut decided = Decided::closed();
                decided.perhaps_own_node(perhaps_own_node);
                self.sides.number(SideTemplate { decided, peer_address: false })
            }
            Setting::Policies { pod, perhaps_own_node, .. } => {
                let Some(class) = subject.subject[side(direction)] else { return OPEN };
                let id = self.policies(class, pod, peer, &flow(), direction, f);
                if perhaps_own_node.is_empty() {
                    return id;
                }
                let Some(template) = self.sides.list.get(id as usize) else { return id };
                let mut template = template.clone();
                template.decided.perhaps_own_node(perhaps_own_node);
                self.sides.number(template)
            }
        }
    }

    /// What policies say, asked once for each pair of classes.
    fn policies(
        &mut self,
        class: Id,
        pod: &Pod,
        peer: &End<'e>,
        flow: &Flow<'_>,
        direction: Direction,
        f: usize,
    ) -> Id {
        let d = side(direction);
        let peer_class = peer.peer[d][f];
        if let Some(id) = self.known[d][f].get(class, peer_class) {
            return id;
        }
        self.asked += 1;
        let mut decided = self.engine.decide(flow, pod, peer.party, direction);
        let facts = decided.missing.len();
        if let Party::Pod(peer) = peer.party {
            let own = MissingFact::PodAddress { pod: peer.name.clone(), family: flow.family };
            decided.missing.retain(|fact| *fact != own);
        }
        let peer_address = decided.missing.len() < facts;
        let id = self.sides.number(SideTemplate { decided, peer_address });
        self.known[d][f].insert(class, peer_class, id);
        id
    }
}

/// Everything passes; the first number.
const OPEN: Id = 0;
/// Nothing passes; the second.
const CLOSED: Id = 1;

fn is_itself(pod: &Pod, peer: Party<'_>) -> bool {
    match peer {
        Party::Pod(other) => std::ptr::eq(pod, other) || pod.name == other.name,
        Party::Node(_) => false,
        Party::Address(address) => pod.ips.contains(&address),
    }
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list
}

fn depending<T: Ord>(pod: &Pod, list: Vec<T>) -> Perhaps<T> {
    (!list.is_empty()).then(|| (pod.name.namespace.clone(), sorted(list)))
}

/// Things with numbers, from 0.
#[derive(Debug)]
struct Numbers<T> {
    list: Vec<T>,
    numbers: FxHashMap<T, Id>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self { list: Vec::new(), numbers: FxHashMap::default() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Numbers<T> {
    fn number(&mut self, thing: T) -> Id {
        if let Some(number) = self.numbers.get(&thing) {
            return *number;
        }
        let number = Id::try_from(self.list.len()).unwrap_or(Id::MAX);
        self.list.push(thing.clone());
        self.numbers.insert(thing, number);
        number
    }
}

/// Sides by class of the subject and of the peer.
#[derive(Debug, Default)]
struct Remembered {
    rows: Vec<Vec<Id>>,
    entries: usize,
}

impl Remembered {
    fn get(&self, subject: Id, peer: Id) -> Option<Id> {
        let id = *self.rows.get(subject as usize)?.get(peer as usize)?;
        (id != Id::MAX).then_some(id)
    }

    fn insert(&mut self, subject: Id, peer: Id, id: Id) {
        if self.entries > REMEMBERED {
            *self = Self::default();
        }
        let (subject, peer) = (subject as usize, peer as usize);
        if self.rows.len() <= subject {
            self.rows.resize_with(subject + 1, Vec::new);
        }
        let row = &mut self.rows[subject];
        if row.len() <= peer {
            let more = (peer + 1).max(row.len() * 5 / 4) - row.len();
            self.entries += more;
            row.resize(row.len() + more, Id::MAX);
        }
        row[peer] = id;
    }
}
