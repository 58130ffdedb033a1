//! `podwall lint --fix`: what is mended, and how is it known that nothing else breaks?
//!
//! ```text
//!   clear fixes ──▶ splices ──▶ new texts, in memory ──read, lint──▶ nothing new found? ──▶ write
//!        ▲                                                                    │ no: one by one
//!        └────────────────────────── again, while some are left ──────────────┘
//! ```
//!
//! A fix is taken if the text can still be read, its finding is gone, and no warning or error came
//! instead. Files are written at the end, each at once, and only if nobody has changed them since
//! they were read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use podwall_analysis::lint::{
    Baseline, Change, Finding, Replacement, Report, Severity, Suppression,
};
use podwall_manifest::{Edit, Input, Reading, Splice, apply, line_columns, read, splices_of};
use podwall_policy::source::Source;

use super::{found, place};
use crate::output::{Failure, remark};
use crate::source::{Objects, for_answers};

/// Texts by the name of their file.
type Texts = BTreeMap<Arc<str>, Arc<str>>;

/// A fix in a file.
struct Step {
    file: Arc<str>,
    splices: Vec<Splice>,
    identity: String,
    what: String,
}

/// Mends what is clear, and says what. Gives what is still found.
pub(super) fn fix(
    objects: &mut Objects,
    mut findings: Vec<Finding>,
    suppressions: &[Suppression],
    baseline: &Baseline,
) -> Result<Vec<Finding>, Failure> {
    let before = objects.texts.clone();
    let mut done: Vec<(Arc<str>, String)> = Vec::new();
    let mut refused: BTreeSet<String> = BTreeSet::new();
    loop {
        let (report, _) = Report::new(findings.clone(), suppressions, baseline);
        let left: Vec<&Finding> = report
            .findings
            .iter()
            .filter(|finding| !refused.contains(&finding.identity()))
            .collect();
        let steps = steps(&left, &objects.texts);
        if steps.is_empty() {
            break;
        }
        let all: Vec<&Step> = steps.iter().collect();
        let taken = match attempt(objects, &findings, &all) {
            Some((reading, texts, now)) => {
                accept(objects, reading, texts);
                findings = now;
                steps
            }
            None => {
                let mut taken = Vec::new();
                for step in steps {
                    // Places have moved if another was taken: the next round has them right.
                    if !taken.is_empty() {
                        break;
                    }
                    match attempt(objects, &findings, &[&step]) {
                        Some((reading, texts, now)) => {
                            accept(objects, reading, texts);
                            findings = now;
                            taken.push(step);
                        }
                        None => _ = refused.insert(step.identity),
                    }
                }
                taken
            }
        };
        // What is still found was not mended by its fix, and would be tried for ever.
        refused.extend(taken.iter().map(|step| step.identity.clone()));
        done.extend(taken.into_iter().map(|step| (step.file, step.what)));
    }
    write(&before, &objects.texts)?;
    for (file, what) in &done {
        remark(&format!("fixed {file}: {what}\n"));
    }
    Ok(findings)
}

/// The fixes of findings as splices of their files, each file read once; `None` for what has no fix,
/// stands in no file, or is not written in a way that can be edited.
fn splices_for(findings: &[&Finding], texts: &Texts) -> Vec<Option<Vec<Splice>>> {
    let mut found = vec![None; findings.len()];
    // By file: which finding, where its object starts, and the edits.
    type Wanted = (usize, (u32, u32), Vec<Edit>);
    let mut by_file: BTreeMap<&Arc<str>, Vec<Wanted>> = BTreeMap::new();
    for (index, finding) in findings.iter().enumerate() {
        if let (Some(fix), Some(object)) = (&finding.fix, &finding.at.object) {
            let edits = fix.changes.iter().map(edit).collect();
            let wanted = (index, (object.line, object.column), edits);
            by_file.entry(&object.file).or_default().push(wanted);
        }
    }
    for (file, wanted) in by_file {
        let Some(text) = texts.get(file) else { continue };
        let asked: Vec<_> = wanted.iter().map(|(_, at, edits)| (*at, &edits[..])).collect();
        for ((index, ..), splices) in wanted.iter().zip(splices_of(text, &asked)) {
            found[*index] = splices.into_iter().collect();
        }
    }
    found
}

/// Says what fixes make of the text, for formats that show it.
pub(super) fn spell_out(findings: &mut [Finding], texts: &Texts) {
    let fixes = splices_for(&findings.iter().collect::<Vec<_>>(), texts);
    let mut ends: BTreeMap<Arc<str>, Vec<(usize, Splice)>> = BTreeMap::new();
    for (index, splices) in fixes.into_iter().enumerate() {
        let file = findings[index].at.object.as_ref().map(|object| object.file.clone());
        let (Some(splices), Some(file)) = (splices, file) else { continue };
        ends.entry(file).or_default().extend(splices.into_iter().map(|splice| (index, splice)));
    }
    for (file, splices) in ends {
        let Some(text) = texts.get(&file) else { continue };
        let bytes: Vec<usize> =
            splices.iter().flat_map(|(_, splice)| [splice.range.start, splice.range.end]).collect();
        for ((index, splice), at) in splices.iter().zip(line_columns(text, &bytes).chunks(2)) {
            let [(line, column), end] = at else { continue };
            findings[*index].replacements.push(Replacement {
                start: Source::new(file.clone(), *line, *column),
                end: *end,
                text: splice.text.clone(),
            });
        }
    }
}

