//! From the call that changes something to the first packet that follows it: how long?
//!
//! ```text
//!   one processor     change ─ compile ─ kernel ──────┐
//!   another           packet packet packet packet packet packet     each: did it arrive?
//!                            └── time ──────────────────┘ the first that follows
//! ```
//!
//! A packet is sent every few microseconds, and whether it has arrived is known when the call
//! returns, since it goes the whole path within it. So the time is seen from outside; the engine is
//! not asked. The changed policies have the sizes of the cluster's own.

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use podwall_compile::compiler::NodeCompiler;
use podwall_compile::testing::dice::Dice;
use podwall_dataplane::DataPlane;
use podwall_policy::label::Labels;
use podwall_policy::policy::Tier;

use super::Options;
use crate::cluster::{self, CLIENTS, NODES, Peers, Plan, SERVERS, Seat, Shape};
use crate::engine::{self, Engine};
use crate::load::{cpus, pin};
use crate::results::{Point, Target};
use crate::rounds::progress;
use crate::site::Site;
use crate::stats::{Estimate, quantile};

const PART: &str = "ready";
/// The probe's port, which no policy of the cluster names.
const PORT: u16 = 7001;
/// A change that no packet follows is an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is changed.
const KINDS: [&str; 3] = ["policy", "label of a pod", "address of a pod"];

pub(crate) fn run(options: &Options) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    let pods = options.largest().pods;
    let most = options.largest().policies;
    for policies in [10, 1000, 10_000].into_iter().filter(|policies| *policies <= most) {
        let shape = Shape { pods, policies };
        for engine in [Engine::Ebpf, Engine::Nftables] {
            if !options.engines.contains(&engine) {
                continue;
            }
            let mut node = Node::new(engine, &shape, options, points.len())?;
            let bar =
                progress(options.changes * KINDS.len(), &format!("{engine}, {policies} policies"));
            for (kind, name) in KINDS.iter().enumerate() {
                let mut times = Vec::new();
                for _ in 0..options.changes.div_ceil(2) {
                    times.extend(node.there_and_back(kind).with_context(|| (*name).to_owned())?);
                    bar.inc(2);
                }
                for (word, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
                    let value = quantile(&times, share) * 1e3;
                    let value = Estimate { median: value, low: value, high: value };
                    let target = (word == "p99").then_some(Target::AtMost(5.0));
                    points.push(
                        Point::new(PART, &format!("change of a {name}"), "ms", value, times.len())
                            .engine(engine)
                            .at_number("policies", policies)
                            .at_number("addresses", pods)
                            .at("quantile", word)
                            .target(target),
                    );
                }
            }
            bar.finish_and_clear();
        }
    }
    Ok(points)
}

/// A node that follows changes, and the probe that sees it.
struct Node {
    compiler: NodeCompiler,
    plane: Box<dyn DataPlane>,
    dice: Dice,
    shape: Shape,
    probe: Probe,
    number: usize,
    _site: Site,
}

impl Node {
    fn new(engine: Engine, shape: &Shape, options: &Options, id: usize) -> Result<Self> {
        let site = Site::new()?;
        let pins = options.pins.join(format!("ready-{id}"));
        let mut plane = engine::open(engine, &site.nodes[0], &pins)?;
        let mut compiler = NodeCompiler::new(Some(NODES[0].into()));
        compiler.put_cluster(&cluster::cluster(shape));
        compiler.commit();
        plane.replace(compiler.tables())?;
        let probe = Probe::start(&site)?;
        let (dice, shape, number) = (Dice::seeded(id as u64), *shape, shape.policies);
        Ok(Self { compiler, plane, dice, shape, probe, number, _site: site })
    }

    /// Opens the way for the probe and closes it again; the two times, in seconds.
    fn there_and_back(&mut self, kind: usize) -> Result<[f64; 2]> {
        let plan = self.plan(kind);
        let policy = cluster::policy(&plan);
        let name = policy.name.clone();
        let client = cluster::pod(0);
        let mut other = client.clone();
        if kind == 1 {
            other.labels = [("app", "nobody")].into_iter().collect::<Labels>();
        }
        if kind > 0 {
            // The policy is there before; the pod comes to meet it.
            self.compiler.remove_pod(&client.name);
            if kind == 1 {
                self.compiler.put_pod(&other);
            }
            self.compiler.put_policy(policy.clone());
            self.follow()?;
        }
        let open = self.timed(true, |compiler| match kind {
            0 => compiler.put_policy(policy),
            _ => compiler.put_pod(&client),
        })?;
        let closed = self.timed(false, |compiler| match kind {
            0 => compiler.remove_policy(Tier::NetworkPolicy, &name),
            1 => compiler.put_pod(&other),
            _ => compiler.remove_pod(&client.name),
        })?;
        if kind > 0 {
            self.compiler.remove_policy(Tier::NetworkPolicy, &name);
            self.compiler.put_pod(&client);
            self.follow()?;
        }
        Ok([open, closed])
    }

