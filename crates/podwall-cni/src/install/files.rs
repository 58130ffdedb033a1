//! How is a file changed so that nobody ever sees half of it?
//!
//! ```text
//!   .NAME.podwall-new ── write, mode, owner, fsync ── rename ──▶ NAME ── fsync of the directory
//! ```
//!
//! Names of our own end in `.podwall-new` and `.podwall-backup`: runtimes read what ends in `.conf`,
//! `.conflist` and `.json`, also if it begins with a dot.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::InstallError;

const NEW: &str = ".podwall-new";
const BACKUP: &str = ".podwall-backup";

/// A file that was read.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) text: String,
    /// Where it really is, behind symbolic links.
    path: PathBuf,
    metadata: Metadata,
}

// === impl Text ===

impl Text {
    /// Reads a file; `None`: there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, InstallError> {
        let failed = |source| InstallError::file("read", path, source);
        // A link to nothing is said to be one, not to be absent.
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        let real = path.canonicalize().map_err(failed)?;
        let metadata = fs::metadata(&real).map_err(failed)?;
        let text = fs::read_to_string(&real).map_err(failed)?;
        Ok(Some(Self { text, path: real, metadata }))
    }

    /// Replaces it, if it is still what was read. Mode and owner stay.
    pub(super) fn replace(&self, text: &str) -> Result<(), InstallError> {
        let key = |of: &Metadata| (of.dev(), of.ino(), of.size(), of.mtime(), of.mtime_nsec());
        let unchanged = || match fs::metadata(&self.path) {
            Ok(now) if key(&now) == key(&self.metadata) => Ok(()),
            _ => Err(InstallError::Changed(self.path.clone())),
        };
        let owner = Some((self.metadata.uid(), self.metadata.gid()));
        let mode = self.metadata.mode() & 0o7777;
        write(&self.path, text.as_bytes(), mode, owner, unchanged)
    }
}

/// Writes a file, whole or not at all.
pub(super) fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), InstallError> {
    write(path, bytes, mode, None, || Ok(()))
}

fn write(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
    ready: impl FnOnce() -> Result<(), InstallError>,
) -> Result<(), InstallError> {
    let new = beside(path, NEW);
    let prepare = || {
        // What a run that was cut off left behind may have another mode or be a link to elsewhere.
        absent(fs::remove_file(&new))?;
        let mut file = File::options().write(true).create_new(true).open(&new)?;
        file.write_all(bytes)?;
        if let Some((user, group)) = owner {
            fchown(&file, Some(user), Some(group))?;
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    };
    let failed = |source| InstallError::file("write", path, source);
    let result = prepare()
        .map_err(failed)
        .and_then(|()| ready())
        .and_then(|()| fs::rename(&new, path).and_then(|()| sync(path)).map_err(failed));
    if result.is_err() {
        // What stays is removed by the next run.
        let _ = fs::remove_file(&new);
    }
    result
}

/// Gives a file another name.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), InstallError> {
    fs::rename(from, to)
        .and_then(|()| sync(to))
        .map_err(|source| InstallError::file("rename", from, source))
}

/// Removes a file. `false`: there was none.
pub(super) fn remove(path: &Path) -> Result<bool, InstallError> {
    let failed = |source| InstallError::file("remove", path, source);
    let was = absent(fs::remove_file(path)).map_err(failed)?;
    if was {
        sync(path).map_err(failed)?;
    }
    Ok(was)
}

/// Where the backup of a file is.
pub(super) fn backup(path: &Path) -> PathBuf {
    beside(path, BACKUP)
}

/// Removes what is ours in a directory: backups, and what runs that were cut off left behind.
pub(super) fn clear(directory: &Path) -> Result<bool, InstallError> {
    let mut any = false;
    for name in names(directory)? {
        let text = name.to_string_lossy();
        if text.starts_with('.') && (text.ends_with(NEW) || text.ends_with(BACKUP)) {
            any |= remove(&directory.join(&name))?;
        }
    }
    Ok(any)
}

/// The names in a directory, in order; none where there is no directory.
pub(super) fn names(directory: &Path) -> Result<Vec<std::ffi::OsString>, InstallError> {
    let failed = |source| InstallError::file("list", directory, source);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names = names.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    names.sort();
    Ok(names)
}

/// Waits until no other installer works in a directory, and keeps others out. The kernel ends it
/// with the process.
pub(super) fn lock(directory: &Path) -> Result<File, InstallError> {
    let failed = |source| InstallError::file("lock", directory, source);
    let file = File::open(directory).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or(OsStr::new("")));
    name.push(ending);
    path.with_file_name(name)
}

fn sync(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Whether something was removed.
fn absent(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_wrote_meanwhile_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "one").unwrap();
        let file = Text::read(&path).unwrap().unwrap();
        file.replace("two").unwrap();
        // Another file has the name now, so what was read is old.
        assert!(matches!(file.replace("three"), Err(InstallError::Changed(_))));
        let file = Text::read(&path).unwrap().unwrap();
        fs::write(&path, "theirs").unwrap();
        assert!(matches!(file.replace("ours"), Err(InstallError::Changed(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        assert_eq!(names(dir.path()).unwrap(), ["a"], "nothing is left behind");
    }

    #[test]
    fn what_a_run_that_was_cut_off_left_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&other, "other").unwrap();
        std::os::unix::fs::symlink(&other, beside(&path, NEW)).unwrap();
        put(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "other");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
