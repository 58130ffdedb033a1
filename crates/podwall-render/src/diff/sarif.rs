//! A difference as SARIF 2.1.0 (OASIS standard), for code scanning.
//!
//! ```text
//!   opened   on the rule that allows it now, else on the policy that isolated before
//!   closed   on the policy that isolates or the rule that denies now, else on the rule before
//! ```
//!
//! Marks stand in files of the second side where they can: those are what a pull request shows.

use std::collections::BTreeMap;

use podwall_analysis::difference::{Exposure, Kind, Why};
use podwall_policy::source::Source;
use serde_json::{Value as Json, json};

use super::{Group, Told, missing, parts, ports, reasons};
use crate::json::NoJson;
use crate::lint::sarif::uri;
use crate::sarif::{log, rule as rule_of};
use crate::words::some;

/// Identity, name, level, what it says.
const RULES: [(&str, &str, &str, &str); 6] = [
    ("PD101", "exposed-outside", "warning", "Addresses outside can newly reach pods."),
    ("PD102", "exposed-to-namespace", "warning", "Pods of another namespace can newly reach pods."),
    ("PD103", "opened-to-outside", "warning", "Pods can newly reach addresses outside."),
    ("PD104", "opened", "note", "Pods of the same namespace can newly reach pods."),
    ("PD105", "closed", "note", "Something passed and does no longer."),
    ("PD106", "unknown", "note", "It depends on missing facts whether anything differs."),
];

/// Where the marks are described.
const PAGE: &str = "https://github.com/podwall/podwall/blob/main/docs/diff.md#sarif";

/// The whole log.
///
/// # Errors
/// Never; serde's types say that it could.
pub fn sarif(told: &Told<'_, '_>, version: &str) -> Result<String, NoJson> {
    let rules: Vec<Json> =
        RULES.iter().map(|(id, name, level, what)| rule_of(id, name, what, PAGE, level)).collect();
    let groups: Vec<Group<'_>> =
        parts(told.difference).into_iter().flat_map(|part| part.groups).collect();
    let mut seen = BTreeMap::new();
    let results: Vec<Json> = groups.iter().map(|group| result(told, group, &mut seen)).collect();
    log(version, &rules, &results)
}

/// The index of the rule.
fn rule(group: &Group<'_>) -> usize {
    let shift = &group.change.shift.all;
    match (group.change.kind, group.change.exposure) {
        (Kind::Unknown, _) => 5,
        (_, Some(exposure)) if !shift.opened.is_empty() => match exposure {
            Exposure::FromOutside => 0,
            Exposure::FromOtherNamespace => 1,
            Exposure::ToOutside => 2,
            Exposure::SameNamespace => 3,
        },
        _ => 4,
    }
}

fn result(told: &Told<'_, '_>, group: &Group<'_>, seen: &mut BTreeMap<String, usize>) -> Json {
    let rows = &told.difference.rows;
    let names = |list: &[usize]| {
        let names: Vec<String> = list.iter().map(|row| rows[*row].label()).collect();
        some(&names, 6)
    };
    let index = rule(group);
    let (id, ..) = RULES[index];
    let (src, dst) = (names(&group.src), names(&group.dst));
    let what = ports(group.change.kind, &group.change.shift.all);
    let mut lines = vec![format!("{src} -> {dst}: {what}")];
    lines.extend(reasons(&group.why).into_iter().map(|(words, source)| match source {
        Some(source) => format!("{words} ({source})"),
        None => words,
    }));
    lines.extend(missing(&group.why).into_iter().map(|fact| format!("depends on {fact}")));
    let mut found = json!({
        "ruleId": id,
        "ruleIndex": index,
        "level": RULES[index].2,
        "message": { "text": lines.join("\n") },
    });
    let mut location = json!({
        "logicalLocations": [{ "fullyQualifiedName": format!("{src} -> {dst}"), "kind": "object" }],
    });
    if let Some(source) = place(&group.why) {
        location["physicalLocation"] = json!({
            "artifactLocation": { "uri": uri(&source.file) },
            "region": { "startLine": source.line, "startColumn": source.column },
        });
    }
    found["locations"] = json!([location]);
    // The same for the same connections, wherever lines move to.
    let identity = format!("{id} {src} -> {dst}: {what}");
    let times = seen.entry(identity.clone()).or_default();
    *times += 1;
    found["partialFingerprints"] = json!({ "podwall/diff/v1": format!("{identity} #{times}") });
    found
}

/// The first place in a file that says it.
fn place(why: &Why) -> Option<&Source> {
    let rules = why.allowed_by.iter().filter_map(|rule| rule.source.as_ref());
    let rules = rules.chain(why.denied_by.iter().filter_map(|rule| rule.source.as_ref()));
    let isolations = why.isolated_by.iter().filter_map(|its| its.source.as_ref());
    let before = why.released_from.iter().filter_map(|its| its.source.as_ref());
    let denied = why.denied_before.iter().filter_map(|rule| rule.source.as_ref());
    let allowed = why.allowed_before.iter().filter_map(|rule| rule.source.as_ref());
    let all = rules.chain(isolations).chain(before).chain(denied).chain(allowed);
    all.into_iter().find(|source| source.line > 0)
}
