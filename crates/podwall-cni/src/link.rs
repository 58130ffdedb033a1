//! Which interface of the host is the other side of a pod's?
//!
//! ```text
//!   pod: eth0 (2) ── peer 17 ──▶ host: 17 vethbe12 ── peer 2, in the namespace of CNI_NETNS?
//! ```
//!
//! The kernel is asked, from both sides. The result of the plugins before names interfaces too, but
//! each plugin in its own way, and a wrong name would drop another pod's packets.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::thread;

use nix::sched::{CloneFlags, setns};
use podwall_local::HostLink;
use thiserror::Error;

use crate::netlink::{Link, RouteSocket, Which};

/// Why the host's side is not known.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The kernel refuses.
    #[error("cannot {doing}: {source}")]
    Kernel {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The plugins before did not make it.
    #[error("the pod has no such interface")]
    NoInterface,
    /// It went meanwhile, or is in a third namespace.
    #[error("its other side, interface number {0}, is not in the host's network namespace")]
    Elsewhere(u32),
}

/// The host's side of an interface of this pod. `None`: it has none, as those of `macvlan`,
/// `ipvlan`, `host-device`.
pub(crate) fn host_link(netns: &File, interface: &str) -> Result<Option<HostLink>, LinkError> {
    let kernel = |doing| move |source| LinkError::Kernel { doing, source };
    let inside = socket_of(netns)?;
    let ask = kernel("ask for the pod's interface");
    let pod = inside.link(Which::Name(interface)).map_err(ask)?.ok_or(LinkError::NoInterface)?;
    let Some(number) = other_side(&pod) else { return Ok(None) };

    let here = RouteSocket::open().map_err(kernel("ask the host's network namespace"))?;
    let host = here.link(Which::Index(number)).map_err(kernel("ask for the host's interface"))?;
    let host = host.ok_or(LinkError::Elsewhere(number))?;
    // The kernel numbers a namespace when an interface says that its other side is there: after that.
    let there = here.number_of(netns.as_fd()).map_err(kernel("ask for the number of CNI_NETNS"))?;
    if host.peer != Some(pod.index) || there.is_none() || host.peer_netns != there {
        return Err(LinkError::Elsewhere(number));
    }
    Ok(Some(HostLink { index: host.index, name: host.name, mac: pod.mac.map(mac) }))
}

/// The number of the other side: only these kinds have one that sees the pod's packets and nobody
/// else's (`ipvlan` and others say which interface they stand on in the same place).
fn other_side(pod: &Link) -> Option<u32> {
    ["veth", "netkit"].contains(&pod.kind.as_str()).then_some(pod.peer).flatten()
}

/// A socket that asks another namespace: made by a thread that enters it and ends.
fn socket_of(netns: &File) -> Result<RouteSocket, LinkError> {
    let make = || {
        let doing = "enter the pod's network namespace";
        setns(netns, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| LinkError::Kernel { doing, source: errno.into() })?;
        let doing = "ask the pod's network namespace";
        RouteSocket::open().map_err(|source| LinkError::Kernel { doing, source })
    };
    thread::scope(|scope| {
        let failed = |source| LinkError::Kernel { doing: "start a thread", source };
        let thread = thread::Builder::new().spawn_scoped(scope, make).map_err(failed)?;
        thread.join().unwrap_or_else(|_| Err(failed(io::Error::other("it ended early"))))
    })
}

fn mac(bytes: [u8; 6]) -> String {
    let mut text = String::with_capacity(17);
    for (at, byte) in bytes.iter().enumerate() {
        let colon = if at == 0 { "" } else { ":" };
        // Writing to a text cannot fail.
        let _ = write!(text, "{colon}{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kinds_with_a_side_on_the_host_have_one() {
        let of =
            |kind: &str, peer| other_side(&Link { kind: kind.to_owned(), peer, ..Link::default() });
        assert_eq!(of("veth", Some(7)), Some(7));
        assert_eq!(of("netkit", Some(7)), Some(7));
        for kind in ["ipvlan", "macvlan", "vlan", ""] {
            assert_eq!(of(kind, Some(7)), None, "{kind}");
        }
        assert_eq!(of("veth", None), None);
    }

    #[test]
    fn a_mac_has_two_digits_a_byte() {
        assert_eq!(mac([0x0a, 0x58, 0, 0xf4, 1, 2]), "0a:58:00:f4:01:02");
    }
}
