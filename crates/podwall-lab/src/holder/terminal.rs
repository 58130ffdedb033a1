//! Who has the terminal while a user's program runs in a lab?
//!
//! ```text
//!   caller        the shell's job: stops and goes on with it; has the terminal before and after
//!    └─ relay     a group of its own, which nobody but the caller signals
//!        └─ program    a group of its own, in the foreground: Ctrl-C, Ctrl-Z, window sizes
//! ```
//!
//! The program cannot stay in its caller's group: that has no number in the lab's process
//! namespace, and a shell that means to give the terminal back to group 0 fails at its end. So the
//! group is new, and the caller does what shells do with their jobs (glibc manual, "Implementing a
//! Job Control Shell"): it gives the terminal, takes it back when the program stops or ends, stops
//! with it, and sets the terminal's modes as they were.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::libc::SIGCHLD;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, setpgid, tcgetpgrp, tcsetpgrp};

use super::process::{default_signal, end_like, exit_now, is_ignored, status_of};

/// The terminal of a caller in the foreground.
#[derive(Debug)]
pub(super) struct Terminal {
    /// How it was set before.
    modes: Termios,
    /// The caller's signal mask, which its program gets.
    mask: SigSet,
    /// What the caller waits for: its child's changes, and signals that end it.
    signals: SignalFd,
    /// How the program had set it when it was stopped.
    theirs: Option<Termios>,
    /// Whether the caller may take the terminal back: it gave it away and was not sent to the
    /// background since.
    given: bool,
}

// === impl Terminal ===

