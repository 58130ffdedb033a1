//! Is everything that one rule says said by others, whatever pods and addresses there may be?
//!
//! ```text
//!   a grant = a box: labels of the subject × who the peer is × its labels, namespace, address × ports
//!   dimension = atoms that no selector, block or port of these policies tells apart, as bits
//!   box ⊆ box ∪ box ∪ …   ──▶ what the first leaves of it, then the second, …: nothing, or an example
//! ```
//!
//! Exact, for every set of labels: an atom stands for each value that is named, for all others, and for
//! the label's absence. Whether an `ipBlock` takes pods by their addresses differs between data planes;
//! a pod is two atoms, one of each reading, so that what is proved holds for both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::address::{AddressRange, AddressSet, Family};
use podwall_policy::label::METADATA_NAME;
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope, Policy};
use podwall_policy::port::{PortMatch, PortRange, Protocol};
use podwall_policy::selector::{Operator, Selector};

use crate::rule_ports::Ports;

/// How many steps a proof may take.
const STEPS: usize = 200_000;

/// A proof that takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooHard;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    /// Address, pod whose address no block takes, pod whose address blocks take.
    Kind,
    Port,
    Address,
    /// A label of the subject.
    Subject(Arc<str>),
    /// A label of the peer's namespace.
    Namespace(Arc<str>),
    /// A label of the peer.
    Pod(Arc<str>),
}

const ADDRESS: usize = 0;
const ALOOF: usize = 1;
const TAKEN: usize = 2;
/// Atoms of a label: it is absent; it has a value that nobody names.
const ABSENT: usize = 0;
const OTHER: usize = 1;

type Bits = Vec<u64>;

fn bits(atoms: impl IntoIterator<Item = usize>, of: usize) -> Bits {
    let mut out = vec![0; of.div_ceil(64)];
    for atom in atoms {
        out[atom / 64] |= 1 << (atom % 64);
    }
    out
}

fn is_empty(bits: &Bits) -> bool {
    bits.iter().all(|word| *word == 0)
}

fn both(a: &Bits, b: &Bits) -> Bits {
    a.iter().zip(b).map(|(a, b)| a & b).collect()
}

fn without(a: &Bits, b: &Bits) -> Bits {
    a.iter().zip(b).map(|(a, b)| a & !b).collect()
}

/// A product of sets of atoms; a dimension that is not there is whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Cube(BTreeMap<Key, Bits>);

impl Cube {
    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.0.values().any(is_empty)
    }

    fn meets(&self, other: &Self) -> bool {
        let meet = |a: &Bits, b: &Bits| a.iter().zip(b).any(|(a, b)| a & b != 0);
        self.0.iter().all(|(key, a)| other.0.get(key).is_none_or(|b| meet(a, b)))
    }

    fn is_within(&self, other: &Self) -> bool {
        let within = |a: &Bits, b: &Bits| a.iter().zip(b).all(|(a, b)| a & !b == 0);
        other.0.iter().all(|(key, b)| self.0.get(key).is_some_and(|a| within(a, b)))
    }

    /// In both; a dimension that only one has is that one's.
    pub(super) fn and(mut self, other: &Self) -> Self {
        for (key, b) in &other.0 {
            let cut = self.0.get(key).map_or_else(|| b.clone(), |a| both(a, b));
            self.0.insert(key.clone(), cut);
        }
        self
    }
}

/// The dimensions of some policies.
pub(super) struct Space {
    labels: BTreeMap<Key, BTreeMap<Arc<str>, usize>>,
    /// First ports of segments, by protocol.
    segments: Vec<(Protocol, PortRange)>,
    names: Vec<(Protocol, Arc<str>)>,
    /// First addresses of segments.
    addresses: Vec<IpAddr>,
}

