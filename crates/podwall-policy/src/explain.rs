//! Which rules decided, and which nearly did?
//!
//! ```text
//!   Evaluation ── question (protocol, port) ──▶ allowed by:  rules that match and allow
//!                                               denied by:   rules that match and deny (tiers)
//!                                               near misses: every other rule, and what it lacks
//! ```

use crate::evaluate::{Evaluation, RuleOutcome, Side, Verdict};
use crate::matching::Match;
use crate::policy::{Action, RuleRef};
use crate::port::{PortRange, PortSet, Protocol};
use crate::reason::{MissingFact, Reason};

/// What is asked about a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether anything passes.
    Anything,
    /// One protocol; the port is ignored for protocols without ports, `None` asks for any.
    Port(Protocol, Option<u16>),
}

/// The explanation of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideExplanation {
    /// The side's verdict.
    pub verdict: Verdict,
    /// Rules that match and allow.
    pub allowed_by: Vec<RuleRef>,
    /// Rules that match and deny; only tiers have them.
    pub denied_by: Vec<RuleRef>,
    /// Rules that do not match, those that lack least first.
    pub near_misses: Vec<NearMiss>,
    /// Rules of which it is unknown whether they match.
    pub undecided: Vec<(RuleRef, Vec<MissingFact>)>,
    /// Rules that match but come too late: an earlier tier or rule has decided.
    pub overruled: Vec<RuleRef>,
    /// Rules of dry-run policies that match: they decide nothing.
    pub dry_run: Vec<RuleRef>,
}

/// A rule that does not match, and everything that it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleRef,
    /// What it would do if it matched.
    pub action: Action,
    /// If all of these were mended the rule would match.
    pub reasons: Vec<Reason>,
}

impl Question {
    /// The protocols and ports that are asked about.
    fn ports(self) -> PortSet {
        match self {
            Self::Anything => PortSet::everything(),
            Self::Port(protocol, Some(port)) => PortSet::range(protocol, PortRange::one(port)),
            Self::Port(protocol, None) => PortSet::range(protocol, PortRange::ALL),
        }
    }

    /// Allowed if anything that is asked about certainly passes, denied if nothing of it can.
    pub fn answer(self, allowed: &PortSet, denied: &PortSet) -> Verdict {
        let asked = self.ports();
        if !asked.intersection(allowed).is_empty() {
            Verdict::Allowed
        } else if asked.difference(denied).is_empty() {
            Verdict::Denied
        } else {
            Verdict::Unknown
        }
    }
}

impl Evaluation {
    /// The verdict on a question. Both sides may allow something and yet nothing in common.
    pub fn answer(&self, question: Question) -> Verdict {
        question.answer(&self.allowed(), &self.denied())
    }
}

impl Side {
    /// The side's verdict on a question.
    pub fn answer(&self, question: Question) -> Verdict {
        question.answer(&self.allowed, &self.denied)
    }

    /// Explains the side's verdict on a question.
    pub fn explain(&self, question: Question) -> SideExplanation {
        let mut out = SideExplanation {
            verdict: self.answer(question),
            allowed_by: Vec::new(),
            denied_by: Vec::new(),
            near_misses: Vec::new(),
            undecided: Vec::new(),
            overruled: Vec::new(),
            dry_run: Vec::new(),
        };
        for outcome in &self.rules {
            let rule = outcome.rule.clone();
            let action = outcome.action;
            let ports = port_reasons(outcome, question);
            let in_time = !question
                .ports()
                .intersection(&outcome.ports)
                .intersection(&outcome.reach)
                .is_empty();
            if outcome.dry_run {
                if outcome.peers.is_yes() && ports.is_empty() {
                    out.dry_run.push(rule);
                }
                continue;
            }
            match &outcome.peers {
                Match::No(reasons) => {
                    let reasons = reasons.iter().cloned().chain(ports).collect();
                    out.near_misses.push(NearMiss { rule, action, reasons });
                }
                _ if !ports.is_empty() => {
                    out.near_misses.push(NearMiss { rule, action, reasons: ports });
                }
                _ if !in_time => out.overruled.push(rule),
                Match::Unknown(facts) => out.undecided.push((rule, facts.clone())),
                Match::Yes => match action {
                    Action::Allow => out.allowed_by.push(rule),
                    Action::Deny => out.denied_by.push(rule),
                    Action::Pass => {}
                },
            }
        }
        out.near_misses.sort_by_key(|miss| miss.reasons.len()); // stable: else in rule order
        out
    }
}

