//! `podwall diff`: exit codes, formats, revisions of git, and who is asked.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Lab, podwall, root};

const OLD: &str = "tests/data/diff/old";
const NEW: &str = "tests/data/diff/new";
const SAME: &str = "tests/data/diff/same";

#[test]
fn the_exit_code_says_whether_something_differs() {
    let policies = |set: &str| format!("{set}/policies.yaml");
    for (sets, code) in [
        ([OLD.to_owned(), OLD.to_owned()], 0),
        ([OLD.to_owned(), SAME.to_owned()], 0),
        ([OLD.to_owned(), NEW.to_owned()], 1),
        ([NEW.to_owned(), OLD.to_owned()], 1),
        // Without pods those that may come are asked.
        ([policies(OLD), format!("{SAME}/everything.yaml")], 0),
        ([policies(OLD), policies(NEW)], 1),
        ([OLD.to_owned(), "tests/data/diff/nowhere".to_owned()], 2),
        (["-".to_owned(), "-".to_owned()], 2),
    ] {
        let ran = podwall(&["diff", &sets[0], &sets[1]], Some(""));
        assert_eq!(ran.code, Some(code), "{ran}");
    }
}

#[test]
fn new_exposure_comes_first_and_names_the_line_that_did_it() {
    let ran = podwall(&["diff", OLD, NEW], None);
    let first: Vec<&str> = ran.out.lines().take(3).map(str::trim).collect();
    assert_eq!(first[0], "New exposure to addresses outside", "{ran}");
    assert_eq!(first[1], "+ 0.0.0.0/0 except 10.0.0.0/8 -> shop/StatefulSet/db: TCP 5432");
    assert!(ran.out.contains("new/policies.yaml:35:5"), "{ran}");
    let parts = ["New exposure to", "New within", "Perhaps new", "Closed"];
    let places: Vec<usize> = parts.iter().map(|part| ran.out.find(part).unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert!(ran.out.contains("TCP 9001; TCP 9000 stays"), "{ran}");
}

#[test]
fn json_has_every_pair_and_keeps_to_its_schema() {
    let answer: Value = podwall(&["diff", OLD, NEW, "-o", "json"], None).json(&[1]);
    assert_eq!(answer["verdict"], "differs");
    for (key, number) in [("appears", 1), ("changes", 1), ("disappears", 1), ("unknown", 2)] {
        assert_eq!(answer["counts"][key], number, "{key}");
    }
    let changes = answer["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 5);
    assert_eq!(changes[0]["exposure"], "fromOutside");
    assert_eq!(changes[0]["why"]["allowedBy"][0]["source"], format!("{NEW}/policies.yaml:35:5"));
    let gone = changes.iter().find(|change| change["change"] == "disappears").unwrap();
    assert_eq!(gone["closed"]["ports"][0]["from"], 9100);
    assert_eq!(gone["why"]["allowedBefore"][0]["policy"], "api");
    assert_eq!(gone["why"]["isolatedBy"][0]["policy"], "api");
    let unknown = changes.iter().find(|change| change["change"] == "unknown").unwrap();
    let fact = unknown["why"]["missingAfter"][0].as_str().unwrap();
    assert!(fact.contains("address of pod"), "{fact}");
    let schema: Value = serde_json::from_str(&podwall(&["schema", "diff"], None).ok()).unwrap();
    let known = &schema["$defs"]["ChangeJson"]["properties"];
    for change in changes {
        for key in change.as_object().unwrap().keys() {
            assert!(known.get(key).is_some(), "{key} is not in the schema");
        }
    }
    let same: Value = podwall(&["diff", OLD, SAME, "-o", "json"], None).json(&[0]);
    assert_eq!((&same["verdict"], &same["future"]["verdict"]), (&"same".into(), &"same".into()));
}

/// A rule for a port by name says nothing of pods that declare none, so those that are made up
/// for the question declare it.
#[test]
fn pods_that_may_come_have_the_ports_that_the_change_names() {
    const BLOG: &str = "tests/data/blog.yaml";
    let peers = "- podSelector: {matchLabels: {app.kubernetes.io/name: wordpress}}";
    let blog = std::fs::read_to_string(BLOG).unwrap();
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let answer = |port: &str| -> Value {
        let before = blog.replace("port: mysql", &format!("port: {port}"));
        std::fs::write(file.path(), &before).unwrap();
        let (first, last) = before.rsplit_once(peers).unwrap();
        let wider = format!("{first}{peers}\n    - namespaceSelector: {{}}{last}");
        let ran =
            podwall(&["diff", file.path().to_str().unwrap(), "-", "-o", "json"], Some(&wider));
        ran.json(&[0])["future"].clone()
    };
    let of_mysql = answer("mysql");
    assert_eq!(of_mysql["verdict"], "differs", "{of_mysql:#}");
    let opened: Vec<_> = of_mysql["examples"].as_array().unwrap().iter().collect();
    assert!(opened.iter().all(|it| it["opened"]["ports"][0]["from"] == 3306), "{of_mysql:#}");
    // No pod has such a port today.
    assert_eq!(answer("other")["verdict"], "differs");
}

#[test]
fn sarif_marks_the_rule_and_markdown_is_a_comment() {
    let log: Value = podwall(&["diff", OLD, NEW, "-o", "sarif"], None).json(&[1]);
    let results = log["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results[0]["ruleId"], "PD101");
    let at = &results[0]["locations"][0]["physicalLocation"];
    assert_eq!(at["artifactLocation"]["uri"], format!("{NEW}/policies.yaml"));
    assert_eq!(at["region"]["startLine"], 35);
    // What is closed is marked on the policy that lacks the rule now.
    let closed = results.iter().find(|result| result["ruleId"] == "PD105").unwrap();
    let at = &closed["locations"][0]["physicalLocation"];
    assert_eq!(at["artifactLocation"]["uri"], format!("{NEW}/policies.yaml"));
    assert_eq!(at["region"]["startLine"], 16);

    let comment = podwall(&["diff", OLD, NEW, "-o", "md"], None).out;
    assert!(comment.starts_with("### Podwall: 1 connection appears, 1 changes"), "{comment}");
    assert!(comment.contains("| \\+ | 0.0.0.0/0 except 10.0.0.0/8 |"), "{comment}");
    assert!(comment.contains("<details><summary>Closed (1)</summary>"), "{comment}");
}

#[test]
fn a_comment_stays_short_however_much_differs() {
    let dir = tempfile::tempdir().unwrap();
    let pod = |i: usize| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{i}, labels: {{app: a{i}}}}}\n\
             spec: {{containers: [{{name: c, image: i}}]}}\n"
        )
    };
    let allow = |i: usize| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: n{i}}}\n\
             spec:\n  podSelector: {{matchLabels: {{app: a{i}}}}}\n  ingress:\n  - from:\n    - \
             ipBlock: {{cidr: 10.{}.{}.0/24}}\n",
            i / 250,
            i % 250
        )
    };
    let pods: String = (0..600).map(pod).collect();
    let deny = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\n\
                spec: {podSelector: {}}\n";
    let [old, new] = ["old.yaml", "new.yaml"].map(|name| dir.path().join(name));
    std::fs::write(&old, format!("{pods}{deny}")).unwrap();
    std::fs::write(&new, format!("{pods}{deny}{}", (0..600).map(allow).collect::<String>()))
        .unwrap();
    let ran = podwall(&["diff", old.to_str().unwrap(), new.to_str().unwrap(), "-o", "md"], None);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.out.len() < 65_000, "{}", ran.out.len());
    assert!(
        ran.out.contains("more: too long for a comment"),
        "{}",
        &ran.out[ran.out.len() - 300..]
    );
}

const HOSTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: mon, labels: {team: sre}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: agent, namespace: mon}, spec: {hostNetwork: true, containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: shop}, spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: sre}}}]}]}}
";

/// `HOSTS`, and the same with one thing replaced.
fn replaced(from: &str, to: &str) -> support::Ran {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
    assert!(HOSTS.contains(from));
    std::fs::write(&a, HOSTS).unwrap();
    std::fs::write(&b, HOSTS.replace(from, to)).unwrap();
    podwall(&["diff", a.to_str().unwrap(), b.to_str().unwrap()], None)
}

/// It ended with 3: what was open before and after was taken for touched by any label.
#[test]
fn a_namespaces_label_that_no_policy_asks_for_is_no_difference() {
    let ran = replaced("team: sre}}}\n", "team: sre, note: x}}}\n");
    assert_eq!(ran.code, Some(0), "{ran}");
    let ran = replaced("labels: {team: sre}", "labels: {team: ops}");
    assert_ne!(ran.code, Some(0), "{ran}");
}

/// A Service that became a load balancer went by unsaid.
#[test]
fn what_leads_to_pods_is_not_compared_and_that_is_said_where_it_differs() {
    let ran =
        replaced("selector: {app: web}, ports", "type: LoadBalancer, selector: {app: web}, ports");
    assert_eq!(ran.code, Some(0), "{ran}");
    let words = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
    let note =
        "Services, Ingresses and Gateways are not compared, and these differ: Service shop/web;";
    assert!(words.contains(note), "{ran}");
    let moved = replaced(
        "\n---\n{apiVersion: v1, kind: Service",
        "\n---\n\n\n{apiVersion: v1, kind: Service",
    );
    assert!(!moved.out.contains("Services"), "{moved}");
}