impl Space {
    pub(super) fn new(policies: &[&Policy]) -> Self {
        let mut space = Self {
            labels: BTreeMap::new(),
            segments: Vec::new(),
            names: Vec::new(),
            addresses: Vec::new(),
        };
        let mut cuts: BTreeSet<(Protocol, u32)> = BTreeSet::new();
        let mut names: BTreeSet<(Protocol, Arc<str>)> = BTreeSet::new();
        let mut starts: BTreeSet<IpAddr> =
            Family::BOTH.iter().map(|family| AddressRange::all(*family).first()).collect();
        for policy in policies {
            space.learn(&policy.subject.pods, Key::Subject);
            for direction in Direction::BOTH {
                for rule in policy.rules(direction).unwrap_or_default() {
                    for peer in &rule.peers {
                        match peer {
                            Peer::Pods(scope) => {
                                space.learn(&scope.pods, Key::Pod);
                                space.learn(&namespaces(scope), Key::Namespace);
                            }
                            Peer::Block(block) => cut_addresses(&block.ranges(), &mut starts),
                        }
                    }
                    for spec in &rule.ports {
                        let range = match &spec.port {
                            PortMatch::Any => PortRange::ALL,
                            PortMatch::Range(range) => *range,
                            PortMatch::Named(name) => {
                                names.insert((spec.protocol, name.clone()));
                                continue;
                            }
                        };
                        cuts.insert((spec.protocol, u32::from(range.first)));
                        cuts.insert((spec.protocol, u32::from(range.last) + 1));
                    }
                }
            }
        }
        for protocol in Protocol::WITH_PORTS {
            cuts.insert((protocol, 0));
            let own: Vec<u32> = cuts
                .iter()
                .filter(|(of, at)| *of == protocol && *at <= 0xffff)
                .map(|c| c.1)
                .collect();
            for (i, first) in own.iter().enumerate() {
                let last = own.get(i + 1).map_or(0xffff, |next| next - 1);
                if let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(last)) {
                    space.segments.push((protocol, PortRange { first, last }));
                }
            }
        }
        space.names = names.into_iter().collect();
        space.addresses = starts.into_iter().collect();
        space
    }

    fn learn(&mut self, selector: &Selector, key: fn(Arc<str>) -> Key) {
        for requirement in &selector.requirements {
            let values = self.labels.entry(key(requirement.key.clone())).or_default();
            let mut put = |value: &Arc<str>| {
                let next = values.len() + OTHER + 1;
                values.entry(value.clone()).or_insert(next);
            };
            match &requirement.operator {
                Operator::Equals(value) => put(value),
                Operator::In(all) | Operator::NotIn(all) => all.iter().for_each(put),
                Operator::Exists | Operator::DoesNotExist => {}
            }
        }
    }

    /// The pods that a subject's selector takes.
    pub(super) fn subject(&self, selector: &Selector) -> Cube {
        self.selector(selector, Key::Subject)
    }

    fn selector(&self, selector: &Selector, key: fn(Arc<str>) -> Key) -> Cube {
        let mut cube = Cube::default();
        for requirement in &selector.requirements {
            let key = key(requirement.key.clone());
            let Some(values) = self.labels.get(&key) else { continue };
            let of = values.len() + OTHER + 1;
            let atom = |value: &Arc<str>| values.get(value).copied();
            let some: Bits = match &requirement.operator {
                Operator::Equals(value) => bits(atom(value), of),
                Operator::In(all) => bits(all.iter().filter_map(atom), of),
                Operator::NotIn(all) => {
                    without(&bits(0..of, of), &bits(all.iter().filter_map(atom), of))
                }
                Operator::Exists => bits(OTHER..of, of),
                Operator::DoesNotExist => bits([ABSENT], of),
            };
            // A namespace always has its name.
            let named = matches!(&key, Key::Namespace(name) if **name == *METADATA_NAME);
            let some = if named { without(&some, &bits([ABSENT], of)) } else { some };
            if named && some == bits(OTHER..of, of) {
                continue; // any name
            }
            cube = cube.and(&Cube([(key, some)].into()));
        }
        cube
    }

    /// Who a peer is; `None` is anybody.
    pub(super) fn peer(&self, peer: Option<&PodScope>) -> Cube {
        let Some(scope) = peer else { return Cube::default() };
        let pods = self.selector(&scope.pods, Key::Pod);
        let cube = pods.and(&self.selector(&namespaces(scope), Key::Namespace));
        cube.and(&Cube([(Key::Kind, bits([ALOOF, TAKEN], 3))].into()))
    }

    /// Whom addresses take.
    pub(super) fn addresses(&self, set: &AddressSet) -> Cube {
        let place = |address: IpAddr| self.addresses.partition_point(|first| *first < address);
        let inside = set.ranges().iter().flat_map(|range| {
            let last = range.last();
            let from = place(range.first());
            let rest = self.addresses.get(from..).unwrap_or_default();
            from..from + rest.partition_point(|first| *first <= last)
        });
        let some = bits(inside, self.addresses.len());
        Cube([(Key::Address, some), (Key::Kind, bits([ADDRESS, TAKEN], 3))].into())
    }

    /// Whether addresses begin and end where atoms do.
    pub(super) fn is_whole(&self, set: &AddressSet) -> bool {
        let starts = |address: &IpAddr| self.addresses.binary_search(address).is_ok();
        set.ranges()
            .iter()
            .all(|range| starts(&range.first()) && behind(range).is_none_or(|next| starts(&next)))
    }

    /// A grant: one box, or two where names of ports are asked of the peer, which only pods have.
    pub(super) fn grant(
        &self,
        subject: &Cube,
        peer: &Cube,
        ports: &Ports,
        direction: Direction,
    ) -> Vec<Cube> {
        let first_name = self.segments.len();
        let other = first_name + self.names.len();
        let of = other + 1;
        let holds = |(protocol, range): &(Protocol, PortRange)| {
            ports.numbers.contains(*protocol, range.first)
        };
        let numbers = self.segments.iter().enumerate().filter(|(_, s)| holds(s)).map(|(at, _)| at);
        let numbers: Vec<usize> =
            numbers.chain(ports.numbers.has_other_protocols().then_some(other)).collect();
        let named = self.names.iter().enumerate().filter(|(_, name)| ports.names.contains(*name));
        let named: Vec<usize> = named.map(|(at, _)| first_name + at).collect();
        let whole = subject.clone().and(peer);
        let mut out = Vec::new();
        let mut put = |atoms: Vec<usize>, who: Option<[usize; 2]>| {
            let mut cube = Cube([(Key::Port, bits(atoms, of))].into()).and(&whole);
            if let Some(who) = who {
                cube = cube.and(&Cube([(Key::Kind, bits(who, 3))].into()));
            }
            if !cube.is_empty() {
                out.push(cube);
            }
        };
        match direction {
            Direction::Ingress => put(numbers.into_iter().chain(named).collect(), None),
            Direction::Egress => {
                put(numbers, None);
                put(named, Some([ALOOF, TAKEN]));
            }
        }
        out
    }
}

