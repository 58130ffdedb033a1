//! What runs on a node of a real cluster?
//!
//! ```text
//!   API server ══▶ watch ── Event ──▶ Index ──▶ NodeCompiler ── Delta ──▶ DataPlane ──▶ kernel
//!                 (tokio)             └──────── writer: one thread, one writer ────────┘
//!                                                    └──▶ State ──▶ metrics, health, status
//! ```
//!
//! The agent has no say in what is enforced: the kernel holds a function of the objects that exist,
//! whatever happened before. It can be killed at any moment; what it wrote stays in force.

pub mod check;
pub mod http;
mod index;
mod metrics;
mod objects;
mod state;
mod watch;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use kube::Client;
use podwall_dataplane::{Choice, Limits, Log, Namespace, ebpf};
use thiserror::Error;

pub use crate::objects::{Kind, Unusable};
pub use crate::state::{Snapshot, State};
pub use crate::watch::causes;
use crate::writer::Writer;

/// How an agent is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node, as the API server names it.
    pub node: Arc<str>,
    /// The network namespace to enforce in, as a file; `None`: the calling thread's.
    pub netns: Option<PathBuf>,
    /// Which data plane.
    pub choice: Choice,
    /// Where eBPF programs are pinned, in a bpffs.
    pub pins: PathBuf,
    /// How much the kernel's tables may hold.
    pub limits: Limits,
}

/// What keeps an agent from working.
#[derive(Debug, Error)]
pub enum AgentError {
    /// No data plane can be opened.
    #[error(transparent)]
    DataPlane(#[from] podwall_dataplane::Error),
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The writer ended.
    #[error("the thread that writes to the kernel ended; start the agent again")]
    Ended,
}

/// An agent at work.
pub struct Agent {
    state: Arc<State>,
    /// `ebpf` or `nftables`.
    dataplane: &'static str,
    /// Why it is not eBPF although that was preferred.
    instead: Option<String>,
    told: std::sync::mpsc::Sender<watch::Told>,
    writer: thread::JoinHandle<()>,
}

/// So many reports of denied packets a second the kernel gives, and so many at once.
const LOG: Log = Log { group: 4242, per_second: 100, burst: 100 };

impl Agent {
    /// Opens the data plane and starts to follow what
    /// [`Self::watch`] hears. Changes nothing in the kernel yet.
    ///
    /// # Errors
    /// No data plane can be opened.
    pub fn start(config: Config) -> Result<Self, AgentError> {
        let Config { node, netns, choice, pins, limits } = config;
        let ebpf = ebpf::Config { pins, limits, ..ebpf::Config::default() };
        let nftables = podwall_dataplane::Config { log: Some(LOG), limits, ..Default::default() };
        let chosen = match netns {
            Some(file) => Namespace::named(&file)?.run(|| choice.open(ebpf, nftables))?,
            None => choice.open(ebpf, nftables)?,
        };
        let (dataplane, instead) = (chosen.plane.name(), chosen.reason());
        let state = Arc::new(State::new(Arc::clone(&node), dataplane));
        let (tell, told) = channel();
        let mut writer = Writer::new(&node, chosen.plane, Arc::clone(&state));
        let writer = thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || writer.run(&told))
            .map_err(AgentError::Thread)?;
        Ok(Self { state, dataplane, instead, told: tell, writer })
    }

    /// What may be known of its work.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// The data plane, and why it is not eBPF although that was preferred.
    pub fn dataplane(&self) -> (&'static str, Option<&str>) {
        (self.dataplane, self.instead.as_deref())
    }

    /// Follows the cluster until the writer ends; to be dropped to stop.
    ///
    /// # Errors
    /// The writer has ended.
    pub async fn watch(self, client: Client) -> AgentError {
        watch::all(client, self.told).await;
        let _ = self.writer.join(); // a panic there has been printed
        AgentError::Ended
    }
}
