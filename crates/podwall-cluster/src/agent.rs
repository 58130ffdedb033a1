//! How is the agent of a node run, watched and killed?
//!
//! ```text
//!   cluster.agent(program, node) .netns .dataplane .pins ──start──▶ Agent ── until_ready, metric, kill
//! ```

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::assets::tail;
use crate::http1::ask;
use crate::process::{Started, start};

/// How long an agent may take to be ready, and to do what [`Agent::until`] waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that has not been started yet; can be started any number of times.
#[derive(Clone, Debug)]
pub struct AgentToStart {
    program: PathBuf,
    node: String,
    kubeconfig: PathBuf,
    dir: PathBuf,
    args: Vec<String>,
}

/// A `podwall agent`. Killed with this value.
#[derive(Debug)]
pub struct Agent {
    process: Started,
    listens: SocketAddr,
    socket: PathBuf,
    log: PathBuf,
    /// How much of the log is of earlier agents, in bytes.
    earlier: usize,
}

impl AgentToStart {
    pub(crate) fn new(program: &Path, node: &str, kubeconfig: &Path, dir: &Path) -> Self {
        Self {
            program: program.to_owned(),
            node: node.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            dir: dir.to_owned(),
            args: Vec::new(),
        }
    }

    /// The network namespace to enforce in, as a file. The agent itself stays outside, where the API
    /// server is.
    #[must_use]
    pub fn netns(self, file: &Path) -> Self {
        self.arg("--netns", &file.to_string_lossy())
    }

    /// `ebpf`, `nftables` or `auto`.
    #[must_use]
    pub fn dataplane(self, which: &str) -> Self {
        self.arg("--dataplane", which)
    }

    /// Where eBPF programs are pinned.
    #[must_use]
    pub fn pins(self, dir: &Path) -> Self {
        self.arg("--pins", &dir.to_string_lossy())
    }

    /// Any other flag with its value.
    #[must_use]
    pub fn arg(mut self, flag: &str, value: &str) -> Self {
        self.args.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Starts it. Its log goes on where that of an earlier one of the node ended.
    #[track_caller]
    pub fn start(&self) -> Agent {
        let listens = free_port();
        let log = self.dir.join(format!("agent-{}.log", self.node));
        let own = self.dir.join(format!("agent-{}", self.node));
        let socket = own.join("agent.sock");
        let earlier = fs::metadata(&log).map_or(0, |it| it.len().try_into().unwrap_or_default());
        let process = start(&self.program, |command| {
            let append = || File::options().create(true).append(true).open(&log).expect("a log");
            command
                .args(["agent", "--node", &self.node, "--listen", &listens.to_string()])
                .arg("--kubeconfig")
                .arg(&self.kubeconfig)
                .arg("--socket")
                .arg(&socket)
                .arg("--keep")
                .arg(own.join("attachments"))
                .args(&self.args)
                .env_remove("PODWALL_DATAPLANE")
                .env_remove("PODWALL_LIMITS")
                .stdin(Stdio::null())
                .stdout(append())
                .stderr(append());
        });
        Agent { process, listens, socket, log, earlier }
    }
}

// === impl Agent ===

impl Agent {
    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where the programs of its node ask.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.get(self.earlier..).unwrap_or_default().to_owned()
    }

    /// An answer of its HTTP server; `None` while there is none.
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        let socket = TcpStream::connect(self.listens).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        ask(socket, "GET", path, "").ok()
    }

    /// Whether the kernel enforces what the cluster asks for, as far as it was told.
    pub fn is_ready(&self) -> bool {
        self.http("/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// Waits until it is ready.
    #[track_caller]
    pub fn until_ready(&self) {
        self.until("it is ready", Self::is_ready);
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is(self) {
            let (log, numbers) = (tail(&self.log), self.http("/metrics"));
            assert!(Instant::now() < end, "not so: {what}\n--- log\n{log}\n--- {numbers:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// One of its numbers as `/metrics` writes its name, with labels: `podwall_objects{kind="pod"}`.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let (status, text) = self.http("/metrics").expect("metrics");
        assert_eq!(status, 200, "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
    }

    /// A line of `/proc/PID/status` in KiB: `VmRSS`, `VmHWM`.
    #[track_caller]
    pub fn memory(&self, line: &str) -> u64 {
        let mut path = String::new();
        let _ = write!(path, "/proc/{}/status", self.pid());
        let status = fs::read_to_string(path).expect("a process that lives");
        let found = status.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':'));
        let number = found.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {line} in:\n{status}"))
    }

    /// Sends a signal; `SIGSTOP` and `SIGCONT` have it miss what happens in between.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it ends by itself, and says how it did.
    #[track_caller]
    pub fn ended(mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.ended() {
                return status;
            }
            assert!(Instant::now() < end, "it goes on\n--- log\n{}", tail(&self.log));
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it without a word (`SIGKILL`).
    pub fn kill(self) {
        drop(self);
    }
}

/// A port that nobody has at this moment.
fn free_port() -> SocketAddr {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    socket.local_addr().expect("a port")
}
