//! How is a kubelet asked, and told to end?
//!
//! ```text
//!   podwall lab up, down ── one line of JSON ──▶ DIR/kubelet.sock ──▶ main loop
//!                        ◀── one line of JSON ──
//! ```

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::agents::AgentPlace;

/// What can be said to a kubelet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Ask {
    /// How is it?
    Status,
    /// Take nodes and pods out of the cluster, and end.
    Stop,
    /// End, so that another version can go on.
    Retire,
}

/// How a kubelet is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Its program's version and build.
    pub version: String,
    /// What it waits for until it can be used; nothing: it is ready.
    pub waits: Vec<String>,
    /// The agents of its nodes.
    pub agents: Vec<AgentPlace>,
    /// Whether pods are handed to the agents before they start.
    pub chained: bool,
}

/// What was asked, and where the answer goes.
#[derive(Debug)]
pub(crate) enum Command {
    Status(oneshot::Sender<Reply>),
    Stop(oneshot::Sender<Reply>),
    Retire,
}

/// Listens for ever.
pub(crate) async fn listen(listener: UnixListener, tell: UnboundedSender<Command>) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::task::spawn_local(async move {
                // Whoever asks may go away.
                let _ = converse(stream, tell).await;
            });
        }
    }
}

async fn converse(stream: UnixStream, tell: UnboundedSender<Command>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let (answer, answered) = oneshot::channel();
        let command = match serde_json::from_str(&line)? {
            Ask::Status => Command::Status(answer),
            Ask::Stop => Command::Stop(answer),
            Ask::Retire => Command::Retire,
        };
        if tell.send(command).is_err() {
            return Ok(());
        }
        let Ok(reply) = answered.await else { return Ok(()) };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        write.write_all(&text).await?;
    }
    Ok(())
}
