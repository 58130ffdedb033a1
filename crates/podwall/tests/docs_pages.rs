//! What the pages in docs show is what happens.
//!
//! ```text
//!   ```yaml file=PATH     the file PATH of the repository says the same
//!   ```console            each `$ podwall …` prints what follows it; `? 1` is its exit code
//! ```
//!
//! Commands run at the root of the repository, or in the directory that the page speaks of. With
//! `PODWALL_BLESS=1` the pages are written anew; read the difference.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// What a command prints, with its exit code if that is not 0.
fn run(line: &str, directory: &str) -> String {
    let arguments = line.split_whitespace().skip(1);
    let output = Command::new(env!("CARGO_BIN_EXE_podwall"))
        .args(arguments)
        .current_dir(root().join(directory))
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let code = match output.status.code() {
        Some(0) => String::new(),
        code => format!("? {}\n", code.unwrap()),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    code + &text(&output.stdout) + &text(&output.stderr)
}

/// The pages whose examples need nothing but the repository, and where their commands run.
const PAGES: [(&str, &str); 3] = [
    ("docs/can.md", "."),
    ("docs/test.md", "."),
    ("docs/diff.md", "crates/podwall/tests/data/diff"),
];

#[test]
fn every_example_of_the_pages_is_true() {
    PAGES.iter().for_each(|(page, directory)| true_page(page, directory));
}

fn true_page(name: &str, directory: &str) {
    let path = root().join(name);
    let page = std::fs::read_to_string(&path).unwrap();
    let mut fresh = String::new();
    let mut blocks = page.split("```");
    fresh.push_str(blocks.next().unwrap());
    let mut checked = 0;
    while let (Some(block), Some(text)) = (blocks.next(), blocks.next()) {
        let (info, body) = block.split_once('\n').unwrap();
        let body = match info.strip_prefix("yaml file=") {
            Some(file) => {
                checked += 1;
                std::fs::read_to_string(root().join(file)).unwrap()
            }
            None if info == "console" => {
                let commands: Vec<&str> =
                    body.lines().filter(|line| line.starts_with("$ ")).collect();
                checked += commands.len();
                let ran: Vec<String> = commands
                    .iter()
                    .map(|line| {
                        format!("{line}\n{}", run(line.trim_start_matches("$ "), directory))
                    })
                    .collect();
                ran.join("\n")
            }
            None => body.to_owned(),
        };
        fresh.push_str(&format!("```{info}\n{body}```{text}"));
    }
    assert!(checked >= 3, "{name}: {checked}");
    if std::env::var_os("PODWALL_BLESS").is_some() {
        std::fs::write(&path, fresh).unwrap();
        return;
    }
    for (is, shown) in fresh.lines().zip(page.lines()) {
        assert_eq!(is, shown, "{name} shows something else than happens");
    }
    assert_eq!(fresh.len(), page.len(), "{name}");
}