fn namespaces(scope: &PodScope) -> Selector {
    match &scope.namespaces {
        NamespaceScope::Own(name) => Selector::labels([(METADATA_NAME, &**name)]),
        NamespaceScope::Matching(selector) => selector.clone(),
    }
}

/// Cuts at both ends of each CIDR, so that each may go alone.
fn cut_addresses(set: &AddressSet, starts: &mut BTreeSet<IpAddr>) {
    let cidrs = set.ranges().iter().flat_map(AddressRange::cidrs).map(AddressRange::from);
    for range in cidrs {
        starts.insert(range.first());
        starts.extend(behind(&range));
    }
}

/// The first address behind a range.
fn behind(range: &AddressRange) -> Option<IpAddr> {
    let at = range.bits().1.checked_add(1)?;
    Some(AddressRange::from_bits(range.family(), at, at)?.first())
}

/// What [`Space::cover`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cover {
    /// Everything, by these.
    Whole(BTreeSet<usize>),
    /// Not everything.
    Part,
}

impl Space {
    /// Whether boxes together hold one; with the places of those that were needed.
    ///
    /// A name of a port stands for a number that only the pod knows. So what is said of the name is
    /// said by others if for each number it is said of the name or of that number.
    pub(super) fn cover(&self, cube: &Cube, by: &[(usize, &Cube)]) -> Result<Cover, TooHard> {
        let mut steps = STEPS;
        let mut used = BTreeSet::new();
        let ports = match cube.0.get(&Key::Port) {
            Some(ports) if !self.names.is_empty() => ports,
            _ => {
                let part = self.is_left(cube, by, &mut used, &mut steps)?;
                return Ok(if part { Cover::Part } else { Cover::Whole(used) });
            }
        };
        let (first, of) = (self.segments.len(), self.segments.len() + self.names.len() + 1);
        let numbers = both(ports, &bits((0..first).chain([of - 1]), of));
        let mut numbered = cube.clone();
        numbered.0.insert(Key::Port, numbers);
        if self.is_left(&numbered, by, &mut used, &mut steps)? {
            return Ok(Cover::Part);
        }
        let whoever = |cube: &Cube| {
            let mut cube = cube.clone();
            cube.0.remove(&Key::Port);
            cube
        };
        let own = whoever(cube);
        for (at, (protocol, _)) in self.names.iter().enumerate() {
            let name = bits([first + at], of);
            if is_empty(&both(ports, &name)) {
                continue;
            }
            for (segment, (its, range)) in self.segments.iter().enumerate() {
                if its != protocol || range.last == 0 {
                    continue;
                }
                let either = bits([first + at, segment], of);
                let says = |cube: &Cube| {
                    cube.0.get(&Key::Port).is_none_or(|ports| !is_empty(&both(ports, &either)))
                };
                let saying: Vec<(usize, Cube)> = by
                    .iter()
                    .filter(|(_, cube)| says(cube))
                    .map(|(at, cube)| (*at, whoever(cube)))
                    .collect();
                let saying: Vec<(usize, &Cube)> = saying.iter().map(|(at, c)| (*at, c)).collect();
                if self.is_left(&own, &saying, &mut used, &mut steps)? {
                    return Ok(Cover::Part);
                }
            }
        }
        Ok(Cover::Whole(used))
    }

