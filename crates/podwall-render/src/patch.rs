//! How does a change of files look as a unified diff?
//!
//! ```text
//!   k8s/a.yaml, /here/k8s/a.yaml, ../here/k8s/a.yaml ──▶ a/k8s/a.yaml      below the current directory
//!   ../k8s/a.yaml                                    ──▶ a/k8s/a.yaml      from the work tree's root
//!   /elsewhere/a.yaml                                ──▶ a/elsewhere/a.yaml           from /
//! ```
//!
//! As git writes it, so that `git apply` and `patch -p1` take it, in the directory that [`base`] says.

use std::fmt::Write as _;
use std::fs;
use std::path::{Component, Path, PathBuf};

use podwall_analysis::fix::patch::Patch;
use similar::TextDiff;

/// Lines around a change.
const CONTEXT: usize = 3;

/// The diff of all files, one after another, with names from [`base`].
pub fn unified(patches: &[Patch]) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    unified_from(patches, &here)
}

/// Where the diff has to be applied; `None` for the current directory.
pub fn base(patches: &[Patch]) -> Option<PathBuf> {
    let here = std::env::current_dir().unwrap_or_default();
    base_from(patches, &here)
}

fn unified_from(patches: &[Patch], here: &Path) -> String {
    let base = base_from(patches, here);
    let mut text = String::new();
    for patch in patches {
        let file = name(&patch.file, here, base.as_deref());
        // A tab ends a name that has a space in it, for patch(1).
        let end = if file.contains(char::is_whitespace) { "\t" } else { "" };
        let named = |prefix: &str| format!("{prefix}/{file}{end}");
        let before = patch.before.as_deref().unwrap_or_default();
        let from = if patch.before.is_some() { named("a") } else { "/dev/null".to_owned() };
        let diff = TextDiff::from_lines(before, &patch.after);
        let mut diff = diff.unified_diff();
        let diff = diff.context_radius(CONTEXT).header(&from, &named("b"));
        // Writing to a string does not fail.
        let _ = write!(text, "{diff}");
    }
    text
}

/// The first of the current directory, the root of its work tree and `/` that all files are below.
fn base_from(patches: &[Patch], here: &Path) -> Option<PathBuf> {
    let files: Vec<PathBuf> = patches.iter().map(|patch| absolute(&patch.file, here)).collect();
    let all_below = |dir: &Path| files.iter().all(|file| file.starts_with(dir));
    if all_below(here) {
        return None;
    }
    let root = here.ancestors().find(|dir| dir.join(".git").exists());
    let root = root.filter(|root| all_below(root));
    Some(root.unwrap_or(Path::new("/")).to_owned())
}

/// The file as it is named from a directory.
fn name(file: &str, here: &Path, base: Option<&Path>) -> String {
    let file = absolute(file, here);
    let from = base.unwrap_or(here);
    file.strip_prefix(from).unwrap_or(&file).to_string_lossy().into_owned()
}

/// Where a file is, without `.` and `..`. What leaves the current directory may come back to it by a
/// link, so the file system says where that is; names below it stay as they were written.
fn absolute(file: &str, here: &Path) -> PathBuf {
    let path = Path::new(file);
    let leaves = |part: Component<'_>| !matches!(part, Component::CurDir | Component::Normal(_));
    if path.components().any(leaves)
        && let (Some(dir), Some(name)) = (path.parent(), path.file_name())
        && let Ok(dir) = fs::canonicalize(here.join(dir))
    {
        return dir.join(name);
    }
    let mut plain = PathBuf::new();
    for part in here.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(files: &[&str], here: &str) -> (String, Option<PathBuf>) {
        let patch = |file: &&str| Patch {
            file: (*file).into(),
            before: Some("a\n".into()),
            after: "b\n".to_owned(),
        };
        let patches: Vec<Patch> = files.iter().map(patch).collect();
        let text = unified_from(&patches, Path::new(here));
        let names = text.lines().filter_map(|line| line.strip_prefix("+++ "));
        (names.collect::<Vec<_>>().join(" "), base_from(&patches, Path::new(here)))
    }

    /// An absolute path had no `a/` before it, and `../` stayed in the name: nothing took the patch.
    #[test]
    fn names_are_those_that_patch_and_git_take() {
        let table = [
            ("k/a.yaml", "b/k/a.yaml", None),
            ("./k/./a.yaml", "b/k/a.yaml", None),
            ("/no/such/here/k/a.yaml", "b/k/a.yaml", None),
            ("../here/a.yaml", "b/a.yaml", None),
            ("../k/a.yaml", "b/no/such/k/a.yaml", Some("/")),
            ("/etc/none/a.yaml", "b/etc/none/a.yaml", Some("/")),
            ("k 8/a.yaml", "b/k 8/a.yaml\t", None),
        ];
        for (file, expected, base) in table {
            let expected = (expected.to_owned(), base.map(PathBuf::from));
            assert_eq!(head(&[file], "/no/such/here"), expected, "{file}");
        }
        let both = head(&["a.yaml", "/etc/none/b.yaml"], "/no/such/here");
        assert_eq!(both.0, "b/no/such/here/a.yaml b/etc/none/b.yaml");
    }
}
