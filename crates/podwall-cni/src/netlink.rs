//! What does the kernel know of an interface?
//!
//! ```text
//!   RTM_GETLINK by name or number ──▶ number, name, kind, MAC, peer, id of the peer's namespace
//!   RTM_GETNSID of a file         ──▶ that id
//! ```
//!
//! Two questions of rtnetlink (`include/uapi/linux/rtnetlink.h`, `if_link.h`, `net_namespace.h`),
//! written out by hand: the program starts for each pod and carries nothing that it does not need.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendmsg, socket,
};

const HEADER: usize = 16;
const IFINFO: usize = 16;
/// Mark of an attribute that holds attributes (`NLA_F_NESTED`).
const NESTED: u16 = 1 << 15;

// Numbers of include/uapi/linux that libc does not name for every target.
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its number in the namespace that was asked.
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `veth`, `bridge` …; empty for hardware.
    pub(crate) kind: String,
    pub(crate) mac: Option<[u8; 6]>,
    /// The number of the other side, in its namespace.
    pub(crate) peer: Option<u32>,
    /// Which namespace that is, as the namespace that was asked numbers them; `None`: itself.
    pub(crate) peer_netns: Option<u32>,
}

/// Which interface?
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'a> {
    Name(&'a str),
    Index(u32),
}

/// Asks the network namespace of the thread that made it.
#[derive(Debug)]
pub(crate) struct RouteSocket(OwnedFd);

// === impl RouteSocket ===

impl RouteSocket {
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let kind = SockType::Raw;
        Ok(Self(socket(AddressFamily::Netlink, kind, flags, SockProtocol::NetlinkRoute)?))
    }

    /// An interface; `None`: there is none of that name or number.
    pub(crate) fn link(&self, which: Which<'_>) -> io::Result<Option<Link>> {
        let mut fixed = [0; IFINFO];
        let mut attributes = Vec::new();
        attribute(&mut attributes, libc::IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        match which {
            Which::Index(index) => fixed[4..8].copy_from_slice(&index.to_ne_bytes()),
            Which::Name(name) => {
                attribute(&mut attributes, libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
            }
        }
        match self.ask(libc::RTM_GETLINK, &fixed, &attributes) {
            Ok(payload) => link(&payload).map(Some).ok_or_else(cut_short),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How this namespace numbers another; `None`: it has no number yet, so no interface of this
    /// one was ever seen to have its other side there.
    pub(crate) fn number_of(&self, netns: BorrowedFd<'_>) -> io::Result<Option<u32>> {
        let mut attributes = Vec::new();
        attribute(&mut attributes, NETNSA_FD, &netns.as_raw_fd().to_ne_bytes());
        let payload = self.ask(RTM_GETNSID, &[0; 4], &attributes)?;
        let id = read_attributes(payload.get(4..).unwrap_or_default())
            .find_map(|(kind, value)| (kind == NETNSA_NSID).then(|| u32_at(value, 0))?)
            .ok_or_else(cut_short)?;
        Ok((id != u32::MAX).then_some(id)) // NETNSA_NSID_NOT_ASSIGNED is -1
    }

    /// One question, one answer: the payload of the message.
    fn ask(&self, kind: u16, fixed: &[u8], attributes: &[u8]) -> io::Result<Vec<u8>> {
        let length = HEADER + fixed.len() + attributes.len();
        let mut message = Vec::with_capacity(length);
        message.extend_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        let flags = u16::try_from(libc::NLM_F_REQUEST).map_err(io::Error::other)?;
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]); // sequence and port, of no use here
        message.extend_from_slice(fixed);
        message.extend_from_slice(attributes);
        let (fd, kernel) = (self.0.as_raw_fd(), NetlinkAddr::new(0, 0));
        sendmsg(fd, &[IoSlice::new(&message)], &[], MsgFlags::empty(), Some(&kernel))?;

        let mut answer = vec![0; 32 << 10]; // what the kernel sends at most (NLMSG_GOODSIZE)
        let received = recv(fd, &mut answer, MsgFlags::empty())?;
        answer.truncate(received);
        let length = u32_at(&answer, 0).and_then(|length| usize::try_from(length).ok());
        let payload = answer.get(HEADER..length.unwrap_or(0)).ok_or_else(cut_short)?;
        if u16_at(&answer, 4).map(i32::from) == Some(libc::NLMSG_ERROR) {
            let errno = u32_at(payload, 0).ok_or_else(cut_short)?.cast_signed();
            return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
        }
        Ok(payload.to_vec())
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut short")
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn link(payload: &[u8]) -> Option<Link> {
    let mut link = Link { index: u32_at(payload, 4)?, ..Link::default() };
    for (kind, value) in read_attributes(payload.get(IFINFO..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            libc::IFLA_LINK => link.peer = u32_at(value, 0),
            IFLA_LINK_NETNSID => link.peer_netns = u32_at(value, 0),
            libc::IFLA_LINKINFO => {
                let kind = read_attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

/// The attributes of a payload; stops at the first that is cut short.
fn read_attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !NESTED;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_known_by_name_and_number() {
        let socket = RouteSocket::open().unwrap();
        let lo = socket.link(Which::Name("lo")).unwrap().unwrap();
        assert_eq!((lo.index, lo.name.as_str(), lo.mac, lo.peer), (1, "lo", Some([0; 6]), None));
        assert_eq!(socket.link(Which::Index(1)).unwrap(), Some(lo));
        assert_eq!(socket.link(Which::Name("none")).unwrap(), None);
        assert_eq!(socket.link(Which::Index(987_654)).unwrap(), None);
    }

    #[test]
    fn an_attribute_that_is_cut_short_ends_the_list() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 3, b"abc\0");
        attribute(&mut bytes, 5, &7u32.to_ne_bytes());
        let all: Vec<_> = read_attributes(&bytes).map(|(kind, _)| kind).collect();
        assert_eq!(all, [3, 5]);
        for length in 0..bytes.len() {
            assert!(read_attributes(&bytes[..length]).count() < 2);
        }
    }
}
