//! Which smallest change turns the answer round, and what else would it do?
//!
//! ```text
//!   denied  ──allow──▶ proposals ┐
//!                                ├─ put into a copy ──▶ can: turned round?  ──▶ difference: what else?
//!   allowed ──deny───▶ proposals ┘                                                   │
//!                                     fixes, those that do least besides first  ◀────┘
//! ```
//!
//! A proposal is a guess in the words of the API; it becomes a fix when the engine has given the
//! other answer on the changed cluster, and the difference of both clusters says all that it does.

mod allow;
mod change;
mod command;
mod deny;
mod effect;
mod ends;
mod idle;
pub mod patch;
mod side;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeSet;

use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::Verdict;
use podwall_policy::matching::{Match, selects};
use podwall_policy::object::Name;
use podwall_policy::policy::Tier;

pub use self::change::{Change, RuleAt, Written};
pub use self::command::Command;
pub use self::effect::Effect;
use crate::can::{Answer, can};
use crate::peer::Peer;

/// How many fixes are told.
const TOLD: usize = 3;
/// How many proposals of each side are tried with those of the other.
const PAIRED: usize = 3;

/// Ways to turn an answer round.
#[derive(Clone, Debug, Default)]
pub struct Fixes {
    /// Whether it is to be allowed or denied after; `Unknown` if there is nothing to turn round
    /// before the missing facts are known.
    pub wanted: Option<Verdict>,
    /// The fixes, the best first: those that do least besides, then the shortest.
    pub fixes: Vec<Fix>,
    /// Why there is none, or what none of them can change; sentences.
    pub obstacles: Vec<String>,
}

/// One way to turn the answer round, checked by the engine.
#[derive(Clone, Debug)]
pub struct Fix {
    /// The changes, which belong together; never empty.
    pub changes: Vec<Change>,
    /// Everything else that differs afterwards, new exposure first.
    pub besides: Vec<Effect>,
    /// How many pods the changed policies select besides the asked ones: nothing differs for them
    /// today, but what was added speaks for them too.
    pub bystanders: usize,
}

impl Fix {
    /// Whether nothing but the question's answer changes.
    pub fn is_exact(&self) -> bool {
        self.besides.is_empty()
    }
}

/// Ways to turn an answer round.
pub fn fixes<'a>(cluster: &'a Cluster, answer: &Answer<'a>) -> Fixes {
    let (wanted, sides) = match answer.verdict {
        Verdict::Denied => (Verdict::Allowed, allow::proposals(cluster, answer)),
        Verdict::Allowed => (Verdict::Denied, deny::proposals(cluster, answer)),
        Verdict::Unknown => {
            let missing = answer.decisive().map(|case| {
                let sides = [&case.evaluation.egress, &case.evaluation.ingress];
                sides.into_iter().flat_map(|side| &side.missing).collect::<Vec<_>>()
            });
            let facts = missing.into_iter().flatten();
            let obstacles = facts.map(|fact| format!("first it has to be known {fact}")).collect();
            return Fixes { obstacles, ..Fixes::default() };
        }
    };
    let sides = match sides {
        Ok(sides) => sides,
        Err(obstacles) => return Fixes { wanted: Some(wanted), obstacles, ..Fixes::default() },
    };
    let before = Before::of(cluster, answer, wanted);
    let mut found = Vec::new();
    for changes in together(&before, &sides) {
        if found.iter().all(|(known, _): &(Vec<Change>, _)| *known != changes)
            && let Some(besides) = before.tried(&changes)
        {
            found.push((changes, besides));
        }
    }
    let mut fixes: Vec<Fix> = found
        .into_iter()
        .map(|(changes, besides)| fix(cluster, answer, changes, besides))
        .collect();
    fixes.sort_by_key(cost);
    fixes.truncate(TOLD);
    let obstacles = if fixes.is_empty() {
        vec![format!(
            "no rules, ports, peers or labels were found that make it {}",
            if wanted == Verdict::Allowed { "pass" } else { "stop" }
        )]
    } else {
        Vec::new()
    };
    Fixes { wanted: Some(wanted), fixes, obstacles }
}

/// Proposals for the whole question. To let something pass all sides have to change, to stop it one
/// is enough.
fn together(before: &Before<'_, '_>, sides: &[Vec<Vec<Change>>]) -> Vec<Vec<Change>> {
    let Before { cluster, answer, .. } = *before;
    if before.wanted == Verdict::Denied {
        return sides.concat();
    }
    match sides {
        [one] => one.clone(),
        [first, second] => {
            let join = |a: &[Change], b: &[Change]| [a, b].concat();
            // Each side's proposals beside the other's last, which names the pods alone.
            let best = |own: &[Vec<Change>], join: &dyn Fn(&[Change]) -> Vec<Change>| {
                let mut ranked: Vec<_> = own
                    .iter()
                    .filter_map(|changes| {
                        let all = join(changes);
                        let besides = before.tried(&all)?;
                        Some((cost(&fix(cluster, answer, all, besides)), changes.clone()))
                    })
                    .collect();
                ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
                ranked.truncate(PAIRED);
                ranked.into_iter().map(|(_, changes)| changes).collect::<Vec<_>>()
            };
            let (Some(a), Some(b)) = (first.last(), second.last()) else { return Vec::new() };
            let first = best(first, &|changes| join(changes, b));
            let second = best(second, &|changes| join(a, changes));
            first.iter().flat_map(|a| second.iter().map(|b| join(a, b))).collect()
        }
        _ => Vec::new(),
    }
}

