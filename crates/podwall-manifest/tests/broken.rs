//! Every broken manifest has its message, word for word.
//!
//! `broken/NAME.yaml` (or `.json`, or a directory) is read, and the plain rendering of its findings,
//! followed by what was left out, is compared with `broken/NAME.stderr`. `UPDATE_EXPECT=1` rewrites
//! those files; look at each change before it is committed.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};

use podwall_manifest::{Input, Options, read, render_all};

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = fs::read_dir("tests/broken")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_none_or(|e| e != "stderr"))
        .collect();
    cases.sort();
    cases
}

fn expected_path(case: &Path) -> PathBuf {
    case.with_extension("stderr")
}

fn actual(case: &Path) -> (String, bool) {
    let reading = read(&[Input::Path(case.to_path_buf())], &Options::default());
    let mut text = render_all(&reading.diagnostics, false);
    for left_out in &reading.left_out {
        text.push_str(&format!("left out: {left_out}\n"));
    }
    (text, reading.has_errors())
}

#[test]
fn every_broken_manifest_has_its_message() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut wrong = Vec::new();
    for case in cases() {
        let (text, _) = actual(&case);
        let path = expected_path(&case);
        if update {
            fs::write(&path, &text).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if text != expected {
            wrong.push(format!("{}\n--- expected\n{expected}\n--- found\n{text}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn there_are_at_least_sixty_and_each_has_an_error_or_is_named_a_warning() {
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    for case in cases {
        let (text, errors) = actual(&case);
        let name = case.file_name().unwrap().to_string_lossy().to_string();
        assert!(!text.is_empty(), "{name} reads without a finding");
        assert_eq!(errors, !name.starts_with("warn-"), "{name}");
    }
}

#[test]
fn no_expectation_is_left_without_its_manifest() {
    let wanted: Vec<PathBuf> = cases().iter().map(|case| expected_path(case)).collect();
    for entry in fs::read_dir("tests/broken").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "stderr") {
            assert!(wanted.contains(&path), "{}", path.display());
        }
    }
}
