//! How is SCTP served on a kernel without SCTP sockets?
//!
//! ```text
//!   INIT, port served       ──▶  INIT ACK with a state cookie     nothing is remembered yet
//!   INIT, port not served   ──▶  ABORT
//!   COOKIE ECHO             ──▶  COOKIE ACK                       now there is an association
//!   DATA / HEARTBEAT        ──▶  SACK / HEARTBEAT ACK
//!   SHUTDOWN                ──▶  SHUTDOWN ACK
//! ```
//!
//! RFC 9260 §5 and §9, as much as a client needs to be convinced. One [`Host`] answers for a whole
//! network namespace, because a raw socket gets the packets of every port. The state cookie says
//! who answers, so that a probe knows it from the `INIT ACK` alone.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use podwall_policy::port::Protocol;
use tokio::io::unix::AsyncFd;

use super::identity::{Answer, Identity, MAGIC};
use super::sctp_wire::{
    ABORT, COOKIE_ACK, COOKIE_ECHO, Chunk, DATA, HEARTBEAT, HEARTBEAT_ACK, INIT, INIT_ACK, Init,
    Packet, SACK, SHUTDOWN, SHUTDOWN_ACK, STATE_COOKIE, u32_at,
};
use super::socket;

/// `SHUTDOWN COMPLETE`.
const SHUTDOWN_COMPLETE: u8 = 14;

/// How long a cookie is good (RFC 9260 §16, Valid.Cookie.Life).
const COOKIE_LIFE: Duration = Duration::from_secs(60);

/// How many associations one namespace remembers; the oldest go first.
const ASSOCIATIONS: usize = 1024;

/// The cookie before its text: a keyed sum of eight bytes, then four numbers of four bytes.
const COOKIE_HEAD: usize = 24;

/// Which ports of a namespace are served by whom. Shared between the task that answers and whoever
/// changes the ports.
pub(super) type Ports = Arc<Mutex<BTreeMap<u16, Identity>>>;

/// The SCTP of one network namespace.
struct Host {
    /// Owned by [`super::ServerSet`], read here.
    ports: Ports,
    /// Keys the cookies and tags; new with every process.
    key: RandomState,
    /// The clock of the cookies.
    start: Instant,
    /// Associations by client, its port and the served port; owned by this value alone.
    associations: BTreeMap<(IpAddr, u16, u16), Association>,
    /// Makes the next tag.
    counter: u64,
}

/// An association that the client has confirmed.
struct Association {
    client_tag: u32,
    own_tag: u32,
    /// The last sequence number that came in order.
    received: u32,
    /// When it began, as a count.
    born: u64,
}

/// Answers on the namespace's raw sockets, one of each family, until the task is aborted.
pub(super) async fn serve(
    v4: Option<AsyncFd<OwnedFd>>,
    v6: Option<AsyncFd<OwnedFd>>,
    ports: Ports,
) {
    let host = Mutex::new(Host::new(ports));
    tokio::join!(serve_family(v4, false, &host), serve_family(v6, true, &host));
}

async fn serve_family(socket: Option<AsyncFd<OwnedFd>>, v6: bool, host: &Mutex<Host>) {
    let Some(socket) = socket else { return };
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        let received = ready.try_io(|socket| socket::receive(socket, &mut buffer));
        let Ok(Ok((length, client, to))) = received else { continue };
        let packet = &buffer[..length];
        let Some((to, packet)) = (if v6 {
            to.map(|to| (to, packet))
        } else {
            split_ipv4(packet).map(|(to, packet)| (to.into(), packet))
        }) else {
            continue;
        };
        if to.is_multicast() {
            continue;
        }
        let reply = {
            let mut host = host.lock().unwrap_or_else(PoisonError::into_inner);
            host.answer(packet, client.ip(), to)
        };
        if let Some(reply) = reply {
            let client = SocketAddr::new(client.ip(), 0);
            let _ = socket::send(&socket, v6, &reply, client, Some(to));
        }
    }
}

/// The destination and the payload of an IPv4 packet as a raw socket delivers it.
pub(crate) fn split_ipv4(packet: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let header = usize::from(packet.first()? & 15) * 4;
    let to = Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?);
    Some((to, packet.get(header..)?))
}

