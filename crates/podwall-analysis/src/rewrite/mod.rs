//! Which fewer policies say the same?
//!
//! ```text
//!   policies of a namespace ─ same subject: one ─ each grant once ─▶ grants
//!   grant ⊆ the others?  ─ yes ─▶ it goes, narrow subjects first ─▶ again, until none can go
//!   before ⊆ after, after ⊆ before ─▶ proved                        the engine: the same matrix
//! ```
//!
//! What is proved holds for every set of labels that pods and namespaces may ever have and for every
//! address, not for the pods that are there. The result is one that cannot lose a policy, a direction, a
//! rule, a peer or a port; there may be a shorter one that says it in another way. Only NetworkPolicies
//! are looked at: other tiers stay as they are, and stay in the same place before and after them.

mod rules;
mod space;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podwall_policy::address::AddressSet;
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, Policy, Tier};
use podwall_policy::port::PortSet;

use self::rules::Rules;
use self::space::{Cover, Cube, Space, TooHard};
use crate::generate::{Proposed, as_blocks};
use crate::matrix::{By, Row, matrix};
use crate::outside::describe;
use crate::rule_ports::Ports;

/// How many of each there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Policies.
    pub policies: usize,
    /// Rules.
    pub rules: usize,
    /// Items of `from` and `to`.
    pub peers: usize,
    /// Items of `ports`.
    pub ports: usize,
}

/// What became of something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Removed {
    /// Of which policy.
    pub policy: Name,
    /// What: "the policy", "ingress from pods app=web in namespace shop on TCP 80".
    pub what: String,
    /// Why it is not needed.
    pub why: String,
    /// Whether it is the whole policy.
    pub whole: bool,
}

/// A set of policies, written anew.
#[derive(Clone, Debug, Default)]
pub struct Rewritten {
    /// The new policies, by namespace and name.
    pub policies: Vec<Proposed>,
    /// What is not there any more, by policy.
    pub removed: Vec<Removed>,
    /// Before.
    pub before: Counts,
    /// After.
    pub after: Counts,
    /// Namespaces that were looked at.
    pub namespaces: usize,
    /// Grants of which it was proved that the other set has them, in both directions.
    pub proved: usize,
    /// Connections of the matrix, which the engine finds the same before and after.
    pub connections: usize,
    /// Namespaces whose policies stay as they are, since a proof would take too long.
    pub too_hard: Vec<Arc<str>>,
    /// Policies of other kinds, which are not looked at.
    pub others: usize,
}

/// Two sets that should be the same and are not: an error of this program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the new policies of namespace {namespace} do not say the same as the old ones, so they are not \
     written; this is an error of podwall: please report it with these policies"
)]
pub struct NotTheSame {
    /// The namespace.
    pub namespace: Arc<str>,
}

/// Writes the NetworkPolicies of these namespaces anew; none named: of all.
///
/// # Errors
/// If the proof finds that the result says something else.
pub fn rewrite(cluster: &Cluster, only: &[String]) -> Result<Rewritten, NotTheSame> {
    let mut by_namespace: BTreeMap<Arc<str>, Vec<&Policy>> = BTreeMap::new();
    let mut out = Rewritten::default();
    for ((tier, name), policy) in &cluster.policies {
        let wanted = only.is_empty() || only.iter().any(|one| **one == *name.namespace);
        if *tier != Tier::NetworkPolicy || policy.dry_run {
            out.others += 1;
        } else if wanted {
            by_namespace.entry(name.namespace.clone()).or_default().push(policy);
        }
    }
    let mut after = cluster.clone();
    for (namespace, policies) in by_namespace {
        out.namespaces += 1;
        out.before = out.before.and(count(policies.iter().copied()));
        let made = match of_namespace(&policies, &mut out.removed) {
            Ok((made, proved)) => {
                out.proved += proved;
                made
            }
            Err(Failed::TooHard) => {
                out.too_hard.push(namespace.clone());
                let as_it_is = |policy: &&Policy| Proposed {
                    policy: (*policy).clone(),
                    about: Vec::new(),
                    notes: BTreeMap::new(),
                };
                policies.iter().map(as_it_is).collect()
            }
            Err(Failed::Differs) => return Err(NotTheSame { namespace }),
        };
        for policy in &policies {
            after.policies.remove(&(policy.tier, policy.name.clone()));
        }
        for proposed in &made {
            after.put_policy(proposed.policy.clone());
        }
        out.after = out.after.and(count(made.iter().map(|proposed| &proposed.policy)));
        out.policies.extend(made);
    }
    let (was, is) = (passing(cluster), passing(&after));
    if let Some(namespace) = contradiction(&was, &is) {
        return Err(NotTheSame { namespace });
    }
    out.connections = was.len();
    Ok(out)
}

