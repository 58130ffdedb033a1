//! Where was it measured, and with what?

use std::fs;
use std::process::Command;

use crate::results::Machine;

/// The machine, now.
pub(crate) fn machine() -> Machine {
    let line = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
        text.unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    [
        ("processor", format!("{}, {cores} cores", line("/proc/cpuinfo", "model name"))),
        ("memory", line("/proc/meminfo", "MemTotal")),
        ("kernel", said("uname", &["-sr"])),
        ("load at the start", load.split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ("commit", said("git", &["describe", "--always", "--dirty"])),
        ("rustc", said("rustc", &["--version"])),
        ("nft", said("nft", &["--version"])),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}
