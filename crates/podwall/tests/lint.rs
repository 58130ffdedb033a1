//! Does `podwall lint` reach its users: formats, exit codes, suppressions, baseline, fixes?
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value as Json;

fn example(id: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lint").join(id).join("wrong.yaml")
}

/// A folder with the wrong example of a rule, as the user's own.
fn folder(id: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(example(id), folder.path().join("policy.yaml")).unwrap();
    folder
}

fn lint(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_podwall"))
        .current_dir(folder)
        .args(["lint", "-f", "policy.yaml"])
        .args(arguments)
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn json(output: &Output) -> Json {
    let read = serde_json::from_slice(&output.stdout);
    assert!(read.is_ok(), "{read:?}: {output:?}");
    read.unwrap()
}

fn ids(output: &Output) -> Vec<String> {
    let findings = json(output);
    let findings = findings["findings"].as_array().unwrap();
    findings.iter().map(|f| f["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn exit_codes_are_zero_one_and_two() {
    let folder = folder("PW101");
    assert_eq!(code(&lint(folder.path(), &[])), 1);
    assert_eq!(code(&lint(folder.path(), &["--level", "error"])), 0);
    assert_eq!(code(&lint(folder.path(), &["-f", "nowhere.yaml"])), 2);
    assert_eq!(code(&lint(folder.path(), &["--config", "nowhere.yaml"])), 2);
}

#[test]
fn sarif_is_valid_in_what_scanners_read_of_it() {
    let folder = folder("PW101");
    let log = json(&lint(folder.path(), &["-o", "sarif"]));
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    let result = &run["results"][0];
    assert_eq!(result["ruleId"], "PW101");
    let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
    assert_eq!(run["tool"]["driver"]["rules"][index]["id"], "PW101");
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "policy.yaml");
    let text = fs::read_to_string(folder.path().join("policy.yaml")).unwrap();
    let line = text.lines().position(|line| line.contains("ngnix")).unwrap() + 1;
    assert_eq!(place["region"]["startLine"].as_u64().unwrap(), line as u64);
    assert_eq!(place["region"]["startColumn"], 7);
    assert_eq!(place["region"]["endColumn"], 17);
}

#[test]
fn workflow_commands_and_junit_say_the_same() {
    let folder = folder("PW101");
    let github = out(&lint(folder.path(), &["-o", "github"]));
    assert!(github.starts_with("::warning file=policy.yaml,line="), "{github}");
    assert!(github.contains("title=PW101 subject-matches-nothing::"), "{github}");
    assert_eq!(github.lines().count(), 1);
    let junit = out(&lint(folder.path(), &["-o", "junit"]));
    assert!(junit.contains("failures=\"1\""), "{junit}");
    assert!(junit.contains("<failure type=\"warning\""), "{junit}");
}

#[test]
fn an_annotation_with_a_reason_suppresses_and_one_without_does_not() {
    let folder = folder("PW101");
    let file = folder.path().join("policy.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let with = |ignore: &str| {
        let metadata = format!(
            "{{name: web, namespace: shop, annotations: {{podwall.dev/ignore: {ignore}}}}}"
        );
        let from = "kind: NetworkPolicy\nmetadata: {name: web, namespace: shop}";
        assert!(text.contains(from));
        let new = text.replace(from, &format!("kind: NetworkPolicy\nmetadata: {metadata}"));
        fs::write(&file, new).unwrap();
        lint(folder.path(), &["-o", "json"])
    };
    let suppressed = with("PW101 pods come on Monday");
    assert_eq!((code(&suppressed), ids(&suppressed).len()), (0, 0));
    let report = json(&suppressed);
    assert_eq!(report["suppressed"][0]["reason"], "pods come on Monday");
    assert_eq!(report["suppressed"][0]["by"], "annotation");
    let without = with("PW101");
    assert_eq!((code(&without), ids(&without)), (1, vec!["PW101".to_owned()]));
    assert!(String::from_utf8_lossy(&without.stderr).contains("needs a reason"));
}

#[test]
fn a_file_suppresses_where_it_is_found_or_named() {
    let folder = folder("PW101");
    let config = "ignore:\n- rule: subject-matches-nothing\n  namespace: shop\n  reason: legacy\n";
    fs::write(folder.path().join(".podwall-lint.yaml"), config).unwrap();
    assert_eq!(code(&lint(folder.path(), &[])), 0);
    fs::write(folder.path().join("other.yaml"), "ignore:\n- rule: PW101\n").unwrap();
    let bad = lint(folder.path(), &["--config", "other.yaml"]);
    assert_eq!(code(&bad), 2);
    assert!(String::from_utf8_lossy(&bad.stderr).contains("`reason` is missing"));
}

#[test]
fn a_baseline_passes_over_what_was_there_and_nothing_else() {
    let folder = folder("PW101");
    let with = ["--baseline", "baseline.txt"];
    assert_eq!(code(&lint(folder.path(), &with)), 2, "there is none yet");
    assert_eq!(code(&lint(folder.path(), &[with[0], with[1], "--write-baseline"])), 0);
    assert_eq!(code(&lint(folder.path(), &with)), 0);
    let file = folder.path().join("policy.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("# moved by a line\n{}", text.replace("ngnix", "ngimx"))).unwrap();
    assert_eq!(code(&lint(folder.path(), &with)), 1, "another mistake");
    fs::write(&file, format!("# moved by a line\n{text}")).unwrap();
    assert_eq!(code(&lint(folder.path(), &with)), 0, "the same mistake elsewhere");
}

/// What `--fix` makes of a wrong example: the lines that were added and removed.
fn fixed(id: &str) -> (Vec<String>, Vec<String>) {
    fixed_in(&folder(id), id)
}

fn fixed_in(folder: &tempfile::TempDir, id: &str) -> (Vec<String>, Vec<String>) {
    let file = folder.path().join("policy.yaml");
    let before = fs::read_to_string(&file).unwrap();
    assert!(
        ids(&lint(folder.path(), &["-o", "json"])).contains(&id.to_owned()),
        "{id} is not there"
    );
    let output = lint(folder.path(), &["--fix", "-o", "json"]);
    assert!(!ids(&output).contains(&id.to_owned()), "{id} is still found");
    let after = fs::read_to_string(&file).unwrap();
    let missing = |of: &str, from: &str| -> Vec<String> {
        of.lines().filter(|l| !from.lines().any(|other| other == *l)).map(str::to_owned).collect()
    };
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing is left beside the file");
    (missing(&after, &before), missing(&before, &after))
}

#[test]
fn fixes_change_what_is_wrong_and_no_other_byte() {
    for (id, added, removed) in [
        ("PW101", "      app: nginx", "      app: ngnix"),
        ("PW102", "          tier: frontend", "          tier: fronted"),
        (
            "PW103",
            "          kubernetes.io/metadata.name: monitoring",
            "          name: monitoring",
        ),
        ("PW105", "      podSelector:", "    - podSelector:"),
        ("PW401", "    - port: http", "    - port: htpp"),
        ("PW403", "    - port: 8080", "    - port: 80"),
    ] {
        let (new, old) = fixed(id);
        // A line that stands elsewhere, too, is no difference.
        assert!(new.iter().all(|line| line == added) && old == [removed], "{id}: {new:?} {old:?}");
    }
    assert_eq!(fixed("PW402").0, ["    - protocol: UDP", "      port: quic"]);
    assert_eq!(fixed("PW404").0, ["    - protocol: UDP", "      port: 8443"]);
    let (dns, nothing) = fixed("PW201");
    assert!(nothing.is_empty(), "{nothing:?}");
    assert!(dns.contains(&"          k8s-app: kube-dns".to_owned()), "{dns:?}");
}

/// What the reader warned of was no finding: no format had it, and the exit code was 0. And a list
/// that is ignored was told of twice.
#[test]
fn what_is_read_otherwise_than_it_is_written_is_a_finding_and_told_once() {
    let spec = "  policyTypes: [Ingress]\n  egress: []\n  ingress:\n  - from:\n    - ipBlock: {cidr: 192.168.1.5/16, except: [192.168.010.0/24]}\n";
    let folder = with_policy(spec);
    let report = lint(folder.path(), &["-o", "json"]);
    assert_eq!(report.status.code(), Some(1), "{report:?}");
    assert_eq!(String::from_utf8_lossy(&report.stderr), "");
    let report = json(&report);
    let ids: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|finding| finding["id"].as_str())
        .filter(|id| ["PW202", "PW506"].contains(id))
        .collect();
    assert_eq!(ids, ["PW202", "PW506", "PW506"], "{report}");
    // With bits behind the prefix the one address may be meant: that is not mended unasked.
    lint(folder.path(), &["--fix"]);
    let text = fs::read_to_string(folder.path().join("policy.yaml")).unwrap();
    assert!(text.contains("cidr: 192.168.1.5/16, except: [192.168.10.0/24]"), "{text}");
}

#[test]
fn a_port_of_another_protocol_is_told_of_unless_both_are_meant_or_nobody_knows() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: dns, namespace: shop, labels: {app: dns}}, \
               spec: {containers: [{name: c, image: i, ports: [{containerPort: 53, protocol: UDP}]}]}}";
    for (ports, told) in [
        ("[{port: 53}]", true),
        ("[{port: 53, protocol: TCP}]", true),
        ("[{port: 53, protocol: UDP}]", false),
        ("[{port: 53, protocol: UDP}, {port: 53}]", false),
        ("[{port: 50, endPort: 60, protocol: UDP}, {port: 53}]", false),
        ("[{port: 54}]", false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let policy = format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: shop}}, \
             spec: {{podSelector: {{}}, ingress: [{{ports: {ports}}}]}}}}"
        );
        fs::write(folder.path().join("policy.yaml"), format!("{pod}\n---\n{policy}\n")).unwrap();
        let report = json(&lint(folder.path(), &["-o", "json"])).to_string();
        assert_eq!(report.contains("\"PW404\""), told, "{ports}: {report}");
    }
}

