//! Do the lab's verbs do what somebody expects who knows kubectl?

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panic what is wrong")]

mod support;

use support::{Lab, all_agree, podwall, root};

const APP: &str = include_str!("data/lab/app.yaml");

fn lab(word: &str) -> Option<Lab> {
    root().then(|| {
        let lab = Lab::up(word, &[]);
        lab.apply(APP);
        lab
    })
}

#[test]
fn apply_says_created_configured_unchanged_and_changes_all_or_nothing() {
    let Some(lab) = lab("vapply") else { return };
    let again = lab.apply(APP);
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    let scaled = lab.apply(&APP.replace("replicas: 2", "replicas: 3"));
    assert!(scaled.contains("deployment.apps/web configured"), "{scaled}");
    assert_eq!(
        lab.get_json(&["pods", "-n", "demo", "-l", "app=web"])["items"].as_array().unwrap().len(),
        3
    );

    let broken = "
apiVersion: v1
kind: Pod
metadata: {name: fine}
spec: {containers: [{name: c, image: x}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: broken}
spec: {podSelector: {}, ingres: [], egress: [{ports: [{port: 70000}]}]}
";
    let ran = lab.run("apply", &["-f", "-"], Some(broken));
    assert_eq!(ran.code, Some(2), "{ran}");
    for words in ["did you mean `ingress`?", "not 70000", "^^^^^^", "nothing was changed"] {
        assert!(ran.err.contains(words), "{words} in {ran}");
    }
    // The store refuses the second Service; the first must not stay.
    let taken = "
apiVersion: v1
kind: Service
metadata: {name: first, namespace: demo}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: second, namespace: demo}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
";
    let ran = lab.run("apply", &["-f", "-"], Some(taken));
    assert_eq!(ran.code, Some(2), "{ran}");
    assert!(ran.err.contains("node port 30080"), "{ran}");
    assert_eq!(lab.run("get", &["svc", "first", "-n", "demo"], None).code, Some(1));
    assert_eq!(lab.run("get", &["pod", "fine"], None).code, Some(1));
    all_agree("after refused changes", &lab.probe_json(&["--no-outside"]));
}

#[test]
fn labels_are_set_kept_overwritten_and_removed() {
    let Some(lab) = lab("vlabel") else { return };
    lab.label(&["pod", "plain", "tier=a"]);
    let ran = lab.run("label", &["pod", "plain", "tier=b"], None);
    assert!(ran.code == Some(2) && ran.err.contains("--overwrite is false"), "{ran}");
    assert!(lab.label(&["pod", "plain", "tier=b", "--overwrite"]).contains("plain labeled"));
    assert!(lab.label(&["pod", "plain", "tier-"]).contains("plain unlabeled"));
    let all = lab.label(&["pods", "--all", "-n", "demo", "x=y"]);
    assert!(all.lines().count() > 4, "{all}");
    assert!(lab.label(&["pods", "-l", "app=db", "-n", "demo", "q=r"]).contains("db-0 labeled"));
    // What was labelled by hand stays when something else of the workloads changes.
    lab.apply(&APP.replace("replicas: 2", "replicas: 3"));
    let list = lab.run("get", &["pods", "-n", "demo", "-l", "q=r", "-o", "name"], None).ok();
    assert!(list.contains("pod/db-0"), "{list}");
    lab.label(&["node", "node-1", "disk=ssd"]);
    let nodes = lab.run("get", &["nodes", "--show-labels"], None).ok();
    assert!(nodes.contains("disk=ssd,kubernetes.io/hostname=node-1"), "{nodes}");
}

