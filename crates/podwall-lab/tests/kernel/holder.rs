//! Cases: a lab lives by itself, and vanishes without a trace.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe};
use podwall_lab::holder::{Holder, HolderError, StartOptions};

use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[
    ("a_lab_lives_on_when_its_starter_dies", lives_on),
    ("a_lab_that_dies_with_its_parent_takes_everything_along", dies_with_parent),
    ("a_lab_is_alone_in_its_namespaces", alone),
    ("the_private_directory_is_seen_inside_only_and_by_everybody_inside", private),
    ("a_name_is_used_once_at_a_time_and_again_afterwards", names),
    ("the_end_of_init_ends_every_process_and_removes_the_directory", init_killed),
    ("the_end_of_the_keeper_leaves_the_lab_running", keeper_killed),
    ("what_a_killed_lab_left_is_cleared", cleared),
    ("the_callers_pipes_are_not_held", pipes),
    ("exit_codes_and_signals_come_through", codes),
    ("a_detached_process_outlives_its_caller_and_ends_with_the_lab", detached),
    ("a_caller_killed_at_any_moment_leaves_no_work_running", killed_caller),
    ("a_start_killed_at_any_moment_leaves_nothing_that_cannot_be_cleared", killed_at_start),
];

/// Waits until something holds; panics with `what` after ten seconds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `work` in a child of this process that is then dead; returns its number.
#[expect(unsafe_code, reason = "the case wants a process that can die")]
fn child(work: impl FnOnce()) -> Pid {
    // SAFETY: the case has a single thread.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            work();
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { nix::libc::_exit(0) }
        }
    }
}

fn start(dir: &Path) -> Holder {
    Holder::start(dir, StartOptions::default()).expect("start")
}

fn lives_on(temp: &Path) {
    let dir = temp.join("labs/a");
    let starter = child(|| drop(start(&dir)));
    waitpid(starter, None).expect("wait");
    let holder = Holder::find(&dir).expect("the lab lives");
    let comm = fs::read_to_string(format!("/proc/{}/comm", holder.pid())).expect("comm");
    assert_eq!(comm.trim(), "podwall-holder");
    holder.stop().expect("stop");
    assert!(Holder::find(&dir).is_none());
    assert!(!dir.exists());
}

fn dies_with_parent(temp: &Path) {
    let dir = temp.join("labs/a");
    let starter = child(|| {
        let options = StartOptions { die_with_parent: true };
        let holder = Holder::start(&dir, options).expect("start");
        let work = || loop {
            nix::unistd::pause();
        };
        holder.detach(&[], work).expect("detach");
        fs::write(temp.join("up"), "").expect("write");
        loop {
            nix::unistd::pause();
        }
    });
    eventually("the lab is up", || temp.join("up").exists());
    fs::remove_file(temp.join("up")).expect("remove");
    let holder = Holder::find(&dir).expect("find");
    kill(starter, Signal::SIGKILL).expect("kill");
    waitpid(starter, None).expect("wait");
    eventually("the lab has ended", || !holder.is_alive());
    eventually("the directory is gone", || !dir.exists());
}

fn alone(temp: &Path) {
    let holder = start(&temp.join("labs/a"));
    let status = holder
        .run(|| {
            let processes = fs::read_dir("/proc")
                .expect("/proc")
                .flatten()
                .filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok())
                .count();
            assert!(processes <= 2, "{processes} processes are to be seen");
            assert_eq!(std::process::id(), 2);
            let devices = fs::read_to_string("/proc/net/dev").expect("dev");
            assert_eq!(devices.lines().count(), 3, "{devices}");
            assert!(nix::unistd::geteuid().is_root());
            let name = nix::unistd::gethostname().expect("hostname");
            assert_eq!(name.to_string_lossy(), "a");
            0
        })
        .expect("run");
    assert!(status.success(), "{status}");
    holder.stop().expect("stop");
}

fn private(temp: &Path) {
    let holder = start(&temp.join("labs/a"));
    let file = holder.inside().join("file");
    let wrote = holder.run(|| i32::from(fs::write(&file, "x").is_err())).expect("run");
    assert!(wrote.success());
    assert!(!file.exists(), "the host sees the lab's files");
    let read = holder.run(|| i32::from(fs::read_to_string(&file).expect("read") != "x"));
    assert!(read.expect("run").success());
    holder.stop().expect("stop");
}

fn names(temp: &Path) {
    let dir = temp.join("labs/a");
    let (a, b) = (start(&dir), start(&temp.join("labs/b")));
    let error = Holder::start(&dir, StartOptions::default()).expect_err("taken");
    assert!(matches!(error, HolderError::Running { .. }), "{error}");
    assert!(matches!(Holder::clear(&dir), Err(HolderError::Running { .. })));
    a.stop().expect("stop");
    start(&dir).stop().expect("stop");
    assert!(b.is_alive());
    b.stop().expect("stop");
    assert!(!temp.join("labs").exists());
}

fn init_killed(temp: &Path) {
    let dir = temp.join("labs/a");
    let holder = start(&dir);
    holder
        .detach(&[], || {
            loop {
                nix::unistd::pause();
            }
        })
        .expect("detach");
    kill(holder.pid(), Signal::SIGKILL).expect("kill");
    eventually("the directory is gone", || !dir.exists());
    assert!(!holder.is_alive() && Holder::find(&dir).is_none());
    holder.stop().expect("a lab that has ended can be stopped");
}

