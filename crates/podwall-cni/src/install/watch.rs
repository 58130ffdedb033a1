//! How does the entry stay where others write too?
//!
//! ```text
//!   inotify of conf-dir ─┐
//!   every half minute ───┼──▶ install ──▶ what it changed, or why it could not, once
//!   SIGTERM, SIGINT ─────┘ end; all stays
//! ```
//!
//! Some CNI plugins write their configuration again whenever their own pod starts.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Change, InstallError, Installation, Installed, install};

/// How often it is looked without a notification, in milliseconds: what a symbolic link points to
/// may change elsewhere, and a directory that is not there yet notifies nobody.
const EVERY: u16 = 30_000;
const EVERY_WITHOUT_DIRECTORY: u16 = 1_000;
/// How long nothing is tried after a failure, in milliseconds: a try that fails changes the directory, too.
const AFTER_FAILURE: u16 = 500;

/// Installs, and again whenever somebody changes the directory, until SIGTERM or SIGINT. `say` gets a
/// line for each change and each new problem.
///
/// # Errors
/// The kernel offers no notifications. That nothing can be installed is said and waited out.
pub fn watch(installation: &Installation, mut say: impl FnMut(&str)) -> Result<(), InstallError> {
    let failed = |errno: Errno| InstallError::Watch(io::Error::from(errno));
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // As process 1 of a container it would not be ended by a signal that it does not take.
    signals.thread_block().map_err(failed)?;
    let ended = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(failed)?;

    let events = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    let mut said = String::new();
    loop {
        // Made anew each time: the directory may have been, too. Before looking, so that no change
        // after the look goes unseen; what install itself changes wakes it once more, for nothing.
        let notify =
            Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
        let watched = notify.add_watch(&installation.conf_dir, events).is_ok();
        let mut rest = false;
        match install(installation) {
            Ok(installed) => {
                if let Some(line) = words(&installed) {
                    say(&line);
                }
                said.clear();
            }
            Err(error) => {
                let line = error.to_string();
                if line != said {
                    say(&line);
                    said = line;
                }
                rest = !matches!(error, InstallError::NoNetwork(_));
            }
        }
        let every = if watched { EVERY } else { EVERY_WITHOUT_DIRECTORY };
        let (end, change) = (ended.as_fd(), notify.as_fd());
        if rest && wait(&[end], AFTER_FAILURE)? == Some(0) {
            return Ok(());
        }
        if wait(&[end, change], every)? == Some(0) {
            return Ok(());
        }
    }
}

/// Waits for the first of these, so many milliseconds.
fn wait(files: &[BorrowedFd<'_>], millis: u16) -> Result<Option<usize>, InstallError> {
    let mut wanted: Vec<_> = files.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match poll(&mut wanted, PollTimeout::from(millis)) {
        Ok(_) => Ok(wanted.iter().position(|one| one.any() == Some(true))),
        Err(Errno::EINTR) => Ok(None),
        Err(errno) => Err(InstallError::Watch(errno.into())),
    }
}

/// What was changed, for people; `None`: nothing.
fn words(installed: &Installed) -> Option<String> {
    let file = installed.file.display();
    let change = match installed.change {
        Change::None if installed.program => return Some("wrote the program".to_owned()),
        Change::None => return None,
        Change::Added => format!("added podwall-cni to {file}"),
        Change::Updated => format!("changed the settings of podwall-cni in {file}"),
        Change::Wrapped => format!("made a chain with podwall-cni: {file}"),
    };
    Some(if installed.program { format!("wrote the program; {change}") } else { change })
}

// === impl Installed ===

impl Installed {
    /// What was done, for people.
    #[must_use]
    pub fn words(&self) -> String {
        words(self).unwrap_or_else(|| {
            format!("nothing to do: podwall-cni is installed, and in {}", self.file.display())
        })
    }
}