impl Terminal {
    /// The terminal on standard input and output, if this process is in its foreground. A program
    /// in a pipeline (`exec … | less`) stays in the pipeline's group: the terminal is for all of it.
    ///
    /// From here on, signals that end the process wait until [`Self::wait`] takes them.
    pub(super) fn of_caller() -> Option<Self> {
        let input = io::stdin();
        if !input.is_terminal() || !io::stdout().is_terminal() || !foreground() {
            return None;
        }
        let modes = tcgetattr(&input).ok()?;
        // What the caller's starter had ignored (`nohup`) stays so.
        let awaited: SigSet = [Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .filter(|signal| !is_ignored(*signal))
            .chain([Signal::SIGCHLD])
            .collect();
        let signals =
            SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok()?;
        let mut mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&awaited), Some(&mut mask)).ok()?;
        Some(Self { modes, mask, signals, theirs: None, given: true })
    }

    /// Makes the calling process the relay: signals to the caller's group are not for it.
    pub(super) fn become_relay(&self) {
        let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
        let _ = self.mask.thread_set_mask();
    }

    /// Makes the calling process, a child of the relay, the terminal's program.
    pub(super) fn become_program(&self) {
        let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
        let _ = give(getpgrp());
    }

    /// What the relay does: waits for the program, stops when it stops, and lets it go on, with the
    /// terminal that it was given, when [`Self::wait`] says so.
    pub(super) fn relay(program: Pid) -> ! {
        let awaited: SigSet = [Signal::SIGCHLD, Signal::SIGCONT].into_iter().collect();
        let _ = awaited.thread_block();
        loop {
            match waitpid(program, NEWS) {
                Ok(WaitStatus::StillAlive) => {
                    if awaited.wait() == Ok(Signal::SIGCONT) {
                        if foreground() {
                            let _ = give(program);
                        }
                        let _ = killpg(program, Signal::SIGCONT);
                    }
                }
                Ok(WaitStatus::Stopped(_, signal)) => {
                    default_signal(signal);
                    let _ = raise(signal);
                }
                Err(nix::Error::EINTR) => {}
                Ok(ended) => {
                    if let Some(status) = status_of(ended) {
                        end_like(status);
                    }
                }
                Err(_) => exit_now(1),
            }
        }
    }

    /// What the caller does: waits for the relay to end, and for whatever befalls until then. Does
    /// not return if a key of the terminal ended the program: the caller ends by that signal too.
    pub(super) fn wait(mut self, relay: Pid) -> io::Result<ExitStatus> {
        let status = loop {
            match waitpid(relay, NEWS) {
                Ok(WaitStatus::StillAlive) => self.wait_for_signal(relay)?,
                Ok(WaitStatus::Stopped(_, signal)) => self.stop(relay, signal),
                Err(nix::Error::EINTR) => {}
                Ok(ended) => {
                    if let Some(status) = status_of(ended) {
                        break status;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        };
        let given = self.given;
        self.take_back();
        let keys = [Signal::SIGINT, Signal::SIGQUIT];
        let key = keys.into_iter().find(|key| status.signal() == Some(*key as i32));
        if let (true, Some(key)) = (given, key) {
            // A script that waits for the caller, in its group, was meant too; without the lab the
            // terminal would have told it. It believes it if the caller ends by the same signal.
            let _ = kill(Pid::from_raw(0), key);
            end_like(status);
        }
        Ok(status)
    }

    /// Sleeps until something happens. A signal that ends the caller gives the terminal back first,
    /// and the program gets its `SIGHUP` because its relay is gone.
    fn wait_for_signal(&mut self, relay: Pid) -> io::Result<()> {
        let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, if self.given { PollTimeout::NONE } else { LOOK_AGAIN.into() }) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ends =
            |signal: &siginfo| i32::try_from(signal.ssi_signo).ok().filter(|s| *s != SIGCHLD);
        if let Some(signal) = self.signals.read_signal()?.as_ref().and_then(ends) {
            let _ = kill(relay, Signal::SIGKILL);
            let _ = waitpid(relay, None);
            self.take_back();
            end_like(ExitStatus::from_raw(signal));
        }
        if !self.given && foreground() {
            self.go_on(relay);
        }
        Ok(())
    }

    /// Stops as the program has stopped, and goes on when the shell says so.
    fn stop(&mut self, relay: Pid, signal: Signal) {
        // In the background it reached for the terminal, and `fg` has come meanwhile: to stop now
        // would be to stop what the shell has just let go on.
        if matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU) && !self.given && foreground() {
            return self.go_on(relay);
        }
        if self.given {
            self.theirs = tcgetattr(io::stdin()).ok();
        }
        self.take_back();
        // The terminal's stop is for the whole job, any other for this process.
        let _ = match signal {
            Signal::SIGTSTP => kill(Pid::from_raw(0), signal),
            _ => raise(signal),
        };
        self.go_on(relay);
    }

    /// Lets the program go on, with the terminal if that is the caller's again.
    fn go_on(&mut self, relay: Pid) {
        self.given = foreground();
        if self.given {
            if let Some(modes) = self.theirs.take() {
                let _ = set(&modes);
            }
            let _ = give(relay);
        }
        let _ = kill(relay, Signal::SIGCONT);
    }

    /// Takes the terminal back, set as it was.
    fn take_back(&mut self) {
        if std::mem::take(&mut self.given) {
            let _ = give(getpgrp());
            let _ = set(&self.modes);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.mask.thread_set_mask();
    }
}

/// How soon, in ms, a job in the background learns that it is in the foreground: shells' `fg` says
/// nothing to a job that runs.
const LOOK_AGAIN: u8 = 100;

/// What befell a child: not only its end.
const NEWS: Option<WaitPidFlag> = Some(WaitPidFlag::WNOHANG.union(WaitPidFlag::WUNTRACED));

/// Whether the calling process may read from its terminal.
fn foreground() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// Gives the terminal to a group of this session, from the background too.
fn give(group: Pid) -> nix::Result<()> {
    quietly(|input| tcsetpgrp(input, group))
}

/// Sets the terminal, from the background too.
fn set(modes: &Termios) -> nix::Result<()> {
    quietly(|input| tcsetattr(input, SetArg::TCSANOW, modes))
}

/// A process in the background that changes the terminal is stopped by `SIGTTOU`, unless it blocks
/// it (`termios(3)`).
fn quietly(change: impl FnOnce(BorrowedFd<'_>) -> nix::Result<()>) -> nix::Result<()> {
    let mut before = SigSet::empty();
    let stop = SigSet::from(Signal::SIGTTOU);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&stop), Some(&mut before))?;
    let changed = change(io::stdin().as_fd());
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    changed
}
