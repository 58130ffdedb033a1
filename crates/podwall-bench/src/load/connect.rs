//! Connections that are opened, asked one thing, and closed.
//!
//! Each end by a thread of its own, which sleeps until the other's packet wakes it, as two programs
//! do; on one processor, for on two most of the time is that of waking a processor up, and no engine
//! would be seen beside it. (Both ends by one thread makes 15 % more connections, not more than that.)

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

const REQUEST: [u8; 100] = [b'q'; 100];
const RESPONSE: [u8; 500] = [b'a'; 500];
/// An engine that lets nothing through must not keep the bench waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// The first byte of a request that ends the server.
const END: u8 = b'e';

pub(super) fn connections(
    listener: &TcpListener,
    server: SocketAddrV4,
    time: Duration,
) -> Result<f64> {
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve(listener));
        let start = Instant::now();
        let mut count = 0u32;
        let asked = loop {
            if let Err(error) = ask(server, &REQUEST) {
                break Err(error.context(format!("connection {count} to {server}")));
            }
            count += 1;
            if start.elapsed() >= time {
                break Ok(f64::from(count) / start.elapsed().as_secs_f64());
            }
        };
        ask(server, &[END; REQUEST.len()])?;
        match serving.join() {
            Ok(served) => served.and(asked),
            Err(_) => bail!("the server's thread panicked"),
        }
    })
}

fn ask(server: SocketAddrV4, request: &[u8]) -> Result<()> {
    let mut buffer = [0; RESPONSE.len()];
    let mut client = TcpStream::connect_timeout(&server.into(), PATIENCE)?;
    client.write_all(request)?;
    Ok(client.read_exact(&mut buffer)?)
}

fn serve(listener: &TcpListener) -> Result<()> {
    let mut buffer = [0; REQUEST.len()];
    loop {
        let (mut accepted, _) = listener.accept().context("accept")?;
        accepted.read_exact(&mut buffer)?;
        accepted.write_all(&RESPONSE)?;
        if buffer[0] == END {
            return Ok(());
        }
    }
}
