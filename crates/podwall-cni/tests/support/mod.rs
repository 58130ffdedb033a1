//! What do tests of the program have in common?
//!
//! ```text
//!   FakeAgent ── answers as it is told, remembers what it was asked
//!   Plugin ───── the real program, with a runtime's environment and input
//! ```
#![allow(dead_code, reason = "each test uses some")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's own tools")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use podwall_local::Request;
use serde_json::{Value, json};

pub(crate) mod node;

/// Answers like an agent. Its thread ends with the test's process.
pub(crate) struct FakeAgent {
    pub(crate) asked: Arc<Mutex<Vec<Request>>>,
}

impl FakeAgent {
    /// Listens and answers each request by `answer`; `None` closes the connection.
    pub(crate) fn listen(
        socket: &Path,
        answer: impl Fn(&Request) -> Option<String> + Send + 'static,
    ) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                // A client that only looks whether somebody listens says nothing.
                let Ok(request) = serde_json::from_str::<Request>(&line) else { continue };
                let answer = answer(&request);
                all.lock().unwrap().push(request);
                if let Some(answer) = answer {
                    // A client that gave up is no concern of an agent's.
                    let _ = stream.get_mut().write_all(format!("{answer}\n").as_bytes());
                }
            }
        });
        Self { asked }
    }

    /// One that says yes to all.
    pub(crate) fn content(socket: &Path) -> Self {
        Self::listen(socket, |request| Some(yes(request)))
    }

    pub(crate) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }
}

pub(crate) fn yes(request: &Request) -> String {
    match request {
        Request::Attach { .. } => {
            json!({"ok": {"known": true, "guarded": true, "took": 1}}).to_string()
        }
        Request::Keep { .. } => json!({"ok": 0}).to_string(),
        _ => json!({"ok": null}).to_string(),
    }
}

pub(crate) fn no(code: &str) -> String {
    json!({"error": {"code": code, "message": "so says the agent"}}).to_string()
}

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub(crate) fn code(&self) -> u64 {
        assert!(!self.ok, "{self:?}");
        self.json()["code"].as_u64().unwrap()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["msg"].as_str().unwrap().to_owned()
    }
}

/// The program of this crate.
pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_podwall-cni"))
}

/// Runs a plugin with nothing in its environment but this.
pub(crate) fn run(program: &Path, variables: &[(&str, &str)], input: &str) -> Said {
    let mut child = Command::new(program)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Said {
        ok: output.status.success(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
