//! Did a probe arrive?
//!
//! ```text
//!   place (pod)    AF_PACKET on every interface   a firewall of the node lies before it
//!   place (node)   raw sockets behind INPUT       the node's firewall is in this very namespace
//!        └── packet ──▶ token ──▶ Seen { where it arrived, whether an answer left }
//! ```
//!
//! Packets between namespaces of one kernel are delivered in the context that sends them; so what
//! was not seen a moment after it was sent did not come, and "dropped" is an observation instead
//! of a time-out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::thread;

use nix::libc;
use nix::sys::socket::{LinkAddr, MsgFlags, recv, recvfrom};
use podwall_policy::port::Protocol;
use tokio::io::unix::AsyncFd;

use super::filter::{self, SNAP};
use super::packet::{self, Way};
use super::{Place, ProbeError};
use crate::serve::socket;

/// What was seen of one probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Where it arrived first, as an index of a place.
    pub(super) arrived: Option<usize>,
    /// Whether an answer to it left a place.
    pub(super) answer_left: bool,
}

/// One socket that watches.
struct Watch {
    socket: OwnedFd,
    /// The place, as an index.
    place: usize,
    view: View,
}

/// What a socket delivers.
#[derive(Clone, Copy)]
enum View {
    /// Whole packets, both ways, with a word on which way.
    Interfaces,
    /// Packets for the namespace itself, with the IPv4 header.
    StackV4,
    /// Packets for the namespace itself, without the IPv6 header.
    StackV6(Protocol),
}

/// All that is seen. Owned by one run; filled by its tasks, read by its probes.
pub(super) struct Evidence {
    watches: Vec<Watch>,
    /// Which watches belong to each place.
    of_place: Vec<Vec<usize>>,
    seen: RefCell<HashMap<u32, Seen>>,
    /// Places whose sockets lost packets: nothing is proved there by not seeing it.
    lossy: RefCell<Vec<bool>>,
}

impl Evidence {
    /// Begins to watch.
    pub(super) fn gather(places: &[&Place]) -> Result<Self, ProbeError> {
        let mut watches = Vec::new();
        let mut of_place = Vec::new();
        for (index, place) in places.iter().enumerate() {
            let wrong = |source| ProbeError::Watch { place: place.identity.clone(), source };
            let opened = place
                .namespace
                .within(|| open(place.filters_itself))
                .map_err(|source| ProbeError::Namespace { place: place.identity.clone(), source })?
                .map_err(wrong)?;
            of_place.push((watches.len()..watches.len() + opened.len()).collect());
            watches.extend(opened.into_iter().map(|(socket, view)| Watch {
                socket,
                place: index,
                view,
            }));
        }
        let lossy = RefCell::new(vec![false; places.len()]);
        Ok(Self { watches, of_place, seen: RefCell::default(), lossy })
    }

    /// Reads everything that comes, until the task is dropped. Keeps the sockets' queues short;
    /// whoever wants to know the truth of this moment calls [`look`](Self::look).
    pub(super) fn follow(self: &Rc<Self>) -> io::Result<()> {
        for (index, watch) in self.watches.iter().enumerate() {
            let ready = registered(watch.socket.as_raw_fd())?;
            let evidence = Rc::clone(self);
            tokio::task::spawn_local(async move {
                while let Ok(mut guard) = ready.readable().await {
                    evidence.drain(index);
                    guard.clear_ready();
                }
            });
        }
        Ok(())
    }

    /// What has been seen of a probe until now at these places, and whether they may have missed
    /// something.
    pub(super) fn look(&self, token: u32, places: &[usize]) -> (Seen, bool) {
        let watches = places.iter().filter_map(|place| self.of_place.get(*place)).flatten();
        for watch in watches {
            self.drain(*watch);
        }
        let lossy = places.iter().any(|p| self.lossy.borrow().get(*p).copied().unwrap_or(true));
        (self.seen.borrow().get(&token).copied().unwrap_or_default(), lossy)
    }

    /// Ends watching without waiting: the kernel takes a grace period of some ten milliseconds to
    /// close one packet socket, but the same one for all that are closed at once.
    pub(super) fn close(self) {
        const AT_ONCE: usize = 32;
        let mut heaps: Vec<Vec<OwnedFd>> = Vec::new();
        heaps.resize_with(AT_ONCE.min(self.watches.len()), Vec::new);
        for (index, watch) in self.watches.into_iter().enumerate() {
            heaps[index % AT_ONCE].push(watch.socket);
        }
        for heap in heaps {
            // Without a thread the closure, and with it the sockets, is dropped here.
            let _ = thread::Builder::new().name("close".to_owned()).spawn(move || drop(heap));
        }
    }

