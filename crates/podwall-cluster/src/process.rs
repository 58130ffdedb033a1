//! How do programs end with the test that started them?
//!
//! ```text
//!   test ──▶ starter (a thread for life) ──▶ setpriv --pdeathsig KILL ── exec ──▶ program
//! ```
//!
//! The kernel kills the program when the *thread* that started it ends, and threads of tests end with
//! each test; so one thread, which ends with the process, starts them all.

use std::ffi::OsStr;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

type Job = (Command, Sender<io::Result<Child>>);

/// A program that ends with this value, and with this process however that ends.
#[derive(Debug)]
pub struct Started(Child);

/// Starts a program that ends with this process; `set` says more about it: arguments, files.
#[track_caller]
pub fn start(program: impl AsRef<OsStr>, set: impl FnOnce(&mut Command)) -> Started {
    static STARTER: OnceLock<Sender<Job>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (tell, jobs) = channel::<Job>();
        let work = move || {
            for (mut command, answer) in jobs {
                let _ = answer.send(command.spawn());
            }
        };
        thread::Builder::new().name("starter".to_owned()).spawn(work).expect("a thread");
        tell
    });
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program.as_ref());
    set(&mut command);
    let (answer, child) = channel();
    starter.send((command, answer)).expect("the starter never ends");
    let child = child.recv().expect("the starter answers");
    Started(child.unwrap_or_else(|error| panic!("cannot run setpriv (util-linux): {error}")))
}

impl Started {
    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().try_into().expect("a pid"));
        kill(pid, signal).unwrap_or_else(|error| panic!("cannot send {signal}: {error}"));
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("our own child")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
