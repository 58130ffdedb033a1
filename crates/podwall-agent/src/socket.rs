//! Who of this node may ask, and how is he answered?
//!
//! ```text
//!   accept ─▶ root? ─▶ one line ─▶ Question ─▶ writer ─▶ one line
//!                                 └─ flows: a line each, until one side closes
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use podwall_local::{Answer, Code, Flow, Refusal, Request};
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, oneshot};
use tokio::time::timeout;

use crate::told::{Question, Told};

/// How many may ask at once; more wait.
const AT_ONCE: usize = 256;
/// How long a question may take to come in, and its answer to go out.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest question, in bytes: a list of all interfaces of a large node.
const LONGEST: u64 = 4 << 20;

/// Where the agent is asked.
#[derive(Debug)]
pub struct Socket {
    listener: net::UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens, for root (and whoever runs the agent) alone; takes the place of an agent before this
    /// one.
    ///
    /// # Errors
    /// The directory cannot be made, or the file cannot be put there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        // Under another name first, so that who asks meets the old agent or this one, and so that
        // nobody finds it with wider rights.
        let mut new = path.as_os_str().to_owned();
        new.push(format!(".{}", process::id()));
        let new = PathBuf::from(new);
        let _ = fs::remove_file(&new); // of an agent with our number, long ago
        let listener = net::UnixListener::bind(&new)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        fs::rename(&new, path)?;
        Ok(Self { listener, path: path.to_path_buf() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers until the end of the process.
    pub(crate) async fn serve(self, tell: Sender<Told>, flows: broadcast::Sender<Flow>) {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let us = nix::unistd::geteuid().as_raw();
        let listener = match UnixListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the socket cannot be served");
                return;
            }
        };
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // No file is left, say: it passes, and must not cost a CPU core until then.
                    tracing::warn!(%error, "cannot take a connection to the socket");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let (tell, flows) = (tell.clone(), flows.clone());
            tokio::spawn(async move {
                // Whoever breaks off gets no answer.
                let _ = one(stream, us, tell, flows).await;
                drop(place);
            });
        }
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal { code: Code::Invalid, message: message.into() }
}

async fn one(
    stream: UnixStream,
    us: u32,
    tell: Sender<Told>,
    flows: broadcast::Sender<Flow>,
) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let mut limited = (&mut stream).take(LONGEST);
    timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await??;
    // Not before the question is read: who is closed upon while he asks hears no reason.
    if peer != 0 && peer != us {
        let refusal = invalid(format!("the agent answers root only, not the user {peer}"));
        return say(&mut stream, &Answer::<Value>::Error(refusal)).await;
    }
    let request: Request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => {
            let refusal = invalid(format!(
                "this question cannot be read ({error}); are agent and asker of one version?"
            ));
            return say(&mut stream, &Answer::<Value>::Error(refusal)).await;
        }
    };
    let following = matches!(request, Request::Flows).then(|| flows.subscribe());
    let (reply, answer) = oneshot::channel();
    let question = Question { request, since: Instant::now(), reply };
    let ends = || io::Error::other("the agent ends");
    tell.send(Told::Asked(question)).map_err(|_| ends())?;
    let answer = match answer.await.map_err(|_| ends())? {
        Ok(value) => Answer::Ok(value),
        Err(refusal) => Answer::Error(refusal),
    };
    say(&mut stream, &answer).await?;
    match following {
        Some(following) => follow(stream, following).await,
        None => Ok(()),
    }
}

/// Says what is dropped until somebody goes away.
async fn follow(
    mut stream: BufReader<UnixStream>,
    mut flows: broadcast::Receiver<Flow>,
) -> io::Result<()> {
    let mut nothing = [0];
    loop {
        tokio::select! {
            flow = flows.recv() => match flow {
                Ok(flow) => say(&mut stream, &flow).await?,
                // Too slow for them all: a person reads the newest.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            read = stream.read(&mut nothing) => if read? == 0 { return Ok(()) },
        }
    }
}

async fn say(stream: &mut BufReader<UnixStream>, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    timeout(PATIENCE, stream.write_all(&line)).await?
}
