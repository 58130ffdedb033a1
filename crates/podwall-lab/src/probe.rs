//! What do real packets do between two places of a lab?
//!
//! ```text
//!   ProbeTask ──▶ socket in the source's namespace ──▶ packets ──▶ answer, refusal, silence
//!                                                         │                    │
//!   ProbeResult ◀── outcome + where it arrived ◀── Evidence (watching sockets) ◀┘
//! ```
//!
//! One runtime on one thread sends thousands of probes at a time, each with real sockets of its
//! protocol. Nothing here predicts: [`ProbeTask::expect`] only says how long silence is worth
//! waiting for. Whether the result is right is the caller's question to the engine.

mod attempt;
mod datagram;
mod errors;
mod evidence;
mod filter;
mod outcome;
mod packet;
mod tcp;
mod token;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use podwall_policy::port::Protocol;
use thiserror::Error;
use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet};

use crate::netns::{NetNs, NetNsError};
use crate::serve::identity::Identity;
use crate::serve::socket;
use attempt::Context;
use evidence::Evidence;
pub use outcome::{Icmp, Outcome, ProbeResult, Refusal};

/// Where probes start or arrive: a pod, a node or the outside world.
#[derive(Debug)]
pub struct Place {
    /// Who it is. Two places of one identity are taken for the same namespace.
    pub identity: Identity,
    /// Its network namespace.
    pub namespace: Arc<NetNs>,
    /// The firewall acts inside this namespace, as on a node: a packet has arrived only when it
    /// got past INPUT. False for pods and the outside, before whose interface the firewall lies.
    pub filters_itself: bool,
}

/// One probe to send.
#[derive(Clone, Debug)]
pub struct ProbeTask {
    /// Where it starts.
    pub source: Arc<Place>,
    /// The source address, if it matters: any address, also one that no interface has, as long as
    /// answers to it are routed back. `None` lets the kernel choose.
    pub source_address: Option<IpAddr>,
    /// The address that is asked: a pod's, a Service's, a node's, one outside.
    pub destination: IpAddr,
    /// TCP, UDP, SCTP, ICMP (either number stands for the destination's family), or any other
    /// protocol, whose probes carry nothing but the token.
    pub protocol: Protocol,
    /// The port that is asked; ignored without ports.
    pub port: u16,
    /// Every place where the probe may arrive: for a Service all its endpoints. Without any,
    /// silence stays unexplained.
    pub arrives_at: Vec<Arc<Place>>,
    /// Whether the caller expects it to get through. Decides about patience alone.
    pub expect: Option<bool>,
}

/// How probing goes about it. The defaults suit a lab on one machine.
#[derive(Clone, Copy, Debug)]
pub struct ProbeOptions {
    /// How many probes are on their way at a time, at least 1. Each holds one descriptor.
    pub window: usize,
    /// How long an answer is waited for when one is expected, or the probe was seen to arrive.
    pub patience: Duration,
    /// How long silence has to last when silence is expected and nothing arrived.
    pub quiet: Duration,
    /// The same when nothing is expected. Longer than a second, so that TCP sends a second SYN.
    pub doubt: Duration,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            window: 1024,
            patience: Duration::from_secs(2),
            quiet: Duration::from_millis(200),
            doubt: Duration::from_millis(1200),
        }
    }
}

/// Why no probe was sent at all. What goes wrong with a single probe is its own result.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The prober's thread or runtime could not be started.
    #[error("cannot start probing: {0}")]
    Start(#[source] io::Error),
    /// A place could not be entered.
    #[error("cannot probe from or watch {place}: {source}")]
    Namespace {
        /// Which place.
        place: Identity,
        /// Why not.
        source: NetNsError,
    },
    /// A place could not be watched.
    #[error(
        "cannot watch the packets that arrive at {place}: {source}; this needs root or a user \
         namespace of the lab's own, and a descriptor a place (ulimit -Hn)"
    )]
    Watch {
        /// Which place.
        place: Identity,
        /// What the kernel said.
        source: io::Error,
    },
}

/// How many sockets are opened in one go; each go costs a thread.
const BATCH: usize = 256;

