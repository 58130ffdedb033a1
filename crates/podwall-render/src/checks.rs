//! How do machines that run tests hear what was checked?
//!
//! ```text
//!   Suite { name, Check … } ──▶ junit   <testsuite> of <testcase>, as CI systems show them
//!                           ──▶ tap     TAP version 14, a line each, why as YAML below
//! ```
//!
//! Assertions and lint findings are both checks: something at a place that is right, wrong, or could
//! not be told.

use std::fmt::Write as _;

/// Checks that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suite {
    /// What was checked: a file, mostly.
    pub name: String,
    /// The checks, in order.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked, in one line.
    pub name: String,
    /// What it is filed under: a namespace, an id; the suite's name where there is nothing better.
    pub class: String,
    /// The file and line that it stands at, if any.
    pub place: Option<(String, u32)>,
    /// What came of it.
    pub result: CheckResult,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// Right.
    Passed,
    /// Wrong: in one line, and why, in several.
    Failed {
        /// `failed`, or how bad it is.
        kind: &'static str,
        /// In one line.
        message: String,
        /// Why; plain text.
        detail: String,
    },
    /// It could not be told: `kind` says in a word why not.
    Error {
        /// `unknown`, `broken`.
        kind: &'static str,
        /// In one line.
        message: String,
        /// Why; plain text.
        detail: String,
    },
    /// It was not checked, on purpose.
    Skipped {
        /// Why not.
        message: String,
    },
}

/// JUnit XML, of the form that CI systems read (`testsuites`, `testsuite`, `testcase`).
pub fn junit(suites: &[Suite]) -> String {
    let all = suites.iter().flat_map(|suite| &suite.checks);
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"podwall\" {}>\n",
        counts(all)
    );
    for suite in suites {
        let name = xml(&suite.name);
        let counts = counts(&suite.checks);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  <testsuite name=\"{name}\" {counts}>");
        for check in &suite.checks {
            let _ = write!(
                out,
                "    <testcase classname=\"{}\" name=\"{}\"",
                xml(&check.class),
                xml(&check.name)
            );
            if let Some((file, line)) = &check.place {
                let _ = write!(out, " file=\"{}\" line=\"{line}\"", xml(file));
            }
            let (tag, kind, message, detail) = match &check.result {
                CheckResult::Passed => {
                    out.push_str("/>\n");
                    continue;
                }
                CheckResult::Skipped { message } => {
                    let message = xml(message);
                    let _ =
                        write!(out, ">\n      <skipped message=\"{message}\"/>\n    </testcase>\n");
                    continue;
                }
                CheckResult::Failed { kind, message, detail } => {
                    ("failure", *kind, message, detail)
                }
                CheckResult::Error { kind, message, detail } => ("error", *kind, message, detail),
            };
            let _ = write!(
                out,
                ">\n      <{tag} type=\"{kind}\" message=\"{}\">{}</{tag}>\n    </testcase>\n",
                xml(message),
                xml(detail)
            );
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn counts<'c>(checks: impl IntoIterator<Item = &'c Check>) -> String {
    let (mut all, mut failures, mut errors, mut skipped) = (0, 0, 0, 0);
    for check in checks {
        all += 1;
        match check.result {
            CheckResult::Passed => {}
            CheckResult::Failed { .. } => failures += 1,
            CheckResult::Error { .. } => errors += 1,
            CheckResult::Skipped { .. } => skipped += 1,
        }
    }
    format!("tests=\"{all}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\"")
}

/// A text as XML takes it: what XML 1.0 has no way to write becomes the replacement character.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                out.push(char::REPLACEMENT_CHARACTER);
            }
            c => out.push(c),
        }
    }
    out
}

/// TAP version 14 (testanything.org).
pub fn tap(suites: &[Suite]) -> String {
    let all: Vec<&Check> = suites.iter().flat_map(|suite| &suite.checks).collect();
    let mut out = format!("TAP version 14\n1..{}\n", all.len());
    for (number, check) in (1..).zip(all) {
        let name = tap_line(&check.name);
        let (status, directive) = match &check.result {
            CheckResult::Passed => ("ok", String::new()),
            CheckResult::Skipped { message } => ("ok", format!(" # SKIP {}", tap_line(message))),
            CheckResult::Failed { .. } | CheckResult::Error { .. } => ("not ok", String::new()),
        };
        let _ = writeln!(out, "{status} {number} - {name}{directive}");
        let (severity, message, detail) = match &check.result {
            CheckResult::Failed { message, detail, .. } => ("fail", message, detail),
            CheckResult::Error { kind, message, detail } => (*kind, message, detail),
            _ => continue,
        };
        let _ = writeln!(out, "  ---\n  severity: {severity}\n  message: {}", quoted(message));
        if let Some((file, line)) = &check.place {
            let _ = writeln!(out, "  at:\n    file: {}\n    line: {line}", quoted(file));
        }
        if !detail.is_empty() {
            // The first line may begin with spaces of its own.
            out.push_str("  detail: |2\n");
            for line in detail.lines() {
                let _ = writeln!(out, "    {}", visible(line));
            }
        }
        out.push_str("  ...\n");
    }
    out
}

/// One line in which nothing starts a directive.
fn tap_line(text: &str) -> String {
    visible(text).replace('\\', "\\\\").replace('#', "\\#")
}

fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A YAML string on one line; JSON's are such.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suites() -> Vec<Suite> {
        let check = |name: &str, result| Check {
            name: name.to_owned(),
            class: "shop".to_owned(),
            place: Some(("a&b.yaml".to_owned(), 7)),
            result,
        };
        let (message, detail) = ("<web> passes\u{1b}".to_owned(), "first\n# second".to_owned());
        vec![Suite {
            name: "t.yaml".to_owned(),
            checks: vec![
                check("one", CheckResult::Passed),
                check(
                    "two # not a directive",
                    CheckResult::Failed {
                        kind: "failed",
                        message: message.clone(),
                        detail: detail.clone(),
                    },
                ),
                check("three", CheckResult::Error { kind: "unknown", message, detail }),
                check("four", CheckResult::Skipped { message: "later".to_owned() }),
            ],
        }]
    }

    #[test]
    fn junit_counts_escapes_and_tells_failures_from_errors() {
        let text = junit(&suites());
        assert!(text.contains("tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"1\""), "{text}");
        assert!(text.contains("<failure type=\"failed\" message=\"&lt;web&gt; passes\u{fffd}\">first\n# second</failure>"), "{text}");
        assert!(text.contains("<error type=\"unknown\""), "{text}");
        assert!(text.contains("name=\"one\" file=\"a&amp;b.yaml\" line=\"7\"/>"), "{text}");
        assert!(text.contains("<skipped message=\"later\"/>"), "{text}");
        let open = text.matches("<testcase").count();
        let closed = text.matches("</testcase>").count() + text.matches("line=\"7\"/>").count();
        assert_eq!((open, closed), (4, 4), "{text}");
    }

    #[test]
    fn tap_has_a_plan_a_line_for_each_and_no_false_directive() {
        let text = tap(&suites());
        assert!(
            text.starts_with("TAP version 14\n1..4\nok 1 - one\nnot ok 2 - two \\# not"),
            "{text}"
        );
        assert!(text.contains("\nnot ok 3 - three\n  ---\n  severity: unknown\n"), "{text}");
        assert!(text.contains("  detail: |2\n    first\n    # second\n  ...\n"), "{text}");
        assert!(text.contains("\nok 4 - four # SKIP later\n"), "{text}");
        assert!(text.contains("message: \"<web> passes"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}
