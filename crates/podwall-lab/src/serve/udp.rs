//! What does a UDP port of a pod answer?
//!
//! ```text
//!   MAGIC token        ──▶  MAGIC token + who answers      a probe
//!   a DNS message      ──▶  its answer                     port 53 of the DNS pod
//!   anything else      ──▶  the same bytes                 echo
//! ```
//!
//! The answer leaves from the address that was asked: a namespace may have several, and the
//! outside world has every one.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use podwall_policy::port::Protocol;
use tokio::io::unix::AsyncFd;

use super::identity::{Answer, Identity, probe_answer, read_probe};
use super::socket;
use crate::dns::{self, DnsServer};

/// Serves one UDP port until the task is aborted.
pub(super) async fn serve(
    socket: AsyncFd<OwnedFd>,
    port: u16,
    v6: bool,
    identity: Identity,
    dns: Option<Arc<DnsServer>>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        let received = ready.try_io(|socket| socket::receive(socket, &mut buffer));
        // Not ready after all, or an error of one datagram: neither ends the service.
        let Ok(Ok((length, client, asked))) = received else { continue };
        let request = &buffer[..length];
        let reply = match read_probe(request) {
            Some((token, _)) => {
                let to = asked.unwrap_or(client.ip());
                probe_answer(token, &answer(&identity, Protocol::UDP, to, port, client))
            }
            None => match &dns {
                None => request.to_vec(),
                Some(dns) => match dns::answer(request, &dns.data(), dns::Transport::Udp) {
                    Some(reply) => reply,
                    None => continue,
                },
            },
        };
        // A full send buffer or a route that is gone loses the datagram, as UDP may.
        let _ = socket::send(&socket, v6, &reply, client, asked);
    }
}

/// The answer of a server to a client.
pub(super) fn answer(
    identity: &Identity,
    protocol: Protocol,
    asked: std::net::IpAddr,
    port: u16,
    client: std::net::SocketAddr,
) -> Answer {
    let asked = std::net::SocketAddr::new(asked, port);
    Answer { identity: identity.clone(), protocol, asked, client }
}