    fn drain(&self, index: usize) {
        let Some(watch) = self.watches.get(index) else { return };
        let mut buffer = [0; SNAP];
        loop {
            let (length, outgoing) = match watch.receive(&mut buffer) {
                Ok(received) => received,
                Err(nix::Error::EINTR) => continue,
                Err(nix::Error::EAGAIN) => break,
                // ENOBUFS, ENETDOWN: an interface went away, or the queue overflowed.
                Err(_) => {
                    self.lossy.borrow_mut()[watch.place] = true;
                    break;
                }
            };
            let bytes = &buffer[..length.min(SNAP)];
            let read = match watch.view {
                View::Interfaces | View::StackV4 => packet::read(bytes),
                View::StackV6(protocol) => packet::read_transport(protocol, bytes),
            };
            let Some((way, token)) = read else { continue };
            let mut seen = self.seen.borrow_mut();
            let seen = seen.entry(token).or_default();
            match (way, outgoing) {
                (Way::Request, false) => {
                    seen.arrived.get_or_insert(watch.place);
                }
                (Way::Reply, true) => seen.answer_left = true,
                // A probe that leaves its source, an answer that arrives there.
                (Way::Request, true) | (Way::Reply, false) => {}
            }
        }
        if watch.lost() {
            self.lossy.borrow_mut()[watch.place] = true;
        }
    }
}

impl Watch {
    /// One packet: its length, and whether it was on its way out.
    fn receive(&self, buffer: &mut [u8]) -> nix::Result<(usize, bool)> {
        let fd = self.socket.as_raw_fd();
        match self.view {
            View::Interfaces => {
                let (length, from) = recvfrom::<LinkAddr>(fd, buffer)?;
                let kind = from.map(|from| from.pkttype());
                // A switch that does not know yet where an address is gives the packet to everybody.
                let length = if kind == Some(libc::PACKET_OTHERHOST) { 0 } else { length };
                Ok((length, kind == Some(libc::PACKET_OUTGOING)))
            }
            View::StackV4 | View::StackV6(_) => {
                Ok((recv(fd, buffer, MsgFlags::MSG_DONTWAIT)?, false))
            }
        }
    }

    /// Whether packets were dropped because nobody read fast enough, since the last call.
    #[expect(unsafe_code, reason = "nix has no PACKET_STATISTICS")]
    fn lost(&self) -> bool {
        if !matches!(self.view, View::Interfaces) {
            return false;
        }
        let mut counts = [0_u32; 2];
        let mut length = size_of_val(&counts) as libc::socklen_t;
        let fd = self.socket.as_fd().as_raw_fd();
        // SAFETY: the kernel writes at most `length` bytes, two numbers: received and dropped
        // (struct tpacket_stats), into `counts`, which lives until the call returns.
        let result = unsafe {
            libc::getsockopt(
                fd,
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        result == 0 && counts[1] > 0
    }
}

/// Opens the watching sockets of the calling thread's namespace.
fn open(filters_itself: bool) -> io::Result<Vec<(OwnedFd, View)>> {
    if !filters_itself {
        let all = i32::from((libc::ETH_P_ALL as u16).to_be());
        let packets = socket::open(libc::AF_PACKET, libc::SOCK_DGRAM, all)?;
        filter::attach(&packets)?;
        socket::deep_receive_buffer(&packets);
        return Ok(vec![(packets, View::Interfaces)]);
    }
    let mut opened = Vec::new();
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP] {
        let v4 = socket::raw_socket(false, protocol)?;
        filter::attach(&v4)?;
        opened.push((v4, View::StackV4));
    }
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMPV6] {
        match socket::raw_socket(true, protocol) {
            Ok(v6) => opened.push((v6, View::StackV6(protocol))),
            // A kernel without IPv6 gets no probe over it either.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(opened)
}

#[expect(unsafe_code, reason = "the runtime must not own sockets that are closed together later")]
fn registered(fd: RawFd) -> io::Result<AsyncFd<RawFd>> {
    // SAFETY: Evidence owns the socket and is kept alive by the task that owns this value, so the
    // number means the same socket until the registration is gone.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
