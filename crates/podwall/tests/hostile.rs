//! Does input that means harm end in a clear message, within bounded time and memory?
//!
//! ```text
//!   nesting, aliases, 100 MB, bytes, pipes, loops ──▶ each command that reads files ──▶ code 2, a
//!                                                       sentence, 60 s and 2 GiB at the most
//! ```
//!
//! The bounds are far from what it takes; they tell an answer from none.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Everything that reads manifests; `-f` and the input follow.
const COMMANDS: [&[&str]; 9] = [
    &["can", "a", "b"],
    &["explain", "pod", "a"],
    &["matrix"],
    &["lint"],
    &["exposure"],
    &["draw", "-o", "svg"],
    &["test", "fine.test.yaml"],
    &["generate", "fine.csv"],
    &["generate", "--from-matrix"],
];

const FINE: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b}
spec: {containers: [{name: c, image: i}]}
";

/// A folder with files that are in order.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("fine.yaml", FINE);
    write("fine.csv", "src,dst,protocol,port\na,b,TCP,80\n");
    write(
        "fine.test.yaml",
        "apiVersion: podwall/v1\nkind: PolicyTest\nassertions:\n- allow: {from: a, to: b}\n",
    );
    folder
}

/// Runs a command with bounded time and memory.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new("bash")
        .args(["-c", "ulimit -v 2097152; exec timeout 60 \"$@\"", "bash"])
        .arg(env!("CARGO_BIN_EXE_podwall"))
        .args(arguments)
        .current_dir(folder)
        .env("CLICOLOR_FORCE", "1") // as on a terminal: escapes would get through
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What was said, after it was seen that it was an answer and no accident.
fn said(output: &Output, what: &str) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code();
    assert!(matches!(code, Some(0..=3)), "{what}: {code:?} {}", head(&text));
    assert!(!text.contains("panicked"), "{what}: {}", head(&text));
    assert!(text.len() < 1 << 20, "{what}: {} bytes of message", text.len());
    text
}

fn head(text: &str) -> String {
    text.chars().take(400).collect()
}

/// Each command with this file: all refuse it, and say which file.
fn all_refuse(name: &str, content: &[u8]) {
    let folder = folder();
    fs::write(folder.path().join(name), content).unwrap();
    for command in COMMANDS {
        let arguments = [command, &["-f", name]].concat();
        let output = run(folder.path(), &arguments);
        let said = said(&output, &format!("{arguments:?}"));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", head(&said));
        assert!(said.contains(name), "{arguments:?} names no file: {}", head(&said));
    }
}

