//! How does a process of the lab come about, and what does it know of the others?
//!
//! ```text
//!   fork_single   the one place where the lab forks; refuses when other threads exist
//!   Process       pid + start time: a number that was given to somebody else is not taken for ours
//! ```
//!
//! Plain `fork` keeps the lab free of a helper binary, at the price of a rule: only a process with
//! one thread may do it, because the child has that thread alone, and a lock that another thread
//! held at that moment would stay locked in the child for ever.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction, signal as set_handler,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork};

/// Forks. Fails with [`io::ErrorKind::ResourceBusy`] if the process has other threads.
pub(super) fn fork_single() -> io::Result<ForkResult> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!(
                "this process has {threads} threads, and only one with a single thread may fork"
            ),
        ));
    }
    // Whoever started this process may have it ignored, and then no child can be waited for.
    default_signal(Signal::SIGCHLD);
    fork_alone()
}

/// Forks a process that is known to have a single thread: one that was itself just forked, or that
/// has changed its mount namespace, which the kernel allows to no other (`setns(2)`).
#[expect(unsafe_code, reason = "fork is unsafe in a process with several threads")]
pub(super) fn fork_alone() -> io::Result<ForkResult> {
    // SAFETY: the calling thread is the only one (the callers' duty, see above), so no lock is
    // held by a thread that the child lacks.
    unsafe { fork() }.map_err(io::Error::from)
}

/// Waits for a child to end, whatever interrupts the waiting.
pub(super) fn wait_for(child: Pid) -> io::Result<ExitStatus> {
    loop {
        match waitpid(child, None) {
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(change) => {
                if let Some(status) = status_of(change) {
                    return Ok(status);
                }
            }
        }
    }
}

/// How a child ended; `None` if that is not what befell it.
pub(super) fn status_of(change: WaitStatus) -> Option<ExitStatus> {
    match change {
        WaitStatus::Exited(_, code) => Some(ExitStatus::from_raw((code & 0xff) << 8)),
        WaitStatus::Signaled(_, signal, core) => {
            let core = if core { 0x80 } else { 0 };
            Some(ExitStatus::from_raw(signal as i32 | core))
        }
        _ => None,
    }
}

/// Ends the calling process as another one has ended: with its code, or by its signal.
pub(super) fn end_like(status: ExitStatus) -> ! {
    if let Some(signal) = status.signal().and_then(|n| Signal::try_from(n).ok()) {
        // One memory image is enough, and it is not this process's.
        let _ = nix::sys::prctl::set_dumpable(false);
        default_signal(signal);
        let _ = SigSet::empty().thread_set_mask();
        let _ = raise(signal);
    }
    exit_now(status.code().unwrap_or(1))
}

/// While it lives, the terminal's interrupts (`SIGINT`, `SIGQUIT`) leave this process alone, as
/// they leave a shell alone that waits for a command.
#[derive(Debug)]
pub(super) struct IgnoreTerminal {
    before: Vec<(Signal, SigAction)>,
}

// === impl IgnoreTerminal ===

impl IgnoreTerminal {
    #[expect(unsafe_code, reason = "changing a signal's handling is unsafe in general")]
    pub(super) fn start() -> Self {
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        let before = [Signal::SIGINT, Signal::SIGQUIT].into_iter().filter_map(|signal| {
            // SAFETY: ignoring a signal runs no code of this process.
            unsafe { sigaction(signal, &ignore) }.ok().map(|old| (signal, old))
        });
        Self { before: before.collect() }
    }
}

impl Drop for IgnoreTerminal {
    #[expect(unsafe_code, reason = "changing a signal's handling is unsafe in general")]
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // SAFETY: restores what was in force when this value was made.
            let _ = unsafe { sigaction(*signal, before) };
        }
    }
}