    /// Whether something of a box is in none of the others.
    fn is_left(
        &self,
        cube: &Cube,
        by: &[(usize, &Cube)],
        used: &mut BTreeSet<usize>,
        steps: &mut usize,
    ) -> Result<bool, TooHard> {
        *steps = steps.checked_sub(1).ok_or(TooHard)?;
        if cube.is_empty() {
            return Ok(false);
        }
        let near: Vec<(usize, &Cube)> =
            by.iter().filter(|(_, other)| cube.meets(other)).copied().collect();
        if let Some((at, _)) = near.iter().find(|(_, other)| cube.is_within(other)) {
            used.insert(*at);
            return Ok(false);
        }
        let Some(((at, first), rest)) = near.split_first() else { return Ok(true) };
        used.insert(*at);
        let mut inside = cube.clone();
        for (key, theirs) in &first.0 {
            let own = inside.0.get(key).cloned().unwrap_or_else(|| self.whole(key));
            let out = without(&own, theirs);
            if !is_empty(&out) {
                let mut piece = inside.clone();
                piece.0.insert(key.clone(), out);
                if self.is_left(&piece, rest, used, steps)? {
                    return Ok(true);
                }
            }
            inside.0.insert(key.clone(), both(&own, theirs));
        }
        Ok(false)
    }

    /// All atoms of a dimension.
    fn whole(&self, key: &Key) -> Bits {
        let of = match key {
            Key::Kind => 3,
            Key::Port => self.segments.len() + self.names.len() + 1,
            Key::Address => self.addresses.len(),
            label => self.labels.get(label).map_or(0, BTreeMap::len) + OTHER + 1,
        };
        let named = matches!(key, Key::Namespace(name) if **name == *METADATA_NAME);
        bits(if named { OTHER..of } else { ABSENT..of }, of)
    }
}
