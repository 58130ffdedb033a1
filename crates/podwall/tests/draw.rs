//! Does `podwall draw` write what it is asked for, where it is asked to?
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn draw(folder: &Path, arguments: &[&str]) -> Output {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    Command::new(env!("CARGO_BIN_EXE_podwall"))
        .current_dir(folder)
        .args(["draw", "-f"])
        .arg(data.join("three-tier"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn a_page_is_the_default_and_says_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let output = draw(folder.path(), &[]);
    assert!(output.status.success() && output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("podwall.html: 3 workloads in 1 namespace"), "{said}");
    let page = fs::read_to_string(folder.path().join("podwall.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("web-policy.yaml:21:7"));
    assert!(draw(folder.path(), &[]).status.success(), "our own page is written anew");
    fs::write(folder.path().join("podwall.html"), "mine").unwrap();
    assert_eq!(draw(folder.path(), &[]).status.code(), Some(2), "another's is not");
}

#[test]
fn formats_go_to_stdout_or_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for (format, begins) in
        [("svg", "<svg "), ("dot", "digraph "), ("mermaid", "flowchart "), ("html", "<!doctype")]
    {
        let output = draw(folder.path(), &["-o", format]);
        assert!(String::from_utf8(output.stdout).unwrap().starts_with(begins), "{format}");
    }
    assert!(draw(folder.path(), &["--out", "x.svg"]).status.success());
    assert!(fs::read_to_string(folder.path().join("x.svg")).unwrap().starts_with("<svg "));
    assert_eq!(draw(folder.path(), &["--out", "x.png"]).status.code(), Some(2));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_focus_leaves_out_what_has_nothing_to_do_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = draw(folder.path(), &["-o", "dot", "--focus", "app-pod"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("TCP 5000") && text.contains("TCP 3306") && !text.contains("TCP 80"));
    assert_eq!(draw(folder.path(), &["--focus", "nobody"]).status.code(), Some(2));
    assert_eq!(draw(folder.path(), &["--focus", "namespace/nobody"]).status.code(), Some(2));
}

#[test]
fn against_others_what_differs_is_marked() {
    let folder = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/three-tier");
    let pods = data.join("pods.yaml");
    let same = draw(folder.path(), &["-o", "svg", "--against", data.to_str().unwrap()]);
    let same = String::from_utf8(same.stdout).unwrap();
    assert!(same.contains("class=\"net same") && !same.contains("class=\"net added"));
    let changed = draw(folder.path(), &["-o", "svg", "--against", pods.to_str().unwrap()]);
    let changed = String::from_utf8(changed.stdout).unwrap();
    assert!(changed.contains("class=\"net removed") || changed.contains("class=\"net changed"));
}
