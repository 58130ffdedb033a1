//! Does an assertion hold, and if not, for which pairs?
//!
//! ```text
//!   allow   each pair must pass                  deny   no pair may pass
//!   only    the listed must pass, everybody else may not
//!   nowhereElse   nobody may pass but whom other assertions of the file let
//! ```
//!
//! Two things are let through that policies cannot stop: what a pod sends to itself is never asked
//! about, and traffic of a pod's own node does not count as "everybody else".

use podwall_manifest::assertions::{
    Assertion, AssertionFile, Between, Claim, Only, PeerSpec, Ports,
};
use podwall_policy::address::Family;
use podwall_policy::object::Pod;
use podwall_policy::policy::Direction;
use podwall_policy::port::PortSet;
use podwall_policy::reason::MissingFact;
use rustc_hash::FxHashSet;

use super::ask::{Asker, EndKey, FlowAnswer, NOBODY};
use super::gathered::{Kind, Packet, Raw, Walk, findings};
use super::group::{Group, NoGroup, Wanted, group, wanted};
use super::permits::Permit;
use super::{Finding, Outcome, Status};
use crate::can::End;
use crate::outside::public;

/// Asks the assertions of one file.
pub(super) struct Judge<'a> {
    pub(super) asker: Asker<'a>,
    pub(super) file: &'a AssertionFile,
    pub(super) namespace: String,
    /// What every `allow` and `only` of the file lets pass; made when first asked for.
    pub(super) permits: Option<Vec<Permit<'a>>>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(asker: Asker<'a>, file: &'a AssertionFile, namespace: &str) -> Self {
        Self { asker, file, namespace: namespace.to_owned(), permits: None }
    }

    pub(super) fn outcome(&mut self, assertion: &'a Assertion) -> Outcome<'a> {
        let mut walk = Walk::default();
        self.walk(assertion, &mut walk);
        let findings = findings(self.asker.cluster, walk.raw);
        let status = findings.iter().map(Finding::status).max().unwrap_or(Status::Holds);
        Outcome { assertion, status, findings, flows: walk.flows }
    }

    pub(super) fn status(&mut self, assertion: &'a Assertion) -> Status {
        self.status_of(assertion, &mut Walk { brief: true, ..Walk::default() })
    }

    fn status_of(&mut self, assertion: &'a Assertion, walk: &mut Walk<'a>) -> Status {
        self.walk(assertion, walk);
        walk.raw.iter().map(Raw::status).max().unwrap_or(Status::Holds)
    }

    /// What comes of an assertion, and the kinds of pairs that decide it.
    pub(super) fn pairs_of(
        &mut self,
        assertion: &'a Assertion,
    ) -> (Status, FxHashSet<(EndKey, EndKey)>) {
        let mut walk = Walk { pairs: Some(FxHashSet::default()), brief: true, ..Walk::default() };
        let status = self.status_of(assertion, &mut walk);
        (status, walk.pairs.unwrap_or_default())
    }

    pub(super) fn packets(&mut self, assertion: &'a Assertion) -> Vec<Packet<'a>> {
        let mut walk = Walk { packets: Some(Vec::new()), ..Walk::default() };
        self.walk(assertion, &mut walk);
        walk.packets.unwrap_or_default()
    }

    fn walk(&mut self, assertion: &'a Assertion, walk: &mut Walk<'a>) {
        let namespace = assertion.namespace.clone().unwrap_or_else(|| self.namespace.clone());
        match &assertion.claim {
            Claim::Allow(between) => {
                self.between(between, true, &assertion.families, &namespace, walk);
            }
            Claim::Deny(between) => {
                self.between(between, false, &assertion.families, &namespace, walk);
            }
            Claim::Only(only) => self.only(only, &assertion.families, &namespace, walk),
            Claim::Isolated { pods, directions } => {
                for pods in self.groups(pods, &namespace, walk) {
                    for direction in directions {
                        self.isolated(&pods, *direction, walk);
                    }
                }
            }
            Claim::NowhereElse { direction, pods } => {
                let permits = self.permits();
                let others = self.others(*direction, &permits);
                for pods in self.groups(pods, &namespace, walk) {
                    let universe = Ports::All;
                    self.closed(&pods, &others, &permits, &universe, &assertion.families, walk);
                }
            }
        }
        if walk.asked == 0 && walk.raw.is_empty() {
            // It would hold whatever the policies say.
            let why = "this is about nothing that a policy has a say in".to_owned();
            let hint = "a pod always reaches itself, and between two ends that are no pods there is \
                        no policy";
            let source = assertion.source.clone();
            let hint = Some(hint.to_owned());
            walk.raw.push(Raw::Finding(Box::new(Finding::Broken { source, why, hint })));
        }
    }

    /// The groups that can be found; what is wrong with the others is noted.
    pub(super) fn groups(
        &self,
        specs: &[PeerSpec],
        namespace: &str,
        walk: &mut Walk<'a>,
    ) -> Vec<Group<'a>> {
        let mut found = Vec::new();
        for spec in specs {
            match group(&self.asker, spec, namespace) {
                Ok(group) => found.push(group),
                Err(wrong) => walk.raw.push(Raw::Finding(Box::new(no_group(wrong, spec)))),
            }
        }
        found
    }

    fn between(
        &mut self,
        between: &'a Between,
        passes: bool,
        families: &[Family],
        namespace: &str,
        walk: &mut Walk<'a>,
    ) {
        let sources = self.groups(&between.from, namespace, walk);
        let targets = self.groups(&between.to, namespace, walk);
        for (src, spec) in sources.iter().zip(&between.from) {
            if src.service.is_some() {
                let why =
                    format!("Service {} cannot be the source: it opens no connections", src.label);
                let hint = Some("name the pods behind it".to_owned());
                let source = spec.source.clone();
                walk.raw.push(Raw::Finding(Box::new(Finding::Broken { source, why, hint })));
                continue;
            }
            for (dst, spec) in targets.iter().zip(&between.to) {
                self.pairs(src, dst, &between.ports, passes, families, spec, walk);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an assertion has as many parts")]
    fn pairs(
        &mut self,
        src: &Group<'a>,
        dst: &Group<'a>,
        ports: &Ports,
        passes: bool,
        families: &[Family],
        spec: &PeerSpec,
        walk: &mut Walk<'a>,
    ) {
        let (sources, targets) = match passes {
            true => (self.required(src), self.required(dst)),
            false => (src.ends.clone(), dst.ends.clone()),
        };
        let tolerant = src.tolerant || dst.tolerant;
        // Of everybody, those count with whom there can be packets at all.
        let everybody = tolerant || src.public || dst.public;
        for to in &targets {
            let wanted = match wanted(&self.asker, ports, to, dst.service) {
                Ok(wanted) => wanted,
                Err(wrong) => {
                    walk.raw.push(Raw::Finding(Box::new(no_group(wrong, spec))));
                    return;
                }
            };
            for from in &sources {
                if walk.is_decided() {
                    return;
                }
                if is_one(from, to) || both_outside(from, to) {
                    continue;
                }
                if !self.asker.is_looked_at(from, to) {
                    walk.asked += 1;
                    continue;
                }
                if everybody && self.asker.flows(from, to).is_empty() {
                    continue;
                }
                match passes {
                    true => self.must_pass(from, to, &wanted, families, walk),
                    false => self.must_not(from, to, &wanted.ports, families, tolerant, walk),
                }
            }
        }
    }

    /// The ends of which each must pass: of the internet the public addresses.
    fn required(&self, group: &Group<'a>) -> Vec<End<'a>> {
        if group.public { self.asker.outside(&public()) } else { group.ends.clone() }
    }

    fn must_pass(
        &mut self,
        src: &End<'a>,
        dst: &End<'a>,
        wanted: &Wanted,
        families: &[Family],
        walk: &mut Walk<'a>,
    ) {
        walk.asked += 1;
        self.note_pair(src, dst, walk);
        let flows = self.asker.flows(src, dst);
        let asked: Vec<&FlowAnswer> =
            flows.iter().filter(|flow| is_asked(flow, src, dst, families)).collect();
        if asked.is_empty() && !by_chance(&flows, src, dst) {
            let (src, dst) = (src.to_string(), dst.to_string());
            walk.raw.push(Raw::Finding(Box::new(Finding::NoFamily { src, dst })));
        }
        for flow in asked {
            walk.note(src, dst, flow.family, wanted, true);
            let passes = wanted.ports.intersection(&flow.allowed);
            let lacking = wanted.ports.difference(&flow.allowed);
            if lacking.is_empty() || (wanted.any && !passes.is_empty()) {
                continue;
            }
            let stopped = lacking.intersection(&flow.denied);
            let all_stopped = stopped == lacking;
            let (kind, ports) = match wanted.any {
                true if !all_stopped => (Kind::Missing(flow.missing.clone()), lacking),
                false if stopped.is_empty() => (Kind::Missing(flow.missing.clone()), lacking),
                _ => (Kind::Stopped, stopped),
            };
            walk.add(kind, src, dst, flow.family, ports);
        }
    }

    pub(super) fn must_not(
        &mut self,
        src: &End<'a>,
        dst: &End<'a>,
        ports: &PortSet,
        families: &[Family],
        tolerant: bool,
        walk: &mut Walk<'a>,
    ) {
        walk.asked += 1;
        self.note_pair(src, dst, walk);
        for flow in self.asker.flows(src, dst).iter() {
            let asked = families.is_empty() || families.contains(&flow.family);
            if !asked || (tolerant && flow.own_node) {
                continue;
            }
            let wanted = Wanted { ports: ports.clone(), any: false };
            walk.note(src, dst, flow.family, &wanted, false);
            let passes = ports.intersection(&flow.allowed);
            if !passes.is_empty() {
                walk.add(Kind::Passes, src, dst, flow.family, passes);
                continue;
            }
            let open = ports.difference(&flow.denied);
            // Whether somebody is the pod's own node, which may always come in.
            let own_node = |fact: &MissingFact| matches!(fact, MissingFact::PodNode { .. });
            let only_that = !flow.missing.is_empty() && flow.missing.iter().all(own_node);
            let harmless = tolerant && only_that;
            if !open.is_empty() && !harmless {
                walk.add(Kind::Missing(flow.missing.clone()), src, dst, flow.family, open);
            }
        }
    }

    fn note_pair(&mut self, src: &End<'a>, dst: &End<'a>, walk: &mut Walk<'a>) {
        if let Some(pairs) = &mut walk.pairs {
            pairs.insert((self.asker.key(src), self.asker.key(dst)));
        }
    }

    fn only(&mut self, only: &'a Only, families: &[Family], namespace: &str, walk: &mut Walk<'a>) {
        let subjects = self.groups(&only.pods, namespace, walk);
        let before = walk.raw.len();
        let mut permits = Vec::new();
        for permitted in &only.peers {
            let found = self.groups(std::slice::from_ref(&permitted.peer), namespace, walk);
            let ports = permitted.ports.as_ref().unwrap_or(&only.ports);
            for peer in found {
                for subject in &subjects {
                    let (src, dst) = match only.direction {
                        Direction::Ingress => (&peer, subject),
                        Direction::Egress => (subject, &peer),
                    };
                    self.pairs(src, dst, ports, true, families, &permitted.peer, walk);
                    let permit = Permit {
                        src: src.clone(),
                        dst: dst.clone(),
                        ports: ports.clone(),
                        families: Vec::new(),
                    };
                    permits.push(permit);
                }
            }
        }
        // Whom a name means that there is not is no matter of guessing.
        let unclear = |raw: &Raw<'_>| match raw {
            Raw::Finding(finding) => {
                matches!(**finding, Finding::Broken { .. } | Finding::WhoIsUnknown { .. })
            }
            Raw::Pair { .. } => false,
        };
        if walk.raw[before..].iter().any(unclear) {
            return;
        }
        let others = self.others(only.direction, &permits);
        for subject in &subjects {
            self.closed(subject, &others, &permits, &only.ports, families, walk);
        }
    }

    fn isolated(&mut self, group: &Group<'a>, direction: Direction, walk: &mut Walk<'a>) {
        let mut open: Vec<(&'a Pod, EndKey, usize)> = Vec::new();
        for end in &group.ends {
            let End::Pod(pod) = end else { continue };
            walk.asked += 1;
            walk.flows += 1;
            if let Some(pairs) = &mut walk.pairs {
                pairs.insert((self.asker.class(pod), NOBODY));
            }
            if !self.asker.isolates(pod, direction).is_empty() {
                continue;
            }
            let class = self.asker.class(pod);
            match open.iter_mut().find(|(_, of, _)| *of == class) {
                Some((.., more)) => *more += 1,
                None => open.push((pod, class, 0)),
            }
        }
        for (pod, _, more) in open {
            walk.raw.push(Raw::Finding(Box::new(Finding::NotIsolated { pod, more, direction })));
        }
    }
}

/// What comes of every assertion of the judge's file.
pub(super) fn statuses(judge: &mut Judge<'_>) -> Vec<Status> {
    let file = judge.file;
    file.assertions.iter().map(|assertion| judge.status(assertion)).collect()
}

fn no_group<'a>(wrong: NoGroup, spec: &PeerSpec) -> Finding<'a> {
    let source = spec.source.clone();
    match wrong {
        NoGroup::Wrong { why, hint } => Finding::Broken { source, why, hint },
        NoGroup::Unknown(facts) => Finding::WhoIsUnknown { source, who: spec.to_string(), facts },
    }
}

pub(super) fn is_one(a: &End<'_>, b: &End<'_>) -> bool {
    a.party() == b.party()
}

pub(super) fn both_outside(a: &End<'_>, b: &End<'_>) -> bool {
    !matches!(a, End::Pod(_)) && !matches!(b, End::Pod(_))
}

/// Whether a claim that something passes is about this flow. A pod of which no address is known may
/// get one of either family; it is taken to speak IPv4, as most clusters do, unless IPv6 is named.
fn is_asked(flow: &FlowAnswer, src: &End<'_>, dst: &End<'_>, families: &[Family]) -> bool {
    if !families.is_empty() {
        return families.contains(&flow.family);
    }
    flow.family == Family::V4 || ![src, dst].into_iter().any(unstated)
}

/// Whether flows were left out only because no address is known.
fn by_chance(flows: &[FlowAnswer], src: &End<'_>, dst: &End<'_>) -> bool {
    !flows.is_empty() && [src, dst].into_iter().any(unstated)
}

fn unstated(end: &End<'_>) -> bool {
    matches!(end, End::Pod(pod) if pod.ips.is_empty())
}
