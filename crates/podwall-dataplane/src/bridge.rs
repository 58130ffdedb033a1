//! Do packets between two pods on one Linux bridge meet the firewall?
//!
//! ```text
//!   pod ─veth─▶ bridge ─veth─▶ pod        bridged: never routed, so the inet hooks are not asked …
//!                 └ br_netfilter ▶ prerouting, postrouting   … unless br_netfilter calls them
//! ```
//!
//! br_netfilter is a kernel module with two switches per network namespace
//! (Documentation/networking/ip-sysctl.rst, `bridge-nf-call-iptables`). Other bridge filters can
//! hold pods apart, too, but have no connection tracking before Linux 5.3 and no NAT.

use std::io;
use std::path::Path;

use podwall_policy::address::Family;

const SWITCHES: [(Family, &str); 2] = [
    (Family::V4, "/proc/sys/net/bridge/bridge-nf-call-iptables"),
    (Family::V6, "/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
];

/// Why policies would not hold between pods on one bridge.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// No br_netfilter.
    #[error(
        "policies would not hold between pods on one Linux bridge: the kernel module \
         br_netfilter is not loaded (run `modprobe br_netfilter` as root on the machine)"
    )]
    NoModule,
    /// It is there but switched off.
    #[error(
        "policies would not hold for {family} between pods on one Linux bridge: {path} is {found} \
         in this network namespace and must be 1"
    )]
    Off {
        /// The family that passes by the firewall.
        family: Family,
        /// The switch.
        path: &'static str,
        /// What it says.
        found: String,
    },
    /// The switch cannot be used.
    #[error("cannot {doing} {path}: {source}")]
    Switch {
        /// `read` or `set`.
        doing: &'static str,
        /// The switch.
        path: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Checks that bridged packets of both families meet the firewall in the calling thread's network
/// namespace.
///
/// # Errors
/// Each says what is missing and what to do.
pub fn check() -> Result<(), BridgeError> {
    for (family, path) in SWITCHES {
        let found = read(path)?;
        if found != "1" {
            return Err(BridgeError::Off { family, path, found });
        }
    }
    Ok(())
}

/// Switches br_netfilter on for both families in the calling thread's network namespace. Writes
/// only what is off.
///
/// # Errors
/// The module is not there, or the switch cannot be set.
pub fn enable() -> Result<(), BridgeError> {
    for (_, path) in SWITCHES {
        if read(path)? != "1" {
            std::fs::write(path, "1\n").map_err(|source| BridgeError::Switch {
                doing: "set",
                path,
                source,
            })?;
        }
    }
    check()
}

fn read(path: &'static str) -> Result<String, BridgeError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) if !Path::new(path).exists() => Err(BridgeError::NoModule),
        Err(source) => Err(BridgeError::Switch { doing: "read", path, source }),
    }
}
