//! Findings as JUnit's XML: a test case for each rule, failed ones for each finding.

use podwall_analysis::lint::{RULES, Report};

use super::{long_message, place};
use crate::checks::{self, Check, CheckResult, Suite};

/// The whole document.
pub fn junit(report: &Report) -> String {
    let mut suite = Suite { name: "podwall lint".to_owned(), checks: Vec::new() };
    for rule in &RULES {
        let before = suite.checks.len();
        let mut add = |name: String, place, result| {
            let class = format!("{} {}", rule.id, rule.name);
            suite.checks.push(Check { name, class, place, result });
        };
        for finding in report.findings.iter().filter(|finding| finding.rule.id == rule.id) {
            let place = place(finding);
            let at = place.map_or_else(|| finding.at.object_name(), ToString::to_string);
            add(
                format!("{} ({at})", finding.at.object_name()),
                place.filter(|at| at.line > 0).map(|at| (at.file.to_string(), at.line)),
                CheckResult::Failed {
                    kind: finding.severity.as_str(),
                    message: finding.message.clone(),
                    detail: long_message(finding),
                },
            );
        }
        for one in report.suppressed.iter().filter(|one| one.finding.rule.id == rule.id) {
            let result = CheckResult::Skipped { message: one.reason.clone() };
            add(one.finding.at.object_name(), None, result);
        }
        if suite.checks.len() == before {
            suite.checks.push(Check {
                name: rule.what.to_owned(),
                class: format!("{} {}", rule.id, rule.name),
                place: None,
                result: CheckResult::Passed,
            });
        }
    }
    checks::junit(&[suite])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_finds_nothing_has_passed() {
        let text = junit(&Report::default());
        let all = format!("tests=\"{}\" failures=\"0\" errors=\"0\" skipped=\"0\"", RULES.len());
        assert!(text.contains(&all), "{text}");
        for rule in &RULES {
            let case = format!("<testcase classname=\"{} {}\" name=", rule.id, rule.name);
            assert_eq!(text.matches(&case).count(), 1, "{}", rule.id);
        }
    }
}
