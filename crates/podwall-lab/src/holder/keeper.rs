//! Which two processes hold a lab, and what does each do?
//!
//! ```text
//!   starter ──fork──▶ keeper (the host's namespaces, own user namespace when not root)
//!                       │ waits; removes the lab's directory when init has ended
//!                       └──fork──▶ init (pid 1; own mount, network, UTS, IPC namespaces)
//!                                    waits for ever; its death is the end of everything in the lab
//! ```
//!
//! Init holds the namespaces because the kernel kills a whole pid namespace with its pid 1; all
//! namespaces, interfaces, rules and the private file system follow. What is left is one directory
//! of the host, and that is the keeper's only work. Each step is ordered so that a death at any
//! moment leaves either nothing or something that [`find`](super::Holder::find) knows.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_dumpable, set_name, set_pdeathsig};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Pid, close, getegid, geteuid, getppid, pause, pipe2, sethostname, setsid,
};

use super::process::{
    Process, exit_now, fork_alone, ignore_signal, lock_labs, release_descriptors,
};
use super::record::Record;
use super::{INSIDE, STANDING, StartOptions};
use crate::link::{Batch, Links};

/// What the holding processes are called in process lists.
const TITLE: &std::ffi::CStr = c"podwall-holder";

/// What the keeper is to do.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// The lab's directory on the host.
    pub(super) dir: &'a Path,
    /// How the lab is to live.
    pub(super) options: StartOptions,
    /// Whether a user namespace is needed to make the others.
    pub(super) user_namespace: bool,
    /// Who starts it.
    pub(super) starter: Pid,
    /// The starter's lock on the directory of labs. The keeper shares it until the lab stands: a
    /// starter that is killed must not let the next one into a lab that is half made.
    pub(super) lock: RawFd,
}

/// Runs the keeper, in the process that was forked for it. Says on `report` either `ok` or why not.
pub(super) fn run(plan: &Plan<'_>, report: OwnedFd) -> ! {
    let raw = report.as_raw_fd();
    let mut report = File::from(report);
    let prepared = release_descriptors(&[raw, plan.lock])
        .map_err(|e| format!("cannot close the caller's files: {e}"))
        .and_then(|()| begin(plan));
    if let Err(reason) = &prepared {
        let _ = fs::remove_dir_all(plan.dir);
        let _ = report.write_all(reason.as_bytes());
        exit_now(1)
    }
    // Closed, not unlocked: the starter may still need it.
    let _ = close(plan.lock);
    // Nothing to keep in the intermediate process.
    if let Ok(Some(init)) = prepared {
        let _ = report.write_all(b"ok");
        drop(report);
        keep(plan.dir, init);
    }
    exit_now(0)
}

/// Makes the lab. `None` in the intermediate process that only leaves the starter's family.
fn begin(plan: &Plan<'_>) -> Result<Option<Process>, String> {
    setsid().map_err(|e| format!("cannot leave the session: {e}"))?;
    if !plan.options.die_with_parent
        && let ForkResult::Parent { .. } = fork_alone().map_err(|e| format!("cannot fork: {e}"))?
    {
        return Ok(None);
    }
    // Taken as a message below, never as an interruption in the middle of something.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    let blocked = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None);
    let titled = blocked.and_then(|()| set_name(TITLE)).and_then(|()| nix::unistd::chdir("/"));
    titled.map_err(|e| format!("cannot detach: {e}"))?;

    own_namespaces(plan.user_namespace)?;
    if plan.options.die_with_parent {
        set_pdeathsig(Signal::SIGTERM).map_err(|e| format!("cannot follow the starter: {e}"))?;
        if getppid() != plan.starter {
            return Err("the process that asked for the lab has ended".to_owned());
        }
    }
    // Made here and not by the starter, so that this process, which removes it, always knows of it.
    // For its owner alone: whoever can write in it could speak for the lab.
    fs::DirBuilder::new()
        .mode(0o700)
        .create(plan.dir)
        .and_then(|()| fs::create_dir(plan.dir.join(INSIDE)))
        .map_err(|e| format!("cannot create {}: {e}", plan.dir.display()))?;
    let pipe = || pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| format!("no pipe: {e}"));
    let (go_read, go_write) = pipe()?;
    let (ready_read, ready_write) = pipe()?;
    let child = match fork_alone().map_err(|e| format!("cannot fork: {e}"))? {
        ForkResult::Child => {
            drop((go_write, ready_read));
            init(plan, go_read, ready_write)
        }
        ForkResult::Parent { child } => child,
    };
    drop((go_read, ready_write));
    let keeper = Process::now(Pid::this());
    let record = Process::now(child)
        .zip(keeper)
        .map(|(init, keeper)| Record { init, keeper })
        .ok_or("cannot read /proc: is it mounted?")?;
    // Written before init is let go: if this process dies now, init reads the end of the pipe and
    // ends too; from here on the record leads to it.
    record.write(plan.dir).map_err(|e| format!("cannot write the lab's record: {e}"))?;
    File::from(go_write).write_all(b"go").map_err(|e| format!("cannot start: {e}"))?;
    let mut said = String::new();
    let _ = File::from(ready_read).read_to_string(&mut said);
    match said.as_str() {
        "ready" => Ok(Some(record.init)),
        "" => Err("the process that holds the namespaces ended at once".to_owned()),
        reason => Err(reason.to_owned()),
    }
}