/// What passes for certain, and what may, by row.
type Passing = BTreeMap<(String, String), (PortSet, PortSet)>;

/// What passes among the pods that are there, and outside.
fn passing(cluster: &Cluster) -> Passing {
    let found = matrix(cluster, By::Workload, None);
    let label = |row: usize| match &found.rows[row] {
        Row::Pods { label, .. } => label.clone(),
        Row::Outside(class) => describe(&class.addresses),
    };
    let connections = found.connections.iter().map(|connection| {
        let all = connection
            .families
            .iter()
            .fold(connection.passes.clone(), |all, (_, set)| all.union(set));
        ((label(connection.src), label(connection.dst)), (all, connection.open.clone()))
    });
    connections.collect()
}

/// The namespace of a connection that passes for certain in one set and certainly not in the other.
/// Where facts are missing the one may be less certain than the other.
fn contradiction(was: &Passing, is: &Passing) -> Option<Arc<str>> {
    let nothing = (PortSet::empty(), PortSet::empty());
    for (one, other) in [(was, is), (is, was)] {
        for (ends, (passes, _)) in one {
            let (also, perhaps) = other.get(ends).unwrap_or(&nothing);
            if !passes.difference(also).difference(perhaps).is_empty() {
                return Some(ends.0.split('/').next().unwrap_or_default().into());
            }
        }
    }
    None
}

impl Counts {
    fn and(self, other: Self) -> Self {
        Self {
            policies: self.policies + other.policies,
            rules: self.rules + other.rules,
            peers: self.peers + other.peers,
            ports: self.ports + other.ports,
        }
    }
}

fn count<'p>(policies: impl Iterator<Item = &'p Policy>) -> Counts {
    let mut counts = Counts::default();
    for policy in policies {
        counts.policies += 1;
        for rule in Direction::BOTH.iter().flat_map(|way| policy.rules(*way).unwrap_or_default()) {
            counts.rules += 1;
            counts.peers += rule.peers.len();
            counts.ports += rule.ports.len();
        }
    }
    counts
}

/// What policies with one subject say together.
struct Subject<'p> {
    /// Whose name it keeps.
    first: &'p Policy,
    cube: Cube,
    /// Egress and ingress; `None` where nothing isolates.
    rules: [Option<Rules>; 2],
    /// What these allow, as boxes.
    cubes: [Vec<Cube>; 2],
}

impl Subject<'_> {
    /// Gives it other rules.
    fn put(&mut self, space: &Space, direction: Direction, rules: Rules) {
        self.cubes[side(direction)] = cubes(space, &self.cube, &rules, direction);
        self.rules[side(direction)] = Some(rules);
    }
}

enum Failed {
    TooHard,
    Differs,
}

impl From<TooHard> for Failed {
    fn from(_: TooHard) -> Self {
        Self::TooHard
    }
}

fn side(direction: Direction) -> usize {
    usize::from(direction == Direction::Ingress)
}

