//! How does what agents have left go from a node?
//!
//! ```text
//!   kernel: both data planes, the guard         files: what was attached, notes of what went
//! ```
//!
//! An agent leaves everything in force when it ends, so that somebody has to take it away when none is
//! to come any more. Each part is taken away for itself: what one lacks keeps no other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use podwall_dataplane::guard::{self, Guard};
use podwall_dataplane::{DataPlane as _, Ebpf, Error, Namespace, Nftables, ebpf};
use podwall_local::Notes;

use crate::check::Finding;

/// Takes away what agents left, whichever data plane they had: from the kernel, in a network namespace or
/// the calling thread's, and from the directories. No agent may run there: it would write it again.
pub fn remove(netns: Option<&Namespace>, pins: &Path, kept: &Path, notes: &Notes) -> Vec<Finding> {
    let within = |work: &(dyn Fn() -> Result<(), Error> + Sync)| {
        let done = match netns {
            Some(namespace) => namespace.run(work),
            None => work(),
        };
        done.map(|()| "nothing is left".to_owned()).map_err(|error| error.to_string())
    };
    // A kernel without eBPF, or a process without the right to it, keeps nobody from the rest.
    let pinned = pins.exists();
    let of_ebpf = || {
        let config = ebpf::Config { pins: pins.to_path_buf(), ..ebpf::Config::default() };
        Ebpf::open(config)?.remove()
    };
    let of_nftables = || Nftables::open(podwall_dataplane::Config::default())?.remove();
    let of_guard = || Guard::open(guard::Config::default())?.clear();
    let files = gone(kept).and_then(|()| gone(notes.directory()));
    let files = files.map(|()| "nothing is left".to_owned()).map_err(|error| error.to_string());
    vec![
        Finding::new("eBPF", !pinned, within(&of_ebpf)),
        Finding::new("nftables", false, within(&of_nftables)),
        Finding::new("guard", false, within(&of_guard)),
        Finding::new("attachments", false, files),
    ]
}

/// What the data plane that is not in force may have left, when an earlier agent had that one.
pub(crate) struct OtherPlane {
    pub(crate) namespace: Namespace,
    pub(crate) pins: PathBuf,
    /// The one in force.
    pub(crate) in_force: &'static str,
}

impl OtherPlane {
    /// Takes it away: two data planes at once would both have to say yes. To be called once what is
    /// in force is written.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        if self.in_force == "ebpf" {
            let config = podwall_dataplane::Config::default;
            return self.namespace.run(|| Nftables::open(config())?.remove());
        }
        if !self.pins.exists() {
            return Ok(());
        }
        let config = ebpf::Config { pins: self.pins.clone(), ..ebpf::Config::default() };
        self.namespace.run(|| Ebpf::open(config)?.remove())
    }
}

fn gone(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", directory.display())))
        }
        _ => Ok(()),
    }
}
