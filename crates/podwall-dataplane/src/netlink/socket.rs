//! How does a batch get to the kernel and its answers back?
//!
//! ```text
//!   sendmsg ──▶ nfnetlink runs the whole batch before it returns ──▶ answers wait in our queue
//! ```
//!
//! So answers are read without waiting: what is not there after `sendmsg` never comes. A batch is
//! one datagram and has to fit into the send buffer (`netlink_sendmsg`: EMSGSIZE). With
//! CAP_NET_ADMIN in the first user namespace the buffer can be as large as needed; in another user
//! namespace `net.core.wmem_max` limits it (425,952 bytes where that is 212,992).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, ReceiveTimeout, SndBuf, SndBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockopt, recv,
    sendto, setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::attribute::{Attributes, Message, Messages};
use crate::error::Error;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;

/// What `netlink_sendmsg` keeps of the send buffer for itself.
const RESERVE: usize = 32;
/// The kernel fills at most 32 KiB a datagram when it dumps; errors are smaller.
const RECEIVE: usize = 64 * 1024;
/// Seconds to wait for the next part of a dump. The kernel writes it when it is asked for; only a
/// machine at its end takes so long.
const PATIENCE: i64 = 30;
const RECEIVE_QUEUE: usize = 4 * 1024 * 1024;

/// A netlink socket, in the network namespace of the thread that opened it.
pub(crate) struct Socket {
    fd: OwnedFd,
    seq: u32,
    buffer: Vec<u8>,
    /// A smaller send buffer than the kernel's, for tests.
    pub(crate) limit: usize,
}

/// The kernel's word on one message of a batch.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) seq: u32,
    /// 0: done.
    pub(crate) errno: i32,
    /// Where in the message the offending attribute stands.
    pub(crate) offset: Option<u32>,
    pub(crate) text: Option<String>,
}

impl Socket {
    /// For netfilter.
    pub(crate) fn open() -> Result<Self, Error> {
        Self::of(SockProtocol::NetlinkNetFilter)
    }

    /// For interfaces and addresses.
    pub(crate) fn route() -> Result<Self, Error> {
        Self::of(SockProtocol::NetlinkRoute)
    }

