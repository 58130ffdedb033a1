//! Is the network whole whenever the installer is killed?
//!
//! ```text
//!   start ─ open ─ write ─ … ─ rename ─ end     once killed before each of these, then looked at
//! ```
//!
//! The installer is traced, and killed before a system call that may change something: a run for each
//! such place. Between them it changes nothing.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::zombie_processes,
    reason = "helpers of tests; only what fails a test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

const LIST: &str = "{\n  \"name\": \"cbr0\",\n  \"cniVersion\": \"0.3.1\",\n  \"plugins\": [{\"type\": \"ptp\"}]\n}\n";
const SINGLE: &str = "{ \"cniVersion\": \"0.3.1\", \"type\": \"ptp\",\n\t\"name\": \"cbr0\" }\n";

/// The program, without what a debugger reads where that can be taken away: it is copied and compared
/// in each run.
fn program() -> &'static Path {
    static PROGRAM: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let small = dir.path().join("podwall-cni");
        let whole = env!("CARGO_BIN_EXE_podwall-cni");
        let done = Command::new("strip").arg("-o").arg(&small).arg(whole).status();
        if !done.is_ok_and(|status| status.success()) {
            fs::copy(whole, &small).unwrap();
        }
        (dir, small)
    });
    &PROGRAM.1
}

struct Node {
    _dir: tempfile::TempDir,
    bin: PathBuf,
    conf: PathBuf,
}

/// What a runtime finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Without,
    With,
}

impl Node {
    fn new(name: &str, text: &str) -> Self {
        // In memory where there is such a directory: thousands of runs write each file for good.
        let memory = Some(Path::new("/dev/shm")).filter(|path| path.is_dir());
        let dir = tempfile::tempdir_in(memory.unwrap_or(&std::env::temp_dir())).unwrap();
        let (bin, conf) = (dir.path().join("bin"), dir.path().join("net.d"));
        fs::create_dir(&conf).unwrap();
        fs::write(conf.join(name), text).unwrap();
        Self { _dir: dir, bin, conf }
    }

    fn arguments(&self, verb: &str) -> Vec<String> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let dirs = ["--bin-dir".into(), text(&self.bin), "--conf-dir".into(), text(&self.conf)];
        [verb.to_owned()].into_iter().chain(dirs).collect()
    }

    fn run(&self, verb: &str) {
        let mut command = Command::new(program());
        let output = command.args(self.arguments(verb)).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Runs it and kills it at the stop of this number. `false`: it ended before.
    fn killed_at(&self, verb: &str, stop: usize) -> bool {
        // A shell that waits until it is traced and then becomes the program.
        let mut command = Command::new("sh");
        command.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]);
        command.arg(program()).args(self.arguments(verb));
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_TRACEEXEC
            | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options).unwrap();
        nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
        let (mut running, mut inside, mut stops) = (false, false, 0);
        loop {
            let signal = match waitpid(pid, None).unwrap() {
                WaitStatus::Exited(_, status) => {
                    assert_eq!(status, 0);
                    return false;
                }
                WaitStatus::PtraceEvent(_, _, event) if event == nix::libc::PTRACE_EVENT_EXEC => {
                    // The next stop is the end of the call that started the program.
                    (running, inside) = (true, true);
                    None
                }
                // Every other stop is behind a call.
                WaitStatus::PtraceSyscall(_) if running && !inside => {
                    inside = true;
                    if stops == stop && changes(pid) {
                        child.kill().unwrap();
                        child.wait().unwrap();
                        return true;
                    }
                    stops += usize::from(changes(pid));
                    None
                }
                WaitStatus::PtraceSyscall(_) => {
                    inside = false;
                    None
                }
                WaitStatus::Stopped(_, signal @ Signal::SIGCONT) => Some(signal),
                _ => None,
            };
            ptrace::syscall(pid, signal).unwrap();
        }
    }

    /// The network as a runtime reads it: one file, whole, and its program there.
    fn look(&self, what: &str) -> Found {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.conf).unwrap() {
            let path = entry.unwrap().path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            let Some(ending @ ("conf" | "conflist" | "json")) = ending else { continue };
            let text = fs::read_to_string(&path).unwrap();
            let value: Value =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{what}: {path:?}: {e}"));
            assert_eq!((&value["name"], &value["cniVersion"]), (&"cbr0".into(), &"0.3.1".into()));
            let kinds: Vec<String> = match ending {
                "conflist" => {
                    let plugins = value["plugins"].as_array().unwrap().iter();
                    plugins.map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
                }
                _ => vec![value["type"].as_str().unwrap().to_owned()],
            };
            found.push(kinds);
        }
        assert_eq!(found.len(), 1, "{what}: one file is the network: {found:?}");
        match found.swap_remove(0).iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["ptp"] => Found::Without,
            ["ptp", "podwall-cni"] => {
                let there = self.bin.join("podwall-cni");
                assert!(fs::metadata(&there).unwrap().permissions().mode() & 0o111 != 0, "{what}");
                let own = fs::read(program()).unwrap();
                assert!(fs::read(&there).unwrap() == own, "{what}");
                Found::With
            }
            ref other => panic!("{what}: {other:?}"),
        }
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.conf).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// Whether the call in front of which a traced process stands may change a file.
#[cfg(target_arch = "x86_64")]
fn changes(pid: Pid) -> bool {
    use nix::libc;
    let call = ptrace::getregs(pid).unwrap().orig_rax.cast_signed();
    let harmless = [
        libc::SYS_read,
        libc::SYS_pread64,
        libc::SYS_close,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_brk,
        libc::SYS_statx,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_readlink,
        libc::SYS_fcntl,
        libc::SYS_lseek,
        libc::SYS_getdents64,
        libc::SYS_rt_sigaction,
        libc::SYS_sigaltstack,
        libc::SYS_prlimit64,
    ];
    !harmless.contains(&call)
}