// === impl Host ===

impl Host {
    fn new(ports: Ports) -> Self {
        Self {
            ports,
            key: RandomState::new(),
            start: Instant::now(),
            associations: BTreeMap::new(),
            counter: 0,
        }
    }

    /// The packet that answers this one, if it is for us.
    fn answer(&mut self, packet: &[u8], client: IpAddr, own: IpAddr) -> Option<Vec<u8>> {
        let packet = Packet::parse(packet)?;
        let first = packet.chunks.first()?;
        let identity = {
            let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
            ports.get(&packet.destination).cloned()
        };
        match (first.kind, identity) {
            (INIT, None) if packet.tag == 0 => {
                let init = Init::parse(first.value)?;
                Some(reply(&packet, init.tag, &[chunk(ABORT, 0, &[])]))
            }
            (INIT, Some(identity)) if packet.tag == 0 && packet.chunks.len() == 1 => {
                self.init(&packet, &Init::parse(first.value)?, &identity, client, own)
            }
            (COOKIE_ECHO, Some(_)) => self.cookie_echo(&packet, first.value, client, own),
            (DATA | HEARTBEAT | SHUTDOWN | SHUTDOWN_COMPLETE | ABORT, Some(_)) => {
                self.associated(&packet, client)
            }
            // Also the answers to clients and probes of this namespace, whose sockets are raw too.
            _ => None,
        }
    }

    fn init(
        &mut self,
        packet: &Packet<'_>,
        init: &Init<'_>,
        identity: &Identity,
        client: IpAddr,
        own: IpAddr,
    ) -> Option<Vec<u8>> {
        self.counter += 1;
        let random = self.key.hash_one((self.counter, client, packet.source));
        let (own_tag, tsn) = ((random >> 32) as u32 | 1, random as u32);
        let answer = Answer {
            identity: identity.clone(),
            protocol: Protocol::SCTP,
            asked: SocketAddr::new(own, packet.destination),
            client: SocketAddr::new(client, packet.source),
        };
        let mut body = Vec::with_capacity(160);
        let created = u32::try_from(self.start.elapsed().as_secs()).ok()?;
        for number in [init.tag, own_tag, init.tsn, created] {
            body.extend(number.to_be_bytes());
        }
        body.extend(MAGIC);
        body.extend(answer.to_string().as_bytes());
        let sum = self.sum(&body, packet, client, own);
        let cookie = [sum.to_be_bytes().as_slice(), &body].concat();
        let value =
            Init { tag: own_tag, tsn, parameters: vec![(STATE_COOKIE, &cookie)] }.to_bytes();
        Some(reply(packet, init.tag, &[chunk(INIT_ACK, 0, &value)]))
    }

    fn cookie_echo(
        &mut self,
        packet: &Packet<'_>,
        cookie: &[u8],
        client: IpAddr,
        own: IpAddr,
    ) -> Option<Vec<u8>> {
        let (sum, body) = cookie.split_first_chunk::<8>()?;
        if u64::from_be_bytes(*sum) != self.sum(body, packet, client, own) {
            return None;
        }
        let (client_tag, own_tag) = (u32_at(body, 0)?, u32_at(body, 4)?);
        let created = Duration::from_secs(u32_at(body, 12)?.into());
        if packet.tag != own_tag || self.start.elapsed().saturating_sub(created) > COOKIE_LIFE {
            return None;
        }
        if self.associations.len() >= ASSOCIATIONS {
            let oldest = self.associations.iter().min_by_key(|(_, a)| a.born).map(|(k, _)| *k);
            oldest.map(|key| self.associations.remove(&key));
        }
        self.counter += 1;
        let received = u32_at(body, 8)?.wrapping_sub(1);
        let association = Association { client_tag, own_tag, received, born: self.counter };
        self.associations.insert((client, packet.source, packet.destination), association);
        // Data may ride along with the cookie.
        let rest = Packet { chunks: packet.chunks[1..].to_vec(), ..packet.clone() };
        let ack = chunk(COOKIE_ACK, 0, &[]);
        match self.acknowledge(&rest, client) {
            Some(sack) => Some(reply(packet, client_tag, &[ack, chunk(SACK, 0, &sack)])),
            None => Some(reply(packet, client_tag, &[ack])),
        }
    }

