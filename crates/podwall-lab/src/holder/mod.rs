//! Who owns everything of a lab, so that it can vanish without a trace?
//!
//! ```text
//!   host                          lab (user*, mount, pid, network, UTS, IPC namespaces)
//!   DIR/holder.pid  ─────────▶    init = pid 1; when it dies, the kernel ends all of this:
//!   DIR/…socket                     processes · network namespaces · interfaces · rules
//!                                   DIR/inside = a private tmpfs: state, namespaces' names
//!                                 * when not root
//! ```
//!
//! [`Holder::start`] makes a lab's namespaces, [`Holder::find`] finds them again,
//! [`Holder::enter`] moves a process in, [`Holder::stop`] ends everything. Starting, entering and
//! running fork, so they must be called while the process has a single thread; that is checked.

mod keeper;
mod process;
mod record;
mod terminal;

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, geteuid, getppid, pipe2, setsid};
use thiserror::Error;

use keeper::Plan;
pub(crate) use process::default_signal;
use process::{
    IgnoreTerminal, end_like, exit_now, fork_alone, fork_single, ignore_signal, lock_labs, wait_for,
};
pub use process::{apart, follow_parent};
use record::Record;
use terminal::Terminal;

/// Name of the mount point of the lab's private file system, in the lab's directory.
const INSIDE: &str = "inside";
/// In a lab's directory: there since its namespaces are its own.
const STANDING: &str = "standing";
/// How long the end of a lab may take before it is an error, in milliseconds.
const PATIENCE: u32 = 10_000;

/// Why a lab could not be started, entered or ended.
#[derive(Debug, Error)]
pub enum HolderError {
    /// A directory or file of the lab on the host.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The name is taken.
    #[error("the lab in {} is running already; `podwall lab down` ends it", dir.display())]
    Running {
        /// The lab's directory.
        dir: PathBuf,
    },
    /// The holding process could not make the namespaces.
    #[error("cannot start the lab in {}: {reason}", dir.display())]
    Start {
        /// The lab's directory.
        dir: PathBuf,
        /// Why, in words.
        reason: String,
    },
    /// A process could not be forked.
    #[error("cannot start a process of the lab: {0}")]
    Fork(#[source] io::Error),
    /// The namespaces could not be entered.
    #[error("cannot enter the lab in {}: {source}", dir.display())]
    Enter {
        /// The lab's directory.
        dir: PathBuf,
        /// What the kernel said; `EINVAL` if the process has several threads.
        source: io::Error,
    },
    /// The lab did not end in time.
    #[error(
        "the lab in {} was killed but has not ended after {} s: a process in it cannot be killed, \
         or its parent outside the lab has not collected it",
        dir.display(),
        PATIENCE / 1000
    )]
    Lingers {
        /// The lab's directory.
        dir: PathBuf,
    },
}

/// How a lab is to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// End the lab, and remove its directory, when the thread that starts it ends: for a
    /// demonstration or a test that must leave nothing behind, not even when it is killed.
    pub die_with_parent: bool,
}

/// Which network a process of the lab has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    /// The fabric.
    Labs,
    /// That of whoever started it.
    Callers,
}

/// A running lab: its namespaces and the way into them.
///
/// Holds a descriptor of the lab's pid 1, which cannot come to mean another process. Dropping the
/// value leaves the lab running.
#[derive(Debug)]
pub struct Holder {
    dir: PathBuf,
    record: Record,
    init: OwnedFd,
    /// Whether the keeper is a child of this process, which then has to collect it.
    keeper_is_child: bool,
}

// === impl Holder ===

impl Holder {
    /// Starts a lab in a directory of the host, which is created; what an ended lab left there is
    /// removed first.
    ///
    /// # Errors
    /// [`HolderError::Running`] if a lab runs there; [`HolderError::Fork`] if this process has
    /// several threads.
    pub fn start(dir: &Path, options: StartOptions) -> Result<Self, HolderError> {
        let file = |action, path: &Path, source| HolderError::File {
            action,
            path: path.to_owned(),
            source,
        };
        let dir = std::path::absolute(dir).map_err(|e| file("find", dir, e))?;
        let labs = dir.parent().unwrap_or(Path::new("/"));
        let lock = lock_labs(labs).map_err(|e| file("use", labs, e))?;
        if Self::find(&dir).is_some() {
            return Err(HolderError::Running { dir });
        }
        remove_all(&dir)?;
        let started = Self::fork_keeper(&dir, options, lock.as_raw_fd());
        if started.is_err() {
            keeper::remove_empty(labs);
        }
        drop(lock);
        started
    }

