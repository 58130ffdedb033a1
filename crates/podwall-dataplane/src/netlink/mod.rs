//! Netlink as far as nftables needs it: bytes ([`attribute`]) and a socket ([`socket`]).

pub(crate) mod attribute;
pub(crate) mod socket;