/// The fixes that are applied: those that are clear, in files.
fn steps(findings: &[&Finding], texts: &Texts) -> Vec<Step> {
    let sure = |finding: &&&Finding| {
        finding.fix.as_ref().is_some_and(|fix| fix.sure)
            && finding.at.object.as_ref().is_some_and(|object| &*object.file != "<stdin>")
    };
    let findings: Vec<&Finding> = findings.iter().filter(sure).copied().collect();
    let splices = splices_for(&findings, texts);
    let step = |(finding, splices): (&&Finding, Option<Vec<Splice>>)| {
        Some(Step {
            file: finding.at.object.as_ref()?.file.clone(),
            splices: splices?,
            identity: finding.identity(),
            what: format!("{}: {}", finding.rule.id, finding.fix.as_ref()?.what),
        })
    };
    findings.iter().zip(splices).filter_map(step).collect()
}

fn edit(change: &Change) -> Edit {
    match change {
        Change::Value(path, value) => Edit::Value(path.clone(), value.clone()),
        Change::Key(path, key) => Edit::Key(path.clone(), key.clone()),
        Change::Join(path) => Edit::Join(path.clone()),
        Change::Append(path, lines) => Edit::Append(path.clone(), lines.clone()),
        Change::Insert(path, line) => Edit::Insert(path.clone(), line.clone()),
        Change::Remove(path) => Edit::Remove(path.clone()),
    }
}

/// Tries fixes together. `None` if they touch the same text, if what comes out cannot be read, or
/// if anything is found that was not found before.
fn attempt(
    objects: &Objects,
    before: &[Finding],
    steps: &[&Step],
) -> Option<(Reading, Texts, Vec<Finding>)> {
    let mut texts = objects.texts.clone();
    let mut by_file: BTreeMap<&Arc<str>, Vec<Splice>> = BTreeMap::new();
    for step in steps {
        by_file.entry(&step.file).or_default().extend(step.splices.iter().cloned());
    }
    for (file, splices) in by_file {
        let text = apply(texts.get(file)?, &splices)?;
        texts.insert(file.clone(), text.into());
    }
    let inputs: Vec<Input> = texts
        .iter()
        .map(|(name, text)| Input::Found { name: name.to_string(), text: text.to_string() })
        .collect();
    let reading = read(&inputs, &for_answers());
    if reading.has_errors() || reading.objects.len() != objects.objects.len() {
        return None;
    }
    let mut now = found(&reading.cluster(), &reading.objects, objects.complete);
    let known: BTreeSet<String> = before.iter().map(Finding::identity).collect();
    let fixed: BTreeSet<&String> = steps.iter().map(|step| &step.identity).collect();
    let worse = now.iter().any(|finding| {
        let identity = finding.identity();
        fixed.contains(&identity)
            || (finding.severity > Severity::Note && !known.contains(&identity))
    });
    if worse {
        return None;
    }
    place(&mut now, &texts);
    Some((reading, texts, now))
}

fn accept(objects: &mut Objects, reading: Reading, texts: Texts) {
    objects.cluster = reading.cluster();
    objects.objects = reading.objects;
    objects.texts = texts;
}

/// Writes what has changed. Nothing is written if a file is no longer what was read.
fn write(before: &Texts, after: &Texts) -> Result<(), Failure> {
    let mut pending: Vec<(PathBuf, String)> = Vec::new();
    for (name, new) in after {
        let Some(old) = before.get(name).filter(|old| *old != new) else { continue };
        let cannot = |error: std::io::Error| Failure::new(format!("cannot mend {name}: {error}"));
        let path = fs::canonicalize(Path::new(&**name)).map_err(cannot)?;
        let there = fs::read_to_string(&path).map_err(cannot)?;
        let mark = if there.starts_with('\u{feff}') { "\u{feff}" } else { "" };
        if there.trim_start_matches('\u{feff}') != &**old {
            return Err(Failure::new(format!("{name} has changed while it was looked at"))
                .hint("nothing was written; run it again"));
        }
        pending.push((path, format!("{mark}{new}")));
    }
    for (path, text) in pending {
        replace(&path, &text)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(())
}

/// Replaces a file at once, with the permissions that it had.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let result = (|| {
        let mut file = fs::File::create_new(&beside)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::metadata(path)?.permissions())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if result.is_err() {
        // What could not take the file's place is of no use.
        let _ = fs::remove_file(&beside);
    }
    result
}
