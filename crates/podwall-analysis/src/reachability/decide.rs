//! What do the policies of one pod say of one peer?
//!
//! ```text
//!   pod ── shape, namespace ──▶ selectors that are subjects ──▶ policies ──▶ rules
//!   peer ─ shape, namespace ──▶ selectors that it meets ───────────┐           │
//!        └ address ─────────▶ blocks ──────────────────────────────┴── meet ───┘──▶ Walk
//! ```

use podwall_policy::address::{Family, IpBlock};
use podwall_policy::evaluate::{Setting, setting};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::matching::{Match, match_peer};
use podwall_policy::object::{Phase, Pod};
use podwall_policy::policy::{Direction, Peer, Tier};
use podwall_policy::port::PortSet;
use podwall_policy::reason::MissingFact;
use podwall_policy::walk::{Decided, Walk, Word, both};

use super::program::{Asks, Clause, Program};
use super::selectors::{Meets, Met, PolicySlot, ScopeId, Selectors};
use super::shapes::{Narrow, broad_meets};
use super::{Passage, Reachability};

/// The selectors that a pod meets: those of its shape and of its namespace.
#[derive(Clone, Copy)]
pub(super) struct Side<'e> {
    selectors: &'e Selectors,
    pub(super) narrow: &'e Meets,
    pub(super) broad: &'e Meets,
}

impl<'e> Side<'e> {
    /// Whether the pod meets a selector.
    fn met(&self, id: ScopeId) -> Met<'e> {
        match self.narrow.of(id) {
            Met::No => self.broad.of(id),
            met => met,
        }
    }

    /// The selectors that it meets.
    pub(super) fn scopes(&self) -> impl Iterator<Item = (ScopeId, Option<&'e [MissingFact]>)> {
        let (narrow, broad) = (self.narrow, self.broad);
        narrow.iter().chain(broad.iter())
    }

    /// The policies that select it, each once, and the facts that it depends on.
    pub(super) fn policies(&self) -> impl Iterator<Item = (PolicySlot, Option<&'e [MissingFact]>)> {
        let selectors = self.selectors;
        self.scopes().flat_map(move |(id, facts)| {
            let selects = selectors.get(id).map_or(&[][..], |asked| &asked.selects);
            selects.iter().map(move |slot| (*slot, facts))
        })
    }
}

/// Who the other party is to a rule.
enum View<'e> {
    /// A pod that selectors can match.
    Pod(Side<'e>),
    /// Anybody else, whom only blocks can match.
    Other,
}

/// A rule that applies, certainly or perhaps.
struct Heard<'e> {
    program: &'e Program,
    place: usize,
    clause: &'e Clause,
    selected: Option<&'e [MissingFact]>,
    peers: Match,
}