#[test]
fn a_set_without_pods_is_asked_of_those_that_are_there() {
    let policies = format!("{OLD}/policies.yaml");
    // Of the other set's,
    let ran = podwall(&["diff", &policies, NEW], None);
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(ran.out.contains("it is asked of 6 pods of"), "{ran}");
    assert!(ran.out.contains("1 connection appears, 1 changes, 1 disappears"), "{ran}");
    // or of somebody else's.
    let newer = format!("{NEW}/policies.yaml");
    let workloads = format!("{OLD}/workloads.yaml");
    let with = podwall(&["diff", &policies, &newer, "--with", &workloads], None);
    assert!(with.out.contains("1 connection appears, 1 changes, 1 disappears"), "{with}");
}

#[test]
fn what_only_pods_to_come_would_feel_is_said_and_counts_if_asked() {
    let rule = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                metadata: {name: later, namespace: shop}\nspec:\n  podSelector: {matchLabels: \
                {app: db}}\n  ingress:\n  - from: [{podSelector: {matchLabels: {app: backup}}}]\n";
    let old = std::fs::read_to_string(format!("{OLD}/workloads.yaml")).unwrap()
        + "\n---\n"
        + &std::fs::read_to_string(format!("{OLD}/policies.yaml")).unwrap();
    let new = format!("{old}\n---\n{rule}");
    let ran = podwall(&["diff", OLD, "-"], Some(&new));
    assert_eq!(ran.code, Some(0), "{ran}");
    assert!(ran.out.contains("No connection differs"), "{ran}");
    let words = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
    let example = "a pod app=backup in namespace shop would newly reach a pod app=db in namespace \
                   shop on every port and protocol";
    assert!(words.contains(example), "{ran}");
    let strict = podwall(&["diff", OLD, "-", "--strict"], Some(&new));
    assert_eq!(strict.code, Some(1), "{strict}");
}

/// What applying files to a lab would change, and then changed.
#[test]
fn files_are_compared_with_what_is_there_as_if_they_were_applied() {
    if !root() {
        return;
    }
    let lab = Lab::up("diff", &["-f", OLD]);
    let diff =
        |arguments: &[&str]| podwall(&[&["diff", "--lab", lab.name()], arguments].concat(), None);
    let same = diff(&[OLD]);
    assert_eq!(same.code, Some(0), "{same}");
    // The lab knows its pods' addresses, so that nothing is unknown.
    let newer = format!("{NEW}/policies.yaml");
    let ran = diff(&[&newer]);
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(ran.out.contains("\n1 connection appears, 1 changes, 1 disappears; new"), "{ran}");
    // Written otherwise under other names the old ones stay, until they are taken out.
    let otherwise = format!("{SAME}/everything.yaml");
    let both = diff(&[&otherwise]);
    assert!(both.code == Some(0) && both.out.contains("--prune"), "{both}");
    let one = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
               metadata: {name: web, namespace: shop}\nspec: {podSelector: {}, ingress: [{}]}\n";
    let pruned = podwall(&["diff", "--lab", lab.name(), "-", "--prune", "-o", "json"], Some(one));
    let pruned: Value = pruned.json(&[1]);
    let opened =
        |change: &Value| change["dst"] == "shop/StatefulSet/db" && change["opened"]["all"] == true;
    assert!(pruned["changes"].as_array().unwrap().iter().any(opened), "{pruned}");
    // A workload with other labels loses what its labels gave it.
    let db = std::fs::read_to_string(format!("{OLD}/workloads.yaml")).unwrap();
    let relabelled = db.replace("labels: {app: api}", "labels: {app: ipa}");
    let ran = podwall(
        &["diff", "--lab", lab.name(), "-"],
        Some(&relabelled.replace("matchLabels: {app: api}", "matchLabels: {app: ipa}")),
    );
    assert!(ran.out.contains("other labels or ports than now: shop/Deployment/api"), "{ran}");
    assert!(ran.out.contains("- shop/Deployment/api -> shop/StatefulSet/db: TCP 5432"), "{ran}");
}

/// A repository in a directory of its own.
struct Repository(tempfile::TempDir);

impl Repository {
    fn new() -> Self {
        let repository = Self(tempfile::tempdir().unwrap());
        repository.git(&["init", "-q", "-b", "main"]);
        repository
    }

