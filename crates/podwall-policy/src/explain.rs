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
}

/// A rule that does not match, and everything that it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleRef,
    /// If all of these were mended the rule would match.
    pub reasons: Vec<Reason>,
}

impl Evaluation {
    /// The verdict on a question.
    pub fn answer(&self, question: Question) -> Verdict {
        let sides = [self.egress.answer(question), self.ingress.answer(question)];
        match question {
            Question::Port(protocol, Some(port)) => self.verdict(protocol, port),
            Question::Port(protocol, None) if !protocol.has_ports() => self.verdict(protocol, 0),
            // Both sides may allow something and yet nothing in common.
            _ if sides.contains(&Verdict::Denied) => Verdict::Denied,
            Question::Port(protocol, None) => {
                let all = PortSet::range(protocol, PortRange::ALL);
                if !self.allowed().intersection(&all).is_empty() {
                    Verdict::Allowed
                } else if all.difference(&self.denied()).is_empty() {
                    Verdict::Denied
                } else {
                    Verdict::Unknown
                }
            }
            Question::Anything => self.any_verdict(),
        }
    }
}

impl Side {
    /// The side's verdict on a question.
    pub fn answer(&self, question: Question) -> Verdict {
        let all = match question {
            Question::Port(protocol, Some(port)) => return self.verdict(protocol, port),
            Question::Port(protocol, None) => PortSet::range(protocol, PortRange::ALL),
            Question::Anything => PortSet::everything(),
        };
        if !self.allowed.intersection(&all).is_empty() {
            Verdict::Allowed
        } else if all.difference(&self.denied).is_empty() {
            Verdict::Denied
        } else {
            Verdict::Unknown
        }
    }

    /// Explains the side's verdict on a question.
    pub fn explain(&self, question: Question) -> SideExplanation {
        let mut out = SideExplanation {
            verdict: self.answer(question),
            allowed_by: Vec::new(),
            denied_by: Vec::new(),
            near_misses: Vec::new(),
            undecided: Vec::new(),
        };
        for outcome in &self.rules {
            let ports = port_reasons(outcome, question);
            match &outcome.peers {
                Match::Yes if ports.is_empty() => match outcome.action {
                    Action::Allow => out.allowed_by.push(outcome.rule.clone()),
                    Action::Deny => out.denied_by.push(outcome.rule.clone()),
                    Action::Pass => {}
                },
                Match::Unknown(facts) if ports.is_empty() => {
                    out.undecided.push((outcome.rule.clone(), facts.clone()));
                }
                Match::Yes | Match::Unknown(_) => {
                    out.near_misses.push(NearMiss { rule: outcome.rule.clone(), reasons: ports });
                }
                Match::No(reasons) => {
                    let reasons = reasons.iter().cloned().chain(ports).collect();
                    out.near_misses.push(NearMiss { rule: outcome.rule.clone(), reasons });
                }
            }
        }
        out.near_misses.sort_by_key(|miss| miss.reasons.len()); // stable: else in rule order
        out
    }
}

/// What keeps a rule's ports from covering the question; empty if they do.
fn port_reasons(outcome: &RuleOutcome, question: Question) -> Vec<Reason> {
    let (protocol, port) = match question {
        Question::Anything if !outcome.ports.is_empty() => return Vec::new(),
        Question::Anything => (Protocol::TCP, None),
        Question::Port(protocol, port) => {
            let covered = match port {
                Some(port) => outcome.ports.contains(protocol, port),
                None if protocol.has_ports() => outcome.ports.iter().any(|(of, _)| of == protocol),
                None => outcome.ports.has_other_protocols(),
            };
            if covered {
                return Vec::new();
            }
            (protocol, port.filter(|_| protocol.has_ports()))
        }
    };
    // A name that leads nowhere says more than a list of ports, if it is all that there is.
    if outcome.ports.is_empty() && !outcome.unresolved.is_empty() {
        return outcome.unresolved.clone();
    }
    vec![Reason::Ports { protocol, port, ports: outcome.specs.clone() }]
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
