//! Who keeps a lab running?
//!
//! ```text
//!   a command finds no worker
//!     bind DIR/worker.new ─▶ fork into the lab (Holder::detach)
//!       └─ take over what exists (or make it) ─▶ rename to DIR/worker.sock ─▶ listen
//!            a thread a connection ── lock ──▶ Engine (one writer) ──▶ kernel
//! ```
//!
//! The worker owns nothing that enforcement needs: namespaces are the holder's, tables are the
//! kernel's, the state is a file. It can be killed at any moment; what stops is that pods' servers
//! answer, until the next command starts the next worker.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Value, json};

use crate::client::version;
use crate::engine::{Engine, EngineError};
use crate::holder::Holder;
use crate::requests;
use crate::rpc::{Event, Hello, LabConfig, Request};
use crate::settling::{self, Bell};

/// The file in which `lab up` leaves the configuration of a lab that is to be made.
pub const CONFIG_FILE: &str = "config.json";

/// The file in which a worker that could not start leaves the reason.
pub const FAILED_FILE: &str = "worker.failed";

/// Starts a worker inside the lab and lets go of it. `false` if there is one, perhaps not ready yet:
/// the command that started it may have been killed since. The process must have a single thread.
pub fn start(holder: &Holder) -> Result<bool, String> {
    let dir = holder.dir();
    // Held by the worker as long as it lives, whoever started it: there is never a second one.
    let lock = dir.join("worker.lock");
    let cannot_lock = |e: io::Error| format!("cannot lock {}: {e}", lock.display());
    let file = fs::File::options().create(true).truncate(false).write(true).open(&lock);
    let lock_file = file.map_err(cannot_lock)?;
    match lock_file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(false),
        Err(fs::TryLockError::Error(error)) => return Err(cannot_lock(error)),
    }
    let config: LabConfig = fs::read(dir.join(CONFIG_FILE))
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                "the command that made the lab was cut off; `podwall lab up` finishes its work"
                    .to_owned()
            }
            _ => format!("cannot read the lab's configuration: {e}"),
        })
        .and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string()))?;
    let _ = fs::remove_file(dir.join(FAILED_FILE));
    // Bound under another name first: a command that can connect finds a worker that is ready.
    let socket = dir.join("worker.new");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)
        .map_err(|e| format!("cannot bind {}: {e}", socket.display()))?;
    let log = dir.join("worker.log");
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|e| format!("cannot open {}: {e}", log.display()))?;
    let inside = holder.inside();
    holder
        .detach(&[listener.as_fd(), log.as_fd(), lock_file.as_fd()], || {
            if let Ok(mut stderr) = nix::unistd::dup2_stderr(&log).map(|()| io::stderr()) {
                let _ = writeln!(stderr, "worker {} starts", version());
            }
            let reason = serve(&config, &listener, dir, &inside);
            eprintln!("worker ends: {reason}");
            let _ = fs::write(dir.join(FAILED_FILE), reason);
            1
        })
        .map(|()| true)
        .map_err(|e| e.to_string())
}

/// Takes the lab over and answers until the end of the process. Returns why it ended.
fn serve(config: &LabConfig, listener: &UnixListener, dir: &Path, inside: &Path) -> String {
    let engine = match Engine::open(config, inside) {
        Ok(engine) => Arc::new(Mutex::new(engine)),
        Err(error) => return error.to_string(),
    };
    if let Err(error) = fs::rename(dir.join("worker.new"), dir.join("worker.sock")) {
        return format!("cannot put the socket in place: {error}");
    }
    let bell = match settling::start(Arc::clone(&engine)) {
        Ok(bell) => bell,
        Err(error) => return format!("cannot start a thread: {error}"),
    };
    // What opening has put in place.
    let _ = bell.send(());
    for connection in listener.incoming() {
        let Ok(connection) = connection else { continue };
        let (engine, bell) = (Arc::clone(&engine), bell.clone());
        let spawned = thread::Builder::new().name("lab-request".to_owned()).spawn(move || {
            // A command that went away is no reason to end.
            let _ = converse(&engine, &bell, connection);
        });
        if let Err(error) = spawned {
            eprintln!("no thread for a request: {error}");
        }
    }
    "the socket was closed".to_owned()
}

/// Answers one command's requests, one line each, until it hangs up.
fn converse(engine: &Arc<Mutex<Engine>>, bell: &Bell, stream: UnixStream) -> io::Result<()> {
    let mut out = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let event = match serde_json::from_str(&line?) {
            Ok(Request::Retire) => {
                // Not in the middle of what another command asked for.
                let _finished = lock(engine);
                send(&mut out, &Event::Reply { body: Value::Null })?;
                std::process::exit(0);
            }
            Ok(Request::Flows) if lock(engine).store().mirrors() => Event::Error {
                message: "the lab does not do that: to follow denied packets; its nodes have \
                          agents, which do: `podwall flows --socket FILE` asks one"
                    .to_owned(),
                not_found: false,
            },
            Ok(Request::Flows) => {
                let told = requests::flows(engine, &mut |flow| {
                    let event = match flow {
                        Some(body) => Event::Item { body },
                        None => Event::Progress { done: 0, total: 0 },
                    };
                    send(&mut out, &event).is_ok()
                });
                outcome(told)
            }
            Ok(request) => {
                let mut progress = |done, total| {
                    let _ = send(&mut out, &Event::Progress { done, total });
                };
                let (event, warnings) = answer(engine, &request, &mut progress);
                let _ = bell.send(()); // the thread ends only with the process
                for message in warnings {
                    send(&mut out, &Event::Warning { message })?;
                }
                event
            }
            Err(error) => Event::Error {
                message: format!("the lab's worker does not understand the request: {error}"),
                not_found: false,
            },
        };
        send(&mut out, &event)?;
    }
    Ok(())
}

fn answer(
    engine: &Arc<Mutex<Engine>>,
    request: &Request,
    progress: &mut dyn FnMut(u64, u64),
) -> (Event, Vec<String>) {
    let mut warnings = Vec::new();
    let result = match request {
        Request::Hello => {
            let engine = lock(engine);
            let (config, dataplanes) = (engine.store().config.clone(), engine.dataplanes());
            Ok(json!(Hello { version: version(), config, dataplanes }))
        }
        Request::Retire => Ok(Value::Null),
        // Packets take their time; other commands go on meanwhile.
        Request::Probe(probe) => requests::probe(engine, probe, progress),
        other => {
            let mut engine = lock(engine);
            let result = requests::handle(&mut engine, other);
            warnings = engine.take_warnings();
            result
        }
    };
    (outcome(result), warnings)
}

/// The last line of an answer.
fn outcome(result: Result<Value, EngineError>) -> Event {
    match result {
        Ok(body) => Event::Reply { body },
        Err(error) => Event::Error {
            message: error.to_string(),
            not_found: matches!(error, EngineError::NotFound { .. }),
        },
    }
}

/// The engine; a request that panicked leaves it to the next, which finds the kernel as it is.
pub(crate) fn lock(engine: &Mutex<Engine>) -> MutexGuard<'_, Engine> {
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send(out: &mut UnixStream, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    out.write_all(&line)
}
