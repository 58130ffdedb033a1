//! How does a change of files look as a unified diff?
//!
//! As git writes it, so that `git apply` and `patch -p1` take it.

use std::fmt::Write as _;

use podwall_analysis::fix::patch::Patch;
use similar::TextDiff;

/// Lines around a change.
const CONTEXT: usize = 3;

/// The diff of all files, one after another.
pub fn unified(patches: &[Patch]) -> String {
    let mut text = String::new();
    for patch in patches {
        let name = |prefix: &str| {
            let file = &*patch.file;
            if file.starts_with('/') {
                file.to_owned()
            } else {
                format!("{prefix}/{}", file.trim_start_matches("./"))
            }
        };
        let before = patch.before.as_deref().unwrap_or_default();
        let from = if patch.before.is_some() { name("a") } else { "/dev/null".to_owned() };
        let diff = TextDiff::from_lines(before, &patch.after);
        let mut diff = diff.unified_diff();
        let diff = diff.context_radius(CONTEXT).header(&from, &name("b"));
        // Writing to a string does not fail.
        let _ = write!(text, "{diff}");
    }
    text
}
