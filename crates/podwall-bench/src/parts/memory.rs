//! What does one more pod of another node cost, and one more policy?
//!
//! Fresh processes in a control group of their own, which counts the kernel's memory with theirs,
//! load clusters that differ in one number; the difference is divided by the difference.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Options;
use super::sync::{Once, fresh};
use crate::cluster::Shape;
use crate::engine::Engine;
use crate::results::{Point, Target};
use crate::rounds::progress;
use crate::stats::estimate;

pub(crate) fn run(options: &Options) -> Result<Vec<Point>> {
    let most = options.largest();
    let fewer_pods = Shape { pods: (most.pods / 2).max(500), ..most };
    let fewer_policies = Shape { policies: most.policies / 2, ..most };
    let group = Group::new()?;
    let engines = [Engine::Ebpf, Engine::Nftables];
    let engines: Vec<Engine> =
        engines.into_iter().filter(|e| options.engines.contains(e)).collect();
    let rounds = options.rounds.clamp(1, 3);
    let bar = progress(engines.len() * 3 * rounds, "memory");
    let mut points = Vec::new();
    for engine in engines {
        let mut found: [Vec<Once>; 3] = Default::default();
        for _ in 0..rounds {
            for (shape, found) in [most, fewer_pods, fewer_policies].iter().zip(&mut found) {
                found.push(group.run(engine, shape)?);
                bar.inc(1);
            }
        }
        let mut point = |what: &str, less: usize, count: usize, limit: Option<f64>| {
            let each = |memory: &dyn Fn(&Once) -> f64| -> Vec<f64> {
                let pairs = found[0].iter().zip(&found[less]);
                pairs.map(|(a, b)| (memory(a) - memory(b)) / count.max(1) as f64).collect()
            };
            let sides: [(&str, Vec<f64>, Option<f64>); 3] = [
                ("process", each(&|once| once.resident), None),
                ("kernel", each(&|once| once.kernel_memory), None),
                ("together", each(&|once| once.resident + once.kernel_memory), limit),
            ];
            for (side, values, limit) in sides {
                points.push(
                    Point::new("memory", what, "bytes", estimate(&values), values.len())
                        .engine(engine)
                        .at("where", side)
                        .target(limit.map(Target::AtMost)),
                );
            }
        };
        point("a pod of another node", 1, most.pods - fewer_pods.pods, Some(1024.0));
        point("a policy", 2, most.policies - fewer_policies.policies, None);
    }
    bar.finish_and_clear();
    Ok(points)
}

/// A control group that counts memory; removed at the end.
struct Group(Option<PathBuf>);

impl Group {
    fn new() -> Result<Self> {
        let roots = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
        let root = roots.iter().map(Path::new).find(|root| {
            root.join("memory.usage_in_bytes").exists() || root.join("cgroup.controllers").exists()
        });
        let Some(root) = root else { return Ok(Self(None)) };
        let path = root.join(format!("podwall-bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(Some(path)))
    }

    fn run(&self, engine: Engine, shape: &Shape) -> Result<Once> {
        let Some(path) = &self.0 else { return fresh(engine, shape, &[]) };
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", path.display());
        fresh(engine, shape, &["sh", "-c", &enter])
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Its processes are gone; what they left in the kernel goes with the group's parent.
            let _ = fs::remove_dir(path);
        }
    }
}