/// Sends all probes and says what happened to each, in the order of the tasks. `progress` hears
/// how many are done, now and then and at the end.
///
/// Blocks until the last is done: 486 probes take some 100 ms if all are answered, and the quiet
/// on top if some are dropped. Works from any thread, also a runtime's.
pub fn run(
    tasks: Vec<ProbeTask>,
    options: &ProbeOptions,
    mut progress: impl FnMut(usize) + Send,
) -> Result<Vec<ProbeResult>, ProbeError> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    socket::raise_descriptor_limit();
    // A runtime of its own on a thread of its own, so that the caller may be inside another one.
    thread::scope(|scope| {
        let prober = thread::Builder::new()
            .name("prober".to_owned())
            .spawn_scoped(scope, || run_here(tasks, options, &mut progress))
            .map_err(ProbeError::Start)?;
        prober.join().unwrap_or_else(|_| {
            Err(ProbeError::Start(io::Error::other("the prober's thread panicked")))
        })
    })
}

fn run_here(
    tasks: Vec<ProbeTask>,
    options: &ProbeOptions,
    progress: &mut impl FnMut(usize),
) -> Result<Vec<ProbeResult>, ProbeError> {
    let first_token = token::first(tasks.len());
    let tasks: Rc<[ProbeTask]> = tasks.into();
    let (places, watched) = places_of(&tasks);
    let place_refs: Vec<&Place> = places.iter().map(|place| &**place).collect();
    let evidence = Rc::new(Evidence::gather(&place_refs)?);
    let runtime = Builder::new_current_thread().enable_all().build().map_err(ProbeError::Start)?;
    let local = LocalSet::new();
    let context = Rc::new(Context {
        tasks,
        watched,
        identities: places.iter().map(|place| place.identity.clone()).collect(),
        evidence: evidence.clone(),
        options: *options,
        first_token,
    });
    let results = local.block_on(&runtime, async {
        evidence.follow().map_err(ProbeError::Start)?;
        Ok(send_all(&context, progress).await)
    });
    // The tasks that follow the evidence end before its sockets do.
    drop((local, runtime, context));
    if let Ok(evidence) = Rc::try_unwrap(evidence) {
        evidence.close();
    }
    results
}

/// The distinct places to watch, and which of them concern each task.
fn places_of(tasks: &[ProbeTask]) -> (Vec<Arc<Place>>, Vec<Vec<usize>>) {
    let (mut places, mut index) = (Vec::new(), HashMap::new());
    let watched = tasks.iter().map(|task| {
        let mut of_task = Vec::with_capacity(task.arrives_at.len());
        for place in &task.arrives_at {
            of_task.push(*index.entry(&place.identity).or_insert_with(|| {
                places.push(Arc::clone(place));
                places.len() - 1
            }));
        }
        of_task
    });
    let watched = watched.collect();
    (places, watched)
}

/// Keeps the window full until nothing is left.
async fn send_all(context: &Rc<Context>, progress: &mut impl FnMut(usize)) -> Vec<ProbeResult> {
    let total = context.tasks.len();
    let window = context.options.window.max(1);
    // Tasks of one source in a row, so that their sockets are opened together.
    let mut order: Vec<usize> = (0..total).collect();
    let source = |index: &usize| &context.tasks[*index].source.identity;
    order.sort_by(|a, b| source(a).cmp(source(b)));
    let mut waiting = order.as_slice();
    let mut results: Vec<Option<ProbeResult>> = vec![None; total];
    let mut running = JoinSet::new();
    let mut done = 0;
    loop {
        // Filled up when it is half empty: a thread for a single socket would be dear.
        let fill = running.len() * 2 <= window;
        while fill && !waiting.is_empty() && running.len() < window {
            let room = (window - running.len()).min(BATCH);
            let batch = next_batch(context, waiting, room);
            waiting = &waiting[batch.len()..];
            for (index, opened) in context.open(batch) {
                let context = Rc::clone(context);
                running.spawn_local(async move { (index, context.attempt(index, opened).await) });
            }
        }
        match running.join_next().await {
            Some(Ok((index, result))) => {
                results[index] = Some(result);
                done += 1;
                if done % 64 == 0 || done == total {
                    progress(done);
                }
            }
            // A probe that panicked leaves its place empty.
            Some(Err(_)) => done += 1,
            None if waiting.is_empty() => break,
            None => {}
        }
    }
    let lost = || ProbeResult {
        outcome: Outcome::Error { what: "the prober failed on this probe".to_owned() },
        arrived: None,
    };
    results.into_iter().map(|result| result.unwrap_or_else(lost)).collect()
}

/// The first of the waiting tasks that start at one place, at most `room`.
fn next_batch<'a>(context: &Context, waiting: &'a [usize], room: usize) -> &'a [usize] {
    let source = |index: &usize| &context.tasks[*index].source.identity;
    let first = waiting.first().map(source);
    let same = waiting.iter().take_while(|index| Some(source(index)) == first).count();
    &waiting[..same.min(room)]
}

#[cfg(test)]
mod tests;
