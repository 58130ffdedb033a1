//! Which interfaces went while no agent listened?
//!
//! ```text
//!   plugin:  connect ✗ ── leave a note ── connect again ✓ ── detach ── withdraw the note
//!                                                       ✗ ── done: the agent will find it
//!   agent:   listen ── read the notes ── forget ── withdraw each ── accept connections
//! ```
//!
//! A container runtime removes a pod once, and is told that this went well whether or not an agent
//! runs. So the plugin leaves a note beside the socket. Both sides keep an order, so that none is
//! overlooked: the agent listens before it reads, the plugin tries once more after it wrote.
//! Connections are accepted after the notes, so that a note never meets an attachment that is newer.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::attach::Sandbox;

/// The directory beside the socket.
const DIRECTORY: &str = "detached";

/// Notes of interfaces that went. A file each, in a directory beside an agent's socket that the
/// plugin makes and both sides clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notes {
    directory: PathBuf,
}

impl Notes {
    /// Those for the agent of this socket.
    #[must_use]
    pub fn beside(socket: &Path) -> Self {
        Self { directory: socket.parent().unwrap_or(Path::new(".")).join(DIRECTORY) }
    }

    /// Where they are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Leaves one, whole or not at all. `false`: the socket's directory is not there, so no agent
    /// has run since this machine was started, and none remembers anything.
    ///
    /// # Errors
    /// The file cannot be written, or the sandbox's names are none (they would be a path).
    pub fn leave(&self, sandbox: &Sandbox) -> io::Result<bool> {
        let name = name(sandbox)?;
        match fs::DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let half = self.directory.join(format!(".{name}"));
        fs::write(&half, serde_json::to_vec(sandbox)?)?;
        fs::rename(&half, self.directory.join(name))?;
        Ok(true)
    }

    /// Takes one back; none is no error.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn withdraw(&self, sandbox: &Sandbox) -> io::Result<()> {
        match fs::remove_file(self.directory.join(name(sandbox)?)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All that were left, by name. What is no note is passed over.
    ///
    /// # Errors
    /// The directory is there and cannot be read.
    pub fn read(&self) -> io::Result<Vec<Sandbox>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut sandboxes = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(text) = fs::read(entry.path()) else { continue };
            let Ok(sandbox) = serde_json::from_slice::<Sandbox>(&text) else { continue };
            // A half-written one has another name, and one that was put here by hand another still.
            if name(&sandbox).is_ok_and(|name| entry.file_name() == *name) {
                sandboxes.push(sandbox);
            }
        }
        sandboxes.sort();
        Ok(sandboxes)
    }
}

/// A file's name: neither part may contain a `/`, a container's ID no `@` (CNI specification,
/// section 2, parameters).
fn name(sandbox: &Sandbox) -> io::Result<String> {
    let Sandbox { container, interface } = sandbox;
    let container_ok = container.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if container.is_empty() || !container_ok || interface.is_empty() || interface.contains('/') {
        let words = format!("{container:?} and {interface:?} name no interface of a container");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
    }
    Ok(format!("{container}@{interface}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_sandbox(container: &str) -> Sandbox {
        Sandbox { container: container.to_owned(), interface: "eth0".to_owned() }
    }

    fn mk_notes() -> (tempfile::TempDir, Notes) {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::beside(&dir.path().join("agent.sock"));
        (dir, notes)
    }

    #[test]
    fn a_note_is_found_until_it_is_withdrawn() {
        let (_dir, notes) = mk_notes();
        assert_eq!(notes.read().unwrap(), []);
        for container in ["b", "a", "b"] {
            assert!(notes.leave(&mk_sandbox(container)).unwrap());
        }
        assert_eq!(notes.read().unwrap(), [mk_sandbox("a"), mk_sandbox("b")]);
        notes.withdraw(&mk_sandbox("a")).unwrap();
        notes.withdraw(&mk_sandbox("a")).unwrap();
        assert_eq!(notes.read().unwrap(), [mk_sandbox("b")]);
    }

    #[test]
    fn without_the_sockets_directory_there_is_nobody_to_leave_a_note_for() {
        let (dir, _) = mk_notes();
        let notes = Notes::beside(&dir.path().join("none/agent.sock"));
        assert!(!notes.leave(&mk_sandbox("a")).unwrap());
        assert_eq!(notes.read().unwrap(), []);
        assert!(!dir.path().join("none").exists());
    }

    #[test]
    fn what_is_no_note_is_passed_over() {
        let (_dir, notes) = mk_notes();
        notes.leave(&mk_sandbox("a")).unwrap();
        let text = serde_json::to_vec(&mk_sandbox("b")).unwrap();
        for (file, text) in [(".b@eth0", &text[..]), ("c@eth0", &text[..]), ("d@eth0", b"{")] {
            fs::write(notes.directory().join(file), text).unwrap();
        }
        assert_eq!(notes.read().unwrap(), [mk_sandbox("a")]);
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() {
        let (_dir, notes) = mk_notes();
        for (container, interface) in [("", "eth0"), ("../a", "eth0"), ("a", "../b"), ("a", "")] {
            let sandbox =
                Sandbox { container: container.to_owned(), interface: interface.to_owned() };
            assert_eq!(notes.leave(&sandbox).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
