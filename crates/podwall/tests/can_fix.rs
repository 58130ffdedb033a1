//! Does the patch of `podwall can -o patch` do what was asked, in the user's own files?
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value as Json;

/// A copy of an example, as the user's own folder.
fn folder(example: &str) -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(example);
    let folder = tempfile::tempdir().unwrap();
    copy(&from, folder.path());
    folder
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn can(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_podwall"))
        .current_dir(folder)
        .args(["can", "-f", "."])
        .args(arguments)
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Applies a patch as a user does.
fn patch(folder: &Path, patch: &[u8]) {
    fs::write(folder.join("fix.patch"), patch).unwrap();
    let done =
        Command::new("git").args(["apply", "fix.patch"]).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    fs::remove_file(folder.join("fix.patch")).unwrap();
}

#[test]
fn a_patch_turns_the_answer_round_and_back() {
    let questions: [(&str, [&str; 3]); 8] = [
        ("three-tier", ["web-pod", "db-pod", "3306"]),
        ("three-tier", ["web-pod", "app-pod", "5000"]),
        ("three-tier", ["internet", "web-pod", "80"]),
        ("three-tier", ["internet", "db-pod", "3306"]),
        ("three-tier", ["203.0.113.9", "app-pod", "5000"]),
        ("three-tier", ["app-pod", "internet", "443"]),
        ("restrict-egress-prod", ["frontend", "prod/api", "80"]),
        ("restrict-egress-prod", ["frontend", "prod/api", "443"]),
    ];
    for (example, [src, dst, port]) in questions {
        let folder = folder(example);
        let ask = [src, dst, "--port", port];
        let mut verdict = code(&can(folder.path(), &ask));
        for _ in 0..2 {
            let out = can(folder.path(), &[&ask[..], &["-o", "patch"]].concat());
            assert_eq!(code(&out), verdict, "{ask:?}: {out:?}");
            patch(folder.path(), &out.stdout);
            let now = code(&can(folder.path(), &ask));
            assert_eq!([verdict, now].iter().sum::<i32>(), 1, "{example} {ask:?}");
            verdict = now;
        }
    }
}

/// Runs `podwall can -o patch` of a denied pair on files, named in some way.
fn patch_of(here: &Path, files: &str) -> Output {
    let out = Command::new(env!("CARGO_BIN_EXE_podwall"))
        .current_dir(here)
        .args(["can", "web-pod", "db-pod", "--port", "3306", "-o", "patch", "-f", files])
        .output()
        .unwrap();
    assert_eq!(code(&out), 1, "{out:?}");
    out
}

/// Feeds a patch to a program.
fn fed(patch: &[u8], here: &Path, line: &[&str]) {
    use std::io::Write as _;
    let mut child = Command::new(line[0])
        .args(&line[1..])
        .current_dir(here)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(patch).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{line:?} {done:?}: {}", String::from_utf8_lossy(patch));
}

/// An absolute path, one with `..` and one with a space made patches that nothing took.
#[test]
fn a_patch_is_taken_however_the_files_are_named() {
    for tool in ["git", "patch"] {
        for (case, files) in
            [("absolute", ""), ("above", "../k8s"), ("space", "k 8s"), ("plain", "./k8s")]
        {
            let from = folder("three-tier");
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().canonicalize().unwrap();
            let k8s = root.join(if case == "space" { files } else { "k8s" });
            fs::create_dir_all(root.join("sub")).unwrap();
            fs::create_dir(&k8s).unwrap();
            copy(from.path(), &k8s);
            let init = Command::new("git").args(["init", "-q"]).current_dir(&root).status();
            assert!(init.unwrap().success());
            let here = if case == "above" { root.join("sub") } else { root.clone() };
            let files = if case == "absolute" { k8s.to_str().unwrap() } else { files };
            let out = patch_of(&here, files);
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            let hint = format!("patch -p1 -d {}", root.display());
            assert_eq!(said.contains(&hint), case == "above", "{said}");
            let line: &[&str] =
                if tool == "git" { &["git", "apply", "-"] } else { &["patch", "-s", "-p1"] };
            fed(&out.stdout, &root, line);
            let now = Command::new(env!("CARGO_BIN_EXE_podwall"))
                .current_dir(&here)
                .args(["can", "web-pod", "db-pod", "--port", "3306", "-f", files])
                .output()
                .unwrap();
            assert_eq!(code(&now), 0, "{tool} {case}");
        }
    }
}

/// Files that are nowhere near are named from the root of the file system.
#[test]
fn a_patch_of_files_elsewhere_is_for_the_root() {
    let (files, here) = (folder("three-tier"), tempfile::tempdir().unwrap());
    let out = patch_of(here.path(), files.path().to_str().unwrap());
    assert!(String::from_utf8_lossy(&out.stderr).contains("patch -p1 -d /"), "{out:?}");
    fed(&out.stdout, here.path(), &["patch", "-s", "-p1", "-d", "/"]);
    assert_eq!(code(&can(files.path(), &["web-pod", "db-pod", "--port", "3306"])), 0);
}

/// A Service before two Deployments, each with a policy of its own in its own file.
fn blue_and_green() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write(
        "shop.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Pod\n\
         metadata: {name: web, namespace: shop, labels: {app: web}}\nspec: {containers: [{name: c, \
         image: c}]}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: ops, namespace: shop, labels: \
         {app: ops}}\nspec: {containers: [{name: c, image: c}]}\n---\napiVersion: v1\nkind: Service\n\
         metadata: {name: api, namespace: shop}\nspec: {selector: {app: api}, ports: [{name: a, port: 8080}, {name: b, port: 9090}]}\n",
    );
    for (color, rule) in [
        ("blue", "  - from:\n    - podSelector: {}  # all of shop\n    ports:\n    - port: 9090\n"),
        ("green", "  - ports:\n    - port: 9090\n"),
    ] {
        write(
            &format!("{color}.yaml"),
            &format!(
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {color}, namespace: shop}}\n\
                 spec:\n  selector: {{matchLabels: {{color: {color}}}}}\n  template:\n    metadata: \
                 {{labels: {{app: api, color: {color}}}}}\n    spec: {{containers: [{{name: c, image: \
                 c}}]}}\n---\n# of {color} alone\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                 metadata: {{name: {color}, namespace: shop}}\nspec:\n  podSelector:\n    matchLabels: \
                 {{color: {color}}}\n  policyTypes: [Ingress]\n  ingress:\n{rule}"
            ),
        );
    }
    folder
}

