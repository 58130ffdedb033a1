//! What does a TCP port of a pod answer?
//!
//! ```text
//!   GET / HTTP/1.1 …   ──▶  200, text/plain: who answers    and the connection stays open
//!   "hello\n", EOF,
//!   or 5 s of silence  ──▶  the same text, bare             then the connection is closed
//!   a DNS message      ──▶  its answer                      port 53 of the DNS pod
//! ```
//!
//! No client is left hanging: whatever comes or does not come, an answer goes out and the
//! connection ends or waits for the next request.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use podwall_policy::port::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::http::{self, Request};
use super::identity::{Answer, Identity};
use crate::dns::{self, DnsServer};

/// How long a client may be silent before it is answered unasked.
const SILENCE: Duration = Duration::from_secs(5);

/// How long a connection waits for its next request.
const IDLE: Duration = Duration::from_secs(600);

/// Serves one TCP port until the task is aborted; its connections end with it.
pub(super) async fn serve(listener: TcpListener, identity: Identity, dns: Option<Arc<DnsServer>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    let (identity, dns) = (identity.clone(), dns.clone());
                    connections.spawn(async move {
                        // A client that goes away is its own affair.
                        let _ = connection(stream, client, identity, dns).await;
                    });
                }
                // Out of descriptors: wait for connections to end rather than spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    mut stream: TcpStream,
    client: SocketAddr,
    identity: Identity,
    dns: Option<Arc<DnsServer>>,
) -> io::Result<()> {
    let asked = stream.local_addr()?;
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let text = Answer {
        identity,
        protocol: Protocol::TCP,
        asked: canonical(asked),
        client: canonical(client),
    }
    .to_string();
    let mut received = Vec::new();
    let mut patience = SILENCE;
    loop {
        // What stands in the buffer first: several requests may come in one segment.
        match http::read(&received) {
            Request::Incomplete => {}
            Request::Http { length, head, close } => {
                stream.write_all(http::response(&text, head, close).as_bytes()).await?;
                if close {
                    return end(stream).await;
                }
                received.drain(..length);
                patience = IDLE;
                continue;
            }
            Request::Other => {
                if let Some(dns) = &dns {
                    return resolve(stream, received, dns).await;
                }
                stream.write_all(text.as_bytes()).await?;
                return end(stream).await;
            }
        }
        match timeout(patience, stream.read_buf(&mut received)).await {
            Ok(Ok(1..)) => {}
            Ok(Err(error)) => return Err(error),
            Ok(Ok(0)) | Err(_) => {
                // Nothing was answered yet: say who is here before leaving.
                if patience == SILENCE && dns.is_none() {
                    stream.write_all(text.as_bytes()).await?;
                }
                return end(stream).await;
            }
        }
    }
}

/// DNS messages, each behind its length (RFC 1035 §4.2.2).
async fn resolve(mut stream: TcpStream, mut received: Vec<u8>, dns: &DnsServer) -> io::Result<()> {
    loop {
        while let Some((length, rest)) = received.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            let Some(query) = rest.get(..length) else { break };
            let Some(reply) = dns::answer(query, &dns.data(), dns::Transport::Tcp) else {
                return end(stream).await;
            };
            let reply_length = u16::try_from(reply.len()).unwrap_or(u16::MAX);
            let mut framed = reply_length.to_be_bytes().to_vec();
            framed.extend_from_slice(&reply[..usize::from(reply_length)]);
            stream.write_all(&framed).await?;
            received.drain(..length + 2);
        }
        match timeout(SILENCE, stream.read_buf(&mut received)).await {
            Ok(Ok(1..)) => {}
            Ok(Err(error)) => return Err(error),
            Ok(Ok(0)) | Err(_) => return end(stream).await,
        }
    }
}

/// Closes without losing what was sent: bytes of the client that nobody read would make the kernel
/// send a reset, which can overtake the answer. So the client may finish for a moment.
async fn end(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut waste = [0; 4096];
    let drain = async { while let Ok(1..) = stream.read(&mut waste).await {} };
    let _ = timeout(Duration::from_secs(1), drain).await;
    Ok(())
}