impl Reachability<'_> {
    /// What one side of a flow comes to.
    pub fn side(&self, flow: &Flow<'_>, direction: Direction) -> Decided {
        match setting(&self.cluster, flow, direction) {
            Setting::Open(_) => Decided::open(),
            Setting::Stranger { perhaps_own_node, .. } => {
                let mut decided = Decided::closed();
                decided.perhaps_own_node(perhaps_own_node);
                decided
            }
            Setting::Policies { pod, peer, perhaps_own_node } => {
                let mut decided = self.decide(flow, pod, peer, direction);
                decided.perhaps_own_node(perhaps_own_node);
                decided
            }
        }
    }

    /// What the policies of a pod say of a peer, exemptions aside.
    pub(super) fn decide(
        &self,
        flow: &Flow<'_>,
        pod: &Pod,
        peer: Party<'_>,
        direction: Direction,
    ) -> Decided {
        self.with_subject(pod, |subject| match peer.subject() {
            Some(other) => self.with_subject(other, |other| {
                self.walk(flow, subject, &View::Pod(other), peer, direction)
            }),
            None => self.walk(flow, subject, &View::Other, peer, direction),
        })
    }

    /// Answers with the selectors that a pod meets; those of one that is not known, or is known with
    /// other labels, are looked up.
    pub(super) fn with_subject<T>(&self, pod: &Pod, answer: impl FnOnce(Side<'_>) -> T) -> T {
        let selectors = &self.selectors;
        let shape = self.pods.get(&pod.name).and_then(|shape| self.shapes.get(*shape));
        let namespace = &pod.name.namespace;
        let known = self.shapes.namespace(namespace);
        if let (Some(shape), Some(broad)) = (shape.filter(|its| its.labels == pod.labels), known) {
            return answer(Side { selectors, narrow: &shape.meets, broad });
        }
        let narrow = Narrow::of(&self.cluster, selectors, namespace);
        let narrow = narrow.meets(&self.cluster, selectors, namespace, &pod.labels);
        let broad = broad_meets(&self.cluster, selectors, namespace);
        answer(Side { selectors, narrow: &narrow, broad: &broad })
    }

    fn walk(
        &self,
        flow: &Flow<'_>,
        subject: Side<'_>,
        view: &View<'_>,
        peer: Party<'_>,
        direction: Direction,
    ) -> Decided {
        let mut isolated = false;
        let mut perhaps_isolated = Vec::new();
        let mut heard: Vec<Heard<'_>> = Vec::new();
        let address = known_address(peer, flow.family);
        for (slot, selected) in subject.policies() {
            let Some(program) = self.program(slot) else { continue };
            let Some(clauses) = program.clauses(direction) else { continue };
            if program.tier == Tier::NetworkPolicy {
                match selected {
                    None => isolated = true,
                    Some(facts) => perhaps_isolated.extend(facts.iter().cloned()),
                }
            }
            for (place, clause) in clauses.iter().enumerate() {
                let peers = self.peers(clause, view, peer, flow.family, address);
                if !matches!(peers, Match::No(_)) {
                    heard.push(Heard { program, place, clause, selected, peers });
                }
            }
        }
        if heard.is_empty() && perhaps_isolated.is_empty() {
            return if isolated { Decided::closed() } else { Decided::open() };
        }
        heard.sort_by(|a, b| a.order().cmp(&b.order()));
        let mut walk = Walk::new();
        let mut rest = heard.as_slice();
        for tier in Tier::IN_ORDER {
            walk.begin_tier(tier);
            let of_tier;
            (of_tier, rest) = rest.split_at(rest.partition_point(|its| its.program.tier <= tier));
            for policy in of_tier.chunk_by(|a, b| std::ptr::eq(a.program, b.program)) {
                walk.begin_policy();
                for its in policy {
                    let ports: PortSet = its.clause.ports(flow);
                    let word = Word { action: its.clause.action, ports: &ports };
                    let selected =
                        its.selected.map_or(Match::Yes, |facts| Match::Unknown(facts.to_vec()));
                    walk.rule(word, &its.peers, &both(&selected, &its.peers), false);
                }
            }
            let perhaps = if tier == Tier::NetworkPolicy {
                std::mem::take(&mut perhaps_isolated)
            } else {
                Vec::new()
            };
            walk.end_tier(isolated, perhaps);
        }
        walk.finish()
    }

    /// Whether any of a rule's peers matches, as `match_peers` of the evaluator has it.
    fn peers(
        &self,
        clause: &Clause,
        view: &View<'_>,
        party: Party<'_>,
        family: Family,
        address: Address,
    ) -> Match {
        let mut missing: Vec<MissingFact> = Vec::new();
        for asks in &clause.peers {
            match asks {
                Asks::Scope(id) => match view {
                    View::Pod(side) => match side.met(*id) {
                        Met::Yes => return Match::Yes,
                        Met::Perhaps(facts) => missing.extend(facts.iter().cloned()),
                        Met::No => {}
                    },
                    View::Other => {}
                },
                Asks::Block { block, whole } => match address {
                    Address::Known(address) if block.contains(address) => return Match::Yes,
                    Address::Known(_) | Address::Nobodys => {}
                    Address::Open => match self.unknown_in_block(block, party, family, *whole) {
                        Match::Yes => return Match::Yes,
                        Match::Unknown(facts) => missing.extend(facts),
                        Match::No(_) => {}
                    },
                },
            }
        }
        match (clause.peers.is_empty(), missing.is_empty()) {
            (true, _) => Match::Yes,
            (false, true) => Match::No(Vec::new()),
            (false, false) => Match::Unknown(missing),
        }
    }

    /// Whether an address that is not known lies in a block.
    fn unknown_in_block(
        &self,
        block: &IpBlock,
        party: Party<'_>,
        family: Family,
        whole: bool,
    ) -> Match {
        if whole {
            let same = Family::of(block.cidr.addr()) == family;
            return if same { Match::Yes } else { Match::No(Vec::new()) };
        }
        match_peer(&self.cluster, &Peer::Block(block.clone()), party, family)
    }
}

impl Heard<'_> {
    /// Its place in the order of evaluation.
    fn order(&self) -> (Tier, u16, &podwall_policy::object::Name, usize) {
        (self.program.tier, self.program.priority, &self.program.name, self.place)
    }
}

/// The address that blocks see.
#[derive(Clone, Copy)]
enum Address {
    Known(std::net::IpAddr),
    /// Not stated with the party itself.
    Open,
    /// No block matches one that has ended.
    Nobodys,
}

fn known_address(party: Party<'_>, family: Family) -> Address {
    match party {
        Party::Pod(pod) if pod.phase == Phase::Terminated => Address::Nobodys,
        _ => party.address(family).map_or(Address::Open, Address::Known),
    }
}

impl Passage {
    /// What the sides of each family come to.
    pub(super) fn of(flows: impl Iterator<Item = (Family, [Decided; 2])>) -> Self {
        let mut passage = Self { passes: PortSet::everything(), ..Self::default() };
        let mut denied = PortSet::empty();
        let mut missing = Vec::new();
        for (family, [egress, ingress]) in flows {
            let passes = egress.allowed.intersection(&ingress.allowed);
            passage.passes = passage.passes.intersection(&passes);
            passage.families.push((family, passes));
            denied = denied.union(&egress.denied).union(&ingress.denied);
            missing.extend(egress.missing.into_iter().chain(ingress.missing));
        }
        if passage.families.is_empty() {
            return Self::default();
        }
        passage.possible = true;
        if passage.families.iter().all(|(_, passes)| *passes == passage.passes) {
            passage.families.clear();
        }
        passage.open = PortSet::everything().difference(&passage.passes).difference(&denied);
        if !passage.open.is_empty() {
            missing.sort();
            missing.dedup();
            passage.missing = missing;
        }
        passage
    }
}
