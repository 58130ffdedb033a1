//! Which kernel settings does a namespace need?

use std::{fs, io};

use thiserror::Error;

/// A setting that could not be made.
#[derive(Debug, Error)]
#[error("cannot set {setting} to {value}: {source}{}", hint(setting))]
pub struct SysctlError {
    /// The setting as a path below /proc/sys.
    setting: String,
    /// The value.
    value: String,
    /// What the kernel said.
    source: io::Error,
}

fn hint(setting: &str) -> &'static str {
    if setting.starts_with("net/bridge/") {
        "; this kernel lacks br_netfilter (modprobe br_netfilter), without which nobody can \
         enforce policies between two pods on one bridge; the lab's other network is \
         `--network ptp`"
    } else if setting.starts_with("net/ipv6/") {
        "; this kernel lacks IPv6; try `--ip-family v4`"
    } else {
        ""
    }
}

/// Makes settings of the calling thread's network namespace.
pub(crate) fn write_all(settings: &[(&str, &str)]) -> Result<(), SysctlError> {
    for (setting, value) in settings {
        fs::write(format!("/proc/sys/{setting}"), value).map_err(|source| SysctlError {
            setting: (*setting).to_owned(),
            value: (*value).to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// The same, leaving out settings that this kernel does not have.
pub(crate) fn write_known(settings: &[(&str, &str)]) -> Result<(), SysctlError> {
    let known =
        |(setting, _): &&(&str, &str)| fs::exists(format!("/proc/sys/{setting}")).unwrap_or(true);
    write_all(&settings.iter().filter(known).copied().collect::<Vec<_>>())
}