/// A folder with a pod of both families, and a policy that selects it.
fn with_policy(spec: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, labels: {{app: web}}}}\n\
         spec: {{containers: [{{name: web, image: web}}]}}\n\
         status: {{podIPs: [{{ip: 10.244.1.5}}, {{ip: \"fd00:1::5\"}}]}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: web, namespace: shop}}\nspec:\n  podSelector: {{}}\n{spec}"
    );
    fs::write(folder.path().join("policy.yaml"), text).unwrap();
    folder
}

#[test]
fn types_of_a_policy_that_are_missing_are_written() {
    let out = "  egress:\n  - to: [{ipBlock: {cidr: 198.51.100.7/32}}]\n";
    for (spec, added, removed) in [
        (
            format!("  policyTypes: [Ingress]  # not all\n{out}"),
            "  policyTypes: [Ingress, Egress]  # not all",
            Some("  policyTypes: [Ingress]  # not all"),
        ),
        (format!("  policyTypes:\n  - Ingress\n{out}"), "  - Egress", None),
        ("  egress: []\n".to_owned(), "  policyTypes: [Ingress, Egress]", None),
    ] {
        let (new, old) = fixed_in(&with_policy(&spec), "PW202");
        assert_eq!(new, [added], "{spec}");
        assert_eq!(old, Vec::from_iter(removed.map(str::to_owned)), "{spec}");
    }
}

#[test]
fn the_other_family_is_added_beside_the_whole_of_ipv4() {
    let folder = with_policy(
        "  policyTypes: [Ingress]\n  ingress:\n  - from:\n    - ipBlock:\n        cidr: 0.0.0.0/0\n    \
         ports: [{port: 80}]\n",
    );
    let (new, old) = fixed_in(&folder, "PW503");
    assert_eq!(new, ["        cidr: \"::/0\""]);
    assert!(old.is_empty(), "{old:?}");
    let text = fs::read_to_string(folder.path().join("policy.yaml")).unwrap();
    assert!(
        text.contains("0.0.0.0/0\n    - ipBlock:\n        cidr: \"::/0\"\n    ports"),
        "{text}"
    );
}

#[test]
fn what_is_written_twice_is_taken_out() {
    let folder = with_policy(
        "  policyTypes: [Ingress]\n  ingress:\n  - from:\n    - podSelector: {}\n    - podSelector: {}  \
         # again\n    ports: [{port: 80}, {port: 443}, {port: 80}]\n",
    );
    let (new, old) = fixed_in(&folder, "PW304");
    assert_eq!(new, ["    ports: [{port: 80}, {port: 443}]"]);
    let ports = "    ports: [{port: 80}, {port: 443}, {port: 80}]";
    assert_eq!(old, ["    - podSelector: {}  # again", ports]);
}

/// A text with a fix's edits, from the last to the first.
fn edited(text: &str, edits: &[(u64, u64, u64, u64, String)]) -> String {
    let byte = |line: u64, column: u64| {
        let before = text.split_inclusive('\n').take(line as usize - 1);
        let start: usize = before.map(str::len).sum();
        let rest = text[start..].char_indices().nth(column as usize - 1);
        start + rest.map_or(text.len() - start, |(byte, _)| byte)
    };
    let mut out = text.to_owned();
    let mut edits = edits.to_vec();
    edits.sort();
    for (line, column, end_line, end_column, new) in edits.iter().rev() {
        out.replace_range(byte(*line, *column)..byte(*end_line, *end_column), new);
    }
    out
}

#[test]
fn fixes_in_sarif_and_json_make_of_the_text_what_fix_makes_of_it() {
    for id in ["PW101", "PW103", "PW105", "PW201", "PW401", "PW402", "PW403"] {
        let folder = folder(id);
        let file = folder.path().join("policy.yaml");
        // Characters of several bytes before the place.
        let text = fs::read_to_string(&file).unwrap().replace("name: shop", "name: shop  # été");
        let text = format!("# Ω — προοίμιο\n{text}");
        fs::write(&file, &text).unwrap();
        let log = json(&lint(folder.path(), &["-o", "sarif"]));
        let results = log["runs"][0]["results"].as_array().unwrap();
        let result = results.iter().find(|result| result["ruleId"] == id).unwrap();
        let fix = &result["fixes"][0];
        let change = &fix["artifactChanges"][0];
        assert_eq!(change["artifactLocation"]["uri"], "policy.yaml", "{id}: {fix}");
        let sarif: Vec<_> = change["replacements"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                let region = &one["deletedRegion"];
                let at = |key: &str| region[key].as_u64().unwrap();
                let new = one["insertedContent"]["text"].as_str().unwrap().to_owned();
                (at("startLine"), at("startColumn"), at("endLine"), at("endColumn"), new)
            })
            .collect();
        let report = json(&lint(folder.path(), &["-o", "json"]));
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["id"] == id).unwrap();
        assert!(
            fix["description"]["text"]
                .as_str()
                .unwrap()
                .starts_with(finding["fix"]["what"].as_str().unwrap())
        );
        let edits: Vec<_> = finding["fix"]["edits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                let at = |key: &str| one[key].as_u64().unwrap();
                let new = one["text"].as_str().unwrap().to_owned();
                (at("startLine"), at("startColumn"), at("endLine"), at("endColumn"), new)
            })
            .collect();
        assert_eq!(sarif, edits, "{id}");
        lint(folder.path(), &["--fix"]);
        let fixed = fs::read_to_string(&file).unwrap();
        assert_ne!(fixed, text, "{id}");
        assert_eq!(edited(&text, &sarif), fixed, "{id}");
    }
}

