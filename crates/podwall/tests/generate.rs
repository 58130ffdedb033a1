//! Does `podwall generate` reach its users: formats, files, exit codes, the page about it?
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value as Json;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn podwall(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_podwall"))
        .args(arguments)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const PODS: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, spec: {containers: [{name: c, image: i}]}}
";

/// A folder with two pods and a file of flows.
fn folder(flows: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pods.yaml"), PODS).unwrap();
    fs::write(folder.path().join("flows"), flows).unwrap();
    folder
}

const FLOWS: &str = "src,dst,protocol,port\nshop/web,shop/db,TCP,3306\n";

#[test]
fn what_is_written_lets_the_flow_pass_and_nothing_else() {
    let folder = folder(FLOWS);
    let made = podwall(folder.path(), &["generate", "flows", "-f", "pods.yaml", "--out", "made"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    assert!(made.stdout.is_empty());
    let can = |src: &str, dst: &str, port: &str| {
        let asked = ["can", src, dst, "--port", port, "-f", "pods.yaml", "-f", "made"];
        podwall(folder.path(), &asked).status.code().unwrap()
    };
    assert_eq!(can("shop/web", "shop/db", "3306"), 0);
    assert_eq!(can("shop/web", "shop/db", "3307"), 1);
    assert_eq!(can("shop/db", "shop/web", "3306"), 1);
    assert_eq!(can("internet", "shop/db", "3306"), 1);
    // Not a second time, but if asked.
    let again = ["generate", "flows", "-f", "pods.yaml", "--out", "made"];
    let refused = podwall(folder.path(), &again);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("--force"), "{}", text(&refused.stderr));
    let forced = podwall(folder.path(), &[&again[..], &["--force"]].concat());
    assert_eq!(forced.status.code(), Some(0));
    let files: Vec<String> = fs::read_dir(folder.path().join("made/shop"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files.len(), 3, "{files:?}");
}

#[test]
fn exit_codes_tell_findings_from_bad_input() {
    let code = |flows: &str, more: &[&str]| {
        let folder = folder(flows);
        let arguments = [&["generate", "flows", "-f", "pods.yaml"][..], more].concat();
        podwall(folder.path(), &arguments).status.code().unwrap()
    };
    assert_eq!(code(FLOWS, &[]), 0);
    assert_eq!(code(&format!("{FLOWS}shop/gone,shop/db,TCP,1\n"), &[]), 1);
    assert_eq!(code(&format!("{FLOWS}shop/web,shop/db,TCP,x\n"), &[]), 2);
    assert_eq!(code(&format!("{FLOWS}shop/web,shop/db,TCP,x\n"), &["--keep-going"]), 0);
    assert_eq!(code("src,dst,protocol,port\n", &[]), 2);
    assert_eq!(code("", &[]), 2);
    assert_eq!(code(FLOWS, &["--in", "nowhere"]), 2);
    assert_eq!(code(FLOWS, &["--from-matrix"]), 2, "flows or a rewrite, not both");
}

#[test]
fn denied_packets_are_wanted_only_if_one_says_so() {
    let line = r#"{"time":1700000000000000,"node":"n1","verdict":"denied","direction":"ingress","src":"shop/web","dst":"shop/db","srcAddress":"10.0.0.1","dstAddress":"10.0.0.2","protocol":"TCP","srcPort":40000,"port":3306,"isolatedBy":[],"reason":"because"}"#;
    let folder = folder(&format!("{line}\n"));
    let without = podwall(folder.path(), &["generate", "flows", "-f", "pods.yaml"]);
    assert_eq!(without.status.code(), Some(2));
    assert!(text(&without.stderr).contains("--include-denied"), "{}", text(&without.stderr));
    let with = ["generate", "flows", "-f", "pods.yaml", "--include-denied", "-o", "json"];
    let with = podwall(folder.path(), &with);
    let json: Json = serde_json::from_slice(&with.stdout).unwrap();
    assert_eq!(json["flows"][0]["src"], "shop/web");
    assert_eq!(json["flows"][0]["ports"][0]["from"], 3306);
    assert_eq!(json["observed"]["first"], "2023-11-14 22:13:20");
    assert_eq!(json["policies"][0]["metadata"]["name"], "default-deny");
    assert_eq!(json["verdict"], "allowed");
}

#[test]
fn a_matrix_comes_back_as_policies_with_the_same_matrix() {
    let app = root().join("examples/three-tier/app").display().to_string();
    let policies = root().join("examples/three-tier/policies").display().to_string();
    let matrix = |objects: &[&str]| {
        let mut arguments = vec!["matrix", "-o", "csv"];
        arguments.extend(objects.iter().flat_map(|path| ["-f", path]));
        text(&podwall(&root(), &arguments).stdout)
    };
    let before = matrix(&[&app, &policies]);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("flows.csv"), &before).unwrap();
    let made = folder.path().join("made").display().to_string();
    let output = podwall(
        folder.path(),
        &["generate", "flows.csv", "-f", &app, "--dns", "seen", "--out", &made],
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(matrix(&[&app, &made]), before);
}

#[test]
fn a_set_is_written_anew_with_what_its_author_said() {
    let folder = tempfile::tempdir().unwrap();
    let policy = |name: &str, subject: &str, more: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop, \
             annotations: {{owner: team-{name}}}}}\nspec:\n  podSelector: {subject}\n  policyTypes: [Ingress]\n{more}---\n"
        )
    };
    let rule = "  ingress:\n  - from: [{podSelector: {matchLabels: {app: web}}}]\n    ports: [{port: 80}]\n";
    let both = policy("all", "{}", rule) + &policy("one", "{matchLabels: {app: db}}", rule);
    fs::write(folder.path().join("policies.yaml"), both).unwrap();
    let made = podwall(folder.path(), &["generate", "--from-matrix", "-f", "policies.yaml"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let (yaml, said) = (text(&made.stdout), text(&made.stderr));
    assert!(yaml.contains("owner: team-all") && !yaml.contains("team-one"), "{yaml}");
    assert!(
        said.starts_with("2 policies, 2 rules, 2 peers, 2 ports -> 1 policy, 1 rule"),
        "{said}"
    );
    assert!(said.contains("shop/one: the policy: all"), "{said}");
    let json = ["generate", "--from-matrix", "-f", "policies.yaml", "-o", "json"];
    let json: Json = serde_json::from_slice(&podwall(folder.path(), &json).stdout).unwrap();
    assert_eq!(json["removed"][0]["policy"], "one");
    assert_eq!(json["after"]["policies"], 1);
    for answer in ["generate", "generate-from-matrix"] {
        let schema = podwall(folder.path(), &["schema", answer]).stdout;
        let schema: Json = serde_json::from_slice(&schema).unwrap();
        assert!(schema["properties"]["policies"].is_object(), "{answer}");
    }
}

/// As in `test_docs.rs`: with `PODWALL_BLESS=1` the page is written anew.
#[test]
fn every_example_of_the_page_is_true() {
    let path = root().join("docs/generate.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut fresh = String::new();
    let mut blocks = page.split("```");
    fresh.push_str(blocks.next().unwrap());
    let mut checked = 0;
    while let (Some(block), Some(rest)) = (blocks.next(), blocks.next()) {
        let (info, body) = block.split_once('\n').unwrap();
        let body = if let Some(file) = info.strip_prefix("csv file=") {
            checked += 1;
            fs::read_to_string(root().join(file)).unwrap()
        } else if info == "console" {
            let commands: Vec<&str> = body.lines().filter(|line| line.starts_with("$ ")).collect();
            let run = |line: &&str| {
                let arguments: Vec<&str> = line.split_whitespace().skip(2).collect();
                let output = podwall(&root(), &arguments);
                let code = match output.status.code().unwrap() {
                    0 => String::new(),
                    code => format!("? {code}\n"),
                };
                format!("{line}\n{code}{}{}", text(&output.stdout), text(&output.stderr))
            };
            checked += commands.len();
            commands.iter().map(run).collect::<Vec<_>>().join("\n")
        } else {
            body.to_owned()
        };
        fresh.push_str(&format!("```{info}\n{body}```{rest}"));
    }
    assert!(checked >= 3, "{checked}");
    if std::env::var_os("PODWALL_BLESS").is_some() {
        fs::write(&path, fresh).unwrap();
        return;
    }
    assert_eq!(fresh, page, "docs/generate.md shows something else than happens");
}