    /// A policy of the cluster's sizes that lets the client to the near server, on every port. If a
    /// pod is to be changed it names apps: in a whole namespace the pod would be with any label.
    fn plan(&mut self, kind: usize) -> Plan {
        self.number += 1;
        let mut plan = cluster::plan(&mut self.dice, &self.shape, self.number);
        let ours = [CLIENTS, SERVERS];
        let add = |apps: &mut Vec<usize>| {
            apps.extend(ours.into_iter().filter(|app| !apps.contains(app)).collect::<Vec<_>>());
        };
        plan.namespace = 0;
        add(&mut plan.apps);
        match &mut plan.peers {
            // As many of ours as there were of others.
            Peers::Apps(namespace, apps) => {
                *namespace = 0;
                add(apps);
            }
            peers @ Peers::Namespaces(_) if kind > 0 => *peers = Peers::Apps(0, ours.to_vec()),
            Peers::Namespaces(all) if !all.contains(&0) => all.push(0),
            Peers::Namespaces(_) => {}
        }
        (plan.port, plan.ingress, plan.egress) = (None, true, true);
        plan
    }

    fn follow(&mut self) -> Result<()> {
        let delta = self.compiler.commit();
        Ok(self.plane.update(&delta)?)
    }

    fn timed(&mut self, opens: bool, change: impl FnOnce(&mut NodeCompiler)) -> Result<f64> {
        self.probe.expect(!opens)?;
        if self.number.is_multiple_of(4) {
            // Some changes come after a pause, most into the midst of others.
            engine::settle(&mut *self.plane)?;
        }
        let start = Instant::now();
        change(&mut self.compiler);
        self.follow()?;
        self.probe.first(start, opens)
    }
}

/// So many packets later one may come that a soft interrupt was late with, and so many must be
/// missing before they count as dropped.
const LATE: u64 = 3;

/// What became of the packets so far.
#[derive(Default)]
struct Seen {
    /// The number of the last.
    sent: u64,
    /// Whether they pass; `None` before the first.
    passes: Option<bool>,
    /// When the first was sent of those that are missing, and how many these are.
    missing: Option<(Instant, u64)>,
}

impl Seen {
    /// Notes a packet; a change of what becomes of them, and when it was seen first.
    fn packet(&mut self, sent: Instant, arrived: bool) -> Option<(Instant, bool)> {
        if arrived {
            self.missing = None;
            return (self.passes.replace(true) != Some(true)).then_some((sent, true));
        }
        let (since, count) = self.missing.unwrap_or((sent, 0));
        self.missing = Some((since, count + 1));
        (count >= LATE && self.passes.replace(false) != Some(false)).then_some((since, false))
    }
}

/// Packets from the client to the near server, one after another.
struct Probe {
    /// Changes of what became of packets: when the packet was sent, and whether it arrived.
    turns: Receiver<(Instant, bool)>,
    now: Arc<Mutex<(Instant, bool)>>,
    stop: Arc<AtomicBool>,
}

impl Probe {
    fn start(site: &Site) -> Result<Self> {
        let receiver = site.pod(Seat::Near)?.within(|| UdpSocket::bind(("0.0.0.0", PORT)))??;
        receiver.set_nonblocking(true)?;
        let sender = site.pod(Seat::Client)?.within(|| UdpSocket::bind(("0.0.0.0", 0)))??;
        sender.connect(SocketAddrV4::new(Seat::Near.address(), PORT))?;
        let all = cpus();
        let cpu = *all.get(1).or(all.first()).context("no processor")?;
        let (found, turns) = channel();
        let now = Arc::new(Mutex::new((Instant::now(), false)));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (Arc::clone(&now), Arc::clone(&stop));
        std::thread::Builder::new().name("probe".into()).spawn(move || -> Result<()> {
            pin(cpu)?;
            let mut seen = Seen::default();
            let mut buffer = [0; 8];
            while !ended.load(Ordering::Relaxed) {
                let sent = Instant::now();
                seen.sent += 1;
                // A full queue or a route that comes and goes is a packet that did not arrive.
                let _ = sender.send(&seen.sent.to_ne_bytes());
                let mut arrived = false;
                while receiver.recv(&mut buffer).is_ok() {
                    arrived = u64::from_ne_bytes(buffer) >= seen.sent.saturating_sub(LATE);
                }
                if let Some(turn) = seen.packet(sent, arrived)
                    && found.send(turn).is_err()
                {
                    break;
                }
                if let (Ok(mut now), Some(passes)) = (shared.lock(), seen.passes) {
                    *now = (sent, passes);
                }
            }
            Ok(())
        })?;
        Ok(Self { turns, now, stop })
    }

    /// Waits until packets sent from now on arrive, or do not.
    fn expect(&self, arrives: bool) -> Result<()> {
        let start = Instant::now();
        loop {
            let now = self.now.lock().ok().context("the probe has ended")?.to_owned();
            if now.0 > start && now.1 == arrives {
                while self.turns.try_recv().is_ok() {}
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                bail!("packets {} before the change", if arrives { "do not pass" } else { "pass" });
            }
            std::hint::spin_loop();
        }
    }

    /// The first packet after `start` that arrives, or does not; seconds.
    fn first(&self, start: Instant, arrives: bool) -> Result<f64> {
        loop {
            let (sent, arrived) =
                self.turns.recv_timeout(PATIENCE).context("no packet follows the change")?;
            if arrived == arrives {
                return Ok(sent.saturating_duration_since(start).as_secs_f64());
            }
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
