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

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podwall_policy::address::Family;
use podwall_policy::evaluate::{Setting, setting};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::{Phase, Pod};
use podwall_policy::policy::Direction;
use podwall_policy::port::{ContainerPort, PortMatch, Protocol};
use podwall_policy::reason::MissingFact;
use podwall_policy::walk::Decided;
use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

use super::numbers::{Id, Numbers, Remembered};
use super::selectors::{PolicySlot, ScopeId, side};
use super::shapes::ShapeId;
use super::{Passage, Reachability};
use crate::blocks::Blocks;
use crate::outside;

/// A matrix by classes, which grows with what is asked. Owned by who prints it.
#[derive(Debug)]
pub struct Factored<'e> {
    pub(super) engine: &'e Reachability<'e>,
    pub(super) blocks: Blocks,
    /// The port names that rules of egress, ingress ask for.
    names: [FxHashSet<(Arc<str>, Protocol)>; 2],
    shapes: FxHashMap<ShapeId, ShapeClasses>,
    pub(super) met: Numbers<(Vec<ScopeId>, Perhaps<ScopeId>)>,
    port_names: Numbers<Vec<(Arc<str>, Protocol, u16)>>,
    /// The names of these ports, by direction.
    named: FxHashMap<&'e [ContainerPort], [Id; 2]>,
    pub(super) selected: Numbers<(Vec<PolicySlot>, Perhaps<PolicySlot>)>,
    pub(super) addresses: Numbers<AddressClass>,
    /// By direction: the policies that select it, and its port names.
    pub(super) subjects: [Numbers<(Id, Id)>; 2],
    /// By direction and family.
    pub(super) peers: [[Numbers<PeerClass>; 2]; 2],
    sides: Numbers<SideTemplate>,
    /// By direction and family.
    known: [[Remembered; 2]; 2],
    cells: FxHashMap<[Id; 4], Id>,
    /// Ends that are alike in all that is here.
    kinds: Numbers<Kind>,
    /// By kind of src and dst, where no end is special.
    by_kinds: Remembered,
    passages: Vec<Template>,
    asked: usize,
}

/// Members that depend on the labels of a namespace, with its name; `None` where there are none.
pub(super) type Perhaps<T> = Option<(Arc<str>, Vec<T>)>;

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
    /// A number that other parties hardly have.
    who: u64,
    kind: Id,
    pub(super) of: Kind,
}

/// All that decides what an end may do, but for who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    /// Its classes as a subject of egress, ingress; `None` if no policy selects such a party.
    pub(super) subject: [Option<Id>; 2],
    /// Its classes as a peer, by direction and family.
    pub(super) peer: [[Id; 2]; 2],
    pub(super) speaks: [bool; 2],
    states_address: bool,
    /// Whether it is no node, nor a hostNetwork pod, nor a loopback address, so that policies alone
    /// decide.
    ordinary: bool,
}

impl End<'_> {
    /// The kind of an end of which nothing is special: two different ends of one kind have the same
    /// cells. `None` for nodes, hostNetwork pods, loopback addresses, and where nodes isolate
    /// strangers.
    pub(crate) fn kind(&self) -> Option<u32> {
        self.of.ordinary.then_some(self.kind)
    }

    /// All that decides whether two ends have a family in common.
    pub(crate) fn speaks(&self) -> Speaks {
        Speaks { families: self.of.speaks, states_address: self.of.states_address }
    }
}

/// The address families of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Speaks {
    families: [bool; 2],
    states_address: bool,
}

impl Speaks {
    /// The families in which the two are asked about.
    fn in_common(self, other: Self) -> [bool; 2] {
        let mut both = [false; 2];
        for (f, family) in Family::BOTH.into_iter().enumerate() {
            let asked = self.states_address || other.states_address || family == Family::V4;
            both[f] = asked && self.families[f] && other.families[f];
        }
        both
    }

    /// Whether there is one.
    pub(crate) fn meets(self, other: Self) -> bool {
        self.in_common(other).contains(&true)
    }
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
    /// As a peer.
    met: [Id; 2],
    /// As a subject.
    selected: [Id; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum AddressClass {
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
pub(super) struct PeerClass {
    /// `None` for whom no selector can match.
    pub(super) met: Option<Id>,
    pub(super) address: Id,
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
    /// What either side says, by family; not for what certainly lets nothing pass.
    flows: Vec<(Family, [Decided; 2])>,
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
            flows: Vec::new(),
            addresses: [[false; 2]; 2],
        };
        let mut factored = Self {
            engine,
            blocks: Blocks::new(outside::blocks(engine.cluster())),
            names,
            shapes: FxHashMap::default(),
            met: Numbers::default(),
            port_names: Numbers::default(),
            named: FxHashMap::default(),
            selected: Numbers::default(),
            addresses: Numbers::default(),
            subjects: Default::default(),
            peers: Default::default(),
            sides: Numbers::default(),
            known: Default::default(),
            cells: FxHashMap::default(),
            kinds: Numbers::default(),
            by_kinds: Remembered::default(),
            passages: vec![passage(false), passage(true)],
            asked: 0,
        };
        factored.sides.number(SideTemplate { decided: Decided::open(), peer_address: false });
        factored.sides.number(SideTemplate { decided: Decided::closed(), peer_address: false });
        factored.port_names.number(Vec::new()); // who has no names has number 0
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
        if !pod.is_subject() {
            return self.end(Party::Pod(pod), None, [0; 2]);
        }
        let classes = self.classes_of(pod);
        let names = self.names_of(pod);
        self.end(Party::Pod(pod), Some(classes), names)
    }

    /// An address as an end: a pod's is the pod, a node's is the node.
    pub fn address(&mut self, address: IpAddr) -> End<'e> {
        let party = Party::at(self.engine.cluster(), address);
        match party {
            Party::Pod(pod) => self.pod(pod),
            _ => self.end(party, None, [0; 2]),
        }
    }