fn of_namespace(
    policies: &[&Policy],
    removed: &mut Vec<Removed>,
) -> Result<(Vec<Proposed>, usize), Failed> {
    let space = Space::new(policies);
    let mut gone: Vec<Removed> = Vec::new();
    let mut subjects = gather(&space, policies, &mut gone);
    // What narrow subjects say is said by broad ones, and not the other way round.
    subjects.sort_by(|a, b| {
        let size = |subject: &Subject<'_>| subject.first.subject.pods.requirements.len();
        (size(b), &a.first.name).cmp(&(size(a), &b.first.name))
    });
    for direction in Direction::BOTH {
        while drop_grants(&space, &mut subjects, direction, &mut gone)? {}
        drop_isolation(&space, &mut subjects, direction, &mut gone)?;
    }
    let (kept, empty): (Vec<_>, Vec<_>) =
        subjects.into_iter().partition(|subject| subject.rules.iter().any(Option::is_some));
    for subject in &empty {
        summarize(&mut gone, &subject.first.name);
    }
    let mut made: Vec<Proposed> = kept.iter().map(|subject| propose(subject, policies)).collect();
    made.sort_by(|a, b| a.policy.name.cmp(&b.policy.name));
    let after: Vec<&Policy> = made.iter().map(|proposed| &proposed.policy).collect();
    let proved = same(policies, &after)?;
    gone.sort();
    removed.extend(gone);
    Ok((made, proved))
}

/// Policies by what they select.
fn gather<'p>(space: &Space, policies: &[&'p Policy], gone: &mut Vec<Removed>) -> Vec<Subject<'p>> {
    let mut subjects: Vec<Subject<'p>> = Vec::new();
    for policy in policies {
        let cube = space.subject(&policy.subject.pods);
        if cube.is_empty() {
            gone.push(Removed {
                policy: policy.name.clone(),
                what: "the policy".to_owned(),
                why: "no pod can ever meet its podSelector".to_owned(),
                whole: true,
            });
            continue;
        }
        let at = subjects.iter().position(|subject| subject.cube == cube);
        let at = at.unwrap_or_else(|| {
            subjects.push(Subject {
                first: policy,
                cube,
                rules: [None, None],
                cubes: Default::default(),
            });
            subjects.len() - 1
        });
        let subject = &mut subjects[at];
        if subject.first.name != policy.name {
            gone.push(Removed {
                policy: policy.name.clone(),
                what: "the policy".to_owned(),
                why: format!(
                    "{} selects the same pods and has its rules now",
                    subject.first.name.name
                ),
                whole: true,
            });
        }
        for direction in Direction::BOTH {
            if let Some(rules) = policy.rules(direction) {
                let own = subject.rules[side(direction)].get_or_insert_default();
                own.add(space, rules);
            }
        }
    }
    for subject in &mut subjects {
        for direction in Direction::BOTH {
            if let Some(rules) = subject.rules[side(direction)].take() {
                subject.put(space, direction, rules);
            }
        }
    }
    subjects
}

/// One thing that may go.
enum Grant {
    /// A port of a peer by labels.
    Pods(Cube, Ports),
    /// A port of addresses.
    Port(usize, Ports),
    /// Some addresses of a set.
    Addresses(usize, AddressSet),
}

/// Takes away what others say, once over everything; whether anything went.
fn drop_grants(
    space: &Space,
    subjects: &mut [Subject<'_>],
    direction: Direction,
    gone: &mut Vec<Removed>,
) -> Result<bool, TooHard> {
    let d = side(direction);
    let mut any = false;
    for own in 0..subjects.len() {
        // Each thing that goes changes what the others are.
        'again: while let Some(rules) = &subjects[own].rules[d] {
            for grant in grants(rules) {
                if matches!(&grant, Grant::Addresses(_, some) if !space.is_whole(some)) {
                    continue; // no atom stands for it
                }
                let cubes = grant_cubes(space, &subjects[own], rules, &grant, direction);
                let rest = without(rules, &grant);
                if let Some(by) = said(space, subjects, own, &rest, direction, &cubes)? {
                    let names = by.into_iter().map(|at| &subjects[at].first.name.name);
                    let mut names: Vec<String> = names.map(ToString::to_string).collect();
                    names.dedup();
                    gone.push(Removed {
                        policy: subjects[own].first.name.clone(),
                        what: words(rules, &grant, direction),
                        why: match names.len() {
                            0 => "it allows nothing".to_owned(),
                            _ => format!("{} allows it, too", names.join(" with ")),
                        },
                        whole: false,
                    });
                    subjects[own].put(space, direction, rest);
                    any = true;
                    continue 'again;
                }
            }
            break;
        }
    }
    Ok(any)
}

