//! Where do the files of `--out` go?
//!
//! `DIR/NAMESPACE/NAME.yaml`. Nothing is written if a file is there already, unless that is asked for:
//! first all are looked at, then all are written.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use podwall_analysis::generate::Proposed;
use podwall_policy::policy::Policy;
use podwall_render::manifest::document;
use serde_json::{Map, Value};

use crate::output::{Failure, remark};

/// Writes the policies.
pub(super) fn write(
    folder: &Path,
    policies: &[Proposed],
    metadata: &dyn Fn(&Policy) -> Option<Map<String, Value>>,
    force: bool,
) -> Result<(), Failure> {
    let path = |proposed: &Proposed| -> PathBuf {
        let name = &proposed.policy.name;
        folder.join(&*name.namespace).join(format!("{}.yaml", name.name))
    };
    let there: Vec<String> = policies
        .iter()
        .map(path)
        .filter(|path| path.symlink_metadata().is_ok())
        .map(|path| path.display().to_string())
        .collect();
    if !there.is_empty() && !force {
        let more = there.len().saturating_sub(3);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let first = there[..there.len().min(3)].join(", ");
        return Err(Failure::new(format!("{first}{more}: there already, so nothing is written"))
            .hint("name another directory, or add --force"));
    }
    for proposed in policies {
        let path = path(proposed);
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot write {}: {error}", path.display()))
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let text = document(proposed, metadata(&proposed.policy).as_ref());
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).create_new(!force);
        let file = options.open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)?;
    }
    remark(&format!(
        "{}: {}\n",
        folder.display(),
        podwall_render::words::count(policies.len(), "file")
    ));
    Ok(())
}
