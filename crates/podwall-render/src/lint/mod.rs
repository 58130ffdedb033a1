//! How do findings reach the places where people see them?
//!
//! ```text
//!   Report ──▶ sarif    code scanning           github   marks in a pull request's files
//!          ──▶ junit    a CI server's test page  (text and json are with the other answers)
//! ```

pub mod github;
pub mod junit;
pub mod sarif;

use podwall_analysis::lint::{Finding, Rule};
use podwall_policy::source::Source;

/// Where a rule is described.
pub fn docs(rule: &Rule) -> String {
    format!("https://github.com/podwall/podwall/blob/main/docs/lint.md#{}", rule.id.to_lowercase())
}

/// The most exact place that is known.
fn place(finding: &Finding) -> Option<&Source> {
    let exact = finding.snippet.as_ref().map(|snippet| &snippet.source);
    exact.or(finding.at.source.as_ref())
}

/// Proof and help after the message, a line each.
fn long_message(finding: &Finding) -> String {
    let help = finding.help.as_ref().map(|help| format!("help: {help}"));
    let lines: Vec<&str> = [finding.message.as_str()]
        .into_iter()
        .chain(finding.proof.iter().map(String::as_str))
        .chain(help.as_deref())
        .collect();
    lines.join("\n")
}
