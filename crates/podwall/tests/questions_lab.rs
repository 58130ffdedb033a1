//! Do `can`, `explain` and `matrix` say of a lab what they say of its manifests, and what packets do?
//!
//! ```text
//!   manifests ──▶ can -f …      ┐
//!      └──▶ lab ─▶ can --lab …  ├──▶ the same words; more where the lab knows an address
//!              └─▶ lab probe    ┘
//! ```

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panic what is wrong")]

mod support;

use support::{Lab, Ran, podwall, root};

const APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/three-tier/app");
const POLICIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/three-tier/policies");
const FILES: [&str; 4] = ["-f", APP, "-f", POLICIES];
const PODS: [&str; 3] = ["web-pod", "app-pod", "db-pod"];

/// A question of files.
#[track_caller]
fn of_files(question: &[&str]) -> Ran {
    podwall(&[question, &FILES].concat(), None)
}

/// The same question of a lab.
#[track_caller]
fn of_lab(lab: &Lab, question: &[&str]) -> Ran {
    podwall(&[question, &["--lab", &lab.name]].concat(), None)
}

#[test]
fn files_and_lab_give_the_same_answer_where_the_lab_adds_no_fact() {
    if !root() {
        return;
    }
    // In two families a question has two answers; the files state no address and get one.
    let lab = Lab::up("qsame", &[&FILES[..], &["--ip-family", "v4"]].concat());
    let same = |question: &[&str], code: &[i32]| {
        let (files, lab) = (of_files(question), of_lab(&lab, question));
        assert!(files.code.is_some_and(|it| code.contains(&it)), "{files}");
        // Positions in the files too.
        assert_eq!((files.code, &files.out), (lab.code, &lab.out), "{files}\n{lab}");
        files.code
    };
    let mut codes = Vec::new();
    for (src, dst) in PODS.into_iter().flat_map(|src| PODS.map(|dst| (src, dst))) {
        if src != dst {
            for port in ["80", "5000", "3306"] {
                codes.push(same(&["can", src, dst, "--port", port], &[0, 1]));
            }
            codes.push(same(&["can", src, dst], &[0, 1]));
        }
    }
    assert!(codes.contains(&Some(0)) && codes.contains(&Some(1)), "{codes:?}");
    same(&["can", "203.0.113.7", "web-pod", "--port", "80"], &[0]);
    // web-policy is left out: its 0.0.0.0/0 is the lab's name server as well.
    for policy in ["app-policy", "db-policy"] {
        same(&["explain", "policy", policy], &[0]);
    }

    // The lab has its name server besides, and no IPv6.
    let rows = |ran: Ran| -> Vec<String> {
        let own = |line: &&str| !line.contains("kube-dns") && !line.contains("::/0");
        ran.ok().lines().filter(own).map(ToOwned::to_owned).collect()
    };
    let (files, all) = (["matrix", "-o", "csv"], of_lab(&lab, &["matrix", "-o", "csv"]));
    assert!(all.out.contains("kube-system/kube-dns"), "{all}");
    assert_eq!(rows(of_files(&files)), rows(all));
}

const PEERS: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: client, labels: {role: client}}, spec: {nodeName: node-1, containers: [{name: c, image: x}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: server, labels: {role: server}}, spec: {nodeName: node-2, containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}}
";

#[test]
fn a_lab_knows_the_addresses_that_files_leave_open() {
    if !root() {
        return;
    }
    let lab = Lab::up("qaddr", &["--ip-family", "v4"]);
    lab.apply(PEERS);
    let question = ["can", "client", "server", "--port", "80"];
    // The lab's addresses are 10.244.NODE.2 and on.
    for (cidr, code) in [("10.244.1.0/24", 0), ("10.244.2.0/24", 1)] {
        let policy = format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: by-address}}, \
             spec: {{podSelector: {{matchLabels: {{role: server}}}}, \
             ingress: [{{from: [{{ipBlock: {{cidr: {cidr}}}}}]}}]}}}}\n"
        );
        lab.apply(&policy);
        let known = of_lab(&lab, &question);
        assert_eq!(known.code, Some(code), "{known}");
        let all = format!("{PEERS}---\n{policy}");
        let files = podwall(&[&question[..], &["-f", "-"]].concat(), Some(&all));
        assert_eq!(files.code, Some(3), "{files}");
        assert!(files.out.contains("address"), "{files}");
        let packets = lab.probe_json(&["client", "server", "--port", "80", "--protocol", "TCP"]);
        let passed: Vec<_> = packets.iter().map(support::Packet::passed).collect();
        assert_eq!(passed, [Some(code == 0)], "{packets:?}");
    }
    let pod = of_lab(&lab, &["explain", "pod", "client"]).ok();
    assert!(pod.contains("10.244.1."), "{pod}");
}

