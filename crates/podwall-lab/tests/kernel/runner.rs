//! How do tests run that need a process with a single thread?
//!
//! ```text
//!   main ──fork──▶ case (as root)           two at a time; what a case prints is shown
//!        ──fork──▶ case (as nobody)         when it fails
//! ```

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, dup2_stderr, dup2_stdout, fork, geteuid, setgroups, setresgid,
    setresuid,
};

/// A case: its name says the rule.
pub(crate) type Case = (&'static str, fn(&Path));

/// The ordinary user of the rootless runs.
const NOBODY: u32 = 65534;
/// Cases at a time.
const PARALLEL: usize = 4;

struct Running {
    pid: Pid,
    name: String,
    output: File,
    directory: PathBuf,
    since: Instant,
}

/// Runs the cases whose name contains an argument of the command line, or all.
pub(crate) fn run(groups: &[&[Case]]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let list = arguments.iter().any(|a| a == "--list");
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let users: &[bool] = if geteuid().is_root() { &[false, true] } else { &[true] };
    let mut todo = Vec::new();
    for (name, case) in groups.iter().flat_map(|group| group.iter()) {
        for ordinary in users {
            let name = format!("{name} ({})", if *ordinary { "user" } else { "root" });
            if wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str())) {
                todo.push((name, *case, *ordinary));
            }
        }
    }
    if list {
        for (name, ..) in &todo {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    todo.reverse();
    let (total, mut failed) = (todo.len(), 0);
    let mut running: Vec<Running> = Vec::new();
    while !todo.is_empty() || !running.is_empty() {
        while running.len() < PARALLEL
            && let Some((name, case, ordinary)) = todo.pop()
        {
            running.push(start(name, case, ordinary));
        }
        let (pid, status) = match wait().expect("a case is running") {
            WaitStatus::Exited(pid, code) => (pid, ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(pid, signal, _) => (pid, ExitStatus::from_raw(signal as i32)),
            _ => continue,
        };
        let Some(at) = running.iter().position(|r| r.pid == pid) else { continue };
        let mut case = running.swap_remove(at);
        let left: Vec<_> = leftovers(&case.directory);
        let word = if status.success() && left.is_empty() { "ok" } else { "FAILED" };
        println!("test {} ... {word} ({:.2} s)", case.name, case.since.elapsed().as_secs_f64());
        if word == "FAILED" {
            failed += 1;
            let mut text = String::new();
            let _ = case.output.rewind();
            let _ = case.output.read_to_string(&mut text);
            println!("---- {status}; left behind: {left:?}\n{text}----");
        }
        let _ = fs::remove_dir_all(&case.directory);
    }
    println!("\n{} passed, {failed} failed", total - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(unsafe_code, reason = "each case is a forked process")]
fn start(name: String, case: fn(&Path), ordinary: bool) -> Running {
    let output = tempfile::tempfile().expect("temporary file");
    let directory = tempfile::tempdir().expect("temporary directory").keep();
    if ordinary && geteuid().is_root() {
        std::os::unix::fs::chown(&directory, Some(NOBODY), Some(NOBODY)).expect("chown");
    }
    // SAFETY: this process has a single thread.
    let pid = match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let done = std::panic::catch_unwind(|| {
                dup2_stdout(output.as_fd()).expect("dup2");
                dup2_stderr(output.as_fd()).expect("dup2");
                if ordinary && geteuid().is_root() {
                    setgroups(&[]).expect("setgroups");
                    let (gid, uid) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
                    setresgid(gid, gid, gid).expect("setresgid");
                    setresuid(uid, uid, uid).expect("setresuid");
                    // A process that changed its user may not be looked at, by itself neither.
                    set_dumpable(true).expect("dumpable");
                }
                set_pdeathsig(Signal::SIGKILL).expect("prctl");
                std::env::set_current_dir("/").expect("chdir");
                case(&directory);
            });
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { nix::libc::_exit(i32::from(done.is_err())) }
        }
    };
    Running { pid, name, output, directory, since: Instant::now() }
}

/// Processes, mounts and files that still know of a case's directory.
fn leftovers(directory: &Path) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let found = look(directory);
        if found.is_empty() || Instant::now() > end {
            return found;
        }
        std::thread::yield_now();
    }
}

fn look(directory: &Path) -> Vec<String> {
    let text = directory.to_string_lossy().into_owned();
    let mut found: Vec<String> = fs::read_dir(directory)
        .expect("directory")
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .collect();
    for process in fs::read_dir("/proc").expect("/proc").flatten() {
        let path = process.path();
        let mounts = fs::read_to_string(path.join("mountinfo")).unwrap_or_default();
        if mounts.contains(&text) {
            let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
            found.push(format!("{} {} has it mounted", path.display(), comm.trim()));
        }
    }
    found
}
