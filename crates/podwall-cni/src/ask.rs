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
use std::sync::mpsc::{self, SendError, Sender};
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
    let (send, heard) = mpsc::channel();
    let path = socket.to_path_buf();
    // Nobody listens any more if the time is over, and then nobody wants to know.
    let work = move || drop(ask_until(&path, begin + time, absent, &request, &send));
    let thread = thread::Builder::new().name("ask".to_owned()).spawn(work);
    thread.map_err(|source| PluginError::Io { doing: "start a thread", source })?;
    let mut last = None;
    let answer = loop {
        match heard.recv_timeout((begin + time).saturating_duration_since(Instant::now())) {
            Ok(Heard::Passing(error)) => last = Some(error),
            Ok(Heard::End(Err(ClientError::Late(_)))) | Err(_) => {
                // What was said at last tells more than that nothing was said at the very end.
                break Err(last.unwrap_or(ClientError::Late(time)));
            }
            Ok(Heard::End(answer)) => break answer,
        }
    };
    answer.map_err(|source| {
        let waited = (absent == Absent::Wait && passes(&source)).then(|| begin.elapsed());
        PluginError::Agent { source, waited, status: false }
    })
}

/// What came of a try.
enum Heard<T> {
    /// Another follows.
    Passing(ClientError),
    /// No other does.
    End(Result<T, ClientError>),
}

fn ask_until<T: DeserializeOwned>(
    socket: &Path,
    deadline: Instant,
    absent: Absent,
    request: &impl Fn(Duration) -> Request,
    send: &Sender<Heard<T>>,
) -> Result<(), SendError<Heard<T>>> {
    let mut pause = FIRST_PAUSE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // The agent gives up a little earlier than we do, so that its words are heard.
        let patience = left.saturating_sub((left / 10).min(Duration::from_millis(300)));
        let answer =
            Client::connect(socket, left).and_then(|mut client| client.ask(&request(patience)));
        let error = match answer {
            Err(error) if absent == Absent::Wait && passes(&error) => error,
            answer => return send.send(Heard::End(answer)),
        };
        // Leaves time to say what happened.
        if Instant::now() + pause + FIRST_PAUSE >= deadline {
            return send.send(Heard::End(Err(error)));
        }
        send.send(Heard::Passing(error))?;
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
