//! `podwall test`: exit codes, formats, first files, and what is wrong with a file.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod support;

use serde_json::Value;
use support::podwall;

const SHOP: &str = "tests/data/three-tier";

/// Asks assertions, given as lines of the list, of the three tiers.
fn ask(claims: &[&str], more: &[&str]) -> support::Ran {
    let lines: String = claims.iter().map(|claim| format!("- {claim}\n")).collect();
    let text = format!("assertions:\n{lines}");
    podwall(&[&["test", "-", "-f", SHOP], more].concat(), Some(&text))
}

const HOLDS: &str = "allow: {from: web-pod, to: app-pod, ports: 5000}";
const FAILS: &str = "deny: {from: web-pod, to: app-pod, ports: 5000}";
const BROKEN: &str = "deny: {from: web-pdo, to: app-pod}";
/// No manifest states the labels of the namespace.
const UNKNOWN: &str = "deny: {from: {namespaces: team=a}, to: db-pod}";

#[test]
fn the_exit_code_says_the_worst_and_bad_input_goes_before_all() {
    for (claims, code) in [
        (&[HOLDS][..], 0),
        (&[HOLDS, FAILS], 1),
        (&[HOLDS, UNKNOWN], 3),
        (&[UNKNOWN, FAILS], 1),
        (&[UNKNOWN, FAILS, BROKEN, HOLDS], 2),
    ] {
        let ran = ask(claims, &[]);
        assert_eq!(ran.code, Some(code), "{ran}");
    }
}

#[test]
fn every_format_says_the_same() {
    let claims = [HOLDS, FAILS, UNKNOWN, BROKEN];
    let answer: Value = ask(&claims, &["-o", "json"]).json(&[2]);
    for (key, number) in [("total", 4), ("holds", 1), ("fails", 1), ("unknown", 1), ("broken", 1)] {
        assert_eq!(answer[key], number, "{key} in {answer}");
    }
    assert_eq!(answer["status"], "fails");
    let failed = &answer["assertions"][1];
    assert_eq!(failed["source"], "<stdin>:3:3");
    let pair = &failed["findings"][0]["pair"];
    assert_eq!(pair["src"], "default/web-pod");
    assert_eq!(pair["ingress"]["allowedBy"][0]["policy"], "app-policy");
    let unknown = &answer["assertions"][2]["findings"][0];
    assert!(!unknown["missing"].as_array().unwrap().is_empty(), "{unknown}");
    assert!(answer["assertions"][3]["findings"][0]["why"][0].as_str().unwrap().contains("web-pod"));

    let xml = ask(&claims, &["-o", "junit"]).out;
    assert!(xml.contains("tests=\"4\" failures=\"1\" errors=\"2\" skipped=\"0\""), "{xml}");
    assert!(xml.contains("file=\"&lt;stdin&gt;\" line=\"3\""), "{xml}");
    let tap = ask(&claims, &["-o", "tap"]).out;
    assert!(tap.starts_with("TAP version 14\n1..4\nok 1 - "), "{tap}");
    assert_eq!(tap.matches("\nnot ok ").count(), 3, "{tap}");
    let text = ask(&claims, &[]).out;
    for part in [
        "1 holds, 1 fails, 1 is unknown, 1 cannot be asked",
        "default/web-pod reaches default/app-pod on TCP 5000",
        "allowed by rule 1 of app-policy",
        "(tests/data/three-tier/app-policy.yaml:14:7)",
        "did you mean web-pod?",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn a_first_file_holds_is_not_written_over_and_notices_every_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("first.yaml");
    let path = path.to_str().unwrap();
    podwall(&["test", "--write", path, "-f", SHOP], None).ok();
    let ran = podwall(&["test", path, "-f", SHOP], None);
    assert_eq!(ran.code, Some(0), "{ran}");
    let again = podwall(&["test", "--write", path, "-f", SHOP], None);
    assert_eq!(again.code, Some(2), "{again}");
    assert!(again.err.contains("not written over"), "{again}");
    // The same to stdout, from where it can be asked at once.
    let text = podwall(&["test", "--write", "-f", SHOP], None).ok();
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
    let answer: Value =
        podwall(&["test", path, "--mutate", "-f", SHOP, "-o", "json"], None).json(&[0, 1]);
    assert!(answer["changes"].as_u64().unwrap() > 10, "{answer}");
    for mutant in answer["mutants"].as_array().unwrap() {
        let opened = !mutant["difference"]["opened"]["ports"].as_array().unwrap().is_empty();
        assert!(mutant["noticed"] == true || !opened, "{mutant}");
    }
}

#[test]
fn a_change_that_nobody_notices_is_a_failure() {
    let ran = ask(&[HOLDS], &["--mutate"]);
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(ran.out.contains("Nobody would notice"), "{ran}");
    assert!(
        ran.out.contains("default/db-policy: deleted (tests/data/three-tier/db-policy.yaml:1:1)"),
        "{ran}"
    );
    let ran = ask(&[FAILS], &["--mutate"]);
    assert_eq!(ran.code, Some(2), "what fails already notices nothing: {ran}");
}

#[test]
fn what_is_wrong_with_the_file_is_shown_with_its_line() {
    let ran = podwall(&["test", "-", "-f", SHOP], Some("assertions:\n- alow: {from: a, to: b}\n"));
    assert_eq!(ran.code, Some(2), "{ran}");
    assert!(ran.err.contains("<stdin>:2:3"), "{ran}");
    assert!(ran.err.contains("did you mean `allow`?"), "{ran}");
    let ran = podwall(&["test", "nowhere.yaml", "-f", SHOP], None);
    assert_eq!(ran.code, Some(2), "{ran}");
    assert!(ran.err.contains("nowhere.yaml"), "{ran}");
    let ran = podwall(&["test", "-", "-f", "-"], Some(""));
    assert_eq!(ran.code, Some(2), "{ran}");
}

/// A file of assertions may lie among the manifests that it is about.
#[test]
fn the_reader_of_manifests_passes_a_file_of_assertions_over() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("apiVersion: podwall/v1\nkind: PolicyTest\nassertions:\n- {HOLDS}\n");
    std::fs::write(dir.path().join("tiers.yaml"), text).unwrap();
    let here = dir.path().to_str().unwrap();
    let file = format!("{here}/tiers.yaml");
    let ran = podwall(&["test", &file, "-f", here, "-f", SHOP], None);
    assert_eq!(ran.code, Some(0), "{ran}");
}
