//! What do ordered rules come to, port by port?
//!
//! ```text
//!   rule 1  allow TCP 80          ports   0 ──── 80 ──── 443 ── 444 ─────── 65535
//!   rule 2  allow TCP 443-444     TCP         1       [ 2 2 ]
//!   rule 3  deny  TCP (any)               3 3    3 3 3       3 3 3 3 3 3
//!                                 rows    port 80 → 1, range 443-444 → 2, any port → 3
//! ```
//!
//! The first rule that decides a port gets it, tiers included; what comes out are rows in which
//! the most specific one that is there decides, as the kernel looks them up.

use podwall_policy::policy::{Action, Tier};
use podwall_policy::port::{PortRange, Protocol};

use crate::tables::PortKey;

/// A rule's claim to ports, in the order of evaluation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// The rule's place in its subject's program.
    pub(crate) rule: u32,
    pub(crate) tier: Tier,
    pub(crate) action: Action,
    pub(crate) ports: Ports,
}

/// The ports of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// Every protocol and port.
    Everything,
    /// A range of a protocol with ports.
    Range(Protocol, PortRange),
}

/// What holds where no rule decides. Silence is for rules that all allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Default {
    /// Say nothing: the next row, or the end of the lookup, decides.
    Silent,
    /// Say so: the rows are the last word for this peer.
    Spoken {
        /// Whether it passes.
        allow: bool,
    },
}

/// What rows say: pass or not, and the rule that said so.
pub(crate) type Answer = (bool, Option<u32>);

/// Flattens claims, which must be in the order of evaluation, into rows.
pub(crate) fn flatten(claims: &[Claim], default: Default) -> Vec<(PortKey, Answer)> {
    if let ([claim], Default::Silent) = (claims, default) {
        return alone(*claim);
    }
    let silent = match default {
        Default::Silent => None,
        Default::Spoken { allow } => Some((allow, None)),
    };
    let portless =
        decide(claims.iter().filter(|claim| claim.ports == Ports::Everything)).or(silent);
    let mut rows = Vec::new();
    for protocol in Protocol::WITH_PORTS {
        let spans = spans(claims, protocol, silent);
        let base = base_of(&spans);
        for (range, answer) in &spans {
            let Some(answer) = answer else { continue };
            if base != Some(*answer) {
                let key = if range.first == range.last {
                    PortKey::Port(protocol, range.first)
                } else {
                    PortKey::Range(protocol, *range)
                };
                rows.push((key, *answer));
            }
        }
        if let Some(base) = base.filter(|base| portless != Some(*base)) {
            rows.push((PortKey::AnyPort(protocol), base));
        }
    }
    if let Some(answer) = portless {
        rows.push((PortKey::AnyProtocol, answer));
    }
    rows
}

/// The same for one claim, which most rows are.
fn alone(claim: Claim) -> Vec<(PortKey, Answer)> {
    let key = match claim.ports {
        Ports::Everything => PortKey::AnyProtocol,
        Ports::Range(protocol, PortRange::ALL) => PortKey::AnyPort(protocol),
        Ports::Range(protocol, range) if range.first == range.last => {
            PortKey::Port(protocol, range.first)
        }
        Ports::Range(protocol, range) => PortKey::Range(protocol, range),
    };
    decide([claim].iter()).map(|answer| (key, answer)).into_iter().collect()
}

impl Ports {
    fn in_protocol(self, protocol: Protocol) -> Option<PortRange> {
        match self {
            Self::Everything => Some(PortRange::ALL),
            Self::Range(its, range) => (its == protocol).then_some(range),
        }
    }
}

/// The word of the first claim that decides. A Pass skips the rest of its tier.
fn decide<'a>(claims: impl Iterator<Item = &'a Claim>) -> Option<Answer> {
    let mut passed = None;
    for claim in claims {
        if passed == Some(claim.tier) {
            continue;
        }
        match claim.action {
            Action::Allow => return Some((true, Some(claim.rule))),
            Action::Deny => return Some((false, Some(claim.rule))),
            Action::Pass => passed = Some(claim.tier),
        }
    }
    None
}

/// The port line of a protocol, from port 0 to the last, in stretches with one answer.
fn spans(
    claims: &[Claim],
    protocol: Protocol,
    silent: Option<Answer>,
) -> Vec<(PortRange, Option<Answer>)> {
    let here: Vec<(&Claim, PortRange)> = claims
        .iter()
        .filter_map(|claim| Some((claim, claim.ports.in_protocol(protocol)?)))
        .collect();
    let mut cuts: Vec<u16> = here
        .iter()
        .flat_map(|(_, range)| [Some(range.first), range.last.checked_add(1)])
        .flatten()
        .chain([0])
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut spans: Vec<(PortRange, Option<Answer>)> = Vec::with_capacity(cuts.len());
    for (i, first) in cuts.iter().copied().enumerate() {
        let last = cuts.get(i + 1).map_or(u16::MAX, |next| next - 1);
        let covering = here.iter().filter(|(_, range)| range.contains(first));
        let answer = decide(covering.map(|(claim, _)| *claim)).or(silent);
        match spans.last_mut() {
            Some((range, before)) if *before == answer => range.last = last,
            _ => spans.push((PortRange { first, last }, answer)),
        }
    }
    spans
}

