//! The JSON of `podwall lint`.

use podwall_analysis::lint::{Finding, Replacement, Report, Severity};
use schemars::JsonSchema;
use serde::Serialize;

/// What `podwall lint -o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lint {
    /// What counts, by place.
    pub findings: Vec<FindingJson>,
    /// What somebody has given a reason for.
    pub suppressed: Vec<SuppressedJson>,
    /// How many findings of each kind.
    pub counts: Counts,
    /// Objects that could not be read, with `--keep-going`.
    pub left_out: Vec<String>,
}

/// How many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// What is written cannot have the effect that it says.
    pub error: usize,
    /// Probably not what was meant, or a risk.
    pub warning: usize,
    /// Worth knowing.
    pub note: usize,
    /// Suppressed with a reason.
    pub suppressed: usize,
    /// In the baseline.
    pub baseline: usize,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FindingJson {
    /// `PW101`
    pub id: String,
    /// `subject-matches-nothing`
    pub name: String,
    /// `error`, `warning` or `note`.
    pub severity: String,
    /// What is wrong, in one sentence.
    pub message: String,
    /// `NetworkPolicy` or `Namespace`.
    pub kind: String,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub object: String,
    /// The field, as the API server writes it; absent for the object as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// `file:line:column`, or the object that it was read from; absent where unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What shows that it is so, a sentence each.
    pub proof: Vec<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// An edit that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<FixJson>,
    /// The same for the same mistake, wherever its lines move to: what a baseline holds.
    pub identity: String,
    /// Where the rule is described.
    pub docs: String,
}

/// An edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FixJson {
    /// What it does.
    pub what: String,
    /// Whether `--fix` applies it.
    pub sure: bool,
    /// What it makes of the file's text; empty where that is not at hand or cannot be edited.
    pub edits: Vec<EditJson>,
}

/// A stretch of a file's text that becomes another. Lines and columns from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EditJson {
    /// The file.
    pub file: String,
    /// Its first line.
    pub start_line: u32,
    /// Its first column.
    pub start_column: u32,
    /// The line of the first character behind it.
    pub end_line: u32,
    /// The column of the first character behind it.
    pub end_column: u32,
    /// What it becomes.
    pub text: String,
}

/// A finding that is suppressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuppressedJson {
    /// The finding.
    #[serde(flatten)]
    pub finding: FindingJson,
    /// Why it may stay.
    pub reason: String,
    /// `annotation`, or the file that says so.
    pub by: String,
}

impl From<&Finding> for FindingJson {
    fn from(finding: &Finding) -> Self {
        let field = finding.at.field.to_string();
        let source = finding.snippet.as_ref().map(|s| &s.source).or(finding.at.source.as_ref());
        Self {
            id: finding.rule.id.to_owned(),
            name: finding.rule.name.to_owned(),
            severity: finding.severity.as_str().to_owned(),
            message: finding.message.clone(),
            kind: finding.at.kind.to_owned(),
            namespace: finding.at.name.namespace.to_string(),
            object: finding.at.name.name.to_string(),
            field: Some(field).filter(|field| !field.is_empty()),
            source: source.map(ToString::to_string),
            proof: finding.proof.clone(),
            help: finding.help.clone(),
            fix: finding.fix.as_ref().map(|fix| FixJson {
                what: fix.what.clone(),
                sure: fix.sure,
                edits: finding.replacements.iter().map(EditJson::from).collect(),
            }),
            identity: finding.identity(),
            docs: crate::lint::docs(finding.rule),
        }
    }
}

impl From<&Replacement> for EditJson {
    fn from(one: &Replacement) -> Self {
        Self {
            file: one.start.file.to_string(),
            start_line: one.start.line,
            start_column: one.start.column,
            end_line: one.end.0,
            end_column: one.end.1,
            text: one.text.clone(),
        }
    }
}

/// The answer as JSON.
pub fn lint(report: &Report, left_out: &[String]) -> Lint {
    let count = |severity| report.findings.iter().filter(|f| f.severity == severity).count();
    let suppressed = report.suppressed.iter().map(|suppressed| SuppressedJson {
        finding: FindingJson::from(&suppressed.finding),
        reason: suppressed.reason.clone(),
        by: suppressed.by.clone(),
    });
    Lint {
        findings: report.findings.iter().map(FindingJson::from).collect(),
        counts: Counts {
            error: count(Severity::Error),
            warning: count(Severity::Warning),
            note: count(Severity::Note),
            suppressed: report.suppressed.len(),
            baseline: report.known,
        },
        suppressed: suppressed.collect(),
        left_out: left_out.to_vec(),
    }
}