#[cfg(not(target_arch = "x86_64"))]
fn changes(_: Pid) -> bool {
    true
}

/// Kills `verb` at each place; `before` makes the node, `after` goes on and looks again.
fn at_each_place(verb: &str, before: impl Fn() -> Node, after: impl Fn(&Node, Found)) {
    let mut seen = Vec::new();
    for stop in 0.. {
        let node = before();
        let killed = node.killed_at(verb, stop);
        let found = node.look(&format!("{verb} killed at {stop}"));
        if seen.last() != Some(&found) {
            seen.push(found);
        }
        after(&node, found);
        if !killed {
            assert!(stop > 20, "it was traced: {stop}");
            break;
        }
    }
    assert_eq!(seen.len(), 2, "it goes over from the one to the other once: {seen:?}");
}

#[test]
fn a_killed_installation_leaves_one_network_and_can_be_finished_or_undone() {
    for (name, text) in [("10-a.conflist", LIST), ("10-a.conf", SINGLE)] {
        let before = || Node::new(name, text);
        at_each_place("install", before, |node, _| {
            node.run("install");
            assert_eq!(node.look("finished"), Found::With);
            node.run("uninstall");
            assert_eq!(node.look("removed"), Found::Without);
            assert_eq!(node.names(), [name]);
            assert_eq!(fs::read_to_string(node.conf.join(name)).unwrap(), text);
        });
        at_each_place("install", before, |node, _| {
            node.run("uninstall");
            assert_eq!(node.names(), [name]);
            assert_eq!(fs::read_to_string(node.conf.join(name)).unwrap(), text);
            assert_eq!(fs::read_dir(&node.bin).map_or(0, Iterator::count), 0);
        });
    }
}

#[test]
fn a_killed_removal_leaves_one_network_and_can_be_finished_or_undone() {
    for (name, text) in [("10-a.conflist", LIST), ("10-a.conf", SINGLE)] {
        let before = || {
            let node = Node::new(name, text);
            node.run("install");
            node
        };
        at_each_place("uninstall", before, |node, _| {
            node.run("uninstall");
            assert_eq!(node.names(), [name]);
            assert_eq!(fs::read_to_string(node.conf.join(name)).unwrap(), text);
            assert_eq!(fs::read_dir(&node.bin).unwrap().count(), 0);
        });
        at_each_place("uninstall", before, |node, _| {
            node.run("install");
            assert_eq!(node.look("installed again"), Found::With);
        });
    }
}