#[test]
fn a_patch_of_several_steps_changes_each_policy_that_has_to() {
    let folder = blue_and_green();
    let ask = ["shop/web", "shop/svc/api", "--port", "8080"];
    assert_eq!(code(&can(folder.path(), &ask)), 1);
    let out = can(folder.path(), &[&ask[..], &["-o", "patch"]].concat());
    let text = String::from_utf8(out.stdout.clone()).unwrap();
    let files: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("+++ b/")).collect();
    assert_eq!(files, ["blue.yaml", "green.yaml"], "{text}");
    assert_eq!(text.matches("\n+  - from:").count(), 2, "a rule in each: {text}");
    patch(folder.path(), &out.stdout);
    assert_eq!(code(&can(folder.path(), &ask)), 0);
    // Blue's rule names all of shop, green's names nobody: each is narrowed in its own way.
    let ask = ["shop/web", "shop/svc/api", "--port", "9090"];
    let ops = ["shop/ops", "shop/svc/api", "--port", "9090"];
    assert_eq!(code(&can(folder.path(), &ask)), 0);
    let out = can(folder.path(), &[&ask[..], &["-o", "patch"]].concat());
    let text = String::from_utf8(out.stdout.clone()).unwrap();
    assert!(text.contains("+++ b/blue.yaml") && text.contains("+++ b/green.yaml"), "{text}");
    patch(folder.path(), &out.stdout);
    assert_eq!(code(&can(folder.path(), &ask)), 1, "{text}");
    assert_eq!(code(&can(folder.path(), &ops)), 0, "{text}");
    assert!(text.contains("     - port: 9090\n+    from:"), "{text}");
}

#[test]
fn what_stands_in_no_file_that_can_be_edited_is_said_in_commands() {
    let folder = folder("three-tier");
    let policy = Path::new("policies/db-policy.yaml");
    fs::remove_file(folder.path().join(policy)).unwrap();
    let json = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "db-policy"},
        "spec": {"podSelector": {"matchLabels": {"app": "database"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "app-server"}}}]}]}}"#;
    fs::write(folder.path().join("policies/db.json"), json).unwrap();
    let ask = ["db-pod", "web-pod", "--port", "8080", "--fix", "-o", "json"];
    let out = can(folder.path(), &ask);
    let answer: Json = serde_json::from_slice(&out.stdout).unwrap();
    let fixes = answer["fix"]["fixes"].as_array().unwrap();
    assert!(fixes.iter().all(|fix| fix["changes"][0]["command"].is_string()), "{answer:#}");
    let into_json = ["203.0.113.9", "db-pod", "--port", "3306", "--fix", "-o", "json"];
    let answer: Json = serde_json::from_slice(&can(folder.path(), &into_json).stdout).unwrap();
    let fixes = answer["fix"]["fixes"].as_array().unwrap();
    let of_json = fixes.iter().find(|fix| fix["patch"].is_null()).unwrap();
    let command = of_json["changes"][0]["command"].as_str().unwrap();
    assert!(command.starts_with("kubectl patch networkpolicy db-policy -n default --type=json"));
}

#[test]
fn which_policy_matters_is_told_by_leaving_each_out() {
    let folder = folder("three-tier");
    let out = can(folder.path(), &["web-pod", "app-pod", "--port", "5000", "-o", "json"]);
    let answer: Json = serde_json::from_slice(&out.stdout).unwrap();
    let decides: Vec<(&str, &str, bool)> = answer["policies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|its| {
            let decides = its["decides"].as_bool().unwrap();
            (its["direction"].as_str().unwrap(), its["policy"].as_str().unwrap(), decides)
        })
        .collect();
    assert!(decides.contains(&("egress", "web-policy", true)), "{decides:?}");
    assert!(decides.contains(&("egress", "default-deny", false)), "{decides:?}");
    assert!(decides.contains(&("ingress", "app-policy", true)), "{decides:?}");
}