/// A message without its line ends: they depend on the names in it.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_not_there_is_said_with_what_may_have_been_meant() {
    let Some(lab) = lab("vnames") else { return };
    for (verb, args, code, words) in [
        ("get", &["pod", "plian"][..], 1, "did you mean plain?"),
        ("get", &["pdos"][..], 2, "did you mean pods?"),
        ("get", &["pods", "-n", "dmeo"][..], 0, "did you mean demo?"),
        ("exec", &["web", "-n", "demo", "--", "true"][..], 2, "did you mean web-"),
        ("exec", &["db-0", "--", "true"][..], 2, "there is one in namespace demo"),
        ("probe", &["plian", "plain"][..], 2, "did you mean plain?"),
        ("delete", &["pod", "nope"][..], 1, "not found"),
        ("delete", &["pod"][..], 2, "say which"),
        ("delete", &["ns", "default"][..], 2, "cannot be removed"),
    ] {
        let ran = lab.run(verb, args, None);
        assert!(ran.code == Some(code) && unwrapped(&ran.err).contains(words), "{words}: {ran}");
    }
    let ran = podwall(&["lab", "get", "pods", "--lab", "vnames-nobody"], None);
    assert!(ran.code == Some(2) && unwrapped(&ran.err).contains("podwall lab up"), "{ran}");
    let ran = podwall(&["lab", "up", "../odd"], None);
    assert!(ran.code == Some(2) && ran.err.contains("cannot name a lab"), "{ran}");
}

#[test]
fn deletion_takes_what_is_there_and_a_namespace_takes_everything_in_it() {
    let Some(lab) = lab("vdelete") else { return };
    let ran = lab.run("delete", &["pod", "plain", "nope"], None);
    assert!(ran.code == Some(1) && ran.out.contains("\"plain\" deleted"), "{ran}");
    // A StatefulSet's pods must not bring their namespace back.
    lab.delete(&["ns", "demo"]);
    let spaces = lab.run("get", &["ns", "-o", "name"], None).ok();
    assert_eq!(spaces, "namespace/default\nnamespace/kube-system\n");
    assert_eq!(lab.get_json(&["all", "-n", "demo"])["items"].as_array().unwrap().len(), 0);
    lab.apply(APP);
    // The namespace stands first in the file; what it takes along is deleted as well, not missing.
    let gone = lab.run("delete", &["-f", "-"], Some(APP));
    assert!(gone.code == Some(0) && gone.out.contains("statefulset.apps \"db\" deleted"), "{gone}");
    lab.apply(APP);
    all_agree("after deletions", &lab.probe_json(&["--no-outside"]));
}

#[test]
fn programs_in_pods_behave_as_they_do_outside() {
    let Some(lab) = lab("vexec") else { return };
    assert_eq!(lab.exec("plain", &["sh", "-c", "exit 7"]).code, Some(7));
    assert_eq!(lab.exec("plain", &["sh", "-c", "kill -9 $$"]).code, Some(137));
    let ran = lab.exec("plain", &["no-such-program"]);
    assert!(ran.code == Some(127) && ran.err.contains("not found"), "{ran}");
    assert_eq!(lab.exec("plain", &["hostname"]).ok(), "plain\n");
    let ran = lab.run("exec", &["plain", "--", "cat"], Some("through a pipe"));
    assert_eq!(ran.out, "through a pipe");
    let ran = lab.exec("plain", &["sh", "-c", "yes | head -1"]);
    assert!(ran.out == "y\n" && ran.err.is_empty(), "SIGPIPE must be what it is outside: {ran}");
    let names = lab.exec("plain", &["cat", "/etc/resolv.conf"]).ok();
    assert!(names.starts_with("search default.svc.cluster.local"), "{names}");
}

#[test]
fn a_node_that_comes_later_knows_services_and_policies() {
    let Some(lab) = lab("vnode") else { return };
    let said = lab.apply("
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: late}
spec: {podSelector: {matchLabels: {app: late}}, ingress: [{from: [{podSelector: {matchLabels: {app: plain}}}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: late, labels: {app: late}}
spec: {nodeSelector: {gpu: 'yes'}, containers: [{name: c, image: x}]}
");
    assert!(said.contains("pod/late created"), "{said}");
    let waiting = lab.run("describe", &["pod", "late"], None).ok();
    assert!(waiting.contains("Pending: no node has the labels"), "{waiting}");
    lab.apply("{apiVersion: v1, kind: Node, metadata: {name: extra, labels: {gpu: 'yes'}}}");
    assert_eq!(lab.pods()["default/late"].1, "extra");
    all_agree("with a late node", &lab.probe_json(&["--no-outside"]));
    assert_eq!(lab.exec("late", &["getent", "hosts", "web.demo"]).code, Some(0));
}
