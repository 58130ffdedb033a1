//! What of a directory is a manifest?
//!
//! ```text
//!   repository ── mkdocs.yml, values.yaml, patches ──▶ passed over
//!              └─ policies, and what looks like one ──▶ read
//! ```

#![cfg(test)]

use std::fs;
use std::path::Path;

use podwall_manifest::{Input, Options, Reading, read};

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

fn read_path(path: &Path) -> Reading {
    read(&[Input::Path(path.to_path_buf())], &Options::default())
}

/// Codes and the ends of the files' names.
fn found(reading: &Reading) -> Vec<String> {
    let of = reading.diagnostics.iter().map(|it| {
        let file = it.place.as_ref().map(|place| place.source.file.to_string());
        format!("{} {}", it.code, file.unwrap_or_default().rsplit('/').next().unwrap_or_default())
    });
    of.collect()
}

fn names(reading: &Reading) -> Vec<&str> {
    reading.objects.iter().map(|object| &*object.key.name).collect()
}

const POD: &str =
    "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: i}]}}";

/// A whole repository was refused because of the settings of other programs.
#[test]
fn settings_of_other_programs_are_passed_over_where_nobody_named_them() {
    let files = [
        ("mkdocs.yml", "site_name: x\n"),
        ("list.yaml", "- op: remove\n  path: /spec\n"),
        ("package.json", "{\"name\": \"x\", \"version\": \"1\"}"),
        ("k8s/pod.yaml", POD),
    ];
    let directory = tree(&files);
    let reading = read_path(directory.path());
    assert_eq!(found(&reading), [""; 0]);
    assert_eq!(names(&reading), ["a"]);
    assert_eq!(reading.skipped.values().sum::<usize>(), 3, "{:?}", reading.skipped);
    for (name, _) in &files[..3] {
        let reading = read_path(&directory.path().join(name));
        assert_eq!(found(&reading), [format!("not-an-object {name}")], "named by somebody");
    }
}

#[test]
fn a_policy_without_its_first_lines_is_told_of_wherever_it_lies() {
    for text in
        ["spec: {podSelector: {}}", "metadata: {name: x}", "kind: NetworkPolicy", "kinds: Pod"]
    {
        let reading = read_path(tree(&[("x.yaml", text)]).path());
        assert!(reading.has_errors(), "{text}: {:?}", found(&reading));
    }
}

/// The patches of an overlay were read as objects, and nobody said that its base was missing.
#[test]
fn what_kustomize_would_make_is_not_taken_for_what_is_written() {
    let patch = "{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {x: y}}}";
    let directory = tree(&[
        ("base/kustomization.yaml", "resources: [pod.yaml]\n"),
        ("base/pod.yaml", POD),
        ("over/Kustomization", "resources: [../base]\npatches: [{path: p.yaml}]\n"),
        ("over/p.yaml", patch),
    ]);
    let base = read_path(&directory.path().join("base"));
    assert_eq!((found(&base), names(&base)), (vec![], vec!["a"]));
    let over = read_path(&directory.path().join("over"));
    assert_eq!(found(&over), ["not-built Kustomization"]);
    assert_eq!(names(&over), [""; 0]);
    let said = podwall_manifest::render_all(&over.diagnostics, false);
    assert!(said.contains("`resources` from elsewhere, `patches`"), "{said}");
    assert!(said.contains("kubectl kustomize"), "{said}");
    let all = read_path(directory.path());
    assert_eq!((found(&all), names(&all)), (vec!["not-built Kustomization".into()], vec!["a"]));
    // As texts of a revision, in any order.
    let text = |name: &str, text: &str| Input::Found { name: name.into(), text: text.into() };
    let inputs = [
        text("over/p.yaml", patch),
        text("over/kustomization.yaml", "patchesStrategicMerge: [p.yaml]"),
        text("base/pod.yaml", POD),
    ];
    let revision = read(&inputs, &Options::default());
    assert_eq!(found(&revision), ["not-built kustomization.yaml"]);
    assert_eq!(names(&revision), ["a"]);
}
