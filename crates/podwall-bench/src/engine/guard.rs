//! What does the guard of source addresses cost, without any policy?
//!
//! ```text
//!   pods of the path ── guarded ── node ── 100 other guarded interfaces, which nobody uses
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail};
use nix::net::if_::if_nametoindex;
use podwall_dataplane::guard::{Allowed, Config, Guard, Interface};
use podwall_lab::link::{Batch, End, Links};
use podwall_lab::netns::NetNs;

use crate::cluster::Seat;
use crate::site::{self, POD_MAC};

/// Interfaces beside those of the path.
const OTHERS: u8 = 100;

/// Guards a node's pods.
pub(super) fn start(node: &NetNs, number: usize) -> Result<()> {
    let links = Links::of(node)?;
    let mut wanted = Vec::new();
    for other in 0..OTHERS {
        let [near, far] = ["g", "h"].map(|side| format!("{side}{other}"));
        let end = |name| End { name, index: 0, mac: None, ns: None };
        links.change(Batch::new().veth(&end(&near), &end(&far)))?;
        let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, other.into());
        wanted.push((near, vec![Ipv4Addr::new(10, 99, 0, other).into(), v6.into()]));
    }
    for seat in Seat::ALL.into_iter().filter(|seat| seat.node() == number) {
        wanted.push((site::port(seat), vec![IpAddr::V4(seat.address())]));
    }
    node.within(|| {
        let mut interfaces = BTreeMap::new();
        for (name, addresses) in wanted {
            let index = if_nametoindex(name.as_str()).with_context(|| name.clone())?;
            let allowed = Allowed { addresses, mac: Some(POD_MAC.0) };
            interfaces.insert(Interface { index, name }, allowed);
        }
        let gone = Guard::open(Config::default())?.set(&interfaces)?;
        if !gone.is_empty() {
            bail!("{gone:?} are not there");
        }
        Ok(())
    })?
}
