//! Traffic of connections that stand.

use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

/// Datagrams that are sent at once.
const BATCH: usize = 32;

/// An engine that lets nothing through must not keep the bench waiting.
const PATIENCE: Duration = Duration::from_secs(2);

fn pair(listener: &TcpListener, server: SocketAddrV4) -> Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(server)?;
    let (accepted, _) = listener.accept()?;
    client.set_nodelay(true)?;
    accepted.set_nodelay(true)?;
    Ok((client, accepted))
}

pub(super) fn round_trips(
    listener: &TcpListener,
    server: SocketAddrV4,
    time: Duration,
) -> Result<f64> {
    let (mut client, mut accepted) = pair(listener, server)?;
    let mut byte = [7];
    let mut count = 0u32;
    let start = Instant::now();
    while start.elapsed() < time {
        client.write_all(&byte)?;
        accepted.read_exact(&mut byte)?;
        accepted.write_all(&byte)?;
        client.read_exact(&mut byte)?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

pub(super) fn streams(
    listener: &TcpListener,
    server: SocketAddrV4,
    count: usize,
    time: Duration,
) -> Result<f64> {
    let mut pairs: Vec<(TcpStream, TcpStream)> =
        (0..count).map(|_| pair(listener, server)).collect::<Result<_>>()?;
    for (client, accepted) in &pairs {
        client.set_nonblocking(true)?;
        accepted.set_nonblocking(true)?;
    }
    let sent = vec![0u8; 64 * 1024];
    let mut buffer = vec![0u8; 256 * 1024];
    let mut bytes = 0u64;
    let start = Instant::now();
    while start.elapsed() < time {
        for (client, accepted) in &mut pairs {
            would_block(client.write(&sent))?;
            bytes += would_block(accepted.read(&mut buffer))? as u64;
        }
    }
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}

fn would_block(result: std::io::Result<usize>) -> std::io::Result<usize> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

pub(super) fn datagrams(receiver: &UdpSocket, server: SocketAddrV4, time: Duration) -> Result<f64> {
    let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    sender.connect(server)?;
    // What an earlier load left. Then one answer, with which the connection stands.
    let mut byte = [0];
    receiver.set_nonblocking(true)?;
    while receiver.recv(&mut byte).is_ok() {}
    receiver.set_nonblocking(false)?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    sender.send(&byte)?;
    let (_, client) = receiver.recv_from(&mut byte).context("the first datagram")?;
    receiver.send_to(&byte, client)?;
    let payload = [5u8; 64];
    let slices = vec![[IoSlice::new(&payload)]; BATCH];
    let nowhere: Vec<Option<SockaddrIn>> = vec![None; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut taken = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut buffers = vec![[0u8; 128]; BATCH];
    let (mut sent, mut arrived) = (0usize, 0usize);
    let start = Instant::now();
    while start.elapsed() < time {
        let results =
            sendmmsg(sender.as_raw_fd(), &mut headers, &slices, &nowhere, [], MsgFlags::empty())?;
        sent += results.count();
        let mut into: Vec<[IoSliceMut<'_>; 1]> =
            buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
        match recvmmsg(
            receiver.as_raw_fd(),
            &mut taken,
            into.iter_mut(),
            MsgFlags::MSG_DONTWAIT,
            None,
        ) {
            Ok(results) => arrived += results.count(),
            Err(nix::Error::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    ensure!(arrived * 2 > sent, "of {sent} datagrams only {arrived} arrived");
    Ok(arrived as f64 / seconds)
}
