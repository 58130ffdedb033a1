//! Input that is meant to break the reader ends with a clear message, soon and in little memory.

#![expect(clippy::panic, reason = "a test ends at the first surprise")]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;

use podwall_manifest::{Code, Diagnostic, Input, Options, Reading, read, render, render_all};
use proptest::prelude::*;

const POLICY: &str = include_str!("good/policies.yaml");
const LIST: &str = include_str!("good/kubectl-get-list.yaml");
const EVERYTHING: &str = include_str!("good/deployment-with-everything.yaml");
const MANY: &str = include_str!("broken/many-errors.yaml");
const JSON: &str = include_str!("good/three-tier.json");

fn text(text: impl Into<String>) -> Reading {
    read(&[Input::Text { name: "t.yaml".into(), text: text.into() }], &Options::default())
}

fn codes(reading: &Reading) -> Vec<Code> {
    reading.diagnostics.iter().map(|d| d.code).collect()
}

/// What must hold of every reading, whatever was read.
fn check(reading: &Reading) {
    let _ = render_all(&reading.diagnostics, true);
    let _ = reading.cluster();
    assert!(reading.left_out.is_empty() || reading.has_errors(), "{:?}", reading.left_out);
    for object in &reading.objects {
        let again = podwall_manifest::object_from_json(&object.raw, "again", &Options::default());
        let again = again.unwrap_or_else(|d| panic!("{}", render_all(&d, false)));
        assert_eq!(again.key, object.key);
    }
}

#[test]
fn nesting_ends_in_yaml_and_json() {
    for deep in [
        "[".repeat(10_000),
        "{a: ".repeat(10_000),
        "- ".repeat(10_000),
        "? ".repeat(10_000),
        "{\"a\":".repeat(10_000),
        format!("{{\"a\":{}", "[".repeat(1_000_000)),
        (0..3_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>(),
    ] {
        let reading = text(deep);
        assert!(reading.has_errors());
        assert!(reading.diagnostics.len() < 3);
        check(&reading);
    }
}

#[test]
fn alias_bombs_end() {
    let mut bomb = String::from("a0: &a0 {k: v}\n");
    for i in 1..40 {
        bomb.push_str(&format!("a{i}: &a{i} {{k: *a{0}, l: *a{0}}}\n", i - 1));
    }
    assert_eq!(codes(&text(bomb)), [Code::Limit]);
    // Each document stays below its own limit, all together do not.
    let one = format!("---\na: &a [{}]\nb: [{}]\n", "x,".repeat(1_000), "*a,".repeat(200));
    let reading = text(one.repeat(50));
    assert!(codes(&reading).contains(&Code::Limit));
    let merge =
        format!("a: &a {{{}}}\n", (0..500).map(|i| format!("k{i}: 1,")).collect::<String>())
            + &format!("b: {{<<: [{}]}}\n", "*a,".repeat(2_000));
    assert!(codes(&text(merge)).contains(&Code::Limit));
}

#[test]
fn findings_are_limited_in_number_and_the_rest_is_counted() {
    let broken = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: A}\n";
    let options = Options { max_findings: 10, ..Options::default() };
    let input = Input::Text { name: "t".into(), text: broken.repeat(50) };
    let reading = read(&[input], &options);
    assert_eq!(reading.diagnostics.len(), 11);
    assert_eq!(reading.diagnostics[10].message, "40 more findings are not shown");
    assert_eq!(reading.left_out.len(), 10);
}

#[test]
fn a_large_file_is_refused_without_being_held() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.yaml");
    let file = File::create(&path).unwrap();
    file.set_len(100 << 20).unwrap();
    let reading = read(&[Input::Path(path)], &Options::default());
    assert_eq!(reading.diagnostics.len(), 1);
    assert_eq!(reading.diagnostics[0].message, "this file is larger than 64 MiB");
    assert_eq!(reading.left_out.len(), 1);
}

