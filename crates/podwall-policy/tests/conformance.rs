//! Do the evaluator's verdicts agree with the field's conformance cases, all of them?
//!
//! 230 cases of the test-case generator of cyclonus with the verdicts of its simulator, checked by
//! a second evaluator. A grid has nine or more pods; each cell is three verdicts: the source's
//! side, the destination's side, and both together.

#[cfg(test)]
mod support;

use std::time::{Duration, Instant};

use podwall_policy::evaluate::{Exempt, Verdict, evaluate};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::{Name, Pod};
use support::conformance::{Step, steps};

/// Cells of all grids.
const VERDICTS: usize = 124_884;

/// The pod under another name. The grids evaluate a pod's way to itself like any other pair; a
/// real pod always reaches itself, so a twin stands in for it.
fn twin(pod: &Pod) -> Pod {
    Pod { name: Name::new(pod.name.namespace.clone(), "twin"), ..pod.clone() }
}

/// Checks one step, gives the number of cells and adds what differs to `wrong`.
fn check(step: &Step, wrong: &mut Vec<String>, spent: &mut Duration) -> usize {
    let mut cells = 0;
    let pods: Vec<&Pod> = step.pods.iter().map(|name| &step.cluster.pods[name]).collect();
    for (i, src) in pods.iter().enumerate() {
        for (j, dst) in pods.iter().enumerate() {
            let stand_in = twin(dst);
            let dst = if i == j { &stand_in } else { dst };
            let flows = Flow::between(Party::Pod(src), Party::Pod(dst));
            assert_eq!(flows.len(), 1, "{}", step.title);
            let before = Instant::now();
            let evaluation = evaluate(&step.cluster, &flows[0]);
            *spent += before.elapsed();
            for e in &step.expected {
                cells += 1;
                let got = [
                    evaluation.ingress.verdict(e.protocol, e.port),
                    evaluation.egress.verdict(e.protocol, e.port),
                    evaluation.verdict(e.protocol, e.port),
                ];
                let wanted = [e.ingress[i][j], e.egress[i][j], e.combined[i][j]]
                    .map(|allowed| if allowed { Verdict::Allowed } else { Verdict::Denied });
                if got != wanted {
                    wrong.push(format!(
                        "{}\n  {} -> {} {} {}: ingress, egress, both are {got:?}, not {wanted:?}",
                        step.title, src.name, dst.name, e.protocol, e.port
                    ));
                }
            }
        }
    }
    cells
}

#[test]
fn every_conformance_verdict_is_the_evaluators() {
    let Some(steps) = steps() else { return };
    let mut wrong = Vec::new();
    let mut spent = Duration::ZERO;
    let cells: usize = steps.iter().map(|step| check(step, &mut wrong, &mut spent)).sum();
    println!("{cells} verdicts, three grids each, of {} steps in {spent:?}", steps.len());
    assert!(
        wrong.is_empty(),
        "{} of {cells} differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    assert_eq!(cells, VERDICTS);
}

#[test]
fn a_pod_reaches_itself_in_every_conformance_case() {
    let Some(steps) = steps() else { return };
    for step in &steps {
        for pod in step.cluster.pods.values() {
            let flow = Flow::between(Party::Pod(pod), Party::Pod(pod)).remove(0);
            let evaluation = evaluate(&step.cluster, &flow);
            assert_eq!(evaluation.egress.exempt, Some(Exempt::Itself), "{}", step.title);
            assert!(evaluation.allowed().is_everything(), "{}", step.title);
        }
    }
}