/// Prepares the pid namespace of the next child and, when not root, the user namespace that allows
/// it, with the caller as its root.
fn own_namespaces(user: bool) -> Result<(), String> {
    let (uid, gid) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWPID;
    if user {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(|e| match user {
        true => format!(
            "cannot create a user namespace: {e}; run as root, or let ordinary users have them \
             (user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns)"
        ),
        false => format!("cannot create a pid namespace: {e}"),
    })?;
    if user {
        let map = |file: &str, text: &str| {
            fs::write(file, text).map_err(|e| format!("cannot write {file}: {e}"))
        };
        // Without this the kernel refuses the group map (user_namespaces(7)).
        map("/proc/self/setgroups", "deny")?;
        map("/proc/self/uid_map", &format!("0 {uid} 1"))?;
        map("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    }
    Ok(())
}

/// Waits for the end of the lab, then removes its directory.
fn keep(dir: &Path, init: Process) {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    while let Ok(WaitStatus::StillAlive) = waitpid(init.pid, Some(WaitPidFlag::WNOHANG)) {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {}
            Ok(_) => {
                let _ = nix::sys::signal::kill(init.pid, Signal::SIGKILL);
            }
            Err(_) => break,
        }
    }
    remove_directory(dir, init);
}

/// Removes a lab's directory if it is still that of `init`; a later lab of the same name keeps
/// its own. With the last lab the directories around it go too.
pub(super) fn remove_directory(dir: &Path, init: Process) {
    let Some(labs) = dir.parent() else { return };
    let Ok(_lock) = lock_labs(labs) else { return };
    if Record::read(dir).is_some_and(|record| record.init == init) {
        // Nobody is left to tell; the next start clears what could not be removed.
        let _ = fs::remove_dir_all(dir);
    }
    remove_empty(labs);
}

/// Removes the directory of labs and the `podwall…` around it if nothing is in them. To be called
/// with the lock held.
pub(super) fn remove_empty(labs: &Path) {
    let ours = |path: &&Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("podwall"))
    };
    // A directory that is not empty refuses; that is the test.
    if fs::remove_dir(labs).is_ok()
        && let Some(around) = labs.parent().filter(ours)
    {
        let _ = fs::remove_dir(around);
    }
}

/// Runs pid 1 of the lab.
fn init(plan: &Plan<'_>, go: OwnedFd, ready: OwnedFd) -> ! {
    // The keeper's report among them: the starter waits for its end.
    if release_descriptors(&[go.as_raw_fd(), ready.as_raw_fd()]).is_err() {
        exit_now(1);
    }
    let mut ready = File::from(ready);
    if plan.options.die_with_parent {
        // Before the wait: if the keeper died earlier, the wait ends at once.
        let _ = set_pdeathsig(Signal::SIGKILL);
    }
    let mut word = [0; 2];
    if File::from(go).read_exact(&mut word).is_err() {
        exit_now(0);
    }
    match furnish(plan.dir) {
        Ok(()) => {
            let _ = ready.write_all(b"ready");
        }
        Err(reason) => {
            let _ = ready.write_all(reason.as_bytes());
            exit_now(1);
        }
    }
    drop(ready);
    // Orphans of the lab become children of this process; the kernel collects them itself when
    // nobody wants to know (wait(2)).
    ignore_signal(Signal::SIGCHLD);
    loop {
        pause();
    }
}

/// Makes the namespaces of the lab and what belongs in them.
fn furnish(dir: &Path) -> Result<(), String> {
    let failed = |what: &str, e: io::Error| format!("cannot {what}: {e}");
    // Lets the owner of the user namespace enter it: setns asks like ptrace does.
    set_dumpable(true).map_err(|e| failed("open up for entering", e.into()))?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .map_err(|e| failed("create the lab's namespaces", e.into()))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let none = None::<&str>;
    // Slave, not private: nothing of the lab shows on the host, but what the host unmounts goes
    // away here too and is not kept busy.
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
        .map_err(|e| failed("keep the lab's mounts to itself", e.into()))?;
    let inside = dir.join(INSIDE);
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("podwall"), &inside, Some("tmpfs"), safe, Some("mode=0700"))
        .map_err(|e| failed("mount the lab's private file system", e.into()))?;
    // A fresh /proc shows the lab's processes alone. Where the kernel refuses (a container that
    // hides parts of /proc) the old one serves: it shows this namespace's processes as well.
    let _ = mount(Some("proc"), "/proc", Some("proc"), safe | MsFlags::MS_NOEXEC, none);
    fs::metadata("/proc/thread-self/ns/net").map_err(|e| failed("use /proc inside the lab", e))?;
    if let Some(name) = dir.file_name() {
        let _ = sethostname(name);
    }
    Links::here()
        .and_then(|links| links.change(Batch::new().up("lo")))
        .map_err(|e| e.to_string())?;
    // The last step: before it, whoever entered this process's namespaces would be in the host's.
    fs::write(dir.join(STANDING), "").map_err(|e| failed("say that the lab stands", e))
}
