//! Findings as SARIF 2.1.0 (OASIS standard), for code scanning.

use std::collections::BTreeMap;

use podwall_analysis::lint::{Finding, Fix, RULES, Replacement, Report};
use serde_json::{Value as Json, json};

use super::{docs, long_message, place};
use crate::json::NoJson;
use crate::sarif::{log, rule};

/// The whole log. Suppressed findings are in it, as the standard has it.
///
/// # Errors
/// Never; serde's types say that it could.
pub fn sarif(report: &Report, version: &str) -> Result<String, NoJson> {
    let rules: Vec<Json> = RULES
        .iter()
        .map(|its| rule(its.id, its.name, its.what, &docs(its), its.severity.as_str()))
        .collect();
    let open = report.findings.iter().map(result);
    let suppressed = report.suppressed.iter().map(|suppressed| {
        let kind = if suppressed.by == "annotation" { "inSource" } else { "external" };
        let mut result = result(&suppressed.finding);
        result["suppressions"] = json!([{ "kind": kind, "justification": suppressed.reason }]);
        result
    });
    log(version, &rules, &open.chain(suppressed).collect::<Vec<Json>>())
}

fn result(finding: &Finding) -> Json {
    let index = RULES.iter().position(|rule| rule.id == finding.rule.id);
    let mut location = json!({
        "logicalLocations": [{
            "fullyQualifiedName": format!("{} {}", finding.at.object_name(), finding.at.field).trim_end(),
            "kind": "object",
        }],
    });
    if let Some(source) = place(finding).filter(|source| source.line > 0) {
        let mut region = json!({ "startLine": source.line, "startColumn": source.column });
        if let Some(snippet) = &finding.snippet {
            region["endColumn"] = json!(source.column + snippet.length);
        }
        location["physicalLocation"] = json!({
            "artifactLocation": { "uri": uri(&source.file) },
            "region": region,
        });
    }
    let mut result = json!({
        "ruleId": finding.rule.id,
        "ruleIndex": index,
        "level": finding.severity.as_str(),
        "message": { "text": long_message(finding) },
        "locations": [location],
        "partialFingerprints": { "podwall/v1": finding.identity() },
    });
    if let Some(fix) = finding.fix.as_ref().filter(|_| !finding.replacements.is_empty()) {
        result["fixes"] = json!([self::fix(fix, &finding.replacements)]);
    }
    result
}

/// A proposed fix (§3.55): what is taken out and put in, file by file.
fn fix(fix: &Fix, replacements: &[Replacement]) -> Json {
    let mut by_file: BTreeMap<&str, Vec<Json>> = BTreeMap::new();
    for one in replacements {
        let (line, column) = one.end;
        by_file.entry(&one.start.file).or_default().push(json!({
            "deletedRegion": {
                "startLine": one.start.line,
                "startColumn": one.start.column,
                "endLine": line,
                "endColumn": column,
            },
            "insertedContent": { "text": one.text },
        }));
    }
    let changes: Vec<Json> = by_file
        .into_iter()
        .map(|(file, replacements)| {
            json!({ "artifactLocation": { "uri": uri(file) }, "replacements": replacements })
        })
        .collect();
    let text = match fix.sure {
        true => fix.what.clone(),
        false => format!("{}, if that is what was meant", fix.what),
    };
    json!({ "description": { "text": text }, "artifactChanges": changes })
}

/// A path as a URI reference (RFC 3986).
pub(crate) fn uri(path: &str) -> String {
    let path = path.strip_prefix("./").unwrap_or(path);
    let mut out = String::from(if path.starts_with('/') { "file://" } else { "" });
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_uri() {
        assert_eq!(uri("./my policies/a.yaml"), "my%20policies/a.yaml");
        assert_eq!(uri("/etc/a#b"), "file:///etc/a%23b");
    }
}
