//! Netlink as far as nftables needs it: bytes ([`attribute`]), a socket ([`socket`]), and the
//! connections that the kernel follows ([`connections`]).

pub(crate) mod attribute;
pub(crate) mod connections;
pub(crate) mod socket;

// Flags of a message (`include/uapi/linux/netlink.h`).
pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