    /// Removes what a lab left that was cut off: a directory in which no lab runs. Returns whether
    /// there was something.
    pub fn clear(dir: &Path) -> Result<bool, HolderError> {
        let dir = std::path::absolute(dir).map_err(|source| HolderError::File {
            action: "find",
            path: dir.to_owned(),
            source,
        })?;
        let labs = dir.parent().unwrap_or(Path::new("/"));
        if !labs.exists() {
            return Ok(false);
        }
        // First the lock: a lab whose maker was killed holds it until it stands.
        let lock = lock_labs(labs).map_err(|source| HolderError::File {
            action: "use",
            path: labs.to_owned(),
            source,
        })?;
        if Self::find(&dir).is_some() {
            return Err(HolderError::Running { dir });
        }
        let left = dir.exists();
        // Alive but never came to stand: nobody could ever use or end it.
        if let Some(init) = Record::read(&dir).and_then(|record| record.init.open()) {
            let _ = process::send_signal(init.as_fd(), Signal::SIGKILL);
        }
        remove_all(&dir)?;
        keeper::remove_empty(labs);
        drop(lock);
        Ok(left)
    }

    fn fork_keeper(dir: &Path, options: StartOptions, lock: RawFd) -> Result<Self, HolderError> {
        let (read, write) =
            pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| HolderError::Fork(e.into()))?;
        let plan =
            Plan { dir, options, user_namespace: !can_administer(), starter: Pid::this(), lock };
        let child = match fork_single().map_err(HolderError::Fork)? {
            ForkResult::Child => {
                drop(read);
                keeper::run(&plan, write)
            }
            ForkResult::Parent { child } => child,
        };
        drop(write);
        let failed = |reason: String| HolderError::Start { dir: dir.to_owned(), reason };
        let mut said = String::new();
        fs::File::from(read).read_to_string(&mut said).map_err(HolderError::Fork)?;
        if !options.die_with_parent || said != "ok" {
            let _ = waitpid(child, None);
        }
        if said != "ok" {
            return Err(failed(match said.as_str() {
                "" => "the holding process was killed".to_owned(),
                reason => reason.to_owned(),
            }));
        }
        let holder = Self::find(dir).ok_or_else(|| failed("it ended at once".to_owned()))?;
        Ok(Self { keeper_is_child: options.die_with_parent, ..holder })
    }

    /// The lab that runs in a directory; `None` if there is none, or only what an ended one left.
    /// To be asked outside of labs.
    pub fn find(dir: &Path) -> Option<Self> {
        let dir = std::path::absolute(dir).ok()?;
        let record = Record::read(&dir)?;
        let init = record.init.open()?;
        let found = Self { dir, record, init, keeper_is_child: false };
        // Recorded before it stands: the command that made it may have been killed in between, and
        // its keeper goes on alone.
        const STEP: u16 = 2;
        let mut waits = PATIENCE / u32::from(STEP);
        while !found.dir.join(STANDING).exists() {
            if waits == 0 || process::exited(found.init.as_fd(), STEP) {
                return None;
            }
            waits -= 1;
        }
        Some(found)
    }

    /// The lab's directory on the host: for sockets and whatever the host is to see.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lab's private directory. Its files exist inside the lab only, in memory, and end with
    /// it.
    pub fn inside(&self) -> PathBuf {
        self.dir.join(INSIDE)
    }

    /// The number of the lab's pid 1 on the host.
    pub fn pid(&self) -> Pid {
        self.record.init.pid
    }

    /// Whether the lab still runs.
    pub fn is_alive(&self) -> bool {
        !process::exited(self.init.as_fd(), 0)
    }

    /// Becomes readable when the lab has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.init.as_fd()
    }

    /// Moves the calling process into the lab's namespaces, with the lab's fabric as its network;
    /// its working directory becomes `/`. Its *children* are in the lab's pid namespace, and only
    /// they end with the lab: fork after this.
    ///
    /// # Errors
    /// The kernel refuses processes with several threads (`EINVAL`).
    pub fn enter(&self) -> Result<(), HolderError> {
        self.enter_with(Network::Labs)
    }

    fn enter_with(&self, network: Network) -> Result<(), HolderError> {
        let failed = |source| HolderError::Enter { dir: self.dir.clone(), source };
        let mut flags = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC;
        if network == Network::Labs {
            flags |= CloneFlags::CLONE_NEWNET;
        }
        let user = |who: &str| fs::metadata(format!("/proc/{who}/ns/user")).map(|m| m.ino());
        let net = |who: &str| fs::metadata(format!("/proc/{who}/ns/net")).map(|m| m.ino());
        // Never build a lab in the host's network, whatever went wrong before.
        if net("self").map_err(failed)? == net(&self.pid().to_string()).map_err(failed)? {
            return Err(failed(io::Error::from_raw_os_error(nix::libc::EBUSY)));
        }
        // Entering the user namespace that one is in already is refused by the kernel.
        if user("self").map_err(failed)? != user(&self.pid().to_string()).map_err(failed)? {
            flags |= CloneFlags::CLONE_NEWUSER;
        }
        setns(&self.init, flags).map_err(|e| failed(e.into()))
    }

    /// Runs `work` in a child process inside the lab and waits for it. Its result is the exit
    /// code; a signal that ends it shows in the status. Interrupts from the terminal reach `work`
    /// and leave the waiting processes alone; if the caller dies, `work` gets `SIGHUP`.
    ///
    /// # Errors
    /// [`HolderError::Fork`] if this process has several threads, [`HolderError::Enter`] if the
    /// lab has ended.
    pub fn run(&self, work: impl FnOnce() -> i32) -> Result<ExitStatus, HolderError> {
        self.run_on(None, Network::Labs, work)
    }

    /// [`Self::run`] for a program of a user: while it runs, the terminal is its own, if the caller
    /// has one and is in its foreground. When the program is stopped (Ctrl-Z), so is the caller.
    pub fn run_in_foreground(&self, work: impl FnOnce() -> i32) -> Result<ExitStatus, HolderError> {
        self.run_on(Terminal::of_caller(), Network::Labs, work)
    }

    fn run_on(
        &self,
        terminal: Option<Terminal>,
        network: Network,
        work: impl FnOnce() -> i32,
    ) -> Result<ExitStatus, HolderError> {
        let new_pipe =
            || pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| HolderError::Fork(e.into()));
        let (read, write) = new_pipe()?;
        // Nobody but the relay keeps the writing end: the other shows that it has ended.
        let relay_lives = new_pipe()?;
        let caller = Pid::this();
        let relay = match fork_single().map_err(HolderError::Fork)? {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                drop(read);
                self.relay(caller, write, relay_lives, terminal.as_ref(), network, work)
            }
        };
        drop((write, relay_lives));
        let _quiet = IgnoreTerminal::start();
        let status = match terminal {
            Some(terminal) => terminal.wait(relay),
            None => wait_for(relay),
        };
        let status = status.map_err(HolderError::Fork)?;
        let mut errno = [0; 4];
        match fs::File::from(read).read_exact(&mut errno) {
            Ok(()) => Err(HolderError::Enter {
                dir: self.dir.clone(),
                source: io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
            }),
            Err(_) => Ok(status),
        }
    }

    /// The process between the caller, outside, and the work, inside: ends as the work ended.
    fn relay(
        &self,
        caller: Pid,
        report: OwnedFd,
        relay_lives: (OwnedFd, OwnedFd),
        terminal: Option<&Terminal>,
        network: Network,
        work: impl FnOnce() -> i32,
    ) -> ! {
        if let Some(terminal) = terminal {
            terminal.become_relay();
        }
        let (lives, life) = relay_lives;
        let enter = || -> io::Result<ForkResult> {
            self.enter_with(network).map_err(|error| match error {
                HolderError::Enter { source, .. } => source,
                other => io::Error::other(other),
            })?;
            set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != caller {
                exit_now(1);
            }
            fork_alone()
        };
        match enter() {
            Ok(ForkResult::Child) => {
                let _ = set_pdeathsig(Signal::SIGHUP);
                drop(report);
                drop(life);
                // The signal is not sent for a relay that died before it was asked for, and
                // `getppid` is 0 either way: the relay is outside of this pid namespace.
                if process::exited(lives.as_fd(), 0) {
                    exit_now(1);
                }
                if let Some(terminal) = terminal {
                    terminal.become_program();
                }
                exit_now(guarded(work))
            }
            Ok(ForkResult::Parent { child }) => {
                drop((report, lives));
                ignore_signal(Signal::SIGINT);
                ignore_signal(Signal::SIGQUIT);
                if terminal.is_some() {
                    Terminal::relay(child)
                }
                match wait_for(child) {
                    Ok(status) => end_like(status),
                    Err(_) => exit_now(1),
                }
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(nix::libc::EIO);
                let _ = io::Write::write_all(&mut fs::File::from(report), &errno.to_ne_bytes());
                exit_now(1)
            }
        }
    }

    /// Starts a process inside the lab that lives on when the caller ends, and ends with the lab.
    /// It has no terminal, no descriptor of the caller but those in `keep`, and the lab's init for
    /// a parent.
    pub fn detach(
        &self,
        keep: &[BorrowedFd<'_>],
        work: impl FnOnce() -> i32,
    ) -> Result<(), HolderError> {
        self.detach_with(Network::Labs, keep, work)
    }

    /// [`Self::detach`] for a process that has the *caller's* network, for what it has to talk to
    /// there, and all else of the lab. It must do nothing to a network before it has entered one of
    /// the lab's.
    pub fn detach_in_callers_network(
        &self,
        keep: &[BorrowedFd<'_>],
        work: impl FnOnce() -> i32,
    ) -> Result<(), HolderError> {
        self.detach_with(Network::Callers, keep, work)
    }

    fn detach_with(
        &self,
        network: Network,
        keep: &[BorrowedFd<'_>],
        work: impl FnOnce() -> i32,
    ) -> Result<(), HolderError> {
        let keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
        let status = self.run_on(None, network, || {
            // One more fork inside: an orphan goes to the init of its *parent's* pid namespace.
            match fork_single() {
                Ok(ForkResult::Parent { .. }) => 0,
                Ok(ForkResult::Child) => {
                    let _ = set_pdeathsig(None);
                    if setsid().is_err() || process::release_descriptors(&keep).is_err() {
                        return 1;
                    }
                    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
                        default_signal(signal);
                    }
                    guarded(work)
                }
                Err(_) => 1,
            }
        })?;
        if status.success() {
            Ok(())
        } else {
            Err(HolderError::Fork(io::Error::other(format!("it ended with {status}"))))
        }
    }

    /// Ends the lab and waits until its processes are gone and its directory is removed. Children
    /// of the caller in the lab are collected.
    pub fn stop(self) -> Result<(), HolderError> {
        process::send_signal(self.init.as_fd(), Signal::SIGKILL).map_err(HolderError::Fork)?;
        if !self.wait_while(self.init.as_fd()) {
            return Err(HolderError::Lingers { dir: self.dir });
        }
        if let Some(keeper) = self.record.keeper.open() {
            let _ = self.wait_while(keeper.as_fd());
        }
        if self.keeper_is_child {
            let _ = waitpid(self.record.keeper.pid, Some(WaitPidFlag::WNOHANG));
        }
        keeper::remove_directory(&self.dir, self.record.init);
        match fs::symlink_metadata(&self.dir) {
            Ok(_) if Record::read(&self.dir).is_some_and(|r| r == self.record) => {
                Err(HolderError::File {
                    action: "remove",
                    path: self.dir,
                    source: io::Error::other("it is still there"),
                })
            }
            _ => Ok(()),
        }
    }

    /// Waits for a process to end; false if it takes too long.
    fn wait_while(&self, pidfd: BorrowedFd<'_>) -> bool {
        const STEP: u16 = 20;
        (0..PATIENCE / u32::from(STEP)).any(|_| {
            let ended = process::exited(pidfd, STEP);
            if !ended {
                for zombie in process::zombie_children_in_namespaces() {
                    let _ = waitpid(zombie, Some(WaitPidFlag::WNOHANG));
                }
            }
            ended
        })
    }
}

/// Runs the work of a forked process. A panic ends here with Rust's usual code: it must not unwind
/// into frames that belong to the process it was forked from.
fn guarded(work: impl FnOnce() -> i32) -> i32 {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(101)
}

/// Removes a directory with everything in it; one that is not there is fine.
fn remove_all(dir: &Path) -> Result<(), HolderError> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(HolderError::File { action: "clear", path: dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Where the labs of this user live: `/run/podwall/labs` for root, else
/// `$XDG_RUNTIME_DIR/podwall/labs`, else `/tmp/podwall-UID/labs`.
pub fn labs_directory() -> PathBuf {
    let uid = geteuid();
    if uid.is_root() {
        return "/run/podwall/labs".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(runtime) if runtime.is_absolute() && runtime.is_dir() => runtime.join("podwall/labs"),
        _ => format!("/tmp/podwall-{uid}/labs").into(),
    }
}

/// Whether this process may create namespaces without a user namespace (`CAP_SYS_ADMIN`).
fn can_administer() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask >> CAP_SYS_ADMIN & 1 == 1)
    })
}
