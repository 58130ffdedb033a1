//! How does code act inside a network namespace without leaving its own?
//!
//! ```text
//!   any thread                       scoped thread
//!   NetNs::within(f) ───spawn────▶   setns(fd); f()        sockets made by f stay in the
//!        ◀───────────result──────    thread ends           namespace, whoever uses them later
//! ```
//!
//! A network namespace belongs to a *thread* (`setns(2)`), so entering one on a thread that is
//! then thrown away can never leave the caller, or a runtime's worker, in a foreign namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::{fs, thread};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use thiserror::Error;

use crate::link::{Batch, LinkError, Links};

/// The calling thread's network namespace.
const THREAD_NETNS: &str = "/proc/thread-self/ns/net";

/// Why a namespace could not be made, entered or removed.
#[derive(Debug, Error)]
pub enum NetNsError {
    /// `unshare(2)`.
    #[error(
        "cannot create a network namespace: {0}; \
         this needs root, or a user namespace of one's own (see user.max_user_namespaces)"
    )]
    Create(#[source] io::Error),
    /// The namespace's file: its mount, its opening or its removal.
    #[error("cannot {action} the network namespace {}: {source}", path.display())]
    File {
        /// What was tried: `mount`, `open`, …
        action: &'static str,
        /// The file that names the namespace.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// `setns(2)`.
    #[error("cannot enter the network namespace {name}: {source}")]
    Enter {
        /// The namespace's file, or `(unnamed)`.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread could not be started, or the work in it panicked.
    #[error("cannot work in the network namespace {name}: {reason}")]
    Thread {
        /// The namespace's file, or `(unnamed)`.
        name: String,
        /// What happened.
        reason: String,
    },
    /// The loopback interface could not be switched on.
    #[error("cannot switch on the loopback interface: {0}")]
    Loopback(#[source] Box<LinkError>),
}

/// A network namespace that this process holds open.
///
/// Holds a descriptor, which alone keeps the namespace alive, and the path of the bind mount that
/// lets other processes find it. Dropping the value closes the descriptor and leaves the mount.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
    path: Option<PathBuf>,
}

// === impl NetNs ===

impl NetNs {
    /// A new namespace with `lo` up, bind-mounted on `path` (an empty file that is created; its
    /// directory must exist and lie in a mount that is private to the lab).
    pub fn create(path: &Path) -> Result<Self, NetNsError> {
        let file = |action, source| NetNsError::File { action, path: path.to_owned(), source };
        File::options().write(true).create_new(true).open(path).map_err(|e| file("name", e))?;
        let made = on_new_thread("(new)", || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetNsError::Create(e.into()))?;
            loopback_up()?;
            mount(Some(THREAD_NETNS), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(|e| file("mount", e.into()))?;
            current_thread_fd()
        });
        match made.and_then(|inner| inner) {
            Ok(fd) => Ok(Self { fd, path: Some(path.to_owned()) }),
            Err(error) => {
                // Best effort: the error that is reported is the one that mattered.
                let _ = umount2(path, MntFlags::MNT_DETACH);
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// A new namespace with `lo` up and no name: it ends with this value and the sockets and
    /// threads in it.
    pub fn unnamed() -> Result<Self, NetNsError> {
        let fd = on_new_thread("(new)", || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetNsError::Create(e.into()))?;
            loopback_up()?;
            current_thread_fd()
        })??;
        Ok(Self { fd, path: None })
    }

    /// The namespace that is mounted on `path`.
    pub fn open(path: &Path) -> Result<Self, NetNsError> {
        let file = File::open(path).map_err(|source| NetNsError::File {
            action: "open",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { fd: file.into(), path: Some(path.to_owned()) })
    }

    /// The calling thread's own namespace.
    pub fn current() -> Result<Self, NetNsError> {
        Ok(Self { fd: current_thread_fd()?, path: None })
    }

    /// Where the namespace is mounted, if it has a name.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// A second handle to the same namespace.
    pub fn try_clone(&self) -> Result<Self, NetNsError> {
        let fd = self.fd.try_clone().map_err(|source| NetNsError::File {
            action: "open again",
            path: self.path.clone().unwrap_or_default(),
            source,
        })?;
        Ok(Self { fd, path: self.path.clone() })
    }

    /// Runs `f` on a thread of its own inside the namespace and waits for it. Sockets and
    /// descriptors that `f` makes belong to the namespace for good and work from any thread.
    ///
    /// One call costs a thread (some 30 µs), so several steps belong in one closure.
    pub fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        on_new_thread(&self.name(), || {
            self.enter_thread()?;
            Ok(f())
        })?
    }

    /// Moves the *calling thread* into the namespace for the rest of its life: for threads that
    /// serve one namespace, and for a forked child before it runs a program.
    pub fn enter_thread(&self) -> Result<(), NetNsError> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET)
            .map_err(|e| NetNsError::Enter { name: self.name(), source: e.into() })
    }

    /// Takes the name away. The namespace itself, with its interfaces, ends when the last
    /// descriptor, socket and process in it are gone.
    pub fn delete(self) -> Result<(), NetNsError> {
        let Some(path) = self.path else { return Ok(()) };
        Self::unlink(&path)
    }

    /// [`delete`](Self::delete) without opening it first; a path that is gone is fine.
    pub fn unlink(path: &Path) -> Result<(), NetNsError> {
        let file = |action, source| NetNsError::File { action, path: path.to_owned(), source };
        match umount2(path, MntFlags::MNT_DETACH) {
            // EINVAL: the file is there but nothing is mounted on it (a create that was cut off).
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(file("unmount", error.into())),
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", error)),
            _ => Ok(()),
        }
    }

    fn name(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => "(unnamed)".to_owned(),
        }
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn current_thread_fd() -> Result<OwnedFd, NetNsError> {
    File::open(THREAD_NETNS).map(OwnedFd::from).map_err(|source| NetNsError::File {
        action: "open",
        path: THREAD_NETNS.into(),
        source,
    })
}

/// Switches `lo` on in the calling thread's namespace.
fn loopback_up() -> Result<(), NetNsError> {
    Links::here()
        .and_then(|links| links.change(Batch::new().up("lo")))
        .map_err(|e| NetNsError::Loopback(Box::new(e)))
}

/// Runs `f` on a thread that nobody else ever uses.
fn on_new_thread<T: Send>(name: &str, f: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
    let failed = |reason: String| NetNsError::Thread { name: name.to_owned(), reason };
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, f)
            .map_err(|e| failed(format!("no thread: {e}")))?
            .join()
            .map_err(|panic| {
                let said = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied());
                failed(format!("the work panicked: {}", said.unwrap_or("without a message")))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::fs::MetadataExt;

    fn root() -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            eprintln!("SKIPPED: needs root");
        }
        root
    }

    fn inode() -> u64 {
        fs::metadata(THREAD_NETNS).unwrap().ino()
    }

    #[test]
    fn work_happens_inside_and_the_caller_stays_outside() {
        if !root() {
            return;
        }
        let (before, ns) = (inode(), NetNs::unnamed().unwrap());
        let inside = ns.within(inode).unwrap();
        assert_ne!(inside, before);
        assert_eq!(inode(), before);
        assert_eq!(ns.within(inode).unwrap(), inside);
    }

    #[test]
    fn a_socket_made_inside_stays_inside_when_used_outside() {
        if !root() {
            return;
        }
        let ns = NetNs::unnamed().unwrap();
        let listener = ns.within(|| TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        ns.within(|| std::net::TcpStream::connect(address)).unwrap().unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn a_panic_inside_is_an_error_outside() {
        if !root() {
            return;
        }
        let ns = NetNs::unnamed().unwrap();
        let error = ns.within(|| panic!("boom {}", 1)).unwrap_err();
        assert!(error.to_string().contains("boom 1"), "{error}");
    }

    #[test]
    fn a_named_namespace_is_found_by_its_path_until_it_is_deleted() {
        if !root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let ns = NetNs::create(&path).unwrap();
        assert!(NetNs::create(&path).is_err(), "a name is given once");
        let same = NetNs::open(&path).unwrap();
        assert_eq!(same.within(inode).unwrap(), ns.within(inode).unwrap());
        ns.delete().unwrap();
        assert!(!path.exists());
        NetNs::unlink(&path).unwrap();
    }
}