    fn git(&self, arguments: &[&str]) -> String {
        let out = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.com"])
            .args(["-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"])
            .args(arguments)
            .current_dir(self.0.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Puts the files of a set into `deploy/` of the repository.
    fn put(&self, set: &str) {
        let deploy = self.0.path().join("deploy");
        std::fs::create_dir_all(&deploy).unwrap();
        for entry in std::fs::read_dir(set).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, deploy.join(path.file_name().unwrap())).unwrap();
        }
    }

    fn commit(&self, what: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", what]);
    }

    /// Runs the program in a directory of the repository.
    fn diff(&self, directory: &str, arguments: &[&str]) -> (i32, String, String) {
        let out = Command::new(env!("CARGO_BIN_EXE_podwall"))
            .arg("diff")
            .args(arguments)
            .current_dir(self.0.path().join(directory))
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
    }
}

#[test]
fn revisions_are_compared_without_a_checkout() {
    let repository = Repository::new();
    repository.put(OLD);
    repository.commit("old");
    repository.git(&["tag", "v1"]);
    repository.git(&["checkout", "-q", "-b", "change"]);
    repository.put(NEW);
    repository.commit("new");
    let before = repository.git(&["status", "--porcelain"]);

    let (code, out, err) = repository.diff(".", &["v1..HEAD"]);
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("(deploy/policies.yaml:35:5)"), "{out}");
    // From a subdirectory places are named by the repository, too.
    for arguments in [
        &["v1..HEAD"][..],
        &["v1..", "-f", "."],
        &["v1..", "-f", "policies.yaml", "-f", "workloads.yaml"],
    ] {
        let (code, inner, err) = repository.diff("deploy", arguments);
        assert_eq!((code, &inner), (1, &out), "{arguments:?} {err}");
    }
    // main has gone on meanwhile: with three dots that is not this branch's change.
    repository.git(&["checkout", "-q", "main"]);
    std::fs::remove_file(repository.0.path().join("deploy/policies.yaml")).unwrap();
    repository.commit("main goes on");
    repository.git(&["checkout", "-q", "change"]);
    let (_, branched, _) = repository.diff(".", &["main...change"]);
    assert_eq!(branched, out);
    let (_, direct, _) = repository.diff(".", &["main..change"]);
    assert_ne!(direct, out);
    assert_eq!(repository.git(&["status", "--porcelain"]), before, "nothing is written");
}

#[test]
fn a_revision_is_compared_with_the_files_as_they_are_now() {
    let repository = Repository::new();
    repository.put(OLD);
    repository.commit("old");
    let (code, out, _) = repository.diff(".", &["HEAD.."]);
    assert_eq!(code, 0, "{out}");
    // Moved and rewritten, and not yet known to git.
    std::fs::remove_file(repository.0.path().join("deploy/policies.yaml")).unwrap();
    repository.put(SAME);
    let (code, out, err) = repository.diff(".", &["HEAD.."]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("The policies say the same"), "{out}");
    // What git ignores is not read.
    std::fs::write(repository.0.path().join(".gitignore"), "scratch/\n").unwrap();
    std::fs::create_dir(repository.0.path().join("scratch")).unwrap();
    std::fs::write(repository.0.path().join("scratch/a.yaml"), "kind: [").unwrap();
    let (code, _, err) = repository.diff(".", &["HEAD.."]);
    assert_eq!(code, 0, "{err}");
    std::fs::write(repository.0.path().join("deploy/broken.yaml"), "kind: [").unwrap();
    let (code, _, err) = repository.diff(".", &["HEAD.."]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("deploy/broken.yaml:1"), "{err}");
}

#[test]
fn what_git_cannot_tell_is_said_in_a_sentence() {
    let repository = Repository::new();
    repository.put(OLD);
    repository.commit("old");
    for (directory, arguments, words) in [
        (".", &["nowhere..HEAD"][..], "\"nowhere\" is no revision"),
        (".", &["--", "-x..HEAD"], "\"-x\" is no revision"),
        (".", &["HEAD..HEAD", "-f", "../elsewhere"], "outside of the repository"),
        (".", &["HEAD..HEAD", "-f", "nothing"], "neither revision has manifests"),
        (".", &["HEAD"], "podwall diff REV.."),
        (".", &["HEAD..HEAD", "deploy"], "stands alone"),
    ] {
        let (code, _, err) = repository.diff(directory, arguments);
        assert_eq!(code, 2, "{arguments:?}");
        assert!(err.contains(words), "{arguments:?}: {err}");
    }
    let nowhere = tempfile::tempdir().unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_podwall"))
        .args(["diff", "a..b"])
        .current_dir(nowhere.path())
        .env("GIT_CEILING_DIRECTORIES", nowhere.path().parent().unwrap_or(Path::new("/")))
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(err.contains("in no git repository"), "{err}");
}
