//! Does kustomize make something else of a directory than what its files say?
//!
//! ```text
//!   kustomization.yaml   resources: [web.yaml]              the same: nothing to say
//!                        resources: [../base]               not what is read here: a warning
//!                        patches: [{path: fewer.yaml}]      and fewer.yaml is no object
//! ```
//!
//! kustomize itself is not run. A Kustomization may do without `apiVersion` and `kind`
//! (`kustomize/api/types/kustomization.go`, `FixKustomizationPostUnmarshalling`); its name says
//! what it is (`konfig.RecognizedKustomizationFileNames`).

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::locate;

const NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Fields with which policies see other objects than those that the files state.
const CHANGING: [&str; 16] = [
    "bases",
    "commonLabels",
    "components",
    "generators",
    "helmCharts",
    "labels",
    "namePrefix",
    "nameSuffix",
    "namespace",
    "patches",
    "patchesJson6902",
    "patchesStrategicMerge",
    "replacements",
    "replicas",
    "transformers",
    "vars",
];

/// What a Kustomization does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Kustomization {
    /// Its fields that make other objects of the files, in words.
    pub(crate) changes: Vec<String>,
    /// Files that are patches and no objects.
    pub(crate) patches: Vec<PathBuf>,
}

/// Whether a file is one, by its name.
pub(crate) fn is(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| NAMES.contains(&name))
}

/// Reads one; of what cannot be read nothing is known.
pub(crate) fn read(path: &Path, content: &str) -> Kustomization {
    let Ok(Value::Object(fields)) = locate::document("", content) else {
        return Kustomization::default();
    };
    let items = |field: &str| fields.get(field).and_then(Value::as_array).into_iter().flatten();
    let is_set = |field: &&&str| match fields.get(**field) {
        None | Some(Value::Null) => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    };
    let mut changes: Vec<String> =
        CHANGING.iter().filter(is_set).map(|field| format!("`{field}`")).collect();
    let elsewhere = |item: &Value| {
        item.as_str()
            .is_some_and(|it| it.starts_with("..") || it.contains("://") || it.contains('?'))
    };
    if items("resources").any(elsewhere) {
        changes.insert(0, "`resources` from elsewhere".to_owned());
    }
    let path_of = |item: &Value| item.get("path").and_then(Value::as_str).map(str::to_owned);
    let patches = items("patches").chain(items("patchesJson6902")).filter_map(path_of);
    // A patch may stand there itself.
    let merged = items("patchesStrategicMerge").filter_map(Value::as_str);
    let merged = merged.filter(|it| !it.contains(':')).map(str::to_owned);
    let beside = |patch: String| clean(&path.with_file_name(patch));
    Kustomization { changes, patches: patches.chain(merged).map(beside).collect() }
}

/// A path without `.` and `..`, as far as it goes.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if out.file_name().is_some() => _ = out.pop(),
            part => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_objects_as_they_are_is_no_change() {
        let says = |text: &str| read(Path::new("a/kustomization.yaml"), text).changes;
        assert_eq!(
            says("resources: [web.yaml, sub]\nimages: [{name: web, newTag: v2}]\n"),
            [""; 0]
        );
        assert_eq!(says("namespace: ''\npatches: []\nlabels:\n"), [""; 0]);
        assert_eq!(says("resources: [../base]"), ["`resources` from elsewhere"]);
        assert_eq!(
            says("resources: [https://example.org/x?ref=v1]\nnamespace: shop\n"),
            ["`resources` from elsewhere", "`namespace`"]
        );
        assert_eq!(says("a: [\n"), [""; 0]);
    }

    #[test]
    fn patches_are_found_beside_it() {
        let text = "patches:\n- path: fewer.yaml\n- patch: |-\n    - op: remove\n- path: ../x/./more.yaml\n\
                    patchesStrategicMerge:\n- old.yaml\n- |-\n  kind: Pod\n";
        let found = read(Path::new("k8s/prod/kustomization.yml"), text).patches;
        let paths = ["k8s/prod/fewer.yaml", "k8s/x/more.yaml", "k8s/prod/old.yaml"];
        assert_eq!(found, paths.map(PathBuf::from));
    }
}
