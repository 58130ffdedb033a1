//! Real manifests read without a finding.
//!
//! `good/NAME` is read, must give no diagnostic, and the objects and skipped kinds must be those of
//! `good/NAME.objects`. `UPDATE_EXPECT=1` rewrites those files; look at each change before it is
//! committed. `seeds/` holds every whole manifest of the documents that the project was founded on.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use podwall_manifest::{
    Input, LAST_APPLIED, Options, Reading, Typed, Written, object_from_json, read, render_all,
};

fn files(directory: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e != "objects"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{directory} is empty");
    files
}

fn read_well(path: &Path) -> Reading {
    let reading = read(&[Input::Path(path.to_path_buf())], &Options::default());
    assert!(
        reading.diagnostics.is_empty() && reading.left_out.is_empty(),
        "{}:\n{}",
        path.display(),
        render_all(&reading.diagnostics, false)
    );
    reading
}

/// Objects with their lines, skipped kinds, and the pods that come of it.
fn describe(reading: &Reading) -> String {
    let mut out = String::new();
    for object in &reading.objects {
        writeln!(out, "{} at {}:{}", object.key, object.source.line, object.source.column).unwrap();
    }
    for (kind, count) in &reading.skipped {
        writeln!(out, "skipped {kind}: {count}").unwrap();
    }
    for pod in reading.cluster().pods.values() {
        let owner =
            pod.owner.as_ref().map_or(String::new(), |o| format!(" of {} {}", o.kind, o.name));
        writeln!(out, "pod {}{owner}", pod.name).unwrap();
    }
    out
}

#[test]
fn real_manifests_read_without_a_finding() {
    for path in files("tests/good") {
        let found = describe(&read_well(&path));
        let mut expected = path.clone().into_os_string();
        expected.push(".objects");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(found, expected, "{}", path.display());
    }
}

#[test]
fn the_founding_documents_manifests_read_without_a_finding() {
    let mut objects = 0;
    for path in files("tests/seeds") {
        objects += read_well(&path).objects.len();
    }
    assert!(objects >= 20, "{objects}");
}

#[test]
fn where_little_is_kept_policies_see_the_same() {
    let little = Options { written: Written::Little, entrances: true, ..Options::default() };
    let all = Options { entrances: true, ..Options::default() };
    let (mut smaller, mut policies, mut selectors, mut annotations) = (0, 0, 0, 0);
    for path in files("tests/good").into_iter().chain(files("tests/seeds")) {
        let [little, all] =
            [&little, &all].map(|options| read(&[Input::Path(path.clone())], options));
        assert_eq!(little.cluster(), all.cluster(), "{}", path.display());
        assert_eq!(little.objects.len(), all.objects.len());
        for (little, all) in little.objects.iter().zip(&all.objects) {
            assert_eq!(little.typed, all.typed);
            if matches!(all.typed, Typed::Policy(_)) {
                policies += 1;
                assert_eq!(little.raw, all.raw);
                continue;
            }
            smaller += usize::from(little.raw.to_string().len() < all.raw.to_string().len());
            let mut own = all.raw.pointer("/metadata/annotations").cloned();
            if let Some(own) = own.as_mut().and_then(|own| own.as_object_mut()) {
                own.remove(LAST_APPLIED);
            }
            let own = own.filter(|own| own.as_object().is_some_and(|own| !own.is_empty()));
            annotations += usize::from(own.is_some());
            assert_eq!(little.raw.pointer("/metadata/annotations"), own.as_ref());
            if matches!(all.typed, Typed::Workload(_)) {
                selectors += 1;
                assert_eq!(little.raw.pointer("/spec/selector"), all.raw.pointer("/spec/selector"));
            }
        }
    }
    let seen = [smaller, policies, selectors, annotations];
    assert!(seen.iter().zip([30, 20, 8, 3]).all(|(seen, least)| *seen >= least), "{seen:?}");
}

#[test]
fn what_was_written_reads_again_from_json_as_the_same_object() {
    let mut compared = 0;
    for path in files("tests/good").into_iter().chain(files("tests/seeds")) {
        for object in read_well(&path).objects {
            let mut again = object_from_json(&object.raw, "state", &Options::default()).unwrap();
            assert_eq!(again.key, object.key);
            assert_eq!(again.raw, object.raw);
            again.set_places(&object.places());
            // The template of a workload alone says where it stands, and is not put back.
            if !matches!(object.typed, Typed::Workload(_)) {
                assert_eq!(again, object);
            }
            compared += 1;
        }
    }
    assert!(compared > 40, "{compared}");
}
