//! What of the findings counts?
//!
//! ```text
//!   findings ──suppressions──▶ suppressed, each with its reason
//!            ──baseline──────▶ known already, counted
//!            ──rest──────────▶ what counts
//! ```

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::catalog::{Rule, rule};
use super::finding::Finding;
use crate::suggest::nearest;

/// The annotation of an object that says which findings about it may stay.
pub const ANNOTATION: &str = "podwall.dev/ignore";

/// Findings, sorted into those that count and those that do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What counts, by place.
    pub findings: Vec<Finding>,
    /// What somebody has given a reason for.
    pub suppressed: Vec<Suppressed>,
    /// How many a baseline has.
    pub known: usize,
}

/// A finding that may stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// The finding.
    pub finding: Finding,
    /// Why it may stay.
    pub reason: String,
    /// `annotation`, or the file that says so.
    pub by: String,
}

/// Says that findings may stay. What is not stated matches anything; `*` stands for any letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppression {
    /// Of which rules; empty for none.
    pub rules: Vec<&'static Rule>,
    /// `NetworkPolicy` or `Namespace`.
    pub kind: Option<String>,
    /// In which namespaces.
    pub namespace: Option<String>,
    /// About objects of which names.
    pub object: Option<String>,
    /// In which files.
    pub file: Option<String>,
    /// Why.
    pub reason: String,
    /// `annotation`, or the file that says so.
    pub by: String,
}

impl Suppression {
    /// Reads an object's annotation: a line for each reason, `PW101 reason` or `PW101,PW203: reason`.
    ///
    /// # Errors
    /// What is wrong with it, a sentence for each line that is.
    pub fn annotation(
        kind: &str,
        namespace: &str,
        object: &str,
        text: &str,
    ) -> (Vec<Self>, Vec<String>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (ids, reason) = line.split_once([' ', ':']).unwrap_or((line, ""));
            let reason = reason.trim_start_matches([':', '-', ' ']).trim();
            let place = format!("{ANNOTATION} of {kind} {namespace}/{object}");
            match rules(ids.split(',')) {
                Err(unknown) => bad.push(format!("{place}: {unknown}")),
                Ok(_) if reason.is_empty() => {
                    bad.push(format!("{place}: {ids} needs a reason: \"{ids} because …\""));
                }
                Ok(rules) => good.push(Self {
                    rules,
                    kind: Some(kind.to_owned()),
                    namespace: Some(namespace.to_owned()),
                    object: Some(object.to_owned()),
                    file: None,
                    reason: reason.to_owned(),
                    by: "annotation".to_owned(),
                }),
            }
        }
        (good, bad)
    }

    /// Reads a file of suppressions: `{ignore: [{rule, namespace, object, file, reason}]}`.
    ///
    /// # Errors
    /// What is wrong with it, a sentence for each item that is.
    pub fn file(name: &str, json: &Json) -> Result<Vec<Self>, Vec<String>> {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let empty = Vec::new();
        let items = match json.get("ignore") {
            Some(Json::Array(items)) => items,
            None if json.is_null() => &empty,
            _ => return Err(vec![format!("{name}: it must have a list `ignore`")]),
        };
        for (index, item) in items.iter().enumerate() {
            let place = format!("{name}: ignore[{index}]");
            const FIELDS: [&str; 5] = ["rule", "namespace", "object", "file", "reason"];
            let unknown = item.as_object().into_iter().flat_map(|map| map.keys());
            if let Some(unknown) = unknown.into_iter().find(|key| !FIELDS.contains(&key.as_str())) {
                let meant = nearest(unknown, FIELDS)
                    .map_or(String::new(), |near| format!(", did you mean `{near}`?"));
                bad.push(format!("{place}: unknown field `{unknown}`{meant}"));
                continue;
            }
            let text = |key: &str| item.get(key).and_then(Json::as_str).map(str::to_owned);
            let ids: Vec<&str> = match item.get("rule") {
                Some(Json::String(id)) => id.split(',').collect(),
                Some(Json::Array(ids)) => ids.iter().filter_map(Json::as_str).collect(),
                _ => Vec::new(),
            };
            let reason = text("reason").map(|reason| reason.trim().to_owned()).unwrap_or_default();
            match rules(ids.iter().copied()) {
                Err(unknown) => bad.push(format!("{place}: {unknown}")),
                Ok(rules) if rules.is_empty() => bad.push(format!("{place}: `rule` is missing")),
                Ok(_) if reason.is_empty() => bad.push(format!("{place}: `reason` is missing")),
                Ok(rules) => good.push(Self {
                    rules,
                    kind: None,
                    namespace: text("namespace"),
                    object: text("object"),
                    file: text("file"),
                    reason,
                    by: name.to_owned(),
                }),
            }
        }
        if bad.is_empty() { Ok(good) } else { Err(bad) }
    }

    fn holds_for(&self, finding: &Finding) -> bool {
        let at = &finding.at;
        let file = at.source.as_ref().map(|source| source.file.trim_start_matches("./"));
        let is = |pattern: &Option<String>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| glob(pattern, text))
        };
        self.rules.iter().any(|rule| rule.id == finding.rule.id)
            && self.kind.as_ref().is_none_or(|kind| kind == at.kind)
            && is(&self.namespace, &at.name.namespace)
            && is(&self.object, &at.name.name)
            && self.file.as_ref().is_none_or(|pattern| {
                file.is_some_and(|file| glob(pattern.trim_start_matches("./"), file))
            })
    }
}

