//! Does `--watch` answer again when a file changes, and only then?
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const POLICY: &str = "\
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: p}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

const PODS: &str = "\
kind: Pod
apiVersion: v1
metadata: {name: a, labels: {app: a}}
spec: {containers: [{name: c, image: i}]}
---
kind: Pod
apiVersion: v1
metadata: {name: b, labels: {app: b}}
spec: {containers: [{name: c, image: i}]}
";

/// A program that watches, and the lines that say a verdict or an error.
struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    fn start(folder: &Path, file: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_podwall"))
            .current_dir(folder)
            .args(["can", "a", "b", "--port", "80", "--watch", "-f", file])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, lines) = channel();
        let out: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for pipe in out {
            let tell = tell.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let first = line.split(':').next().unwrap().to_owned();
                    if ["allowed", "denied", "error"].contains(&first.as_str()) {
                        let _ = tell.send(first);
                    }
                }
            });
        }
        Self { child, lines }
    }

    /// Waits for an answer. Before it there may be others: a file is written in several steps.
    fn until(&self, answer: &str) {
        while self.lines.recv_timeout(Duration::from_secs(60)).unwrap() != answer {}
    }

    fn is_quiet(&self) -> bool {
        self.lines.recv_timeout(Duration::from_millis(400)).is_err()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_change_is_answered_whether_a_file_or_its_directory_is_named() {
    for named in ["all.yaml", "."] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("all.yaml");
        fs::write(&file, PODS).unwrap();
        let watching = Watching::start(folder.path(), named);
        watching.until("allowed");
        // Once it has answered it watches: that is set up before.
        fs::write(&file, format!("{PODS}---\n{POLICY}")).unwrap();
        watching.until("denied");
        // As editors do: another file in its place.
        let beside = folder.path().join(".all.yaml.swp");
        fs::write(&beside, PODS).unwrap();
        fs::rename(&beside, &file).unwrap();
        watching.until("allowed");
        fs::write(&file, "kind: [\n").unwrap();
        watching.until("error");
        fs::write(&file, PODS).unwrap();
        watching.until("allowed");
        while !watching.is_quiet() {}
        fs::read(&file).unwrap();
        fs::write(folder.path().join("answer.txt"), "as with > answer.txt").unwrap();
        assert!(watching.is_quiet(), "{named}: nothing that is read has changed");
    }
}

#[test]
fn a_file_more_in_a_directory_is_a_change() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pods.yaml"), PODS).unwrap();
    let watching = Watching::start(folder.path(), ".");
    watching.until("allowed");
    fs::create_dir(folder.path().join("policies")).unwrap();
    fs::write(folder.path().join("policies/p.yaml"), POLICY).unwrap();
    watching.until("denied");
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_podwall"))
            .current_dir(folder.path())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(&["lint", "--watch", "-f", "-"]);
    assert_eq!(code, 2);
    assert!(said.contains("stdin ends once"), "{said}");
    let (code, said) = run(&["lint", "--watch", "--fix", "-f", "."]);
    assert_eq!(code, 2);
    assert!(said.contains("written once"), "{said}");
    let (code, said) = run(&["lint", "--watch"]);
    assert_eq!(code, 2);
    assert!(said.contains("--filename"), "{said}");
}