fn grants(rules: &Rules) -> Vec<Grant> {
    let mut out = Vec::new();
    for (cube, (_, ports)) in &rules.pods {
        out.extend(ports.items().into_iter().map(|item| Grant::Pods(cube.clone(), item)));
    }
    for (at, (set, ports)) in rules.addresses.iter().enumerate() {
        out.extend(as_blocks(set).iter().map(|block| Grant::Addresses(at, block.ranges())));
        out.extend(ports.items().into_iter().map(|item| Grant::Port(at, item)));
    }
    out
}

fn without(rules: &Rules, grant: &Grant) -> Rules {
    let mut rest = rules.clone();
    match grant {
        Grant::Pods(cube, item) => {
            if let Some((_, ports)) = rest.pods.get_mut(cube) {
                *ports = ports.without(item);
            }
        }
        Grant::Port(at, item) => rest.addresses[*at].1 = rest.addresses[*at].1.without(item),
        Grant::Addresses(at, some) => {
            rest.addresses[*at].0 = rest.addresses[*at].0.difference(some);
        }
    }
    rest.tidy();
    rest
}

fn grant_cubes(
    space: &Space,
    subject: &Subject<'_>,
    rules: &Rules,
    grant: &Grant,
    direction: Direction,
) -> Vec<Cube> {
    match grant {
        Grant::Pods(cube, item) => space.grant(&subject.cube, cube, item, direction),
        Grant::Port(at, item) => {
            let peer = space.addresses(&rules.addresses[*at].0);
            space.grant(&subject.cube, &peer, item, direction)
        }
        Grant::Addresses(at, some) => {
            let peer = space.addresses(some);
            space.grant(&subject.cube, &peer, &rules.addresses[*at].1, direction)
        }
    }
}

fn words(rules: &Rules, grant: &Grant, direction: Direction) -> String {
    let way = if direction == Direction::Ingress { "from" } else { "to" };
    let (who, ports) = match grant {
        Grant::Pods(cube, item) => {
            let who = rules.pods.get(cube).and_then(|(who, _)| who.as_ref());
            (who.map_or_else(|| "anybody".to_owned(), ToString::to_string), item)
        }
        Grant::Port(at, item) => (describe(&rules.addresses[*at].0), item),
        Grant::Addresses(at, some) => (describe(some), &rules.addresses[*at].1),
    };
    format!("{direction} {way} {who} on {}", ports.describe())
}

/// The boxes of all rules of a direction, by subject.
fn cubes(space: &Space, subject: &Cube, rules: &Rules, direction: Direction) -> Vec<Cube> {
    let pods = rules.pods.iter().map(|(cube, (_, ports))| (cube.clone(), ports));
    let addresses = rules.addresses.iter().map(|(set, ports)| (space.addresses(set), ports));
    pods.chain(addresses)
        .flat_map(|(peer, ports)| space.grant(subject, &peer, ports, direction))
        .collect()
}

