//! Where does the kubelet run, and who starts it?
//!
//! ```text
//!   podwall lab …    no kubelet? ── fork ──▶ the lab's processes and mounts, the caller's network
//!                                             └ DIR/kubelet.log, .sock, .lock; ends with the lab
//! ```
//!
//! The API server is in the network of whoever made the lab. So the kubelet stays there, and enters
//! nodes' and pods' networks for each piece of work. It can be killed at any moment: what runs goes on,
//! and the next command starts the next one.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use podwall_lab::client::version;
use podwall_lab::holder::{Holder, HolderError};
use thiserror::Error;
use tokio::runtime::Builder;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::LocalSet;

use crate::control::{self, Ask, Reply};
use crate::kubelet::Kubelet;
use crate::settings::Settings;

/// How long a kubelet may take to answer, and to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one may take to answer for the first time.
const START: Duration = Duration::from_secs(10);

/// Why there is no kubelet.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// A file of the lab.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It could not be forked.
    #[error(transparent)]
    Holder(#[from] HolderError),
    /// It ended, or does not come to be ready.
    #[error("the lab's kubelet is not ready: {reason}; see {}", log.display())]
    NotReady {
        /// What is known.
        reason: String,
        /// Its log.
        log: PathBuf,
    },
}

/// What it is called in process lists.
const TITLE: &std::ffi::CStr = c"podwall-kubelet";

struct Files<'a> {
    dir: &'a Path,
}

impl Files<'_> {
    fn socket(&self) -> PathBuf {
        self.dir.join("kubelet.sock")
    }

    fn failed(&self) -> PathBuf {
        self.dir.join("kubelet.failed")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("kubelet.log")
    }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> ProcessError + '_ {
    move |source| ProcessError::File { path: path.to_owned(), source }
}

/// Has a lab that is a cluster's nodes have its kubelet: starts one if there is none, or one of
/// another version. The process must have a single thread. `None`: the lab is no cluster's.
///
/// # Errors
/// It does not start, or is not ready in a minute.
pub fn ensure(holder: &Holder) -> Result<Option<Reply>, ProcessError> {
    let files = Files { dir: holder.dir() };
    let Some(settings) = Settings::read(files.dir).map_err(file(files.dir))? else {
        return Ok(None);
    };
    let end = Instant::now() + PATIENCE;
    let mut waits = String::from("no answer");
    while Instant::now() < end {
        match ask(&files.socket(), Ask::Status) {
            Ok(reply) if reply.version != version() => {
                let _ = ask(&files.socket(), Ask::Retire);
            }
            Ok(reply) if reply.waits.is_empty() => return Ok(Some(reply)),
            Ok(reply) => waits = format!("it waits for {}", reply.waits.join(", ")),
            Err(_) => {
                if let Ok(reason) = fs::read_to_string(files.failed()) {
                    return Err(ProcessError::NotReady { reason, log: files.log() });
                }
                start(holder, &settings)?;
            }
        }
        if !holder.is_alive() {
            waits = "the lab has ended".to_owned();
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(ProcessError::NotReady { reason: waits, log: files.log() })
}

/// Starts the kubelet of a lab that is a cluster's nodes, if it has ended; does not wait for it. The
/// process must have a single thread.
///
/// # Errors
/// It cannot be started.
pub fn revive(holder: &Holder) -> Result<(), ProcessError> {
    match Settings::read(holder.dir()).map_err(file(holder.dir()))? {
        Some(settings) => start(holder, &settings),
        None => Ok(()),
    }
}

/// Takes a lab's nodes and pods out of their cluster. `false`: that could not be done. The process
/// must have a single thread.
#[must_use]
pub fn stop(holder: &Holder) -> bool {
    let files = Files { dir: holder.dir() };
    if ask(&files.socket(), Ask::Stop).is_ok() {
        return true;
    }
    // One that was killed is started once more, to clean up.
    let started = revive(holder).is_ok();
    let end = Instant::now() + START;
    while started && Instant::now() < end && !files.failed().exists() {
        if ask(&files.socket(), Ask::Stop).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

fn ask(socket: &Path, what: Ask) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&what)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// Starts a kubelet, unless there is one that does not answer yet.
fn start(holder: &Holder, settings: &Settings) -> Result<(), ProcessError> {
    let files = Files { dir: holder.dir() };
    let path = files.dir.join("kubelet.lock");
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = open.map_err(file(&path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(file(&path)(error)),
    }
    let _ = fs::remove_file(files.failed());
    // Bound under another name first: whoever can connect finds one that works.
    let draft = files.dir.join("kubelet.new");
    let _ = fs::remove_file(&draft);
    let listener = UnixListener::bind(&draft).map_err(file(&draft))?;
    let log = files.log();
    let log = File::options().create(true).append(true).open(&log).map_err(file(&log))?;
    let keep = [listener.as_fd(), log.as_fd(), lock.as_fd()];
    holder.detach_in_callers_network(&keep, || {
        let _ = nix::sys::prctl::set_name(TITLE);
        if nix::unistd::dup2_stderr(&log).is_ok() {
            eprintln!("kubelet {} starts", version());
        }
        match work(settings.clone(), &listener, &draft, &files.socket()) {
            Ok(()) => 0,
            Err(reason) => {
                eprintln!("kubelet ends: {reason}");
                let _ = fs::write(files.failed(), reason);
                1
            }
        }
    })?;
    Ok(())
}

/// Works until it is told to end.
fn work(
    settings: Settings,
    listener: &UnixListener,
    draft: &Path,
    socket: &Path,
) -> Result<(), String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| words(&e))?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let kubelet = Kubelet::open(settings).await.map_err(|e| words(&e))?;
        listener.set_nonblocking(true).map_err(|e| words(&e))?;
        let listener = listener.try_clone().map_err(|e| words(&e))?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(|e| words(&e))?;
        let (tell, commands) = unbounded_channel();
        tokio::task::spawn_local(control::listen(listener, tell));
        fs::rename(draft, socket).map_err(|e| words(&e))?;
        kubelet.run(commands).await;
        let _ = fs::remove_file(socket);
        Ok(())
    })
}
