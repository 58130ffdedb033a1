//! Do the GitHub Action and the pre-commit hooks do in a user's repository what they say?
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value as Json;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

const PODS: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, labels: {app: db}}
spec: {containers: [{name: c, image: i}]}
";

const SHUT: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

/// `web` alone may reach `db`.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
";

const TEST: &str = "\
apiVersion: podwall/v1
kind: PolicyTest
assertions:
- only: {into: db, from: {peer: web, ports: 5432}}
";

/// A repository with one revision.
fn repository() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("k8s")).unwrap();
    fs::write(at("k8s/pods.yaml"), PODS).unwrap();
    fs::write(at("k8s/db.yaml"), POLICY).unwrap();
    fs::write(at("k8s/default-deny.yaml"), SHUT).unwrap();
    fs::write(at("shop.test.yaml"), TEST).unwrap();
    git(folder.path(), &["init", "--quiet", "-b", "main"]);
    git(folder.path(), &["add", "."]);
    git(folder.path(), &["commit", "--quiet", "-m", "all"]);
    folder
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .args(["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"])
        .args(["-c", "commit.gpgsign=false"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn open_to_all(folder: &Path) {
    let open = POLICY
        .replace("  - from: [{podSelector: {matchLabels: {app: web}}}]\n    ports", "  - ports");
    assert_ne!(open, POLICY);
    fs::write(folder.join("k8s/db.yaml"), open).unwrap();
}

/// Runs the action's script as a runner does: its code, what it annotates, the job's summary.
fn action(folder: &Path, inputs: &[(&str, &str)]) -> (i32, String, String) {
    let runner = tempfile::tempdir().unwrap();
    let (summary, outputs) = (runner.path().join("summary"), runner.path().join("outputs"));
    let output = Command::new(root().join("scripts/github-action"))
        .current_dir(folder)
        .env("PODWALL", env!("CARGO_BIN_EXE_podwall"))
        .env("PODWALL_PATHS", "k8s")
        .env("RUNNER_TEMP", runner.path())
        .env("GITHUB_STEP_SUMMARY", &summary)
        .env("GITHUB_OUTPUT", &outputs)
        .envs(inputs.iter().copied())
        .output()
        .unwrap();
    let told = fs::read_to_string(&outputs).unwrap();
    let file = told.trim().strip_prefix("summary=").unwrap();
    let text = fs::read_to_string(&summary).unwrap();
    assert_eq!(fs::read_to_string(file).unwrap(), text);
    let annotations = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), annotations, text)
}

#[test]
fn the_action_tells_a_pull_request_what_it_opens() {
    let repository = repository();
    let base = git(repository.path(), &["rev-parse", "HEAD"]);
    let inputs = [("PODWALL_BASE", &*base), ("PODWALL_TESTS", "shop.test.yaml")];
    let (code, annotations, summary) = action(repository.path(), &inputs);
    assert_eq!(code, 0, "{annotations}{summary}");
    assert!(
        summary.contains("all 1 assertions hold") || summary.contains("assertion"),
        "{summary}"
    );

    open_to_all(repository.path());
    let (code, annotations, summary) = action(repository.path(), &inputs);
    assert_eq!(code, 1, "an assertion no longer holds: {annotations}");
    assert!(annotations.contains("::error file=shop.test.yaml"), "{annotations}");
    assert!(summary.contains("5432"), "{summary}");

    // Without assertions a difference is told, and fails the job if that was asked for.
    let (code, _, summary) = action(repository.path(), &inputs[..1]);
    assert_eq!(code, 0);
    assert!(summary.contains("5432"), "{summary}");
    let failing = [inputs[0], ("PODWALL_FAIL_ON_DIFF", "true")];
    assert_eq!(action(repository.path(), &failing).0, 1);
    let (code, _, summary) = action(repository.path(), &[inputs[0], ("PODWALL_DIFF", "false")]);
    assert_eq!((code, &*summary), (0, ""));
}

#[test]
fn the_action_annotates_findings_and_writes_sarif() {
    let repository = repository();
    let typo = POLICY
        .replace("podSelector: {matchLabels: {app: db}}", "podSelector: {matchLabels: {app: bd}}");
    fs::write(repository.path().join("k8s/db.yaml"), typo).unwrap();
    let (code, annotations, _) = action(repository.path(), &[("PODWALL_SARIF", "out.sarif")]);
    assert_eq!(code, 1);
    assert!(annotations.contains("file=k8s/db.yaml,line=5"), "{annotations}");
    let sarif = fs::read_to_string(repository.path().join("out.sarif")).unwrap();
    let sarif: Json = serde_json::from_str(&sarif).unwrap();
    assert_eq!(sarif["runs"][0]["results"][0]["ruleId"], "PW101");
    let (code, annotations, _) = action(repository.path(), &[("PODWALL_LINT", "false")]);
    assert_eq!((code, &*annotations), (0, ""));
}

#[test]
fn what_cannot_be_answered_fails_the_action_with_two() {
    let repository = repository();
    assert_eq!(action(repository.path(), &[("PODWALL_BASE", "nothing-of-that-name")]).0, 2);
    assert_eq!(action(repository.path(), &[("PODWALL_PATHS", "nowhere")]).0, 2);
}

/// Every input reaches the script, and the script asks for no other.
#[test]
fn the_actions_inputs_are_those_of_its_script() {
    let action = fs::read_to_string(root().join("action.yml")).unwrap();
    let action = podwall_manifest::document("action.yml", &action).unwrap();
    let script = fs::read_to_string(root().join("scripts/github-action")).unwrap();
    let steps = action["runs"]["steps"].as_array().unwrap();
    let env = steps[1]["env"].as_object().unwrap();
    let inputs = action["inputs"].as_object().unwrap();
    assert_eq!(env.len(), inputs.len() + 1, "PODWALL is the program");
    for input in inputs.keys() {
        let variable = format!("PODWALL_{}", input.to_ascii_uppercase().replace('-', "_"));
        assert_eq!(env[&variable], format!("${{{{ inputs.{input} }}}}"));
        assert!(script.contains(&format!("${{{variable}:-")), "{variable}");
    }
}

fn hook(folder: &Path, id: &str) -> Output {
    let hooks = fs::read_to_string(root().join(".pre-commit-hooks.yaml")).unwrap();
    let hooks = podwall_manifest::document("hooks", &hooks).unwrap();
    let hook = hooks.as_array().unwrap().iter().find(|hook| hook["id"] == id).unwrap();
    let mut words = hook["entry"].as_str().unwrap().split(' ');
    // As pre-commit runs a script: from the hook's repository, in the user's.
    Command::new(root().join(words.next().unwrap()))
        .args(words)
        .args(["-f", "k8s"].iter().filter(|_| id == "podwall-lint"))
        .args(["shop.test.yaml", "-f", "k8s"].iter().filter(|_| id == "podwall-test"))
        .env("PODWALL", env!("CARGO_BIN_EXE_podwall"))
        .current_dir(folder)
        .output()
        .unwrap()
}

#[test]
fn the_hooks_stop_a_commit_that_is_wrong() {
    let repository = repository();
    for id in ["podwall-lint", "podwall-test"] {
        let output = hook(repository.path(), id);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    open_to_all(repository.path());
    assert_eq!(hook(repository.path(), "podwall-test").status.code(), Some(1));
    fs::write(repository.path().join("k8s/db.yaml"), POLICY.replace("app: db", "app: bd")).unwrap();
    assert_eq!(hook(repository.path(), "podwall-lint").status.code(), Some(1));
}