#[test]
fn what_is_suppressed_is_in_every_format_with_its_reason() {
    let folder = folder("PW101");
    let config = "ignore:\n- {rule: PW101, reason: \"<legacy> & 50%\"}\n";
    fs::write(folder.path().join(".podwall-lint.yaml"), config).unwrap();
    let sarif = json(&lint(folder.path(), &["-o", "sarif"]));
    let suppression = &sarif["runs"][0]["results"][0]["suppressions"][0];
    assert_eq!(suppression["kind"], "external");
    assert_eq!(suppression["justification"], "<legacy> & 50%");
    let junit = out(&lint(folder.path(), &["-o", "junit"]));
    assert!(junit.contains("<skipped message=\"&lt;legacy&gt; &amp; 50%\"/>"), "{junit}");
    assert!(junit.contains("failures=\"0\"") && junit.contains("skipped=\"1\""), "{junit}");
    let report = json(&lint(folder.path(), &["-o", "json"]));
    assert_eq!(report["suppressed"][0]["by"], ".podwall-lint.yaml");
    assert_eq!(out(&lint(folder.path(), &["-o", "github"])), "");
    assert!(out(&lint(folder.path(), &[])).contains("1 suppressed"));
}

#[test]
fn the_schema_fits_what_is_printed() {
    let schema = Command::new(env!("CARGO_BIN_EXE_podwall")).args(["schema", "lint"]).output();
    let schema: Json = serde_json::from_slice(&schema.unwrap().stdout).unwrap();
    let folder = folder("PW101");
    let report = json(&lint(folder.path(), &["-o", "json"]));
    let known = schema["properties"].as_object().unwrap();
    assert!(report.as_object().unwrap().keys().all(|key| known.contains_key(key)));
    for key in schema["required"].as_array().unwrap() {
        assert!(report.get(key.as_str().unwrap()).is_some(), "{key}");
    }
}