/// The cluster as it is and the question that was asked of it; made once for all proposals.
struct Before<'q, 'a> {
    cluster: &'a Cluster,
    answer: &'q Answer<'a>,
    wanted: Verdict,
    besides: effect::Besides<'q, 'a>,
    /// What was tried: the changes of one side come again beside the other's.
    known: RefCell<Vec<Tried>>,
}

struct Tried {
    changes: Vec<Change>,
    /// What else they do; `None` if they do not turn the answer round.
    effects: Option<Vec<Effect>>,
}

impl<'q, 'a> Before<'q, 'a> {
    fn of(cluster: &'a Cluster, answer: &'q Answer<'a>, wanted: Verdict) -> Self {
        let besides = effect::Besides::of(cluster, answer);
        Self { cluster, answer, wanted, besides, known: RefCell::default() }
    }

    /// What else the changes do; `None` if they do not turn the answer round.
    fn tried(&self, changes: &[Change]) -> Option<Vec<Effect>> {
        if let Some(known) = self.known.borrow().iter().find(|it| it.changes == changes) {
            return known.effects.clone();
        }
        let effects = self.effects(changes);
        let tried = Tried { changes: changes.to_vec(), effects: effects.clone() };
        self.known.borrow_mut().push(tried);
        effects
    }

    fn effects(&self, changes: &[Change]) -> Option<Vec<Effect>> {
        let after = put(self.cluster, changes)?;
        (asked_again(&after, self.answer)?.verdict == self.wanted)
            .then(|| self.besides.after(&after))
    }
}

/// The cluster with the changes; `None` if what they change is not there.
fn put(cluster: &Cluster, changes: &[Change]) -> Option<Cluster> {
    let mut after = cluster.clone();
    for change in changes {
        change.put_into(&mut after)?;
    }
    Some(after)
}

/// The same question of another cluster.
fn asked_again<'c>(cluster: &'c Cluster, answer: &Answer<'_>) -> Option<Answer<'c>> {
    let (src, dst) = (again(cluster, &answer.src)?, again(cluster, &answer.dst)?);
    can(cluster, &src, &dst, &answer.ask).ok()
}

fn fix(cluster: &Cluster, answer: &Answer<'_>, changes: Vec<Change>, besides: Vec<Effect>) -> Fix {
    let asked: BTreeSet<&Name> = [&answer.src, &answer.dst]
        .into_iter()
        .flat_map(|peer| peer.pods(cluster))
        .map(|pod| &pod.name)
        .collect();
    let policies = changes.iter().filter_map(|change| {
        cluster.policies.get(&(Tier::NetworkPolicy, change.policy()?.clone()))
    });
    let selected = policies.flat_map(|policy| {
        let pods = cluster.pods.values().filter(|pod| pod.is_subject());
        pods.filter(|pod| !matches!(selects(cluster, &policy.subject, pod), Match::No(_)))
    });
    let bystanders: BTreeSet<&Name> =
        selected.map(|pod| &pod.name).filter(|pod| !asked.contains(pod)).collect();
    Fix { bystanders: bystanders.len(), changes, besides }
}

/// The same peer in a cluster in which labels or policies differ.
fn again<'c>(cluster: &'c Cluster, peer: &Peer<'_>) -> Option<Peer<'c>> {
    Some(match peer {
        Peer::Pod(pod) => Peer::Pod(cluster.pods.get(&pod.name)?),
        Peer::Service(service) => Peer::Service(cluster.services.get(&service.name)?),
        Peer::Node(node) => Peer::Node(cluster.nodes.get(&node.name)?),
        Peer::Outside { text, addresses } => {
            Peer::Outside { text: text.clone(), addresses: addresses.clone() }
        }
        Peer::Workload(_) => crate::peer::resolve(cluster, &peer.to_string(), "").ok()?,
    })
}

/// What is done besides, then how much there is to read.
fn cost(fix: &Fix) -> impl Ord + use<> {
    let besides: usize = fix.besides.iter().map(Effect::weight).sum();
    let kind = |change: &Change| match change {
        Change::AddPort { .. } | Change::RemovePort { .. } => 0,
        Change::AddPeer { .. } | Change::RemovePeer { .. } | Change::ReplacePeer { .. } => 1,
        Change::LabelNamespace { .. } | Change::LabelPods { .. } | Change::SetPeers { .. } => 2,
        Change::RemoveRule { .. } => 3,
        Change::AddRule { .. } => 4,
        Change::AddPolicy { .. } => 9,
    };
    let text: usize = fix.changes.iter().map(kind).sum();
    let said = fix.changes.iter().map(ToString::to_string).collect::<Vec<_>>();
    (besides, fix.bystanders > 0, text, fix.bystanders, fix.changes.len(), said)
}
