//! How does each node have its agent?
//!
//! ```text
//!   podwall agent --netns NODE --node NAME …    one a node, beside the API server's network
//!       └ ends ─▶ started again                 DIR/agents/NODE.log, .sock
//! ```

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use podwall_lab::fabric::foreign::Namespaces;
use podwall_lab::holder::follow_parent;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::settings::{Agents, Server, Settings};

/// Before an agent that ended is started again.
const PAUSE: Duration = Duration::from_millis(500);

/// Where a node's agent is to be found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentPlace {
    /// The node.
    pub node: String,
    /// Where it serves `/metrics`, `/healthz`, `/readyz`, in the network of the lab's maker.
    pub listens: SocketAddr,
    /// Where it answers `podwall status` and `podwall flows`.
    pub socket: PathBuf,
    /// Its log, also of its predecessors.
    pub log: PathBuf,
}

// === impl AgentPlace ===

impl AgentPlace {
    /// A place for a node's agent, with a port that nobody has at this moment.
    pub(crate) fn new(dir: &Path, node: &str) -> io::Result<Self> {
        let listens = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        Ok(Self {
            node: node.to_owned(),
            listens,
            socket: dir.join(format!("agent-{node}/agent.sock")),
            log: dir.join(format!("{node}.log")),
        })
    }

    /// Whether it enforces what it has read of the cluster to the end.
    pub(crate) async fn is_ready(&self) -> bool {
        let ask = async {
            let mut socket = TcpStream::connect(self.listens).await?;
            socket.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).await?;
            io::Result::Ok(answer.split(|b| *b == b' ').nth(1) == Some(b"200"))
        };
        matches!(timeout(Duration::from_secs(2), ask).await, Ok(Ok(true)))
    }
}

/// The command line of a node's agent.
fn arguments(
    settings: &Settings,
    agents: &Agents,
    namespaces: &Namespaces,
    place: &AgentPlace,
) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let Server { kubeconfig, context } = &agents.server;
    let pins = settings.inside().join("bpf").join(&place.node);
    let mut all = vec!["agent".to_owned()];
    let mut flag = |name: &str, value: String| all.extend([name.to_owned(), value]);
    flag("--node", place.node.clone());
    flag("--kubeconfig", path(kubeconfig));
    if let Some(context) = context {
        flag("--context", context.clone());
    }
    flag("--netns", path(&namespaces.node(&place.node)));
    flag("--pins", path(&pins));
    flag("--listen", place.listens.to_string());
    flag("--socket", path(&place.socket));
    flag("--keep", path(&place.socket.with_file_name("attachments")));
    flag("--dataplane", agents.dataplane.clone());
    if !agents.limits.is_empty() {
        flag("--limits", agents.limits.clone());
    }
    all.extend(agents.arguments.iter().cloned());
    all
}

/// Keeps a node's agent running, for ever.
pub(crate) async fn keep(settings: Settings, agents: Agents, names: Namespaces, place: AgentPlace) {
    let arguments = arguments(&settings, &agents, &names, &place);
    loop {
        let ended = match start(&arguments, &place.log) {
            Ok(mut child) => child.wait().await.map(|status| status.to_string()),
            Err(error) => Err(error),
        };
        let words = ended.unwrap_or_else(|error| format!("it cannot be run: {error}"));
        eprintln!("the agent of node {}: {words}; it is started again", place.node);
        sleep(PAUSE).await;
    }
}

fn start(arguments: &[String], log: &Path) -> io::Result<tokio::process::Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command
        .arg0("podwall")
        .args(arguments)
        .env_remove("PODWALL_DATAPLANE")
        .env_remove("PODWALL_LIMITS")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // Two agents of one node would write over each other's tables.
    follow_parent(&mut command);
    Command::from(command).kill_on_drop(true).spawn()
}