#[test]
fn all_files_together_are_limited() {
    let directory = tempfile::tempdir().unwrap();
    for i in 0..4 {
        let text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{i}}}\n");
        fs::write(directory.path().join(format!("{i}.yaml")), text).unwrap();
    }
    let input = [Input::Path(directory.path().to_path_buf())];
    let reading = read(&input, &Options { max_total_bytes: 150, ..Options::default() });
    assert_eq!(reading.objects.len(), 2);
    assert_eq!(reading.diagnostics[0].message, "all files together are larger than 150 bytes");
    let reading = read(&input, &Options { max_files: 3, ..Options::default() });
    assert_eq!(reading.objects.len(), 3);
    assert_eq!(codes(&reading), [Code::Limit]);
}

#[test]
fn values_are_limited() {
    let reading = text(format!("a: [{}]", "0,".repeat(5_100_000)));
    assert_eq!(codes(&reading), [Code::Limit]);
    let reading = text(format!("{{\"a\": [{}0]}}", "0,".repeat(5_100_000)));
    assert_eq!(codes(&reading), [Code::Limit]);
    let document =
        |i: usize| format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: n{i}}}\n");
    let input = Input::Text { name: "t".into(), text: (0..10).map(document).collect() };
    let reading = read(&[input], &Options { max_values: 100, ..Options::default() });
    assert_eq!((reading.objects.len(), reading.left_out.len()), (5, 5));
}

/// Columns are counted once along a line, and not from its start for every finding.
#[test]
fn a_long_line_takes_time_in_proportion() {
    let labels: String = (0..100_000).map(|i| format!("\"é{i}\": {i}, ")).collect();
    let reading = text(format!(
        "{{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {{\"labels\": {{{labels} \"z\": 1}}}}}}"
    ));
    assert_eq!(reading.diagnostics.len(), 10_001);
}

#[test]
fn devices_end_at_the_limit() {
    let options = Options { max_file_bytes: 1 << 20, ..Options::default() };
    let reading = read(&[Input::Path("/dev/zero".into())], &options);
    assert_eq!(codes(&reading), [Code::Limit]);
    assert!(read(&[Input::Path("/dev/null".into())], &options).diagnostics.is_empty());
}

#[test]
fn links_are_followed_and_circles_end() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir_all(root.join(".git")).unwrap();
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: nn}\n";
    fs::write(root.join("a/b/n.yml"), namespace).unwrap();
    fs::write(root.join(".git/x.yaml"), "broken: [").unwrap();
    fs::write(root.join("a/notes.txt"), "broken: [").unwrap();
    symlink(root, root.join("a/b/up")).unwrap();
    symlink(root.join("a/b/n.yml"), root.join("again.yaml")).unwrap();
    let reading = read(&[Input::Path(root.to_path_buf())], &Options::default());
    assert!(reading.diagnostics.is_empty(), "{}", render_all(&reading.diagnostics, false));
    assert_eq!((reading.objects.len(), reading.files), (1, 1), "the file has two names");
    symlink("self.yaml", root.join("self.yaml")).unwrap();
    symlink("nowhere", root.join("gone.yaml")).unwrap();
    let reading = read(&[Input::Path(root.to_path_buf())], &Options::default());
    let messages: Vec<&str> = reading.diagnostics.iter().map(|d| &*d.message).collect();
    assert_eq!(
        messages,
        [
            "cannot be read: there is no such file or directory",
            "cannot be read: it is a link that leads to itself"
        ]
    );
}

#[test]
fn files_of_a_directory_come_sorted_and_those_named_are_read_whatever_their_name() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir(root.join("b")).unwrap();
    for (name, object) in
        [("c.yaml", "three"), ("b/x.json", "two"), ("a.YML", "one"), ("plain", "four")]
    {
        let text = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{{\"name\":\"{object}\"}}}}"
        );
        File::create(root.join(name)).unwrap().write_all(text.as_bytes()).unwrap();
    }
    let inputs = [Input::Path(root.to_path_buf()), Input::Path(root.join("plain"))];
    let reading = read(&inputs, &Options::default());
    let names: Vec<&str> = reading.objects.iter().map(|o| &*o.key.name).collect();
    assert_eq!(names, ["one", "two", "three", "four"]);
    assert_eq!(reading.files, 4);
    let missing = read(&[Input::Path(root.join("missing"))], &Options::default());
    assert_eq!(codes(&missing), [Code::Unreadable]);
}