/// The answer that stands for a whole protocol, so that only the others need rows: the one with
/// the most stretches, of equal ones that with the most ports. None where some port has no answer.
fn base_of(spans: &[(PortRange, Option<Answer>)]) -> Option<Answer> {
    let mut weights: Vec<(Answer, usize, u32)> = Vec::new();
    for (range, answer) in spans {
        let answer = (*answer)?;
        let ports = u32::from(range.last - range.first) + 1;
        match weights.iter_mut().find(|(its, ..)| *its == answer) {
            Some((_, count, width)) => {
                *count += 1;
                *width += ports;
            }
            None => weights.push((answer, 1, ports)),
        }
    }
    weights.into_iter().max_by_key(|(_, count, width)| (*count, *width)).map(|(answer, ..)| answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(rule: u32, tier: Tier, action: Action, ports: Ports) -> Claim {
        Claim { rule, tier, action, ports }
    }

    fn allow(rule: u32, ports: Ports) -> Claim {
        claim(rule, Tier::NetworkPolicy, Action::Allow, ports)
    }

    fn tcp(first: u16, last: u16) -> Ports {
        Ports::Range(Protocol::TCP, PortRange { first, last })
    }

    fn range(first: u16, last: u16) -> PortKey {
        PortKey::Range(Protocol::TCP, PortRange { first, last })
    }

    #[test]
    fn the_first_rule_gets_a_port_and_a_rule_for_everything_gets_the_rest() {
        let rows = flatten(
            &[allow(1, tcp(80, 80)), allow(2, tcp(79, 82)), allow(3, Ports::Everything)],
            Default::Silent,
        );
        let one = |key, rule| (key, (true, Some(rule)));
        assert_eq!(
            rows,
            [
                one(PortKey::Port(Protocol::TCP, 79), 2),
                one(PortKey::Port(Protocol::TCP, 80), 1),
                one(range(81, 82), 2),
                one(PortKey::AnyProtocol, 3),
            ]
        );
    }

    #[test]
    fn port_zero_is_covered_by_any_port_alone() {
        let any = flatten(&[allow(1, tcp(0, u16::MAX))], Default::Silent);
        assert_eq!(any, [(PortKey::AnyPort(Protocol::TCP), (true, Some(1)))]);
        let all = flatten(&[allow(1, tcp(1, u16::MAX))], Default::Silent);
        assert_eq!(all, [(range(1, u16::MAX), (true, Some(1)))]);
    }

    #[test]
    fn a_pass_skips_the_rest_of_its_tier() {
        let rows = flatten(
            &[
                claim(1, Tier::Admin, Action::Pass, tcp(80, 80)),
                claim(2, Tier::Admin, Action::Deny, Ports::Everything),
                allow(3, tcp(80, 80)),
            ],
            Default::Spoken { allow: false },
        );
        assert_eq!(
            rows,
            [
                (PortKey::Port(Protocol::TCP, 80), (true, Some(3))),
                (PortKey::AnyProtocol, (false, Some(2))),
            ]
        );
    }

    #[test]
    fn a_spoken_default_stands_even_if_no_rule_speaks() {
        let rows = flatten(&[], Default::Spoken { allow: true });
        assert_eq!(rows, [(PortKey::AnyProtocol, (true, None))]);
        assert_eq!(flatten(&[], Default::Silent), []);
    }

    fn any_claims() -> impl Strategy<Value = Vec<Claim>> {
        let port = prop_oneof![0u16..5, 65531u16..=65535];
        let ports = prop_oneof![
            Just(Ports::Everything),
            (0usize..3, port.clone(), port).prop_map(|(protocol, a, b)| {
                let range = PortRange { first: a.min(b), last: a.max(b) };
                Ports::Range(Protocol::WITH_PORTS[protocol], range)
            })
        ];
        let action = prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Pass)];
        let tier = prop_oneof![Just(Tier::Admin), Just(Tier::NetworkPolicy), Just(Tier::Baseline)];
        prop::collection::vec((tier, action, ports), 0..7).prop_map(|mut list| {
            list.sort_by_key(|(tier, ..)| *tier);
            list.into_iter()
                .zip(0u32..)
                .map(|((tier, action, ports), rule)| Claim { rule, tier, action, ports })
                .collect()
        })
    }

    proptest! {
        /// Looking rows up gives for every packet what asking the claims one by one gives.
        #[test]
        fn rows_say_what_the_rules_say(claims in any_claims(), spoken in prop::option::of(any::<bool>())) {
            let mut claims = claims;
            if spoken.is_none() {
                claims.iter_mut().for_each(|claim| claim.action = Action::Allow);
            }
            let default = spoken.map_or(Default::Silent, |allow| Default::Spoken { allow });
            let rows = flatten(&claims, default);
            let get = |key| rows.iter().find(|(its, _)| *its == key).map(|(_, answer)| *answer);
            let ports = (0u16..7).chain(65529..=65535);
            for protocol in Protocol::WITH_PORTS.into_iter().chain([Protocol::ICMP]) {
                for port in ports.clone() {
                    let covering = claims.iter().filter(|claim| {
                        if protocol.has_ports() {
                            claim.ports.in_protocol(protocol).is_some_and(|range| range.contains(port))
                        } else {
                            claim.ports == Ports::Everything
                        }
                    });
                    let expected = decide(covering).or(spoken.map(|allow| (allow, None)));
                    let in_range = || {
                        let mut found = rows.iter().filter(|(key, _)| {
                            matches!(key, PortKey::Range(p, r) if *p == protocol && r.contains(port))
                        });
                        let first = found.next().map(|(_, answer)| *answer);
                        assert!(found.next().is_none(), "ranges overlap: {rows:?}");
                        first
                    };
                    let found = if protocol.has_ports() {
                        get(PortKey::Port(protocol, port))
                            .or_else(in_range)
                            .or_else(|| get(PortKey::AnyPort(protocol)))
                            .or_else(|| get(PortKey::AnyProtocol))
                    } else {
                        get(PortKey::AnyProtocol)
                    };
                    prop_assert_eq!(found, expected, "{} {} {:?}", protocol, port, rows);
                }
            }
        }
    }
}
