//! `podwall lint`.
//!
//! ```text
//!   objects, texts ──▶ findings with exact places ──▶ --fix: edits, until nothing is clear any more
//!                                                 ──▶ suppressions, baseline ──▶ report
//! ```

mod fix;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use podwall_analysis::lint::{
    self, ANNOTATION, Baseline, Finding, Input, Report, Severity, Snippet, Suppression,
};
use podwall_manifest::{Object, Typed, Wanted, locate};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Name;
use podwall_render::lint::{github, junit, sarif};
use podwall_render::{json, text};

use crate::cli::{Level, Lint, LintFormat};
use crate::output::{Failure, NO, YES, print, remark};
use crate::source::{Objects, load_for_lint};

/// Where suppressions stand if nothing else is said.
const CONFIG: &str = ".podwall-lint.yaml";

pub(crate) fn run(command: &Lint) -> Result<ExitCode, Failure> {
    if command.fix && command.source.files.is_empty() {
        return Err(Failure::new("--fix mends files, and there are none: give them with -f"));
    }
    let mut objects = load_for_lint(&command.source)?;
    let mut suppressions = from_config(command.config.as_deref())?;
    suppressions.extend(from_annotations(&objects.objects));
    let baseline = match (&command.baseline, command.write_baseline) {
        (Some(file), false) => Baseline::parse(&read(file)?),
        _ => Baseline::default(),
    };
    let mut findings = findings(&objects);
    if command.fix {
        findings = fix::fix(&mut objects, findings, &suppressions, &baseline)?;
    }
    let least = match command.level {
        Level::Note => Severity::Note,
        Level::Warning => Severity::Warning,
        Level::Error => Severity::Error,
    };
    findings.retain(|finding| finding.severity >= least);
    if matches!(command.output, LintFormat::Json | LintFormat::Sarif) {
        fix::spell_out(&mut findings, &objects.texts);
    }
    let (report, gone) = Report::new(findings, &suppressions, &baseline);
    if let (Some(file), true) = (&command.baseline, command.write_baseline) {
        fs::write(file, Baseline::write(&report.findings)).map_err(|error| {
            Failure::new(format!("cannot write the baseline {}: {error}", file.display()))
        })?;
        remark(&format!("{} written to {}\n", report.findings.len(), file.display()));
        return Ok(ExitCode::from(YES));
    }
    if !gone.is_empty() {
        remark(&format!(
            "{} of the baseline no longer found; --write-baseline leaves them out\n",
            gone.len()
        ));
    }
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
    let mut findings = found(&objects.cluster, &objects.objects, objects.complete);
    place(&mut findings, &objects.texts);
    findings
}

fn found(cluster: &Cluster, objects: &[Object], complete: bool) -> Vec<Finding> {
    let policy = |object: &Object| match &object.typed {
        Typed::Policy(policy) => Some(policy.name.clone()),
        _ => None,
    };
    let written: BTreeMap<Name, _> =
        objects.iter().filter_map(|object| Some((policy(object)?, &object.raw))).collect();
    lint::lint(&Input { cluster, written: &written, complete })
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

/// What the file of suppressions says. One that is named must be there.
fn from_config(named: Option<&Path>) -> Result<Vec<Suppression>, Failure> {
    let path = named.unwrap_or(Path::new(CONFIG));
    let name = path.display().to_string();
    let content = match fs::read_to_string(path) {
        Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(Failure::new(format!("cannot read {name}: {error}"))),
        Ok(content) => content,
    };
    let json = podwall_manifest::document(&name, &content)
        .map_err(|error| Failure::new(format!("cannot read {error}")))?;
    Suppression::file(&name, &json).map_err(|wrong| {
        let failure = Failure::new(format!("{name} is no list of what may stay"));
        wrong.iter().fold(failure, Failure::hint)
    })
}

/// What objects' annotations say. One without a reason suppresses nothing, and is told.
fn from_annotations(objects: &[Object]) -> Vec<Suppression> {
    let mut suppressions = Vec::new();
    for object in objects {
        let annotations = object.raw.get("metadata").and_then(|m| m.get("annotations"));
        let Some(text) = annotations.and_then(|a| a.get(ANNOTATION)?.as_str()) else { continue };
        let key = &object.key;
        let namespace = if &*key.kind == "Namespace" { &key.name } else { &key.namespace };
        let (good, bad) = Suppression::annotation(&key.kind, namespace, &key.name, text);
        suppressions.extend(good);
        for line in bad {
            remark(&format!("warning: {line}\n"));
        }
    }
    suppressions
}

fn read(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| {
        Failure::new(format!("cannot read {}: {error}", file.display()))
            .hint("--write-baseline makes it")
    })
}
