//! Where does a test put what must not outlive it?
//!
//! ```text
//!   Scratch ── path    a directory; bind mounts of namespaces in path/ns
//!          └── pins    a name in the bpffs
//!   janitor (a shell) ◀── pipe ── this process      its end, however it comes: all of it is taken away
//! ```

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::statvfs::statvfs;

/// Waits for the end of its input. `$1` is the directory, `$2` the pins. What is killed with the test
/// may still write for a moment.
const JANITOR: &str = r#"
trap '' HUP INT TERM
cat >/dev/null
for name in "$1"/ns/*; do [ ! -e "$name" ] || umount -l "$name"; done
rm -rf -- "$1" "$2" || { sleep 1; rm -rf -- "$1" "$2"; }
"#;

/// A directory, and a directory for pinned eBPF programs, that end with this value and with the
/// process.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    pins: PathBuf,
    janitor: Child,
}

impl Scratch {
    /// Makes the directory, where only this user can read it. The pins' one is left to who pins.
    #[track_caller]
    pub fn new() -> Self {
        let mut named = tempfile::Builder::new();
        let path = named.prefix("podwall-test-").tempdir_in(place()).expect("a directory");
        let path = path.keep();
        let pins = Path::new("/sys/fs/bpf").join(path.file_name().expect("a name"));
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .args([&path, &pins])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell");
        Self { path, pins, janitor }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A name in the bpffs.
    pub fn pins(&self) -> &Path {
        &self.pins
    }
}

/// In memory, where there is room: etcd waits for the disk at every write, and nothing here has to
/// survive.
fn place() -> PathBuf {
    const ENOUGH: u64 = 2 << 30;
    let memory = Path::new("/dev/shm");
    match statvfs(memory) {
        Ok(about) if about.blocks_available() * about.fragment_size() > ENOUGH => memory.to_owned(),
        _ => std::env::temp_dir(),
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_ends_with_its_value() {
        let scratch = Scratch::new();
        let path = scratch.path().to_owned();
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
