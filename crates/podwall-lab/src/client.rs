//! How does a command reach a lab's worker, also when nobody is there any more?
//!
//! ```text
//!   holder dead                    no such lab: what was left is removed, words
//!   holder alive, worker dead      a new worker is started; it takes over what exists
//!   worker of another version      asked to end, a new one is started
//!   worker alive                   request ──▶ events … reply
//! ```

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::holder::{self, Holder};
use crate::rpc::{Event, Hello, Request};
use crate::worker;

/// How long a worker may take to say that it is there. It takes over existing pods before, so a big
/// lab on a slow machine needs seconds.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Why a lab could not be asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No such lab.
    #[error("there is no lab {name:?}{}; make one with `podwall lab up{}`", others(), flag(name))]
    NoLab {
        /// The name.
        name: String,
    },
    /// A name that cannot be a directory's.
    #[error("{name:?} cannot name a lab: take up to 40 lower case letters, digits and dashes")]
    Name {
        /// The name.
        name: String,
    },
    /// The worker did not come up.
    #[error("the worker of lab {name:?} does not start: {reason}; see {}, or remove the lab with `podwall lab down{}`", log.display(), flag(name))]
    Worker {
        /// The lab.
        name: String,
        /// What is known.
        reason: String,
        /// Its log.
        log: PathBuf,
    },
    /// The connection broke.
    #[error(
        "the worker of lab {name:?} went away in the middle of the request ({reason}); the kernel goes on enforcing, and the next command starts a new worker"
    )]
    Broken {
        /// The lab.
        name: String,
        /// What happened.
        reason: String,
    },
    /// An object that was asked for is not there.
    #[error("{message}")]
    NotFound {
        /// Which, and what may have been meant.
        message: String,
    },
    /// The worker refused or failed.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
    },
    /// The lab's directory.
    #[error("cannot use the lab's directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The holder.
    #[error(transparent)]
    Holder(#[from] holder::HolderError),
}

/// The labs that there are, for somebody who left `--lab` out.
fn others() -> String {
    let labs = labs();
    match labs.as_slice() {
        [] => String::new(),
        [one] => format!(", but {one}: --lab {one} or PODWALL_LAB={one} names it"),
        [one, ..] => {
            format!(", but {}: --lab {one} or PODWALL_LAB={one} names one", labs.join(", "))
        }
    }
}

/// ` --lab NAME`, if it is not the default's.
fn flag(name: &str) -> String {
    if name == DEFAULT_LAB { String::new() } else { format!(" --lab {name}") }
}

/// The lab that is meant where none is named.
pub const DEFAULT_LAB: &str = "default";

/// A connection to a lab's worker.
#[derive(Debug)]
pub struct Client {
    name: String,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to a lab's worker; starts one if the lab is there and its worker is not.
    pub fn connect(name: &str) -> Result<Self, ClientError> {
        let dir = lab_dir(name)?;
        match find_or_clear(&dir)? {
            Found::Lab(holder) => Self::connect_or_start(name, &holder),
            Found::Rests | Found::Nothing => Err(ClientError::NoLab { name: name.to_owned() }),
        }
    }

    /// Connects to a lab's worker from inside of the lab. Starts none, and does not wait: `None`
    /// also where there is one of another version.
    pub fn connect_within(name: &str, dir: &Path) -> Option<Self> {
        let stream = UnixStream::connect(dir.join("worker.sock")).ok()?;
        let mut client = Self { name: name.to_owned(), stream: BufReader::new(stream) };
        let hello: Hello = client.call(&Request::Hello).ok()?;
        (hello.version == version()).then_some(client)
    }

