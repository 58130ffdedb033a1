//! Colour, pipes, JSON and pages: what a transcript cannot show.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Read;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn podwall(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podwall"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    for name in ["NO_COLOR", "CLICOLOR_FORCE", "CLICOLOR"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm-256color").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    podwall(arguments).output().unwrap()
}

fn json(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = run(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    (serde_json::from_str(&text).unwrap(), output.status.code())
}

const DENIED: [&str; 7] =
    ["can", "web-pod", "db-pod", "--port", "3306", "-f", "tests/data/three-tier"];

#[test]
fn a_pipe_gets_no_colours_unless_they_are_forced() {
    let escapes = |command: &mut Command| command.output().unwrap().stdout.contains(&0x1b);
    assert!(!escapes(&mut podwall(&DENIED)));
    assert!(escapes(podwall(&DENIED).env("CLICOLOR_FORCE", "1")));
    assert!(!escapes(podwall(&DENIED).env("NO_COLOR", "1")));
    assert!(escapes(podwall(&DENIED).arg("--color=always")));
    assert!(!escapes(podwall(&DENIED).arg("--color=never").env("CLICOLOR_FORCE", "1")));
    let diagnostics = podwall(&["can", "a", "b", "-f", "tests/data/broken"]).output().unwrap();
    assert!(!diagnostics.stderr.contains(&0x1b) && !diagnostics.stderr.is_empty());
}

#[test]
fn text_stays_within_80_columns() {
    let commands: [&[&str]; 5] = [
        &DENIED,
        &["can", "shop/sts/orders", "internet", "-f", "tests/data/shop"],
        &["matrix", "-f", "tests/data/shop"],
        &["matrix", "--by", "pod", "-f", "tests/data/shop"],
        &["explain", "pod", "shop/orders-0", "-f", "tests/data/shop"],
    ];
    for arguments in commands {
        let text = String::from_utf8(run(arguments).stdout).unwrap();
        assert!(!text.is_empty(), "{arguments:?}");
        for line in text.lines() {
            let one_word = !line.trim().contains(' ');
            assert!(line.chars().count() <= 80 || one_word, "{arguments:?}: {line}");
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let commands: [(&[&str], i32); 3] = [
        (&["matrix", "-o", "json", "-f", "tests/data/shop"], 0),
        (&["can", "--help"], 0),
        (&DENIED, 1),
    ];
    for (arguments, code) in commands {
        let mut child =
            podwall(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take()); // nobody reads
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{arguments:?}: {stderr}");
        assert_eq!(stderr, "", "{arguments:?}");
    }
}

#[test]
fn the_json_of_can_is_the_contract() {
    let (answer, code) = json(&[&DENIED[..], &["-o", "json"]].concat());
    assert_eq!(code, Some(1));
    assert_eq!(answer["verdict"], "denied");
    for side in ["egress", "ingress"] {
        assert_eq!(answer[side]["isolated"], true);
        assert_eq!(answer[side]["allowedBy"], Value::Array(Vec::new()));
    }
    let ingress = &answer["ingress"];
    assert_eq!(ingress["isolatedBy"][0]["policy"], "db-policy");
    let miss = &ingress["nearMisses"][0];
    assert_eq!(
        (&miss["policy"], &miss["namespace"], &miss["rule"], &miss["source"]),
        (
            &Value::from("db-policy"),
            &Value::from("default"),
            &Value::from(1),
            &Value::from("tests/data/three-tier/db-policy.yaml:13:7")
        )
    );
    assert_eq!(miss["reasons"][0]["kind"], "podLabel");
}

#[test]
fn the_json_of_can_names_families_backends_and_addresses() {
    let shop = "tests/data/shop";
    let (answer, code) = json(&[
        "can",
        "shop/sts/orders",
        "shop/svc/cart",
        "--port",
        "80",
        "-o",
        "json",
        "-f",
        shop,
    ]);
    assert_eq!(code, Some(1));
    let verdicts: Vec<(&str, u64)> = answer["backends"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| (b["verdict"].as_str().unwrap(), b["targetPort"].as_u64().unwrap()))
        .collect();
    assert_eq!(verdicts, [("denied", 9090), ("allowed", 8080), ("allowed", 8080)]);

    let (answer, code) =
        json(&["can", "shop/orders-0", "internet", "--port", "443", "-o", "json", "-f", shop]);
    assert_eq!(code, Some(0));
    assert_eq!(answer["outside"]["allowed"], serde_json::json!(["10.0.0.0/25"]));

    let dual = "tests/data/dual-stack";
    let (answer, code) =
        json(&["can", "client", "server", "--port", "8080", "-o", "json", "-f", dual]);
    assert_eq!((code, &answer["families"][1]["verdict"]), (Some(1), &Value::from("denied")));
    assert_eq!(answer["families"][0]["verdict"], "allowed");
    assert_eq!(answer["ingress"]["nearMisses"][0]["reasons"][0]["kind"], "otherFamily");

    let (answer, code) = json(&[
        "can",
        "frontend",
        "nowhere/api",
        "--port",
        "443",
        "-o",
        "json",
        "-f",
        "tests/data/restrict-egress",
    ]);
    assert_eq!((code, &answer["verdict"]), (Some(3), &Value::from("unknown")));
    assert_eq!(answer["egress"]["undecided"][0]["policy"], "restrict-egress");
}

#[test]
fn what_was_left_out_is_in_the_json() {
    let (answer, code) =
        json(&["can", "a", "b", "-o", "json", "--keep-going", "-f", "tests/data/broken"]);
    assert_eq!(code, Some(0));
    assert!(answer["leftOut"][0].as_str().unwrap().contains("NetworkPolicy default/bad"));
}

#[test]
fn the_matrix_lists_every_peer_once_and_connects_only_peers() {
    let (matrix, code) = json(&["matrix", "--by", "pod", "-o", "json", "-f", "tests/data/shop"]);
    assert_eq!(code, Some(0));
    let peers: Vec<&str> =
        matrix["peers"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    let mut once = peers.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), peers.len());
    assert!(peers.contains(&"shop/orders-0") && peers.contains(&"10.0.0.0/25"));
    let connections = matrix["connections"].as_array().unwrap();
    assert!(!connections.is_empty());
    for connection in connections {
        for end in ["src", "dst"] {
            assert!(peers.contains(&connection[end].as_str().unwrap()), "{connection}");
        }
    }
    let all = connections.iter().filter(|c| c["all"] == true).count();
    assert!(all > 0 && all < connections.len());
}

#[test]
fn every_answer_has_a_schema_that_names_its_fields() {
    let answers: [(&str, &[&str]); 4] = [
        ("can", &["can", "web-pod", "app-pod"]),
        ("matrix", &["matrix"]),
        ("explain-policy", &["explain", "policy", "web-policy"]),
        ("explain-pod", &["explain", "pod", "web-pod"]),
    ];
    for (name, command) in answers {
        let (schema, code) = json(&["schema", name]);
        assert_eq!(code, Some(0));
        let (answer, _) = json(&[command, &["-o", "json", "-f", "tests/data/three-tier"]].concat());
        for field in answer.as_object().unwrap().keys() {
            assert!(schema["properties"].get(field).is_some(), "{name} has no {field}");
        }
        for field in schema["required"].as_array().unwrap() {
            assert!(answer.get(field.as_str().unwrap()).is_some(), "{name} lacks {field}");
        }
    }
}

#[test]
fn pages_are_made_for_every_command() {
    let version = String::from_utf8(run(&["--version"]).stdout).unwrap();
    assert_eq!(version, format!("podwall {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(run(&["completions", shell]).stdout).unwrap();
        assert!(script.contains("explain") && script.contains("matrix"), "{shell}");
    }
    let man = String::from_utf8(run(&["man"]).stdout).unwrap();
    assert!(man.contains(".TH podwall 1"), "{man}");
    let dir = tempfile::tempdir().unwrap();
    assert!(run(&["man", "--dir", dir.path().to_str().unwrap()]).status.success());
    for page in ["podwall.1", "podwall-can.1", "podwall-explain-pod.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
    let overview = run(&[]);
    assert!(overview.status.success());
    assert!(String::from_utf8(overview.stdout).unwrap().lines().count() < 24);
}

#[test]
fn stdin_is_a_source() {
    let file = std::fs::File::open(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/same-namespace/all.yaml"
    ));
    let output = podwall(&["can", "-n", "app", "one", "two", "-f", "-"])
        .stdin(Stdio::from(file.unwrap()))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("<stdin>:25:7"));
}

#[test]
fn help_teaches_within_80_columns() {
    let commands: [&[&str]; 5] =
        [&["can"], &["explain"], &["explain", "policy"], &["explain", "pod"], &["matrix"]];
    for command in commands {
        let help = String::from_utf8(run(&[command, &["--help"]].concat()).stdout).unwrap();
        assert!(help.matches("$ podwall ").count() >= 2, "{command:?} has too few examples");
        assert!(help.contains("Exit codes:"), "{command:?}");
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{command:?}: {line}");
        }
    }
}
