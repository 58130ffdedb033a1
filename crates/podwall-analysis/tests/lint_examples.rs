//! Does each rule find its wrong example, leave its right one alone, and stand in the docs?
//!
//! ```text
//!   docs/lint/PW101/wrong.yaml ──▶ findings of PW101 and of nothing else   (`# also: PW206` apart)
//!                  /right.yaml ──▶ no finding of any rule
//!   docs/lint.md               ──▶ a section for each rule, with these very files
//! ```
//!
//! `PODWALL_DOCS=overwrite` writes the files into the page anew; read the difference.

#[path = "support/lint.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use podwall_analysis::lint::RULES;

use self::support::{findings, told};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

#[test]
fn wrong_examples_are_found_and_nothing_else_is() {
    let mut failures = String::new();
    for rule in &RULES {
        let path = docs().join("lint").join(rule.id).join("wrong.yaml");
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let also = text.lines().find_map(|line| line.strip_prefix("# also: ")).unwrap_or_default();
        let wanted: BTreeSet<&str> = also.split_whitespace().chain([rule.id]).collect();
        let findings = findings(&path);
        let found: BTreeSet<&str> = findings.iter().map(|finding| finding.rule.id).collect();
        if found != wanted {
            failures += &format!("{}: wanted {wanted:?}, found\n{}", rule.id, told(&findings));
        }
        for finding in &findings {
            assert!(!finding.proof.is_empty(), "{}: a claim without a proof", finding.identity());
            assert!(finding.help.is_some(), "{}: what next?", finding.identity());
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn right_examples_are_left_alone() {
    let mut failures = String::new();
    for rule in &RULES {
        let path = docs().join("lint").join(rule.id).join("right.yaml");
        let findings = findings(&path);
        if !findings.is_empty() {
            failures += &format!("{}: found\n{}", rule.id, told(&findings));
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn the_page_has_a_section_for_each_rule_with_its_examples() {
    let path = docs().join("lint.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut fresh = String::new();
    let mut lines = page.lines().peekable();
    let mut shown = BTreeSet::new();
    while let Some(line) = lines.next() {
        fresh += &format!("{line}\n");
        let Some(file) = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->")) else {
            continue;
        };
        let example = fs::read_to_string(docs().join(file)).unwrap();
        shown.insert(file.to_owned());
        let example: String = example
            .lines()
            .filter(|line| !line.starts_with("# also: "))
            .map(|line| format!("{line}\n"))
            .collect();
        fresh += &format!("```yaml\n{example}```\n");
        if lines.next_if(|line| *line == "```yaml").is_some() {
            while lines.next().is_some_and(|line| line != "```") {}
        }
    }
    if std::env::var_os("PODWALL_DOCS").is_some_and(|value| value == "overwrite") {
        fs::write(&path, &fresh).unwrap();
    } else {
        assert!(fresh == page, "docs/lint.md is not what PODWALL_DOCS=overwrite would write");
    }
    for rule in &RULES {
        let heading = format!("\n### {}\n\n**{}**, {}. ", rule.id, rule.name, rule.severity);
        assert!(page.contains(&heading), "docs/lint.md lacks {heading:?}");
        for example in ["wrong", "right"] {
            let file = format!("lint/{}/{example}.yaml", rule.id);
            assert!(shown.contains(&file), "docs/lint.md does not show {file}");
        }
    }
}
