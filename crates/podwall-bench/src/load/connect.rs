//! Connections that are opened, asked one thing, and closed.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

const REQUEST: [u8; 100] = [b'q'; 100];
const RESPONSE: [u8; 500] = [b'a'; 500];
/// An engine that lets nothing through must not keep the bench waiting.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn connections(
    listener: &TcpListener,
    server: SocketAddrV4,
    time: Duration,
) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0u32;
    let mut buffer = [0; 1024];
    while start.elapsed() < time {
        let mut client = TcpStream::connect_timeout(&server.into(), PATIENCE)
            .with_context(|| format!("connection {count} to {server}"))?;
        let (mut accepted, _) = listener.accept().context("accept")?;
        client.write_all(&REQUEST)?;
        accepted.read_exact(&mut buffer[..REQUEST.len()])?;
        accepted.write_all(&RESPONSE)?;
        drop(accepted);
        client.read_exact(&mut buffer[..RESPONSE.len()])?;
        drop(client);
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}
