//! `podwall lint`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use podwall_analysis::lint::{self, Finding, Input, Report, Snippet};
use podwall_manifest::{Object, Typed, Wanted, locate};
use podwall_policy::object::Name;
use podwall_render::lint::{github, junit, sarif};
use podwall_render::{json, text};

use crate::cli::{Lint, LintFormat};
use crate::output::{Failure, NO, YES, print};
use crate::source::{Objects, load_with_texts};

pub(crate) fn run(command: &Lint) -> Result<ExitCode, Failure> {
    let objects = load_with_texts(&command.source)?;
    let report = Report { findings: findings(&objects), ..Report::default() };
    print(&match command.output {
        LintFormat::Text => text::lint::lint(&report, objects.cluster.policies.len()),
        LintFormat::Json => json::pretty(&json::lint::lint(&report, &objects.left_out))?,
        LintFormat::Sarif => sarif::sarif(&report, env!("CARGO_PKG_VERSION"))?,
        LintFormat::Github => github::github(&report),
        LintFormat::Junit => junit::junit(&report),
    })?;
    Ok(ExitCode::from(if report.findings.is_empty() { YES } else { NO }))
}

/// Everything that is found, with exact places.
fn findings(objects: &Objects) -> Vec<Finding> {
    let policy = |object: &Object| match &object.typed {
        Typed::Policy(policy) => Some(policy.name.clone()),
        _ => None,
    };
    let written: BTreeMap<Name, _> =
        objects.objects.iter().filter_map(|o| Some((policy(o)?, &o.raw))).collect();
    let input =
        Input { cluster: &objects.cluster, written: &written, complete: objects.complete };
    let mut findings = lint::lint(&input);
    place(&mut findings, &objects.texts);
    findings
}

/// Looks up where fields stand, file by file.
fn place(findings: &mut [Finding], texts: &BTreeMap<Arc<str>, Arc<str>>) {
    let mut by_file: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
    for (index, finding) in findings.iter().enumerate() {
        if let Some(object) = &finding.at.object {
            by_file.entry(object.file.clone()).or_default().push(index);
        }
    }
    for (file, indices) in by_file {
        let Some(content) = texts.get(&file) else { continue };
        let wanted: Vec<Wanted> = indices
            .iter()
            .filter_map(|index| {
                let at = &findings[*index].at;
                let object = at.object.as_ref()?;
                Some(Wanted { object: (object.line, object.column), field: at.field.clone() })
            })
            .collect();
        for (index, found) in indices.iter().zip(locate(&file, content, &wanted)) {
            findings[*index].snippet = found.map(|found| Snippet {
                source: found.place.source,
                length: found.place.length,
                line: found.place.text,
            });
        }
    }
    findings.sort_by_key(|finding| {
        let place = finding.snippet.as_ref().map(|s| &s.source).or(finding.at.source.as_ref());
        (place.is_none(), place.cloned())
    });
}