/// Ends the calling process without running the exit handlers and buffers that it shares with the
/// process it was forked from.
#[expect(unsafe_code, reason = "std::process::exit would run the parent's exit handlers")]
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// Cuts the calling process off from its caller's descriptors: standard input, output and error
/// become `/dev/null`, everything else but `keep` is closed, so that whoever reads a pipe of the
/// caller sees its end.
pub(super) fn release_descriptors(keep: &[RawFd]) -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(null.as_fd())?;
    dup2_stdout(null.as_fd())?;
    dup2_stderr(null.as_fd())?;
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep {
        if fd > from {
            close_range(from, fd - 1)?;
        }
        from = from.max(fd + 1);
    }
    // `null` is closed here too; its destructor must not close the number a second time.
    std::mem::forget(null);
    close_range(from, u32::MAX)
}

/// Runs `work` in a process of its own and gives what it returned: for libraries that leave threads or
/// descriptors behind, which a process that is to fork must not have. Empty if it panicked.
///
/// # Errors
/// It cannot be forked, as [`super::HolderError::Fork`] says.
pub fn apart(work: impl FnOnce() -> Vec<u8>) -> io::Result<Vec<u8>> {
    let (mut read, write) = io::pipe()?;
    match fork_single()? {
        ForkResult::Child => {
            drop(read);
            exit_now(super::guarded(|| i32::from((&write).write_all(&work()).is_err())))
        }
        ForkResult::Parent { child } => {
            drop(write);
            let mut said = Vec::new();
            let got = read.read_to_end(&mut said);
            waitpid(child, None)?;
            got.map(|_| said)
        }
    }
}

/// Has a program end (`SIGKILL`) with the *thread* that starts it, however that ends.
#[expect(unsafe_code, reason = "what runs between fork and exec must be async-signal-safe")]
pub fn follow_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    let parent = Pid::this();
    let follow = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // Not told of a parent that has ended before.
        if Pid::parent() == parent { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: two system calls; no memory is allocated and no lock is taken.
    unsafe {
        command.pre_exec(follow);
    }
}

/// Closes descriptors `first` to `last`.
#[expect(unsafe_code, reason = "close_range(2) has no safe wrapper")]
fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: plain numbers. The descriptors belong to values of the forked parent's memory that
    // this process never drops: it ends with _exit or exec.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets a signal do what it does by default.
#[expect(unsafe_code, reason = "changing a signal's handling is unsafe in general")]
pub(crate) fn default_signal(signal: Signal) {
    // SAFETY: the default action runs no code of this process.
    let _ = unsafe { set_handler(signal, SigHandler::SigDfl) };
}

/// Lets a signal do nothing.
#[expect(unsafe_code, reason = "changing a signal's handling is unsafe in general")]
pub(super) fn ignore_signal(signal: Signal) {
    // SAFETY: ignoring a signal runs no code of this process.
    let _ = unsafe { set_handler(signal, SigHandler::SigIgn) };
}

/// Whether a signal does nothing here.
#[expect(unsafe_code, reason = "sigaction(2) can change the handling, and is unsafe for that")]
pub(super) fn is_ignored(signal: Signal) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action nothing changes; the old one is written to memory of its size,
    // and is read only if it was written.
    unsafe {
        libc::sigaction(signal as libc::c_int, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// A process, told from a later one with the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its number, in the pid namespace of the `/proc` that is mounted here.
    pub(super) pid: Pid,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub(super) start: u64,
}

// === impl Process ===

impl Process {
    /// The process that has this number now, dead ones included.
    pub(super) fn now(pid: Pid) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything, so the fields are counted from its end.
        let start = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// A descriptor of the process, if it is still that one.
    pub(super) fn open(self) -> Option<OwnedFd> {
        let fd = pidfd_open(self.pid).ok()?;
        // Looked at after opening, so that the number cannot change hands in between.
        (Self::now(self.pid) == Some(self) && !exited(fd.as_fd(), 0)).then_some(fd)
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Self { pid: Pid::from_raw(pid.parse().ok()?), start: start.parse().ok()? })
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.start)
    }
}

/// Whether the process of a pidfd has ended, or the last writer of a pipe, waiting for it up to
/// `milliseconds`.
pub(super) fn exited(pidfd: BorrowedFd<'_>, milliseconds: u16) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::from(milliseconds)), Ok(n) if n > 0)
}

