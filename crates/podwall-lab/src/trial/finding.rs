//! Did a packet do what the engine says?

use std::net::IpAddr;

use podwall_policy::evaluate::Verdict;
use podwall_policy::port::Protocol;
use serde::{Deserialize, Serialize};

use super::{Expected, Trial};
use crate::probe::{Outcome, ProbeResult};
use crate::serve::identity::Identity;

/// What packets did in one trial, and what the engine had said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Who sent.
    pub src: String,
    /// Who was asked.
    pub dst: String,
    /// The source's address.
    #[serde(rename = "srcAddress")]
    pub src_address: IpAddr,
    /// The address that was asked: a Service's own.
    #[serde(rename = "dstAddress")]
    pub dst_address: IpAddr,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`.
    pub protocol: String,
    /// The port that was asked; 0 for ICMP.
    pub port: u16,
    /// `allowed`, `denied` or `unknown`; `mixed` where it depends on the pod that a Service picks,
    /// `nobody` where no pod is behind it.
    pub engine: String,
    /// `answered`, `refused`, `dropped`, `unanswered`, `unreachable` or `error`.
    pub packets: String,
    /// Whether packets got through; `None` where they told nothing: an error, or no answer from
    /// somebody who should.
    pub passed: Option<bool>,
    /// More about what packets did: who answered, what was missing.
    pub detail: String,
    /// Whether they agree.
    pub agrees: bool,
}

impl Finding {
    /// Judges one result. What proves that a packet got through is that it was seen at its
    /// destination or that the right one answered; what proves that it was dropped is that it was
    /// not seen.
    pub fn new(trial: &Trial, result: &ProbeResult) -> Self {
        let (packets, passed) = what_happened(trial, result);
        let expected = trial.expected();
        Self {
            src: trial.src.to_string(),
            dst: trial.dst.clone(),
            src_address: trial.src.address,
            dst_address: trial.dst_address,
            protocol: match trial.protocol {
                Protocol::ICMPV6 => "ICMP".to_owned(),
                other => other.to_string(),
            },
            port: trial.port,
            engine: expected.to_string(),
            packets: packets.to_owned(),
            passed,
            detail: result.to_string(),
            agrees: agrees(trial, expected, result, passed),
        }
    }
}

/// What packets did in a word, and whether they got through.
fn what_happened(trial: &Trial, result: &ProbeResult) -> (&'static str, Option<bool>) {
    let leads_to = |place: &Identity| trial.ways.iter().any(|way| way.place == *place);
    let arrived = result.arrived.as_ref().is_some_and(leads_to);
    match &result.outcome {
        Outcome::Answered { by, .. } => {
            let right = by.as_ref().is_none_or(|answer| leads_to(&answer.identity));
            ("answered", (right || trial.ways.is_empty()).then_some(true))
        }
        Outcome::Refused { .. } => ("refused", arrived.then_some(true)),
        Outcome::Dropped => ("dropped", Some(false)),
        // With nowhere to arrive there was nobody to watch.
        Outcome::Unanswered { .. } => ("unanswered", trial.ways.is_empty().then_some(false)),
        Outcome::Unreachable { .. } => ("unreachable", None),
        Outcome::Error { .. } => ("error", None),
    }
}

/// Of several pods behind a Service the one that was reached counts; where none was, one that may
/// not be reached must be among them.
fn agrees(trial: &Trial, expected: Expected, result: &ProbeResult, passed: Option<bool>) -> bool {
    let mut verdicts = trial.ways.iter().map(|way| way.verdict);
    match passed {
        _ if expected == Expected::Nobody => {
            passed != Some(true) && !matches!(result.outcome, Outcome::Error { .. })
        }
        None => false,
        Some(false) => match expected {
            Expected::Mixed => verdicts.any(|verdict| verdict == Verdict::Denied),
            other => other == Expected::Denied,
        },
        Some(true) => {
            let answered = match &result.outcome {
                Outcome::Answered { by: Some(answer), .. } => Some(&answer.identity),
                _ => None,
            };
            let place = answered.or(result.arrived.as_ref());
            let mut ways = trial.ways.iter();
            match place.and_then(|place| ways.find(|way| way.place == *place)) {
                Some(way) => way.verdict == Verdict::Allowed,
                // An answer that does not say whose it is.
                None => verdicts.all(|verdict| verdict == Verdict::Allowed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::mk_trial;
    use super::*;
    use crate::probe::Refusal;

    fn mk_result(outcome: Outcome, arrived: Option<&str>) -> ProbeResult {
        ProbeResult { outcome, arrived: arrived.map(|name| Identity::pod("default", name)) }
    }

    fn answered(arrived: &str) -> ProbeResult {
        mk_result(Outcome::Answered { by: None, millis: 1.0 }, Some(arrived))
    }

    #[track_caller]
    fn judge(ways: &[(&str, Verdict)], result: &ProbeResult, engine: &str, agrees: bool) {
        let finding = Finding::new(&mk_trial(ways), result);
        assert_eq!((finding.engine.as_str(), finding.agrees), (engine, agrees), "{finding:?}");
    }

    #[test]
    fn findings_agree_only_when_packets_said_so() {
        let (yes, no, unknown) = (Verdict::Allowed, Verdict::Denied, Verdict::Unknown);
        let dropped = mk_result(Outcome::Dropped, None);
        let silent = mk_result(Outcome::Unanswered { answer_left: false }, Some("b"));
        judge(&[("b", yes)], &answered("b"), "allowed", true);
        judge(&[("b", yes)], &dropped, "allowed", false);
        judge(&[("b", no)], &dropped, "denied", true);
        judge(&[("b", no)], &answered("b"), "denied", false);
        judge(&[("b", no)], &silent, "denied", false);
        judge(&[("b", yes)], &silent, "allowed", false);
        judge(&[("b", unknown)], &answered("b"), "unknown", false);
    }

    #[test]
    fn behind_a_service_the_pod_that_was_reached_counts() {
        let ways = [("b", Verdict::Allowed), ("c", Verdict::Denied)];
        judge(&ways, &answered("b"), "mixed", true);
        judge(&ways, &answered("c"), "mixed", false);
        judge(&ways, &mk_result(Outcome::Dropped, None), "mixed", true);
        let unsure = [("b", Verdict::Allowed), ("c", Verdict::Unknown)];
        judge(&unsure, &mk_result(Outcome::Dropped, None), "unknown", false);
    }

    #[test]
    fn where_nobody_is_behind_a_service_nobody_answers() {
        let refused = Outcome::Refused { how: Refusal::PortUnreachable, millis: 1.0 };
        judge(&[], &mk_result(refused, None), "nobody", true);
        judge(&[], &mk_result(Outcome::Unanswered { answer_left: false }, None), "nobody", true);
        judge(&[], &answered("b"), "nobody", false);
        judge(&[], &mk_result(Outcome::Error { what: "no".to_owned() }, None), "nobody", false);
    }
}
