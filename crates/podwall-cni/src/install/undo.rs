//! How does the plugin leave a node?
//!
//! ```text
//!   chain that we made of X.conf ──▶ on its way ── rename ──▶ X.conf as it was
//!   other chains ──▶ without our entry; as the backup has it, if that says the same
//! ```
//!
//! What others changed since stays. The program goes last: a runtime that reads an entry needs it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::chain::Chain;
use super::files::{self, Text};
use super::{InstallError, is_chain, networks};
use crate::TYPE;

/// What a removal changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The files that had an entry of ours, by the names that they have now.
    pub files: Vec<PathBuf>,
    /// Whether the program was there.
    pub program: bool,
}

/// Takes our entries, backups and program away. Done twice it does nothing.
///
/// # Errors
/// A file that seems to have an entry cannot be edited or written; all others are done, and the
/// program stays, since a runtime would miss it.
pub fn uninstall(
    bin_dir: &Path,
    conf_dir: &Path,
    keep_program: bool,
) -> Result<Removed, InstallError> {
    let mut removed = Removed::default();
    let mut failed = None;
    if conf_dir.exists() {
        let _lock = files::lock(conf_dir)?;
        for path in networks(conf_dir)? {
            match undo(&path) {
                Ok(Some(file)) => removed.files.push(file),
                Ok(None) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        files::clear(conf_dir)?;
    }
    if !keep_program && bin_dir.exists() {
        removed.program = files::remove(&bin_dir.join(TYPE))?;
        files::clear(bin_dir)?;
    }
    Ok(removed)
}

/// Takes our entry out of a file; says where the network is now. `None`: it had none.
fn undo(path: &Path) -> Result<Option<PathBuf>, InstallError> {
    // A link to nothing, or no text: not one of ours.
    let Ok(Some(file)) = Text::read(path) else { return Ok(None) };
    let failed = || InstallError::chain(path);
    let chain = match Chain::read(&file.text) {
        Ok(chain) => chain,
        // Somebody else's broken file is somebody else's, unless it names us.
        Err(_) if !file.text.contains(TYPE) => return Ok(None),
        Err(error) => return Err(failed()(error)),
    };
    if let Some((name, single)) = chain.on_its_way() {
        return unwrap(path, &file, &name, &single).map(Some);
    }
    if !is_chain(path) {
        return Ok(None);
    }
    if let Some((name, single)) = chain.wraps() {
        return unwrap(path, &file, &name, single).map(Some);
    }
    let Some(text) = chain.without().map_err(failed())? else { return Ok(None) };
    file.replace(&as_it_was(path, text)?)?;
    Ok(Some(path.to_path_buf()))
}

/// Turns a chain that we made into the file that it was made of.
fn unwrap(path: &Path, file: &Text, name: &str, single: &str) -> Result<PathBuf, InstallError> {
    let to = path.with_file_name(name);
    let text = as_it_was(&to, single.to_owned())?;
    if path == to {
        file.replace(&text)?;
        return Ok(to);
    }
    if to.exists() {
        // Its owner has written it again: that is the network, and the chain was ours.
        files::remove(path)?;
        return Ok(to);
    }
    let failed = || InstallError::chain(path);
    let hybrid = Chain::read(single).and_then(|chain| chain.hybrid(name, None));
    file.replace(&hybrid.map_err(failed())?)?;
    files::rename(path, &to)?;
    let file = Text::read(&to)?.ok_or_else(|| super::gone(&to))?;
    file.replace(&text)?;
    Ok(to)
}

/// The text, or that of the backup of this file if it says the same: then it is as it was, to the
/// last space.
fn as_it_was(path: &Path, text: String) -> Result<String, InstallError> {
    let value = |text: &str| serde_json::from_str::<Value>(text).ok();
    Ok(match Text::read(&files::backup(path))? {
        Some(backup) if value(&backup.text) == value(&text) => backup.text,
        _ => text,
    })
}
