//! How long does a pod wait for the agent?
//!
//! ```text
//!   ├─ no agent ─┼─ no agent ──┼─ attach, with what is left as its patience ─────┤ deadline
//!   └────────────┴─ an agent that is just restarting is waited for ──────────────┘
//! ```
//!
//! The whole takes no longer than it may, whatever the agent does: also one that does not accept, or
//! sends its answer byte by byte. So a thread asks, and the caller waits for the thread.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use podwall_local::{Client, ClientError, Code, Request};
use serde::de::DeserializeOwned;

use crate::error::PluginError;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What to do when there is no agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// Try until the time is over.
    Wait,
    /// Say so at once.
    Say,
}

/// Asks the agent of this socket what `request` makes of the time that is left.
pub(crate) fn ask<T: DeserializeOwned + Send + 'static>(
    socket: &Path,
    time: Duration,
    absent: Absent,
    request: impl Fn(Duration) -> Request + Send + 'static,
) -> Result<T, PluginError> {
    let begin = Instant::now();
    let (send, answer) = mpsc::sync_channel(1);
    let path = socket.to_path_buf();
    let work = move || {
        // Nobody listens any more if the time is over, and then nobody wants to know.
        let _ = send.send(ask_until(&path, begin + time, absent, &request));
    };
    let thread = thread::Builder::new().name("ask".to_owned()).spawn(work);
    thread.map_err(|source| PluginError::Io { doing: "start a thread", source })?;
    let answer = answer.recv_timeout(time).unwrap_or(Err(ClientError::Late(time)));
    answer.map_err(|source| {
        let waited = (absent == Absent::Wait && passes(&source)).then(|| begin.elapsed());
        PluginError::Agent { source, waited, status: false }
    })
}

fn ask_until<T: DeserializeOwned>(
    socket: &Path,
    deadline: Instant,
    absent: Absent,
    request: &impl Fn(Duration) -> Request,
) -> Result<T, ClientError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // The agent gives up a little earlier than we do, so that its words are heard.
        let patience = left.saturating_sub((left / 10).min(Duration::from_millis(300)));
        let answer =
            Client::connect(socket, left).and_then(|mut client| client.ask(&request(patience)));
        let error = match answer {
            Err(error) if absent == Absent::Wait && passes(&error) => error,
            answer => return answer,
        };
        // Leaves time to say what happened.
        if Instant::now() + pause + FIRST_PAUSE >= deadline {
            return Err(error);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether another try may help.
fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::NoAgent { .. } | ClientError::Broken(_) => true,
        ClientError::Refused(refusal) => refusal.code == Code::NotYet,
        _ => false,
    }
}