/// Who else says it: places of subjects, if they say all of it.
fn said(
    space: &Space,
    subjects: &[Subject<'_>],
    own: usize,
    rest: &Rules,
    direction: Direction,
    wanted: &[Cube],
) -> Result<Option<BTreeSet<usize>>, TooHard> {
    let rest = cubes(space, &subjects[own].cube, rest, direction);
    let mut others: Vec<(usize, &Cube)> = Vec::new();
    for (at, subject) in subjects.iter().enumerate() {
        let all = if at == own { &rest } else { &subject.cubes[side(direction)] };
        others.extend(all.iter().map(|cube| (at, cube)));
    }
    let mut by = BTreeSet::new();
    for cube in wanted {
        match space.cover(cube, &others)? {
            Cover::Whole(used) => by.extend(used),
            Cover::Part => return Ok(None),
        }
    }
    Ok(Some(by))
}

/// Takes away isolation that others give.
fn drop_isolation(
    space: &Space,
    subjects: &mut [Subject<'_>],
    direction: Direction,
    gone: &mut Vec<Removed>,
) -> Result<(), TooHard> {
    let d = side(direction);
    for own in 0..subjects.len() {
        if subjects[own].rules[d].as_ref().is_none_or(|rules| !rules.is_empty()) {
            continue;
        }
        let others: Vec<(usize, &Cube)> = subjects
            .iter()
            .enumerate()
            .filter(|(at, subject)| *at != own && subject.rules[d].is_some())
            .map(|(at, subject)| (at, &subject.cube))
            .collect();
        if let Cover::Whole(used) = space.cover(&subjects[own].cube, &others)? {
            let names: Vec<&str> = used.iter().map(|at| &*subjects[*at].first.name.name).collect();
            let why = format!("{} isolates these pods, too", names.join(" with "));
            gone.push(Removed {
                policy: subjects[own].first.name.clone(),
                what: format!("isolation for {direction}"),
                why,
                whole: false,
            });
            subjects[own].rules[d] = None;
        }
    }
    Ok(())
}

/// A policy of which all is gone is said in one line.
fn summarize(gone: &mut Vec<Removed>, name: &Name) {
    let (own, others): (Vec<Removed>, Vec<Removed>) =
        std::mem::take(gone).into_iter().partition(|removed| removed.policy == *name);
    *gone = others;
    let mut why: Vec<String> = own.into_iter().map(|removed| removed.why).collect();
    why.sort();
    why.dedup();
    gone.push(Removed {
        policy: name.clone(),
        what: "the policy".to_owned(),
        why: why.join("; "),
        whole: true,
    });
}

fn propose(subject: &Subject<'_>, policies: &[&Policy]) -> Proposed {
    let mut policy = subject.first.clone();
    let written = |d: usize| subject.rules[d].as_ref().map(Rules::written);
    policy.egress = written(0);
    policy.ingress = written(1);
    let merged: Vec<&str> = policies
        .iter()
        .filter(|other| other.name != policy.name)
        .filter(|other| other.subject == policy.subject)
        .map(|other| &*other.name.name)
        .collect();
    let about = if merged.is_empty() {
        Vec::new()
    } else {
        vec![format!("Selects the pods of {}, too, and has their rules.", merged.join(", "))]
    };
    Proposed { policy, about, notes: BTreeMap::new() }
}

/// Proves that two sets of policies of a namespace say the same; how many grants were looked at.
fn same(before: &[&Policy], after: &[&Policy]) -> Result<usize, Failed> {
    let all: Vec<&Policy> = before.iter().chain(after).copied().collect();
    let space = Space::new(&all);
    let mut proved = 0;
    for direction in Direction::BOTH {
        let sets = [before, after].map(|policies| {
            let mut grants: Vec<Cube> = Vec::new();
            let mut isolated: Vec<Cube> = Vec::new();
            for policy in policies {
                let subject = space.subject(&policy.subject.pods);
                let Some(list) = policy.rules(direction) else { continue };
                isolated.push(subject.clone());
                for rule in list {
                    // Rule by rule, as they stand there: nothing of the above is trusted.
                    let mut rules = Rules::default();
                    rules.add(&space, std::slice::from_ref(rule));
                    grants.extend(cubes(&space, &subject, &rules, direction));
                }
            }
            [grants, isolated]
        });
        for (one, other) in [(0, 1), (1, 0)] {
            for (own, others) in sets[one].iter().zip(&sets[other]) {
                let by: Vec<(usize, &Cube)> = others.iter().enumerate().collect();
                for cube in own {
                    if space.cover(cube, &by)? == Cover::Part {
                        return Err(Failed::Differs);
                    }
                    proved += 1;
                }
            }
        }
    }
    Ok(proved)
}

#[cfg(test)]
mod tests;