/// What keeps a rule's ports from covering the question; empty if they do.
fn port_reasons(outcome: &RuleOutcome, question: Question) -> Vec<Reason> {
    if !question.ports().intersection(&outcome.ports).is_empty() {
        return Vec::new();
    }
    // A name that leads nowhere says more than a list of ports, if it is all that there is.
    if outcome.ports.is_empty() && !outcome.unresolved.is_empty() {
        return outcome.unresolved.clone();
    }
    let (protocol, port) = match question {
        Question::Anything => (Protocol::TCP, None), // a rule's ports are never empty but by name
        Question::Port(protocol, port) => (protocol, port.filter(|_| protocol.has_ports())),
    };
    vec![Reason::Ports {
        protocol,
        port,
        ports: outcome.specs.clone(),
        resolved: outcome.ports.clone(),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Family;
    use crate::cluster::Cluster;
    use crate::evaluate::evaluate;
    use crate::flow::{Flow, Party};
    use crate::label::Labels;
    use crate::object::{Namespace, Pod};
    use crate::policy::{NamespaceScope, Peer, PodScope, Policy, Rule};
    use crate::port::{PortMatch, PortSpec};
    use crate::selector::Selector;

    /// The `restrict-egress` policy of the founding documents: pods `app=frontend` may talk to
    /// namespaces `env=prod` on 443 only.
    fn restrict_egress(namespace: Namespace) -> Cluster {
        let mut cluster = Cluster::default();
        cluster.put_namespace(namespace);
        let app = |name: &str| -> Labels { [("app", name)].into_iter().collect() };
        cluster.put_pod(Pod::new("default", "frontend", app("frontend")));
        cluster.put_pod(Pod::new("demo", "api", app("api")));
        let mut policy = Policy::network_policy(
            "default",
            "restrict-egress",
            Selector::labels([("app", "frontend")]),
        );
        let scope = PodScope {
            namespaces: NamespaceScope::Matching(Selector::labels([("env", "prod")])),
            pods: Selector::everything(),
        };
        let https =
            PortSpec { protocol: Protocol::TCP, port: PortMatch::Range(PortRange::one(443)) };
        policy.egress = Some(vec![Rule::allow(vec![Peer::Pods(scope)], vec![https])]);
        cluster.put_policy(policy);
        cluster
    }

    fn explain(cluster: &Cluster, port: u16) -> SideExplanation {
        let pod = |ns, name| Party::Pod(&cluster.pods[&crate::object::Name::new(ns, name)]);
        let flow =
            Flow { src: pod("default", "frontend"), dst: pod("demo", "api"), family: Family::V4 };
        evaluate(cluster, &flow).egress.explain(Question::Port(Protocol::TCP, Some(port)))
    }

    #[test]
    fn a_near_miss_says_what_is_missing_in_the_words_of_the_manifest() {
        let side = explain(&restrict_egress(Namespace::new("demo", &Labels::default())), 443);
        assert_eq!(side.verdict, Verdict::Denied);
        assert_eq!(side.near_misses.len(), 1);
        assert_eq!(side.near_misses[0].rule.to_string(), "default/restrict-egress egress rule 1");
        let reasons: Vec<String> =
            side.near_misses[0].reasons.iter().map(ToString::to_string).collect();
        assert_eq!(reasons, ["namespace demo has no label env=prod"]);
    }

    #[test]
    fn a_namespace_that_nobody_states_leaves_the_verdict_open() {
        let side = explain(&restrict_egress(Namespace::implied("demo")), 443);
        assert_eq!(side.verdict, Verdict::Unknown);
        assert_eq!(
            side.undecided[0].1[0].to_string(),
            "whether namespace demo has the label env (no manifest states it)"
        );
        let other_port = explain(&restrict_egress(Namespace::implied("demo")), 80);
        assert_eq!(other_port.verdict, Verdict::Denied, "no fact could make 80 pass");
    }

    #[test]
    fn a_port_that_is_not_named_is_a_near_miss_too() {
        let labels: Labels = [("env", "prod")].into_iter().collect();
        let cluster = restrict_egress(Namespace::new("demo", &labels));
        assert_eq!(explain(&cluster, 443).allowed_by.len(), 1);
        let side = explain(&cluster, 80);
        assert_eq!(side.near_misses[0].reasons[0].to_string(), "its ports are TCP 443, not TCP 80");
    }
}