    /// Connects to the worker of a lab that runs. Forks if it has to start one, so the process must
    /// have a single thread.
    pub fn connect_or_start(name: &str, holder: &Holder) -> Result<Self, ClientError> {
        let dir = holder.dir();
        if let Some(client) = Self::try_connect(name, dir) {
            return Ok(client);
        }
        // Of several commands that find no worker, one starts it.
        let lock = dir.join("start.lock");
        let file = File::options().create(true).truncate(false).write(true).open(&lock);
        let file = file.map_err(|source| ClientError::Directory { path: lock.clone(), source })?;
        let _locked = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, e)| ClientError::Directory { path: lock.clone(), source: e.into() })?;
        if let Some(client) = Self::try_connect(name, dir) {
            return Ok(client);
        }
        let log = dir.join("worker.log");
        let failed = |reason: String| ClientError::Worker {
            name: name.to_owned(),
            reason,
            log: log.clone(),
        };
        let since = Instant::now();
        let mut started = false;
        loop {
            if let Some(client) = Self::try_connect(name, dir) {
                return Ok(client);
            }
            if started && let Ok(reason) = fs::read_to_string(dir.join(worker::FAILED_FILE)) {
                return Err(failed(reason));
            }
            // Again if it is killed before it is ready, and once one that is ending has ended.
            started |= worker::start(holder).map_err(failed)?;
            if since.elapsed() > START_PATIENCE {
                return Err(failed(format!("no answer after {} s", START_PATIENCE.as_secs())));
            }
            if !holder.is_alive() {
                return Err(failed("the lab has ended".to_owned()));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// A connection to a worker of this program's version.
    fn try_connect(name: &str, dir: &Path) -> Option<Self> {
        let stream = UnixStream::connect(dir.join("worker.sock")).ok()?;
        let mut client = Self { name: name.to_owned(), stream: BufReader::new(stream) };
        let hello: Hello = client.call(&Request::Hello).ok()?;
        if hello.version == version() {
            return Some(client);
        }
        // Another version's worker: it ends, this version's takes over. Unknown requests are
        // answered with an error, so an old worker that knows no `Retire` simply stays.
        client.call::<Value>(&Request::Retire).ok()?;
        None
    }

    /// Asks, and waits for the answer. Warnings go to standard error.
    pub fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        self.call_with_progress(request, |_, _| {})
    }

    /// Asks, and reports how far it has come until the answer is there.
    pub fn call_with_progress<T: DeserializeOwned>(
        &mut self,
        request: &Request,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<T, ClientError> {
        self.ask(request)?;
        loop {
            match self.event()? {
                Event::Progress { done, total } => progress(done, total),
                Event::Item { .. } => {}
                Event::Warning { message } => eprintln!("{message}"),
                Event::Reply { body } => {
                    return serde_json::from_value(body).map_err(|e| self.broken(&e));
                }
                Event::Error { message, not_found: true } => {
                    return Err(ClientError::NotFound { message });
                }
                Event::Error { message, .. } => return Err(ClientError::Refused { message }),
            }
        }
    }

    /// Asks for something that goes on: hands each item to `take` until that says that it is enough,
    /// and `None` when it begins and while there is nothing. The connection is of no further use
    /// then.
    pub fn follow<T: DeserializeOwned>(
        &mut self,
        request: &Request,
        mut take: impl FnMut(Option<T>) -> bool,
    ) -> Result<(), ClientError> {
        self.ask(request)?;
        loop {
            match self.event()? {
                Event::Item { body } => {
                    let item = serde_json::from_value(body).map_err(|e| self.broken(&e))?;
                    if !take(Some(item)) {
                        return Ok(());
                    }
                }
                Event::Progress { .. } => {
                    if !take(None) {
                        return Ok(());
                    }
                }
                Event::Warning { message } => eprintln!("{message}"),
                Event::Reply { .. } => return Ok(()),
                Event::Error { message, .. } => return Err(ClientError::Refused { message }),
            }
        }
    }

    fn ask(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|e| self.broken(&e))?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|e| self.broken(&e))
    }

    /// The next line of the answer.
    fn event(&mut self) -> Result<Event, ClientError> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).map_err(|e| self.broken(&e))? == 0 {
            return Err(self.broken(&"end of stream"));
        }
        serde_json::from_str(&line).map_err(|e| self.broken(&e))
    }

    fn broken(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken { name: self.name.clone(), reason: reason.to_string() }
    }
}

/// The version that both ends compare: the package's, and the build's by the program's size and
/// time, so that a developer's new build replaces the old worker.
pub fn version() -> String {
    use std::os::unix::fs::MetadataExt;
    let build =
        fs::metadata("/proc/self/exe").map_or(0, |m| m.mtime_nsec() ^ m.mtime() ^ m.size() as i64);
    format!("{}-{build:x}", env!("CARGO_PKG_VERSION"))
}

/// The directory of a lab. Names are those of namespaces, so that they are good for paths.
pub fn lab_dir(name: &str) -> Result<PathBuf, ClientError> {
    let good = !name.is_empty()
        && name.len() <= 40
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        Ok(holder::labs_directory().join(name))
    } else {
        Err(ClientError::Name { name: name.to_owned() })
    }
}

/// What is in a lab's directory.
#[derive(Debug)]
pub enum Found {
    /// A lab that runs.
    Lab(Holder),
    /// What a lab left that was cut off; removed now.
    Rests,
    /// Nothing.
    Nothing,
}

/// Finds a lab, also one whose maker was killed and that comes to stand by itself; removes what one
/// left that did not come so far.
pub fn find_or_clear(dir: &Path) -> Result<Found, holder::HolderError> {
    if let Some(holder) = Holder::find(dir) {
        return Ok(Found::Lab(holder));
    }
    match Holder::clear(dir) {
        Ok(true) => Ok(Found::Rests),
        Ok(false) => Ok(Found::Nothing),
        Err(error @ holder::HolderError::Running { .. }) => {
            Holder::find(dir).map(Found::Lab).ok_or(error)
        }
        Err(error) => Err(error),
    }
}

/// The names of the labs that run.
pub fn labs() -> Vec<String> {
    let Ok(entries) = fs::read_dir(holder::labs_directory()) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| Holder::find(&entry.path()).is_some())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
