//! What runs on a node of a real cluster?
//!
//! ```text
//!   API server ══▶ watch ── Event ──▶ Index ──▶ NodeCompiler ── Delta ──▶ DataPlane ──▶ kernel
//!   CNI plugin ══▶ socket ─ Question ─▶ │
//!                 (tokio)             └──────── writer: one thread, one writer ────────┘
//!                                                    └──▶ State ──▶ metrics, health, status
//! ```
//!
//! The agent has no say in what is enforced: the kernel holds a function of the objects that exist,
//! whatever happened before. It can be killed at any moment; what it wrote stays in force.

mod attachments;
pub mod check;
mod desk;
mod events;
mod flows;
mod http;
mod index;
mod known;
mod links;
mod metrics;
mod names;
mod objects;
pub mod removal;
mod socket;
mod state;
mod status;
mod strangers;
mod told;
mod watch;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use kube::Client;
use podwall_dataplane::guard::{self, Guard};
use podwall_dataplane::{Choice, Limits, Log, Namespace, ebpf};
use podwall_local::{Flow, Notes};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::attachments::Attachments;
use crate::events::{Complaint, Complaints};
use crate::flows::Flows;
use crate::index::Index;
use crate::links::Links;
pub use crate::objects::{Kind, Unusable};
use crate::removal::OtherPlane;
pub use crate::socket::Socket;
pub use crate::state::{Snapshot, State};
use crate::strangers::Strangers;
pub use crate::strangers::{Isolation, time};
use crate::told::Told;
pub use crate::watch::causes;
use crate::writer::{Parts, Writer};

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
    /// Where it is kept which pods the container runtime has attached; `None`: nowhere.
    pub kept: Option<PathBuf>,
    /// Where the CNI plugin leaves notes of what went while no agent listened.
    pub notes: Option<Notes>,
    /// What becomes of an address in this node's pod ranges that no pod is known to have.
    pub isolation: Isolation,
    /// How often the kernel is held against the model.
    pub verify_every: Duration,
    /// Whether packets that leave a pod with a source address that is not its own are dropped.
    pub guard: bool,
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
    /// The directory of what was attached.
    #[error("cannot use the directory {}: {source}", .path.display())]
    Kept {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Metrics are not served any more.
    #[error("metrics cannot be served any more: {0}")]
    Metrics(io::Error),
    /// The writer ended.
    #[error("the thread that writes to the kernel ended; start the agent again")]
    Ended,
}

/// An agent at work.
pub struct Agent {
    node: Arc<str>,
    state: Arc<State>,
    told: Sender<Told>,
    flows: broadcast::Sender<Flow>,
    complaints: UnboundedReceiver<Complaint>,
    writer: thread::JoinHandle<()>,
}

/// So many reports of denied packets a second the kernel gives, and so many at once.
const LOG: Log = Log { group: 4242, per_second: 100, burst: 100 };

impl Agent {
    /// Opens the data plane and starts to follow what [`Self::work`] hears. Changes nothing of
    /// policies in the kernel yet. The socket that is given to `work` must listen already, so that
    /// no note of the CNI plugin is overlooked.
    ///
    /// # Errors
    /// No data plane can be opened, or what was attached cannot be read.
    pub fn start(config: Config) -> Result<Self, AgentError> {
        let Config { node, netns, choice, limits, .. } = config;
        let ebpf = ebpf::Config { pins: config.pins.clone(), limits, ..ebpf::Config::default() };
        let nftables = podwall_dataplane::Config { log: Some(LOG), limits, ..Default::default() };
        let open = || {
            let guard = Guard::open(guard::Config::default());
            Ok::<_, podwall_dataplane::Error>((choice.open(ebpf, nftables)?, guard?))
        };
        let namespace = match netns {
            Some(file) => Namespace::named(&file)?,
            None => Namespace::current()?,
        };
        let (chosen, guard) = namespace.run(open)?;
        let other = OtherPlane { namespace, pins: config.pins, in_force: chosen.plane.name() };
        let mut attachments = match config.kept {
            Some(dir) => {
                let kept = Attachments::load(&dir);
                let (kept, wrong) =
                    kept.map_err(|source| AgentError::Kept { path: dir, source })?;
                for wrong in wrong {
                    tracing::warn!(wrong, "a pod that was attached is not known any more");
                }
                kept
            }
            None => Attachments::default(),
        };
        if let Some(notes) = config.notes {
            attachments.read(&notes).map_err(|source| {
                let path = notes.directory().to_path_buf();
                AgentError::Kept { path, source }
            })?;
        }
        let (tell, told) = channel();
        let reason = chosen.reason();
        let state = Arc::new(State::new(Arc::clone(&node), chosen.plane.name(), reason));
        let flows = Flows::new(tell.clone());
        let followers = flows.followers();
        let (complain, complaints) = unbounded_channel();
        let mut writer = Writer::new(Parts {
            index: Index::new(Arc::clone(&node), attachments),
            plane: chosen.plane,
            other,
            links: Links::new(guard),
            guards: config.guard,
            state: Arc::clone(&state),
            flows,
            complaints: Complaints::new(complain),
            strangers: Strangers::new(config.isolation),
            verify_every: config.verify_every,
        });
        let writer = thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || writer.run(&told))
            .map_err(AgentError::Thread)?;
        Ok(Self { node, state, told: tell, flows: followers, complaints, writer })
    }

    /// The data plane, and why it is not eBPF although that was preferred.
    pub fn dataplane(&self) -> (&'static str, Option<String>) {
        let now = self.state.snapshot();
        (now.dataplane, now.instead)
    }

    /// Follows the cluster, and answers over HTTP and, where there is one, over a socket, until
    /// something of that ends; to be dropped to stop.
    pub async fn work(self, client: Client, http: TcpListener, socket: Socket) -> AgentError {
        let Self { node, state, told, flows, complaints, writer } = self;
        tokio::select! {
            () = watch::all(client.clone(), &node, told.clone()) => {}
            () = events::publish(client, &node, complaints) => {}
            served = http::serve(http, state, told.clone()) => {
                if let Err(error) = served {
                    return AgentError::Metrics(error);
                }
            }
            () = socket.serve(told.clone(), flows) => {}
        }
        if writer.is_finished() {
            let _ = writer.join(); // a panic there has been printed
        }
        AgentError::Ended
    }
}
