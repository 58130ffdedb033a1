//! What the fuzzer checks, with every manifest of the tests, whole and cut at odd places.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/src/manifest.rs"]
mod manifest;

fn files(directory: &Path, out: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            out.extend(fs::read(&path));
        }
    }
}

#[test]
fn what_a_fuzzer_checks_holds_of_every_manifest_and_of_parts_of_it() {
    let mut texts = Vec::new();
    files(Path::new("tests"), &mut texts);
    assert!(texts.len() > 60, "{} manifests", texts.len());
    for text in &texts {
        manifest::check(text);
        let third = text.len() / 3;
        manifest::check(text.get(..third).unwrap_or_default());
        manifest::check(text.get(third..).unwrap_or_default());
        let without: Vec<u8> = text.iter().copied().filter(|byte| *byte != b':').collect();
        manifest::check(&without);
    }
}

/// Found by the fuzzer: the remedy for `\u{85}apiVersion` quoted the key as it was.
#[test]
fn odd_characters_in_keys_and_values_never_reach_the_terminal() {
    let mut texts = Vec::new();
    files(Path::new("tests"), &mut texts);
    for text in texts.iter().filter_map(|bytes| std::str::from_utf8(bytes).ok()) {
        for odd in ["\u{85}", "\u{9b}", "\u{2028}", "\u{202e}", "\u{feff}"] {
            let before_keys: String =
                text.split_inclusive('\n').map(|line| insert(line, odd)).collect();
            manifest::check(before_keys.as_bytes());
            manifest::check(text.replace(": ", &format!(": {odd}")).as_bytes());
            manifest::check(text.replace(':', &format!("{odd}:")).as_bytes());
        }
    }
}

/// Behind the line's indentation.
fn insert(line: &str, odd: &str) -> String {
    let key = line.trim_start_matches([' ', '-']);
    format!("{}{odd}{key}", &line[..line.len() - key.len()])
}
