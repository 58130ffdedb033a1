//! How does work get into the network namespace of a data plane?
//!
//! ```text
//!   open ──▶ Namespace::current          any thread ── run ──▶ a thread that enters it
//! ```
//!
//! Sockets and links belong to the namespace of the thread that makes them, and threads of a worker
//! are anywhere.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::Error;

/// A network namespace, held open.
pub struct Namespace(File);

impl Namespace {
    /// The calling thread's.
    pub fn current() -> Result<Self, Error> {
        let doing = "open the network namespace of this thread";
        File::open("/proc/thread-self/ns/net")
            .map(Self)
            .map_err(|source| Error::Socket { doing, source })
    }

    /// One that has a name: a file under `/run/netns` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn named(file: &Path) -> Result<Self, Error> {
        let doing = "open the network namespace";
        File::open(file).map(Self).map_err(|source| Error::Socket { doing, source })
    }

    /// The same once more.
    pub(crate) fn duplicate(&self) -> Result<Self, Error> {
        let doing = "open the network namespace once more";
        self.0.try_clone().map(Self).map_err(|source| Error::Socket { doing, source })
    }

    /// Whether it is the calling thread's. If that cannot be told, it is not.
    fn is_here(&self) -> bool {
        match (fs::metadata("/proc/thread-self/ns/net"), self.0.metadata()) {
            (Ok(here), Ok(there)) => (here.dev(), here.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    /// Works inside, on a thread of its own.
    ///
    /// # Errors
    /// It cannot be entered, or what `work` says.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        let inside = || {
            // To enter takes CAP_SYS_ADMIN, even of who is there already (`netns_install` in the kernel's
            // net/core/net_namespace.c); an agent in its node's own namespace has not got it.
            if !self.is_here() {
                let doing = "enter the network namespace again";
                setns(&self.0, CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| Error::Socket { doing, source: errno.into() })?;
            }
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|_| Err(Error::Lost("a thread ended".to_owned())))
    }
}
