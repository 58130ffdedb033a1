//! Netlink as far as nftables needs it: bytes ([`attribute`]), a socket ([`socket`]), and the
//! connections that the kernel follows ([`connections`]).

pub(crate) mod attribute;
pub(crate) mod connections;
pub(crate) mod socket;
