//! On which processor does a thread run?

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps the calling thread on one processor.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).context("no such processor")?;
    sched_setaffinity(Pid::from_raw(0), &set).context("pin the thread to a processor")
}

/// Processors that this process may use, the last first: the first has the machine's interrupts.
pub(crate) fn cpus() -> Vec<usize> {
    let all = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).rev().filter(|cpu| all.is_set(*cpu).unwrap_or(false)).collect()
}