fn rules<'i>(ids: impl Iterator<Item = &'i str>) -> Result<Vec<&'static Rule>, String> {
    ids.map(str::trim)
        .filter(|id| !id.is_empty())
        .map(|id| rule(id).ok_or_else(|| format!("there is no rule `{id}`")))
        .collect()
}

/// Whether a text matches a pattern in which `*` stands for any letters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Findings that were there when somebody began to look: identities, and how often each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline(pub BTreeMap<String, usize>);

impl Baseline {
    /// Reads a baseline: an identity a line; empty lines and such with `#` say nothing.
    pub fn parse(text: &str) -> Self {
        let mut known = BTreeMap::new();
        for line in text.lines().map(str::trim) {
            if !line.is_empty() && !line.starts_with('#') {
                *known.entry(line.to_owned()).or_default() += 1;
            }
        }
        Self(known)
    }

    /// The baseline of these findings.
    pub fn write(findings: &[Finding]) -> String {
        let mut lines: Vec<String> = findings.iter().map(Finding::identity).collect();
        lines.sort();
        let mut text = String::from(
            "# Findings that podwall lint --baseline passes over. Remove a line, and its finding counts.\n",
        );
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

impl Report {
    /// Sorts findings. Returns the lines of the baseline that are no longer found, too.
    pub fn new(
        findings: Vec<Finding>,
        suppressions: &[Suppression],
        baseline: &Baseline,
    ) -> (Self, Vec<String>) {
        let mut report = Self::default();
        let mut known = baseline.0.clone();
        for finding in findings {
            if let Some(by) = suppressions.iter().find(|s| s.holds_for(&finding)) {
                let (reason, by) = (by.reason.clone(), by.by.clone());
                report.suppressed.push(Suppressed { finding, reason, by });
            } else if let Some(left) = known.get_mut(&finding.identity()).filter(|n| **n > 0) {
                *left -= 1;
                report.known += 1;
            } else {
                report.findings.push(finding);
            }
        }
        let gone = known.into_iter().filter(|(_, left)| *left > 0).map(|(line, _)| line);
        (report, gone.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{At, RULES};
    use podwall_policy::object::Name;
    use podwall_policy::source::{FieldPath, Source};

    fn finding(id: &str, name: &str) -> Finding {
        let source = Some(Source::new("./shop/web.yaml", 3, 1));
        Finding {
            rule: rule(id).unwrap(),
            severity: RULES[0].severity,
            message: "m".into(),
            at: At {
                kind: "NetworkPolicy",
                name: Name::new("shop", name),
                field: FieldPath::default(),
                object: source.clone(),
                source,
            },
            snippet: None,
            proof: Vec::new(),
            help: None,
            fix: None,
            replacements: Vec::new(),
            about: "app=ngnix".into(),
        }
    }

    fn annotation(text: &str) -> (Vec<Suppression>, Vec<String>) {
        Suppression::annotation("NetworkPolicy", "shop", "web", text)
    }

    #[test]
    fn an_annotation_suppresses_its_own_object_with_a_reason() {
        let (good, bad) = annotation("PW101,allows-everything: pods come on Monday\n");
        assert!(bad.is_empty(), "{bad:?}");
        let findings =
            vec![finding("PW101", "web"), finding("PW203", "web"), finding("PW101", "db")];
        let (report, _) = Report::new(findings, &good, &Baseline::default());
        assert_eq!(report.findings, [finding("PW101", "db")]);
        let reasons: Vec<_> = report.suppressed.iter().map(|s| s.reason.as_str()).collect();
        assert_eq!(reasons, ["pods come on Monday", "pods come on Monday"]);
    }

    #[test]
    fn without_a_reason_or_with_an_unknown_rule_nothing_is_suppressed() {
        for text in ["PW101", "PW101:", "PW101 -", "PW999 because"] {
            let (good, bad) = annotation(text);
            assert_eq!((good.len(), bad.len()), (0, 1), "{text}: {bad:?}");
        }
    }

    #[test]
    fn a_file_suppresses_by_rule_namespace_object_and_file() {
        let file = |json: &str| Suppression::file("x.yaml", &serde_json::from_str(json).unwrap());
        let holds = |json: &str, finding: &Finding| file(json).unwrap()[0].holds_for(finding);
        let web = finding("PW101", "web");
        for (json, expected) in [
            (r#"{"ignore": [{"rule": "PW101", "reason": "r"}]}"#, true),
            (r#"{"ignore": [{"rule": ["PW203", "PW101"], "reason": "r"}]}"#, true),
            (r#"{"ignore": [{"rule": "PW203", "reason": "r"}]}"#, false),
            (r#"{"ignore": [{"rule": "PW101", "namespace": "sh*", "reason": "r"}]}"#, true),
            (r#"{"ignore": [{"rule": "PW101", "namespace": "other", "reason": "r"}]}"#, false),
            (r#"{"ignore": [{"rule": "PW101", "object": "we*b", "reason": "r"}]}"#, true),
            (r#"{"ignore": [{"rule": "PW101", "file": "shop/*", "reason": "r"}]}"#, true),
            (r#"{"ignore": [{"rule": "PW101", "file": "*/db.yaml", "reason": "r"}]}"#, false),
        ] {
            assert_eq!(holds(json, &web), expected, "{json}");
        }
        for json in [
            r#"{"ignore": [{"rule": "PW101"}]}"#,
            r#"{"ignore": [{"reason": "r"}]}"#,
            r#"{"ignore": [{"rule": "PW101", "reasons": "r"}]}"#,
            r#"{"ignored": []}"#,
        ] {
            assert_eq!(file(json).map_err(|bad| bad.len()), Err(1), "{json}");
        }
        assert_eq!(Suppression::file("x.yaml", &Json::Null), Ok(Vec::new()));
    }

    #[test]
    fn a_baseline_passes_over_as_many_as_it_has_and_tells_what_is_gone() {
        let text = Baseline::write(&[finding("PW101", "web"), finding("PW101", "old")]);
        let baseline = Baseline::parse(&text);
        let findings = vec![finding("PW101", "web"), finding("PW101", "web")];
        let (report, gone) = Report::new(findings, &[], &baseline);
        assert_eq!((report.known, report.findings.len()), (1, 1));
        assert_eq!(gone, ["PW101 NetworkPolicy shop/old app=ngnix"]);
    }
}
