//! From an empty kernel to enforced: how long, and how large does the process get?
//!
//! A fresh process makes the objects one by one, as they would come from the API server, hands each
//! to the compiler, and then has the kernel filled. Making the objects is not timed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwall_compile::compiler::NodeCompiler;
use podwall_lab::netns::NetNs;
use podwall_policy::label::Labels;
use podwall_policy::object::Namespace;
use serde::{Deserialize, Serialize};

use super::Options;
use crate::cluster::{self, NODES, Shape};
use crate::engine::{self, Engine};
use crate::results::{Point, Target};
use crate::rounds::progress;
use crate::stats::estimate;

/// What a fresh process found.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Once {
    /// Seconds from the first object to the compiled tables.
    pub compile: f64,
    /// Seconds from there to a kernel that enforces.
    pub kernel: f64,
    /// The most memory that the process had, in bytes.
    pub peak: f64,
    /// What it has in the end.
    pub resident: f64,
    /// Memory of the kernel on behalf of the process, in bytes; 0 where nobody counts it.
    pub kernel_memory: f64,
}

pub(crate) fn run(options: &Options) -> Result<Vec<Point>> {
    let shape = options.largest();
    let rounds = options.rounds.clamp(1, 7);
    let engines = [Engine::Ebpf, Engine::Nftables];
    let engines: Vec<Engine> =
        engines.into_iter().filter(|e| options.engines.contains(e)).collect();
    let mut found = vec![Vec::new(); engines.len()];
    let bar = progress(rounds * engines.len(), "full sync");
    for _ in 0..rounds {
        for (engine, found) in engines.iter().zip(&mut found) {
            found.push(fresh(*engine, &shape, &[])?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let mut points = Vec::new();
    for (engine, found) in engines.iter().zip(&found) {
        let mut point = |what: &str, unit: &str, target, value: &dyn Fn(&Once) -> f64| {
            let values: Vec<f64> = found.iter().map(value).collect();
            points.push(
                Point::new("sync", what, unit, estimate(&values), values.len())
                    .engine(*engine)
                    .at_number("policies", shape.policies)
                    .at_number("addresses", shape.pods)
                    .target(target),
            );
        };
        let most = |most| Some(Target::AtMost(most));
        point("objects to enforced", "s", most(1.0), &|once| once.compile + once.kernel);
        point("of this: compilation", "s", None, &|once| once.compile);
        point("of this: kernel", "s", None, &|once| once.kernel);
        point("process at its peak", "MiB", most(150.0), &|once| once.peak / 1048576.0);
        point("process afterwards", "MiB", None, &|once| once.resident / 1048576.0);
    }
    Ok(points)
}

/// Runs [`once`] in a process of its own, started by `wrapper` if there is one.
pub(crate) fn fresh(engine: Engine, shape: &Shape, wrapper: &[&str]) -> Result<Once> {
    let this = std::env::current_exe()?;
    let mut words: Vec<String> = wrapper.iter().map(|word| (*word).to_owned()).collect();
    words.push(this.display().to_string());
    words.extend(["once".into(), engine.to_string()]);
    words.extend([shape.pods.to_string(), shape.policies.to_string()]);
    let output = Command::new(&words[0]).args(&words[1..]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{engine}: {}", said.trim());
    serde_json::from_slice(&output.stdout).context("what the fresh process found")
}

/// What the fresh process does.
pub(crate) fn once(engine: Engine, shape: &Shape, pins: &Path) -> Result<Once> {
    let node = NetNs::unnamed()?;
    let mut plane = engine::open(engine, &node, &pins.join("once"))?;
    let before = kernel_memory();
    let mut compiler = NodeCompiler::new(Some(NODES[0].into()));
    let mut time = Duration::ZERO;
    let mut timed = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        time += start.elapsed();
    };
    for (name, labels) in cluster::namespaces(shape) {
        let labels: Labels = labels;
        let mut namespace = Some(Namespace::new(name, &labels));
        timed(&mut || namespace.take().into_iter().for_each(|n| compiler.put_namespace(n)));
    }
    for number in 0..shape.pods {
        let pod = cluster::pod(number);
        timed(&mut || compiler.put_pod(&pod));
    }
    for plan in cluster::plans(shape) {
        let mut policy = Some(cluster::policy(&plan));
        timed(&mut || policy.take().into_iter().for_each(|p| compiler.put_policy(p)));
    }
    timed(&mut || drop(compiler.commit()));
    if std::env::var_os("PODWALL_STATS").is_some() {
        eprintln!("{:#?}", compiler.stats());
    }
    let start = Instant::now();
    plane.replace(compiler.tables())?;
    let kernel = start.elapsed().as_secs_f64();
    let once = Once {
        compile: time.as_secs_f64(),
        kernel,
        peak: status("VmHWM"),
        resident: status("VmRSS"),
        kernel_memory: (kernel_memory() - before).max(0.0),
    };
    plane.remove()?;
    Ok(once)
}

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    number.unwrap_or(0.0) * 1024.0
}

/// What the kernel holds for this process' control group, in bytes; 0 if it is not counted.
fn kernel_memory() -> f64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut found = 0.0;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if controllers == "memory" {
            let file = format!("/sys/fs/cgroup/memory{path}/memory.kmem.usage_in_bytes");
            let text = fs::read_to_string(file).unwrap_or_default();
            found = text.trim().parse().unwrap_or(found);
        } else if controllers.is_empty() {
            let text = fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.stat"));
            let text = text.unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("kernel "));
            found = line.and_then(|line| line.parse().ok()).unwrap_or(found);
        }
    }
    found
}
