//! When is done what can wait?
//!
//! ```text
//!   a request changes something ──▶ bell ──▶ a pause ──▶ each node in turn: DataPlane::settle
//! ```
//!
//! The engine is locked for one node at a time: a command that comes meanwhile waits for milliseconds.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::engine::Engine;
use crate::worker::lock;

/// Nothing changed for so long: whoever applies many files one by one is not held up.
const PAUSE: Duration = Duration::from_millis(200);

/// Rung after each change.
pub(crate) type Bell = Sender<()>;

/// Starts the thread that settles. It ends with the last bell.
pub(crate) fn start(engine: Arc<Mutex<Engine>>) -> std::io::Result<Bell> {
    let (bell, rung) = channel();
    thread::Builder::new()
        .name("settling".to_owned())
        .spawn(move || while rung.recv().is_ok() && settle(&engine, &rung) {})?;
    Ok(bell)
}

/// Settles all nodes once changes have paused; false: nobody can ring any more.
fn settle(engine: &Mutex<Engine>, rung: &Receiver<()>) -> bool {
    let mut wait = PAUSE;
    loop {
        match rung.recv_timeout(wait) {
            Ok(()) => wait = PAUSE,
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => {
                let nodes: BTreeSet<String> = lock(engine).node_names();
                let left = nodes.iter().filter_map(|node| lock(engine).settle(node)).min();
                match left {
                    Some(pause) => wait = pause,
                    None => return true,
                }
            }
        }
    }
}