    /// Packets of an association. One that nobody knows is told so with the tag that it used
    /// (RFC 9260 §8.4 rule 8), so that its owner gives up at once.
    fn associated(&mut self, packet: &Packet<'_>, client: IpAddr) -> Option<Vec<u8>> {
        let first = packet.chunks.first()?;
        let key = (client, packet.source, packet.destination);
        let Some(association) = self.associations.get(&key) else {
            let answered = matches!(first.kind, DATA | HEARTBEAT | SHUTDOWN);
            return answered.then(|| reply(packet, packet.tag, &[chunk(ABORT, 1, &[])]));
        };
        if packet.tag != association.own_tag {
            return None;
        }
        let client_tag = association.client_tag;
        match first.kind {
            HEARTBEAT => Some(reply(packet, client_tag, &[chunk(HEARTBEAT_ACK, 0, first.value)])),
            SHUTDOWN => Some(reply(packet, client_tag, &[chunk(SHUTDOWN_ACK, 0, &[])])),
            DATA => self
                .acknowledge(packet, client)
                .map(|sack| reply(packet, client_tag, &[chunk(SACK, 0, &sack)])),
            _ => {
                self.associations.remove(&key);
                None
            }
        }
    }

    /// The value of the SACK for the packet's data; `None` without data.
    fn acknowledge(&mut self, packet: &Packet<'_>, client: IpAddr) -> Option<Vec<u8>> {
        let key = (client, packet.source, packet.destination);
        let association = self.associations.get_mut(&key)?;
        let mut seen = false;
        for data in packet.chunks.iter().filter(|c| c.kind == DATA) {
            let tsn = u32_at(data.value, 0)?;
            if tsn == association.received.wrapping_add(1) {
                association.received = tsn;
            }
            seen = true;
        }
        // Cumulative sequence number, window, no gaps, no duplicates (RFC 9260 §3.3.4).
        let numbers = [association.received, 65_536, 0];
        seen.then(|| numbers.into_iter().flat_map(u32::to_be_bytes).collect())
    }

    fn sum(&self, body: &[u8], packet: &Packet<'_>, client: IpAddr, own: IpAddr) -> u64 {
        self.key.hash_one((body, packet.source, packet.destination, client, own))
    }
}

fn chunk(kind: u8, flags: u8, value: &[u8]) -> Chunk<'_> {
    Chunk { kind, flags, value }
}

fn reply(to: &Packet<'_>, tag: u32, chunks: &[Chunk<'_>]) -> Vec<u8> {
    let (source, destination) = (to.destination, to.source);
    Packet { source, destination, tag, chunks: chunks.to_vec() }.to_bytes()
}

