//! What decides about packets on a path?
//!
//! ```text
//!   conntrack    nothing; connections are tracked, as they are on every node with Services
//!   ebpf         Podwall
//!   nftables     Podwall
//!   linear       chains per pod and per policy, rules one after the other (`engine/linear.rs`)
//!   guard        nothing but the guard of source addresses (`engine/guard.rs`)
//!   nfqueue      the first packet of a connection is asked about in user space (`engine/queue.rs`)
//! ```

mod guard;
mod linear;
mod queue;

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use podwall_compile::tables::NodeTables;
use podwall_dataplane::{Choice, Config, DataPlane, Log, ebpf};
use podwall_lab::netns::NetNs;

use crate::cluster::{Plan, Seat};

/// What a path enforces with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Engine {
    /// Nothing.
    Conntrack,
    /// Podwall's eBPF data plane.
    Ebpf,
    /// Podwall's nftables data plane.
    Nftables,
    /// A chain for each pod and each policy.
    Linear,
    /// A process in user space.
    Queue,
    /// The guard of source addresses, beside connection tracking alone.
    Guard,
    /// One rule that drops what the stranger sends: the least that denying can cost.
    Rule,
}

impl Engine {
    /// Those that are compared; [`Self::Rule`] is a yardstick of one part.
    pub(crate) const ALL: [Self; 6] =
        [Self::Conntrack, Self::Ebpf, Self::Nftables, Self::Linear, Self::Queue, Self::Guard];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Conntrack => "conntrack",
            Self::Ebpf => "ebpf",
            Self::Nftables => "nftables",
            Self::Linear => "linear",
            Self::Queue => "nfqueue",
            Self::Guard => "guard",
            Self::Rule => "one rule",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What a node shall enforce, in all the languages.
pub(crate) struct Wanted<'a> {
    pub tables: &'a Arc<NodeTables>,
    pub plans: &'a [Plan],
    /// Pods of the cluster.
    pub pods: usize,
    /// The node's index.
    pub node: usize,
    /// The processor that carries the load.
    pub cpu: usize,
}

/// Has connections tracked.
const TRACKED: &str = "table inet bench { chain tracked { ct state new accept; }; }";

/// An engine at work on one node, until the process ends.
pub(crate) enum Installed {
    Plane(Box<dyn DataPlane>),
    /// What the kernel has by itself.
    Rules,
}

/// Opens a Podwall data plane in a node.
pub(crate) fn open(engine: Engine, node: &NetNs, pins: &Path) -> Result<Box<dyn DataPlane>> {
    let choice = match engine {
        Engine::Ebpf => Choice::Ebpf,
        Engine::Nftables => Choice::Nftables,
        other => bail!("{other} is no data plane of Podwall"),
    };
    // As an agent sets it up: denied packets are reported.
    let log = Some(Log { group: 100, per_second: 100, burst: 100 });
    let ebpf = ebpf::Config { pins: pins.to_owned(), ..ebpf::Config::default() };
    let chosen = node.within(|| choice.open(ebpf, Config { log, ..Config::default() }))??;
    Ok(chosen.plane)
}

/// Waits until a data plane has nothing left to do before the next change.
pub(crate) fn settle(plane: &mut dyn DataPlane) -> Result<()> {
    while let Some(pause) = plane.settle()? {
        std::thread::sleep(pause);
    }
    Ok(())
}

impl Engine {
    /// Makes a node enforce.
    pub(crate) fn install(
        self,
        node: &NetNs,
        wanted: &Wanted<'_>,
        pins: &Path,
    ) -> Result<Installed> {
        let installed = match self {
            Self::Conntrack => {
                run_nft(node, TRACKED)?;
                Installed::Rules
            }
            Self::Guard => {
                run_nft(node, TRACKED)?;
                guard::start(node, wanted.node)?;
                Installed::Rules
            }
            Self::Ebpf | Self::Nftables => {
                let mut plane = open(self, node, pins)?;
                plane.replace(wanted.tables)?;
                settle(&mut *plane)?;
                Installed::Plane(plane)
            }
            Self::Linear => {
                run_nft(node, &linear::ruleset(wanted))?;
                Installed::Rules
            }
            Self::Rule => {
                let stranger = Seat::Stranger.address();
                run_nft(
                    node,
                    &format!(
                        "table ip bench {{ chain denied {{ type filter hook postrouting priority \
                         90; ct state new ip saddr {stranger} drop; }}; }}"
                    ),
                )?;
                Installed::Rules
            }
            Self::Queue => {
                queue::start(node, wanted.tables, wanted.cpu)?;
                Installed::Rules
            }
        };
        Ok(installed)
    }
}

impl Installed {
    /// Takes out of the kernel what would stay there without the path.
    pub(crate) fn take_down(self) -> Result<()> {
        match self {
            Self::Plane(mut plane) => Ok(plane.remove()?),
            Self::Rules => Ok(()),
        }
    }
}

/// Has `nft` load a ruleset in a node.
pub(crate) fn run_nft(node: &NetNs, ruleset: &str) -> Result<()> {
    let mut nft = node
        .within(|| {
            Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
        })?
        .context("nft (Debian package nftables)")?;
    if let Some(mut input) = nft.stdin.take() {
        input.write_all(ruleset.as_bytes())?;
    }
    let output = nft.wait_with_output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("nft: {}", words.lines().next().unwrap_or_default());
    }
    Ok(())
}