#[test]
fn very_long_lines_do_not_fill_the_messages() {
    let labels: String = (0..2_000).map(|i| format!("\"k{i}\": {i}, ")).collect();
    let text_ = format!(
        "{{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {{\"labels\": {{{labels} \"z\": 1}}, \"name\": \"a\"}}}}"
    );
    let reading = text(text_);
    assert_eq!(reading.diagnostics.len(), 2_001);
    let size: usize = reading.diagnostics.iter().map(|d| render(d, false).len()).sum();
    assert!(size < 2_000_000, "{size}");
    assert!(render(&reading.diagnostics[1_999], false).contains("t.yaml:1:"));
    let long = text(format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}}}\n",
        "x".repeat(1 << 20)
    ));
    assert!(render_all(&long.diagnostics, false).len() < 1_000);
}

#[test]
fn control_characters_never_reach_the_terminal() {
    for character in ["\u{1b}[31m", "\u{7}", "\u{9b}", "\u{202e}", "\u{200b}"] {
        let yaml =
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: \"a{character}b\"}}\n");
        let rendered = render_all(&text(yaml).diagnostics, false);
        assert!(!rendered.is_empty());
        assert!(!rendered.contains(character), "{rendered:?}");
        let escaped = "apiVersion: v1\nkind: \"P\\x1b[31m\"\nmetadata: {name: \"a\\e[31m\"}\n";
        let reading = text(escaped);
        assert!(!render_all(&reading.diagnostics, false).contains('\u{1b}'));
        for left_out in &reading.left_out {
            assert!(!left_out.to_string().contains('\u{1b}'));
        }
    }
}

fn seeds() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![POLICY, LIST, EVERYTHING, MANY, JSON])
}

/// Pieces that have a meaning in YAML, JSON or the API.
fn pieces() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "\n",
        "  ",
        "- ",
        ": ",
        "\t",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "&a ",
        "*a",
        "<<: *a",
        "---\n",
        "...\n",
        "|\n",
        ">-\n",
        "# ",
        "!!int ",
        "~",
        "null",
        "0",
        "-1",
        "70000",
        "yes",
        "\\",
        "\r",
        "\u{feff}",
        "é",
        "😀",
        "%YAML 1.1\n",
        "? ",
        ",",
        "kind: List\nitems:\n",
        "podSelector",
        "ports:",
        "ipBlock: {cidr: ::/0}",
        "1e400",
        ".inf",
        "0x",
        "\\ud800",
    ])
}

/// 400 in a run of all tests; more by `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&text(String::from_utf8_lossy(&bytes).into_owned()));
    }

    #[test]
    fn random_pieces_never_break_the_reader(list in prop::collection::vec(pieces(), 0..60)) {
        check(&text(list.concat()));
    }

    #[test]
    fn mutated_manifests_never_break_the_reader(
        seed in seeds(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..30, pieces()), 1..6),
    ) {
        let mut mutated = seed.to_string();
        for (index, delete, insert) in edits {
            let floor = |mut at: usize, text: &str| {
                at = at.min(text.len());
                while !text.is_char_boundary(at) { at -= 1; }
                at
            };
            let start = floor(index.index(mutated.len() + 1), &mutated);
            let end = floor(start + delete, &mutated).max(start);
            mutated.replace_range(start..end, insert);
        }
        check(&text(mutated));
    }
}

#[test]
fn a_diagnostic_prints_on_one_line_for_editors() {
    let reading = text("apiVersion: v1\nkind: Namespace\nmetadata: {name: A}\n");
    let line = reading.diagnostics.iter().map(Diagnostic::to_string).collect::<String>();
    assert!(line.starts_with("t.yaml:3:18: error[invalid-name]: name `A` must"), "{line}");
}