    /// An address that no pod and no node has, as an end.
    pub fn outside(&mut self, address: IpAddr) -> End<'e> {
        self.end(Party::Address(address), None, [0; 2])
    }

    fn end(&mut self, party: Party<'e>, its: Option<ShapeClasses>, names: [Id; 2]) -> End<'e> {
        let addresses = Family::BOTH.map(|family| {
            let class = self.address_class(party, family);
            self.addresses.number(class)
        });
        let peer = [0, 1].map(|d| {
            // Rules of egress look their names up on the peer.
            let names = if d == side(Direction::Egress) { names[d] } else { 0 };
            let met = its.map(|its| its.met[d]);
            [0, 1].map(|f| self.peers[d][f].number(PeerClass { met, address: addresses[f], names }))
        });
        let subject = [0, 1].map(|d| {
            let names = if d == side(Direction::Ingress) { names[d] } else { 0 };
            its.map(|its| self.subjects[d].number((its.selected[d], names)))
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
        let of = Kind { subject, peer, speaks, states_address, ordinary };
        let mut who = FxHasher::default();
        match party {
            Party::Pod(pod) => pod.name.hash(&mut who),
            Party::Node(node) => node.name.hash(&mut who),
            Party::Address(address) => address.hash(&mut who),
        }
        End { party, who: who.finish(), kind: self.kinds.number(of), of }
    }

    /// The selectors that a pod meets and the policies that select it, as numbers by direction.
    fn classes_of(&mut self, pod: &Pod) -> ShapeClasses {
        let engine = self.engine;
        let shape = engine.pods.get(&pod.name).copied();
        let shape = shape
            .filter(|id| engine.shapes.get(*id).is_some_and(|shape| shape.labels == pod.labels));
        if let Some(classes) = shape.and_then(|shape| self.shapes.get(&shape)) {
            return *classes;
        }
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
        let selected = Direction::BOTH.map(|direction| {
            let (mut certain, mut perhaps) = (Vec::new(), Vec::new());
            engine.with_subject(pod, |side| {
                for (slot, facts) in side.policies() {
                    let program = engine.program(slot);
                    if program.is_some_and(|its| its.clauses(direction).is_some()) {
                        if facts.is_none() { &mut certain } else { &mut perhaps }.push(slot);
                    }
                }
            });
            self.selected.number((sorted(certain), depending(pod, perhaps)))
        });
        let classes = ShapeClasses { met, selected };
        if let Some(shape) = shape {
            self.shapes.insert(shape, classes);
        }
        classes
    }

    /// The port names of a pod that rules of a direction ask for, and their numbers.
    fn names_of(&mut self, pod: &'e Pod) -> [Id; 2] {
        if let Some(ids) = self.named.get(&pod.ports[..]) {
            return *ids;
        }
        let ids = [0, 1].map(|d| {
            let asked = &self.names[d];
            let named = pod.ports.iter().filter_map(|port| {
                let key = (port.name.clone()?, port.protocol);
                asked.contains(&key).then_some((key.0, key.1, port.number))
            });
            let mut named: Vec<_> = named.collect();
            named.sort_unstable();
            named.dedup();
            self.port_names.number(named)
        });
        self.named.insert(&pod.ports, ids);
        ids
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
        if !src.of.ordinary || !dst.of.ordinary || perhaps_one(src, dst) {
            return self.ask(src, dst);
        }
        if let Some(cell) = self.by_kinds.get(src.kind, dst.kind) {
            return Cell(cell);
        }
        let cell = self.ask(src, dst);
        self.by_kinds.insert(src.kind, dst.kind, cell.0);
        cell
    }

    fn ask(&mut self, src: &End<'e>, dst: &End<'e>) -> Cell {
        let mut key = [Id::MAX; 4];
        let mut closed = true;
        let families = src.speaks().in_common(dst.speaks());
        for f in (0..families.len()).filter(|f| families[*f]) {
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
        Template { passage: Passage::of(flows.iter().cloned()), flows, addresses }
    }

    /// What egress of the source and ingress of the destination say, by family. Nothing for cells in
    /// which nothing passes for certain; the addresses of the ends are not among the missing facts.
    pub(crate) fn flows(&self, cell: Cell) -> &[(Family, [Decided; 2])] {
        self.passages.get(cell.0 as usize).map_or(&[], |template| &template.flows)
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
                families
                    .map(|(family, _)| MissingFact::PodAddress { pod: pod.name.clone(), family }),
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
        if let (Some(class), Party::Pod(pod)) = (subject.of.subject[side(direction)], subject.party)
            && peer.of.ordinary
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
                let Some(class) = subject.of.subject[side(direction)] else { return OPEN };
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
        let peer_class = peer.of.peer[d][f];
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

/// Whether the two may be one party.
fn perhaps_one(src: &End<'_>, dst: &End<'_>) -> bool {
    src.who == dst.who
        || match (src.party, dst.party) {
            (Party::Pod(pod), Party::Address(address))
            | (Party::Address(address), Party::Pod(pod)) => pod.ips.contains(&address),
            _ => false,
        }
}

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