#[test]
fn nesting_without_end() {
    all_refuse("flow.yaml", "[".repeat(300_000).as_bytes());
    all_refuse("maps.yaml", "{a: ".repeat(300_000).as_bytes());
    all_refuse("list.yaml", "- ".repeat(300_000).as_bytes());
    all_refuse("deep.json", "{\"a\":".repeat(300_000).as_bytes());
    let block: String = (0..5_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    all_refuse("block.yaml", block.as_bytes());
}

#[test]
fn aliases_that_explode() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..40 {
        let before = level - 1;
        let items = vec![format!("*a{before}"); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    all_refuse("bomb.yaml", bomb.as_bytes());
    all_refuse("self.yaml", b"a: &a [*a, *a]\n");
}

#[test]
fn bytes_that_are_no_text() {
    all_refuse("nul.yaml", b"kind: Pod\0\n");
    all_refuse("latin.yaml", b"kind: P\xe9d\n");
    let utf16: Vec<u8> = "kind: Pod\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    all_refuse("wide.yaml", &[b"\xff\xfe", &utf16[..]].concat());
    let mut number = 1_u64;
    let noise = std::iter::repeat_with(|| {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u8::try_from(number >> 56).unwrap()
    });
    all_refuse("noise.yaml", &noise.take(1 << 20).collect::<Vec<u8>>());
}

#[test]
fn a_hundred_megabytes() {
    all_refuse("line.yaml", &vec![b'a'; 100 << 20]);
    all_refuse("documents.yaml", "---\na\n".repeat((100 << 20) / 6).as_bytes());
    all_refuse(
        "keys.yaml",
        (0..6_000_000).map(|key| format!("k{key}: v\n")).collect::<String>().as_bytes(),
    );
}

#[test]
fn what_is_no_file_keeps_nobody_waiting() {
    let folder = folder();
    let inside = folder.path().join("odd");
    fs::create_dir(&inside).unwrap();
    fs::copy(folder.path().join("fine.yaml"), inside.join("fine.yaml")).unwrap();
    std::os::unix::fs::symlink(".", inside.join("loop")).unwrap();
    std::os::unix::fs::symlink("gone", inside.join("gone.yaml")).unwrap();
    nix::unistd::mkfifo(&inside.join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for command in COMMANDS {
        said(&run(folder.path(), &[command, &["-f", "odd"]].concat()), &format!("{command:?}"));
    }
    all_refuse("/dev/zero", b"");
}

/// The line that is shown carries no commands to the reader's terminal.
#[test]
fn a_message_does_not_speak_to_the_terminal() {
    let folder = folder();
    let escape = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m";
    let plain = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{x: \"{escape}\", containers: 1}}\n"
    );
    let quoted = "apiVersion: v1\nkind: Pod\nmetadata: {name: \"a\\e]0;owned\\a\\e[2J\"}\nspec: {containers: 1}\n";
    for (name, text) in [("plain.yaml", plain.as_str()), ("quoted.yaml", quoted)] {
        fs::write(folder.path().join(name), text).unwrap();
        for command in COMMANDS {
            let output = run(folder.path(), &[command, &["-f", name]].concat());
            let said = said(&output, name);
            for sign in ["\u{1b}]", "\u{7}", "\u{1b}[2J", "\u{9b}"] {
                assert!(!said.contains(sign), "{command:?} {name}: {sign:?} in {said:?}");
            }
        }
    }
}

/// The other readers: assertions and flows.
#[test]
fn files_of_assertions_and_of_flows() {
    let nested = "[".repeat(300_000);
    let inputs: [(&str, Vec<u8>); 5] = [
        ("nested", nested.clone().into_bytes()),
        ("nested.json", "{\"a\":".repeat(300_000).into_bytes()),
        ("bytes", b"src,dst\0\xff\xfe,\n".to_vec()),
        ("self", b"a: &a [*a]\n".to_vec()),
        ("line", vec![b'a'; 100 << 20]),
    ];
    let folder = folder();
    for (name, content) in inputs {
        fs::write(folder.path().join(name), content).unwrap();
        for command in ["test", "generate"] {
            let output = run(folder.path(), &[command, name, "-f", "fine.yaml"]);
            let said = said(&output, &format!("{command} {name}"));
            assert_eq!(output.status.code(), Some(2), "{command} {name}: {}", head(&said));
            assert!(said.contains(name), "{command} {name}: {}", head(&said));
        }
    }
    // A diff reads two.
    fs::write(folder.path().join("nested.yaml"), &nested).unwrap();
    for ends in [["fine.yaml", "nested.yaml"], ["nested.yaml", "fine.yaml"]] {
        let output = run(folder.path(), &["diff", ends[0], ends[1]]);
        assert_eq!(output.status.code(), Some(2), "{ends:?}");
        assert!(said(&output, "diff").contains("nested.yaml"));
    }
}

/// Much, but in order: answered.
#[test]
fn a_thousand_rules_are_no_attack() {
    let folder = folder();
    let mut file = fs::File::create(folder.path().join("many.yaml")).unwrap();
    write!(file, "{FINE}---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec:\n  podSelector: {{}}\n  ingress:\n").unwrap();
    for number in 0..1_000 {
        writeln!(
            file,
            "  - from: [{{ipBlock: {{cidr: 10.{}.{}.0/24}}}}]",
            number / 250,
            number % 250
        )
        .unwrap();
    }
    let outside: &[&str] = &["can", "internet", "a"];
    for command in COMMANDS.iter().chain([&outside]) {
        let output = run(folder.path(), &[*command, &["-f", "many.yaml"]].concat());
        let said = said(&output, &format!("{command:?}"));
        assert!(output.status.code() != Some(2), "{command:?}: {}", head(&said));
    }
}