fn keeper(dir: &Path) -> Pid {
    let record = fs::read_to_string(dir.join("holder.pid")).expect("record");
    let line = record.lines().nth(1).expect("two lines");
    Pid::from_raw(line.split(' ').next().expect("pid").parse().expect("number"))
}

fn keeper_killed(temp: &Path) {
    let dir = temp.join("labs/a");
    let holder = start(&dir);
    kill(keeper(&dir), Signal::SIGKILL).expect("kill");
    assert!(holder.run(|| 0).expect("run").success());
    holder.stop().expect("stop");
    assert!(!dir.exists());
}

fn cleared(temp: &Path) {
    let dir = temp.join("labs/a");
    let holder = start(&dir);
    kill(keeper(&dir), Signal::SIGKILL).expect("kill");
    kill(holder.pid(), Signal::SIGKILL).expect("kill");
    eventually("the lab has ended", || !holder.is_alive());
    assert!(Holder::find(&dir).is_none());
    assert!(dir.exists(), "nobody was left to remove it");
    assert!(Holder::clear(&dir).expect("clear"));
    assert!(!Holder::clear(&dir).expect("clear"), "there is nothing more to clear");
    assert!(!temp.join("labs").exists());
    drop(holder);
}

fn pipes(temp: &Path) {
    let (read, write) = pipe().expect("pipe");
    let starter = child(|| {
        nix::unistd::dup2_stdout(write.as_fd()).expect("dup2");
        let holder = start(&temp.join("labs/a"));
        let work = || loop {
            nix::unistd::pause();
        };
        holder.detach(&[], work).expect("detach");
    });
    drop(write);
    waitpid(starter, None).expect("wait");
    let mut text = String::new();
    fs::File::from(read).read_to_string(&mut text).expect("the pipe ends with the starter");
    Holder::find(&temp.join("labs/a")).expect("find").stop().expect("stop");
}

fn codes(temp: &Path) {
    use std::os::unix::process::ExitStatusExt;
    let holder = start(&temp.join("labs/a"));
    assert_eq!(holder.run(|| 42).expect("run").code(), Some(42));
    let killed = holder.run(|| {
        // A signal's default action would be ignored in pid 1 only; this is an ordinary process.
        nix::sys::signal::raise(Signal::SIGTERM).expect("raise");
        0
    });
    assert_eq!(killed.expect("run").signal(), Some(15));
    assert_eq!(holder.run(|| panic!("inside")).expect("run").code(), Some(101));
    let dead = Holder::find(holder.dir()).expect("find");
    holder.stop().expect("stop");
    assert!(matches!(dead.run(|| 0), Err(HolderError::Enter { .. })));
}

fn detached(temp: &Path) {
    let dir = temp.join("labs/a");
    let holder = start(&dir);
    // The host's file system is there inside as well, so a file can carry the answer.
    let note = temp.join("note");
    holder
        .detach(&[], || {
            let parent = nix::unistd::getppid();
            // Renamed into place: the reader must not see half of it.
            fs::write(note.with_extension("new"), parent.to_string()).expect("write");
            fs::rename(note.with_extension("new"), &note).expect("rename");
            loop {
                nix::unistd::pause();
            }
        })
        .expect("detach");
    eventually("the note is written", || note.exists());
    let parent = fs::read_to_string(&note).expect("read");
    assert!(["1", "2", "3"].contains(&parent.as_str()), "{parent}");
    fs::remove_file(&note).expect("remove");
    holder.stop().expect("stop");
}

/// The work went on if the relay died between the fork of the work and its wish to hear of it.
fn killed_caller(temp: &Path) {
    let holder = start(&temp.join("labs/a"));
    for round in 0..400 {
        let caller = child(|| {
            let work = || loop {
                nix::unistd::pause();
            };
            let _ = holder.run(work);
        });
        // The window lies where the fork happens, a few hundred microseconds after the start.
        std::thread::sleep(Duration::from_micros(round * 7 % 1200));
        kill(caller, Signal::SIGKILL).expect("kill");
        waitpid(caller, None).expect("wait");
    }
    let namespace = |who: &str| fs::read_link(format!("/proc/{who}/ns/pid")).ok();
    let inside = namespace(&holder.pid().to_string());
    let working = || {
        let all = fs::read_dir("/proc").expect("proc").flatten();
        let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| namespace(&pid.to_string()) == inside && *pid != holder.pid().as_raw())
            .count()
    };
    eventually("no work is left", || working() == 0);
    holder.stop().expect("stop");
}

fn killed_at_start(temp: &Path) {
    let dir = temp.join("labs/a");
    for die_with_parent in [false, true] {
        for delay in (0..40).map(|n| Duration::from_micros(n * 200)) {
            let starter = child(|| {
                let _ = Holder::start(&dir, StartOptions { die_with_parent });
                loop {
                    nix::unistd::pause();
                }
            });
            std::thread::sleep(delay);
            kill(starter, Signal::SIGKILL).expect("kill");
            waitpid(starter, None).expect("wait");
            if die_with_parent {
                eventually("nothing is left", || !dir.exists());
                continue;
            }
            // Either it comes up, whole, or there is nothing: the lock says when it is decided.
            match Holder::start(&dir, StartOptions::default()) {
                Ok(holder) => holder.stop().expect("stop"),
                Err(HolderError::Running { .. }) => {
                    let holder = Holder::find(&dir).expect("it runs");
                    holder.stop().expect("stop");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    // A starter that is killed right after it made the directory of all labs leaves that, empty;
    // the next command takes it away.
    Holder::clear(&dir).expect("clear");
}