#[test]
fn the_answer_changes_with_labels_and_with_what_is_deleted() {
    if !root() {
        return;
    }
    let lab = Lab::up("qchange", &[]);
    lab.apply(PEERS);
    lab.apply(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: friends}, \
         spec: {podSelector: {matchLabels: {role: server}}, \
         ingress: [{from: [{podSelector: {matchLabels: {friend: 'yes'}}}]}]}}",
    );
    let answers = |allowed: bool, when: &str| {
        let can = of_lab(&lab, &["can", "client", "server", "--port", "80"]);
        assert_eq!(can.code, Some(i32::from(!allowed)), "{when}: {can}");
        let matrix = of_lab(&lab, &["matrix", "-o", "csv"]).ok();
        let row = matrix.contains("\ndefault/client,default/server,allowed");
        assert_eq!(row, allowed, "{when}: {matrix}");
        for packet in lab.probe_json(&["client", "server", "--port", "80", "--protocol", "TCP"]) {
            assert_eq!(packet.passed(), Some(allowed), "{when}: {packet}");
        }
    };
    answers(false, "a stranger");
    lab.label(&["pod", "client", "friend=yes"]);
    answers(true, "a friend");
    let policy = of_lab(&lab, &["explain", "policy", "friends"]).ok();
    assert!(policy.contains("default/client"), "{policy}");
    lab.label(&["pod", "client", "friend-"]);
    answers(false, "a stranger again");
    let policy = of_lab(&lab, &["explain", "policy", "friends"]).ok();
    assert!(!policy.contains("default/client"), "{policy}");
    lab.delete(&["networkpolicy", "friends"]);
    answers(true, "no policy");
    for (question, name) in
        [(["explain", "policy", "friends"], "friends"), (["can", "client", "gone"], "gone")]
    {
        let gone = of_lab(&lab, &question);
        assert!(gone.code == Some(2) && gone.err.contains(name), "{gone}");
    }
    lab.delete(&["pod", "client"]);
    let gone = of_lab(&lab, &["can", "client", "server"]);
    assert!(gone.code == Some(2) && gone.err.contains("client"), "{gone}");
}

#[test]
fn the_answer_is_what_packets_do() {
    if !root() {
        return;
    }
    let lab = Lab::up("qpackets", &FILES);
    let packets = lab.probe_json(&["--no-outside"]);
    let (mut passed, mut cut) = (0, 0);
    for packet in &packets {
        let family = if packet.dst_address.is_ipv4() { "-4" } else { "-6" };
        let port = packet.port.to_string();
        let mut question = vec!["can", &packet.src, &packet.dst, family];
        question.extend(["--protocol", &packet.protocol]);
        if packet.port > 0 {
            question.extend(["--port", &port]);
        }
        let answer = of_lab(&lab, &question);
        let Some(arrived) = packet.passed() else { panic!("{packet} tells nothing") };
        assert_eq!(answer.code, Some(i32::from(!arrived)), "{packet}\n{answer}");
        *(if arrived { &mut passed } else { &mut cut }) += 1;
    }
    assert!(passed > 0 && cut > 0, "{passed} passed, {cut} did not");
}

#[test]
fn a_lab_that_is_not_there_is_a_sentence_and_exit_code_2() {
    let questions: [&[&str]; 5] = [
        &["can", "a", "b"],
        &["explain", "pod", "a"],
        &["explain", "policy", "a"],
        &["matrix"],
        &["matrix", "-o", "json"],
    ];
    for question in questions {
        for (name, words) in [
            (
                "no-such-lab",
                ["there is no lab \"no-such-lab\"", "podwall lab up --lab no-such-lab"],
            ),
            ("no/lab", ["\"no/lab\" cannot name a lab", "lower case letters"]),
        ] {
            let ran = podwall(&[question, &["--lab", name]].concat(), None);
            assert!(ran.code == Some(2) && ran.out.is_empty(), "{ran}");
            // Lines are broken where the terminal ends.
            let said = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
            for words in words {
                assert!(said.contains(words), "{words} in {ran}");
            }
        }
    }
}