/// Sends a signal to the process of a pidfd; an ended one is fine.
#[expect(unsafe_code, reason = "pidfd_send_signal(2) has no safe wrapper")]
pub(super) fn send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    let number = signal as libc::c_int;
    // SAFETY: the descriptor is open, and a null siginfo asks for the one of kill(2).
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, nothing, 0)
    };
    match io::Error::last_os_error() {
        error if sent != 0 && error.raw_os_error() != Some(libc::ESRCH) => Err(error),
        _ => Ok(()),
    }
}

#[expect(unsafe_code, reason = "pidfd_open(2) has no safe wrapper")]
fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel just made this descriptor, close-on-exec, and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The children of the calling process that live in another pid namespace and have ended; they
/// hold up the end of that namespace until somebody collects them.
pub(super) fn zombie_children_in_namespaces() -> Vec<Pid> {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
                return false;
            };
            let field = |name: &str| {
                status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default()
            };
            field("State:").trim_start().starts_with('Z')
                && field("PPid:").trim().parse() == Ok(own)
                && field("NSpid:").split_whitespace().count() > 1
        })
        .map(Pid::from_raw)
        .collect()
}

/// Creates the directory that holds labs if need be and locks it: labs of one directory are
/// started and removed one at a time. The lock ends when the value is dropped.
pub(super) fn lock_labs(labs: &Path) -> io::Result<Flock<File>> {
    // Far more than labs of one user come and go; a path that can never be made ends with its error.
    let mut attempts = 10_000;
    loop {
        match lock_once(labs) {
            Ok(Some(lock)) => return Ok(lock),
            // Whoever held the lock before removed the directory (it was empty).
            Ok(None) => {}
            // The same between two steps of this attempt. "File exists" is what is left when the
            // directory above goes while this one is made.
            Err(error)
                if attempts > 0
                    && matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                    ) =>
            {
                attempts -= 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// One attempt. `None` if the directory was removed after it was opened.
fn lock_once(labs: &Path) -> io::Result<Option<Flock<File>>> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(labs)?;
    for directory in [Some(labs), labs.parent()].into_iter().flatten() {
        check_owner(directory)?;
    }
    let lock = Flock::lock(File::open(labs)?, FlockArg::LockExclusive)
        .map_err(|(_, error)| io::Error::from(error))?;
    let current = fs::metadata(labs)?.ino() == lock.metadata()?.ino();
    Ok(current.then_some(lock))
}

/// Refuses a directory in which somebody else could replace what is put there: with a foreign
/// owner, or writable for others without the sticky bit.
fn check_owner(directory: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(directory)?;
    let own = [0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid());
    let closed = metadata.mode() & 0o022 == 0 || metadata.mode() & 0o1000 != 0;
    if own && closed {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{} belongs to or can be changed by another user", directory.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In CI a lab came up while the last one before it went down, and its start ended with "No
    /// such file or directory": the directory was removed between being made and being opened.
    #[test]
    fn a_lab_that_starts_while_the_last_one_goes_finds_its_directory() {
        let around = std::env::temp_dir().join(format!("podwall-lock-{}", std::process::id()));
        let labs = around.join("labs");
        let missed: Vec<io::Error> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..2_000)
                            .filter_map(|_| match lock_labs(&labs) {
                                Ok(_lock) => {
                                    super::super::keeper::remove_empty(&labs);
                                    None
                                }
                                Err(error) => Some(error),
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(missed.is_empty(), "{} of 8,000, first {:?}", missed.len(), missed.first());
        assert!(!around.exists());
    }

    #[test]
    fn a_process_with_several_threads_does_not_fork() {
        // Under the test runner there are at least two threads.
        let error = fork_single().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    }

    #[test]
    fn a_number_that_changed_hands_is_not_taken_for_the_process() {
        let own = Process::now(Pid::this()).unwrap();
        assert!(own.open().is_some());
        assert!(Process { start: own.start + 1, ..own }.open().is_none());
        assert_eq!(Process::parse(&own.to_string()), Some(own));
        assert_eq!(Process::parse("12"), None);
    }
}
