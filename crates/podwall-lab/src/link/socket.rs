//! How do many requests go to the kernel in one system call, and whose is an error?
//!
//! ```text
//!   batch ──one send──▶ kernel works through it in order
//!   #1 ok · #2 EEXIST (fine) · #3 ENODEV ◀── one answer a message, told apart by sequence number
//! ```
//!
//! The kernel goes on after a message that failed, so everything of a batch is answered for. A
//! socket belongs to the namespace in which it was made, and works from any thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    socket,
};

use super::LinkError;
use super::wire::{Message, Reply, attributes, replies, text, u32_at};

/// Messages a send. An answer takes about 1 KiB of the receive buffer (208 KiB by default), and
/// answers that do not fit are lost.
const BATCH: usize = 64;
/// Larger than any datagram that the kernel sends on such a socket (32 KiB, `netlink_dump`).
const RECEIVE: usize = 64 * 1024;

/// Attribute of an extended answer that holds the kernel's own words.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A route netlink socket.
///
/// Holds the descriptor and the last sequence number; requests of several threads take turns.
#[derive(Debug)]
pub(super) struct Socket {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

// === impl Socket ===

impl Socket {
    /// A socket in the calling thread's namespace.
    pub(super) fn open() -> Result<Self, LinkError> {
        let open = || -> io::Result<OwnedFd> {
            let fd = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkRoute,
            )?;
            connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            // Words from the kernel are a courtesy; without them there is still the error number.
            let _ = option(&fd, libc::NETLINK_EXT_ACK);
            let _ = option(&fd, libc::NETLINK_CAP_ACK);
            Ok(fd)
        };
        let fd = open().map_err(LinkError::Socket)?;
        Ok(Self { state: Mutex::new(State { fd, sequence: 0, buffer: vec![0; RECEIVE] }) })
    }

    /// Sends changes and waits for all answers. The first failure is reported, after everything
    /// else was tried.
    pub(super) fn change(&self, messages: &mut [Message]) -> Result<(), LinkError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = None;
        for chunk in messages.chunks_mut(BATCH) {
            if let Err(error) = state.change(chunk) {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Sends a question and hands each message of the answer to `each`.
    pub(super) fn ask(
        &self,
        message: Message,
        each: impl FnMut(Reply<'_>),
    ) -> Result<(), LinkError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ask(message, each)
    }
}

// === impl State ===

impl State {
    fn change(&mut self, messages: &mut [Message]) -> Result<(), LinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for message in messages.iter_mut() {
            self.sequence = self.sequence.wrapping_add(1);
            message.seal(self.sequence);
            bytes.extend_from_slice(&message.bytes);
        }
        self.send(&bytes)?;
        let mut failed: Option<(usize, LinkError)> = None;
        let mut open = messages.len();
        while open > 0 {
            let length = self.receive()?;
            for reply in replies(&self.buffer[..length]) {
                let index =
                    usize::try_from(reply.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                let Some(message) = messages.get(index) else { continue };
                if reply.kind != libc::NLMSG_ERROR as u16 {
                    continue;
                }
                open -= 1;
                let (errno, said) = answer(reply);
                if errno == 0 || message.fine.contains(&errno) {
                    continue;
                }
                if failed.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
                    failed = Some((index, LinkError::refused(&message.what, errno, said)));
                }
            }
        }
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    fn ask(
        &mut self,
        mut message: Message,
        mut each: impl FnMut(Reply<'_>),
    ) -> Result<(), LinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        message.seal(self.sequence);
        self.send(&message.bytes)?;
        loop {
            let length = self.receive()?;
            for reply in replies(&self.buffer[..length]) {
                if reply.sequence != self.sequence {
                    continue;
                }
                match i32::from(reply.kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let (errno, said) = answer(reply);
                        return match errno {
                            0 => Ok(()),
                            _ => Err(LinkError::refused(&message.what, errno, said)),
                        };
                    }
                    _ => each(reply),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), LinkError> {
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(LinkError::Socket(error.into())),
            }
        }
    }

    fn receive(&mut self) -> Result<usize, LinkError> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => return Ok(length),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(LinkError::Socket(error.into())),
            }
        }
    }
}

/// The error number (positive) and the kernel's words, if any, of an `NLMSG_ERROR`.
fn answer(reply: Reply<'_>) -> (i32, Option<String>) {
    let errno = u32_at(reply.payload, 0).map_or(0, |code| code.cast_signed().wrapping_neg());
    let said = (i32::from(reply.flags) & libc::NLM_F_ACK_TLVS != 0)
        .then(|| {
            // After the number comes the header of the request, and without NLM_F_CAPPED all of it.
            let request = match i32::from(reply.flags) & libc::NLM_F_CAPPED {
                0 => usize::try_from(u32_at(reply.payload, 4)?).ok()?,
                _ => super::wire::HEADER,
            };
            let extra = reply.payload.get(4 + request.next_multiple_of(4)..)?;
            attributes(extra).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, b)| text(b))
        })
        .flatten();
    (errno, said)
}

/// Switches a boolean option of the socket on.
#[expect(unsafe_code, reason = "these socket options have no safe wrapper")]
fn option(fd: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = u32::try_from(size_of_val(&on)).unwrap_or(4);
    // SAFETY: the descriptor is open, and the kernel reads `length` bytes of `on`, which lives
    // until the call returns.
    let done = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            std::ptr::from_ref(&on).cast(),
            length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