    fn of(protocol: SockProtocol) -> Result<Self, Error> {
        let failed = |doing| move |errno: Errno| Error::Socket { doing, source: errno.into() };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .map_err(failed("open a netlink socket"))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed("bind the netlink socket"))?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            flag(&fd, option).map_err(failed("ask netlink for full error messages"))?;
        }
        if setsockopt(&fd, RcvBufForce, &RECEIVE_QUEUE).is_err() {
            setsockopt(&fd, RcvBuf, &RECEIVE_QUEUE)
                .map_err(failed("enlarge the netlink receive buffer"))?;
        }
        setsockopt(&fd, ReceiveTimeout, &TimeVal::new(PATIENCE, 0))
            .map_err(failed("limit the wait for netlink"))?;
        Ok(Self { fd, seq: 0, buffer: vec![0; RECEIVE], limit: usize::MAX })
    }

    /// A sequence number that no message before had.
    pub(crate) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    /// Counts sequence numbers that a batch has given itself.
    pub(crate) fn skip(&mut self, count: u32) {
        self.seq = self.seq.wrapping_add(count);
    }

    /// How many bytes one batch may have, after an attempt to make it `wanted`.
    pub(crate) fn capacity(&mut self, wanted: usize) -> usize {
        let now = |fd: &OwnedFd| getsockopt(fd, SndBuf).unwrap_or(0).saturating_sub(RESERVE);
        if now(&self.fd) < wanted {
            // The kernel doubles what it is given; to ask for the whole is to have some to spare.
            let wanted = wanted + RESERVE;
            if setsockopt(&self.fd, SndBufForce, &wanted).is_err() {
                // Without rights: up to net.core.wmem_max. What came of it is read back below.
                setsockopt(&self.fd, SndBuf, &wanted).ok();
            }
        }
        now(&self.fd).min(self.limit)
    }

    /// Sends one datagram.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.drain();
        loop {
            let to = NetlinkAddr::new(0, 0);
            match sendto(self.fd.as_raw_fd(), bytes, &to, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    let doing = "send a message to the kernel";
                    return Err(Error::Socket { doing, source: errno.into() });
                }
            }
        }
    }

    /// All answers to a batch that has been sent.
    pub(crate) fn answers(&mut self) -> Result<Vec<Answer>, Error> {
        let mut answers = Vec::new();
        while let Some(len) = self.receive(MsgFlags::MSG_DONTWAIT)? {
            answers.extend(Messages(&self.buffer[..len]).filter_map(|m| answer(&m)));
        }
        Ok(answers)
    }

    /// Asks a question and hands each message of the reply to `read`. `Err(errno)` inside: the
    /// kernel's refusal (ENOENT: there is no such thing). Whether the ruleset changed during a dump
    /// is for the caller to find out, by its generation before and after.
    pub(crate) fn ask(
        &mut self,
        question: &[u8],
        seq: u32,
        mut read: impl FnMut(&Message<'_>),
    ) -> Result<Result<(), Errno>, Error> {
        self.send(question)?;
        loop {
            if let Some(end) = self.part(seq, &mut read)? {
                return Ok(end);
            }
        }
    }

    /// One datagram of the reply to a question; how the reply ends, if it does with this.
    pub(crate) fn part(
        &mut self,
        seq: u32,
        mut read: impl FnMut(&Message<'_>),
    ) -> Result<Option<Result<(), Errno>>, Error> {
        let Some(len) = self.receive(MsgFlags::empty())? else {
            return Err(Error::Lost("no answer to a question".into()));
        };
        for message in Messages(&self.buffer[..len]).filter(|m| m.seq == seq) {
            match message.kind {
                NLMSG_DONE => return Ok(Some(Ok(()))),
                NLMSG_ERROR => {
                    let errno = answer(&message).map_or(0, |a| a.errno);
                    let end = if errno == 0 { Ok(()) } else { Err(Errno::from_raw(errno)) };
                    return Ok(Some(end));
                }
                _ => read(&message),
            }
        }
        Ok(None)
    }

    /// Its file once more, to wait for messages that nobody asked for.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd, Error> {
        let failed = |source| Error::Socket { doing: "wait for netlink", source };
        self.fd.try_clone().map_err(failed)
    }

    /// Reads one datagram of messages that nobody asked for, if one has come.
    pub(crate) fn read(&mut self, mut each: impl FnMut(&Message<'_>)) -> Result<(), Error> {
        if let Some(len) = self.receive(MsgFlags::MSG_DONTWAIT)? {
            Messages(&self.buffer[..len]).for_each(|message| each(&message));
        }
        Ok(())
    }

    /// Throws away what an earlier, broken-off exchange left.
    fn drain(&mut self) {
        while let Ok(Some(_)) | Err(Error::Lost(_)) = self.receive(MsgFlags::MSG_DONTWAIT) {}
    }

    /// One datagram; `None`: there is none. ENOBUFS says that answers were lost.
    fn receive(&mut self, flags: MsgFlags) -> Result<Option<usize>, Error> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, flags) {
                Ok(len) => return Ok(Some(len)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::ENOBUFS) => {
                    return Err(Error::Lost("the receive buffer overflowed".into()));
                }
                Err(errno) => {
                    let doing = "read the kernel's answer";
                    return Err(Error::Socket { doing, source: errno.into() });
                }
            }
        }
    }
}

/// Reads an NLMSG_ERROR: errno, the header it answers, then words of the kernel.
fn answer(message: &Message<'_>) -> Option<Answer> {
    if message.kind != NLMSG_ERROR {
        return None;
    }
    let errno = -i32::from_ne_bytes(message.body.get(..4)?.try_into().ok()?);
    let words = if message.flags & NLM_F_ACK_TLVS == 0 {
        Attributes(&[])
    } else {
        let asked = u32::from_ne_bytes(message.body.get(4..8)?.try_into().ok()?) as usize;
        let skip = if message.flags & NLM_F_CAPPED != 0 { 16 } else { asked };
        Attributes(message.body.get(4 + skip.next_multiple_of(4)..).unwrap_or_default())
    };
    let text = words
        .get(NLMSGERR_ATTR_MSG)
        .map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
    // The offset is the only number here in the machine's own byte order.
    let offset = words
        .get(NLMSGERR_ATTR_OFFS)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_ne_bytes);
    Some(Answer { seq: message.seq, errno, offset, text })
}

#[expect(unsafe_code, reason = "nix has no setter for netlink's own options")]
fn flag(fd: &OwnedFd, option: i32) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads four bytes from `on`, which lives until the call returns.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(done).map(drop)
}

/// The error of a question or a request that the kernel refuses.
pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(Errno) -> Error {
    move |errno| match errno {
        Errno::EPERM => Error::Permission,
        _ => Error::Refused { what: what.into(), source: io_error(errno as i32), text: None },
    }
}

/// The error of an errno.
pub(crate) fn io_error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
