//! How is a TCP port probed?
//!
//! ```text
//!   SYN, sequence number = token ──▶          a real connect()
//!   ◀── SYN ACK                               the port is open
//!   GET / HTTP/1.1 ──▶  ◀── who is here       and by whom it is served
//!   RST ──▶                                   no TIME_WAIT, here or in connection tracking
//! ```

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::sockopt::{Linger, TcpRepair};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, connect, setsockopt, socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::attempt::{Ended, Probe};
use super::errors;
use super::outcome::Outcome;
use crate::serve::identity::Answer;
use crate::serve::socket as sockets;

/// How long an open port may take to say who it is. The port is open in any case.
const INTRODUCTION: Duration = Duration::from_secs(2);

/// What is asked. HTTP, because programs that people run in pods answer it too.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n";

/// `TCP_SEND_QUEUE` (linux/tcp.h).
const SEND_QUEUE: i32 = 2;

/// A socket of the calling thread's namespace whose first sequence number will be the token.
pub(super) fn open(v6: bool, token: u32) -> io::Result<OwnedFd> {
    let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None)?;
    errors::keep(&socket, v6)?;
    // An unconnected socket in repair mode takes any sequence number and keeps it when the mode
    // ends (tcp(7) does not tell; net/ipv4/tcp.c, TCP_QUEUE_SEQ).
    setsockopt(&socket, TcpRepair, &1)?;
    sockets::set_int(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, SEND_QUEUE)?;
    let sequence = i32::from_ne_bytes(token.to_ne_bytes());
    sockets::set_int(&socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, sequence)?;
    setsockopt(&socket, TcpRepair, &0)?;
    let abort = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&socket, Linger, &abort)?;
    Ok(socket)
}

/// Connects and asks who is there.
pub(super) async fn run(probe: &Probe<'_>, socket: OwnedFd) -> Ended {
    match connected(probe, socket).await {
        Ok(mut stream) => {
            let by = introduction(&mut stream).await;
            Ended::With(Outcome::Answered { by, millis: probe.millis() })
        }
        Err(ended) => ended,
    }
}

async fn connected(probe: &Probe<'_>, socket: OwnedFd) -> Result<TcpStream, Ended> {
    let explain =
        |socket: &dyn std::os::fd::AsFd, error: &io::Error| match errors::next(&socket.as_fd()) {
            Some(report) => Ended::With(errors::outcome(probe, &report)),
            None => errors::ended(probe, error),
        };
    match connect(socket.as_raw_fd(), &sockets::address(probe.to())) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => {}
        Err(error) => return Err(explain(&socket, &error.into())),
    }
    let stream = std::net::TcpStream::from(socket);
    let stream = TcpStream::from_std(stream).map_err(|error| errors::ended(probe, &error))?;
    loop {
        let interest = Interest::WRITABLE.add(Interest::ERROR);
        stream.ready(interest).await.map_err(|error| errors::ended(probe, &error))?;
        // An ICMP error that comes while connect() still runs is kept in the queue only
        // (net/ipv4/tcp_ipv4.c, tcp_v4_err: sock_owned_by_user).
        if let Some(report) = errors::next(&stream) {
            return Err(Ended::With(errors::outcome(probe, &report)));
        }
        match stream.take_error() {
            Ok(Some(error)) | Err(error) => return Err(explain(&stream, &error)),
            Ok(None) if stream.peer_addr().is_ok() => return Ok(stream),
            // Not connected yet: forget the readiness and wait for the next.
            Ok(None) => {
                let again = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _ = stream.try_io(interest, again);
            }
        }
    }
}

/// What the server says of itself; `None` if it says nothing that the lab's servers say.
async fn introduction(stream: &mut TcpStream) -> Option<Answer> {
    let mut received = Vec::with_capacity(1024);
    let ask = async {
        stream.write_all(REQUEST).await?;
        while received.len() < 8192 && stream.read_buf(&mut received).await? > 0 {
            if let Some(answer) = read(&received) {
                return Ok::<_, io::Error>(Some(answer));
            }
        }
        Ok(None)
    };
    // An error after the connection stood changes nothing: the port is open.
    timeout(INTRODUCTION, ask).await.ok()?.ok()?
}

/// The answer, once all of it is here: its last line is the client's.
fn read(received: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(received).ok().filter(|text| text.ends_with('\n'))?;
    Answer::parse(text.split_once("\r\n\r\n")?.1)
}