/// Who answered, from the state cookie of an `INIT ACK`; `None` for another server's cookie.
pub(crate) fn read_cookie(cookie: &[u8]) -> Option<Answer> {
    let text = cookie.get(COOKIE_HEAD..)?.strip_prefix(&MAGIC)?;
    Answer::parse(std::str::from_utf8(text).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn host() -> Host {
        let ports = BTreeMap::from([(80, Identity::pod("demo", "web"))]);
        Host::new(Arc::new(Mutex::new(ports)))
    }

    fn packet(port: u16, tag: u32, chunks: &[Chunk<'_>]) -> Vec<u8> {
        Packet { source: 4000, destination: port, tag, chunks: chunks.to_vec() }.to_bytes()
    }

    fn ask(host: &mut Host, bytes: &[u8]) -> Option<(u32, u8, u8, Vec<u8>)> {
        let answer = host.answer(bytes, CLIENT, OWN)?;
        let answer = Packet::parse(&answer).expect("our own packets are good");
        assert_eq!(answer.destination, 4000);
        let first = answer.chunks[0];
        Some((answer.tag, first.kind, first.flags, first.value.to_vec()))
    }

    fn init() -> Vec<u8> {
        Init { tag: 77, tsn: 100, parameters: vec![] }.to_bytes()
    }

    #[test]
    fn init_to_a_port_that_is_not_served_is_aborted_with_the_initiate_tag() {
        let init = init();
        let answer = ask(&mut host(), &packet(81, 0, &[chunk(INIT, 0, &init)]));
        assert_eq!(answer, Some((77, ABORT, 0, vec![])));
    }

    #[test]
    fn an_association_is_made_used_and_ended() {
        let (mut host, init) = (host(), init());
        let (tag, kind, _, value) =
            ask(&mut host, &packet(80, 0, &[chunk(INIT, 0, &init)])).unwrap();
        assert_eq!((tag, kind), (77, INIT_ACK));
        let ack = Init::parse(&value).unwrap();
        let cookie = ack.cookie().unwrap();
        let said = read_cookie(cookie).unwrap();
        assert_eq!(said.identity, Identity::pod("demo", "web"));
        assert_eq!(said.client, SocketAddr::new(CLIENT, 4000));

        let mut forged = cookie.to_vec();
        forged[20] ^= 1;
        assert_eq!(ask(&mut host, &packet(80, ack.tag, &[chunk(COOKIE_ECHO, 0, &forged)])), None);
        let echo = packet(80, ack.tag, &[chunk(COOKIE_ECHO, 0, cookie)]);
        assert_eq!(ask(&mut host, &echo), Some((77, COOKIE_ACK, 0, vec![])));

        let mut data = 100_u32.to_be_bytes().to_vec();
        data.extend([0; 9]);
        let (_, kind, _, sack) =
            ask(&mut host, &packet(80, ack.tag, &[chunk(DATA, 3, &data)])).unwrap();
        assert_eq!((kind, u32_at(&sack, 0)), (SACK, Some(100)));
        let shutdown = packet(80, ack.tag, &[chunk(SHUTDOWN, 0, &[0; 4])]);
        assert_eq!(ask(&mut host, &shutdown), Some((77, SHUTDOWN_ACK, 0, vec![])));
        assert_eq!(ask(&mut host, &packet(80, ack.tag, &[chunk(SHUTDOWN_COMPLETE, 0, &[])])), None);
        // The association is gone: the same packet is answered with its own tag, reflected.
        assert_eq!(ask(&mut host, &shutdown), Some((ack.tag, ABORT, 1, vec![])));
    }

    #[test]
    fn answers_to_clients_of_the_same_namespace_are_left_alone() {
        let init = init();
        assert_eq!(ask(&mut host(), &packet(80, 5, &[chunk(INIT_ACK, 0, &init)])), None);
        assert_eq!(ask(&mut host(), &packet(80, 5, &[chunk(ABORT, 0, &[])])), None);
    }

    #[test]
    fn associations_are_bounded() {
        let (mut host, init) = (host(), init());
        for source in 0..(ASSOCIATIONS as u16 + 50) {
            let of = |tag, chunks: &[Chunk<'_>]| {
                Packet { source, destination: 80, tag, chunks: chunks.to_vec() }.to_bytes()
            };
            let ack = host.answer(&of(0, &[chunk(INIT, 0, &init)]), CLIENT, OWN).unwrap();
            let ack = Packet::parse(&ack).unwrap();
            let ack = Init::parse(ack.chunks[0].value).unwrap();
            let echo = of(ack.tag, &[chunk(COOKIE_ECHO, 0, ack.cookie().unwrap())]);
            host.answer(&echo, CLIENT, OWN).unwrap();
        }
        assert_eq!(host.associations.len(), ASSOCIATIONS);
    }

    proptest! {
        #[test]
        fn hostile_packets_never_panic(
            kind in 0u8..16,
            tag in prop_oneof![Just(0u32), any::<u32>()],
            port in prop_oneof![Just(80u16), any::<u16>()],
            value in proptest::collection::vec(any::<u8>(), 0..64),
            second in proptest::collection::vec(any::<u8>(), 0..32),
        ) {
            let bytes = packet(port, tag, &[chunk(kind, 0, &value), chunk(DATA, 0, &second)]);
            let _ = host().answer(&bytes, CLIENT, OWN);
            let _ = host().answer(&packet(port, tag, &[chunk(kind, 0, &value)]), CLIENT, OWN);
            let _ = read_cookie(&value);
            let _ = split_ipv4(&value);
        }
    }
}
