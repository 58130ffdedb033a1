//! How does traffic run in pods while a test does something else?
//!
//! ```text
//!   client ── Allowed: a datagram from a new port, a new TCP connection, a standing one ──▶ server
//!   attacker ── Forbidden: the same, as fast as it can, waiting for nothing ─────────────▶ server
//! ```
//!
//! Threads that live in the pods' namespaces. Every datagram and every connection is a new one for the
//! kernel, so that each meets the policies as they are at that moment.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Pod;

/// How long an answer is waited for before it is lost. No datagram is sent twice, so each that a
/// firewall drops is missed here; a connection's first packet is sent again after a second, as it is
/// by a machine that is too busy to take the answer by then.
const LOST: Duration = Duration::from_secs(10);

/// What one client saw.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Datagrams and connections that were begun.
    pub(crate) tried: AtomicU64,
    /// Those that were answered.
    pub(crate) answered: AtomicU64,
    /// 1 if the standing connection broke or stood still.
    pub(crate) broken: AtomicU64,
}

/// Traffic of one world. Ends with [`Self::stop`].
pub(crate) struct Traffic {
    clients: Threads,
    /// End after the clients: the last question is answered too.
    servers: Threads,
    /// How much arrived at any server, by sender.
    arrived: Arc<Mutex<BTreeMap<IpAddr, u64>>>,
}

#[derive(Default)]
struct Threads {
    ended: Arc<AtomicBool>,
    all: Vec<JoinHandle<()>>,
}

impl Threads {
    fn spawn(&mut self, pod: &Pod, work: impl FnOnce(&AtomicBool) + Send + 'static) {
        let (ended, namespace) = (Arc::clone(&self.ended), Arc::clone(&pod.place.namespace));
        self.all.push(thread::spawn(move || {
            namespace.enter_thread().unwrap();
            work(&ended);
        }));
    }

    fn stop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.all.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The value of a counter.
pub(crate) fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Traffic {
    pub(crate) fn new() -> Self {
        let (clients, servers) = (Threads::default(), Threads::default());
        Self { clients, servers, arrived: Arc::default() }
    }

    /// How much came from a pod, at whatever server.
    pub(crate) fn arrived(&self, from: &Pod) -> u64 {
        let arrived = self.arrived.lock().unwrap();
        from.ips.iter().filter_map(|ip| arrived.get(ip)).sum()
    }

    /// Echoes TCP and UDP at both addresses of a pod.
    pub(crate) fn serve(&mut self, pod: &Pod, port: u16) {
        for ip in pod.ips.clone() {
            let at = SocketAddr::new(ip, port);
            let (tcp, udp) = pod
                .place
                .namespace
                .within(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()))
                .unwrap();
            let arrived = Arc::clone(&self.arrived);
            let hear = move |from: SocketAddr| {
                *arrived.lock().unwrap().entry(from.ip()).or_default() += 1;
            };
            let heard = hear.clone();
            udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            self.servers.spawn(pod, move |ended| {
                let mut buffer = [0; 64];
                while !ended.load(Ordering::Relaxed) {
                    if let Ok((n, from)) = udp.recv_from(&mut buffer) {
                        heard(from);
                        let _ = udp.send_to(&buffer[..n], from);
                    }
                }
            });
            tcp.set_nonblocking(true).unwrap();
            self.servers.spawn(pod, move |ended| {
                while !ended.load(Ordering::Relaxed) {
                    match tcp.accept() {
                        Ok((stream, from)) => {
                            hear(from);
                            thread::spawn(move || echo(stream));
                        }
                        Err(_) => thread::sleep(Duration::from_millis(1)),
                    }
                }
            });
        }
    }

    /// A client that is always answered: datagrams and connections one after another, and one
    /// connection that stands.
    pub(crate) fn allowed(&mut self, from: &Pod, to: &Pod, port: u16) -> Arc<Counts> {
        let counts = Arc::new(Counts::default());
        for (source, target) in from.ips.iter().copied().zip(to.ips.clone()) {
            let (source, target) = (SocketAddr::new(source, 0), SocketAddr::new(target, port));
            let seen = Arc::clone(&counts);
            self.clients.spawn(from, move |ended| {
                while !ended.load(Ordering::Relaxed) {
                    ask_udp(source, target, &seen);
                    ask_tcp(target, &seen);
                    thread::sleep(Duration::from_millis(2));
                }
            });
            let seen = Arc::clone(&counts);
            self.clients.spawn(from, move |ended| stand(target, ended, &seen));
        }
        counts
    }

    /// A client that must not get through: nobody waits for an answer.
    pub(crate) fn forbidden(&mut self, from: &Pod, to: &Pod, port: u16) -> Arc<Counts> {
        let counts = Arc::new(Counts::default());
        for (source, target) in from.ips.iter().copied().zip(to.ips.clone()) {
            let (source, target) = (SocketAddr::new(source, 0), SocketAddr::new(target, port));
            let seen = Arc::clone(&counts);
            self.clients.spawn(from, move |ended| {
                while !ended.load(Ordering::Relaxed) {
                    add(&seen.tried);
                    let _ = UdpSocket::bind(source).unwrap().send_to(b"podwall!", target);
                    thread::sleep(Duration::from_millis(2));
                }
            });
            let seen = Arc::clone(&counts);
            self.clients.spawn(from, move |ended| {
                while !ended.load(Ordering::Relaxed) {
                    add(&seen.tried);
                    if TcpStream::connect_timeout(&target, Duration::from_millis(10)).is_ok() {
                        add(&seen.answered);
                    }
                }
            });
        }
        counts
    }

    /// Ends all of it.
    pub(crate) fn stop(&mut self) {
        self.clients.stop();
        self.servers.stop();
    }
}

fn echo(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    // Ends with the connection; a connection whose packets are dropped must not keep the thread.
    let _ = stream.set_read_timeout(Some(LOST));
    if let Ok(mut from) = stream.try_clone() {
        let _ = std::io::copy(&mut from, &mut { stream });
    }
}

fn ask_udp(source: SocketAddr, target: SocketAddr, counts: &Counts) {
    let socket = UdpSocket::bind(source).unwrap();
    socket.set_read_timeout(Some(LOST)).unwrap();
    add(&counts.tried);
    if socket.send_to(b"podwall!", target).is_ok() && socket.recv(&mut [0; 64]).is_ok() {
        add(&counts.answered);
    }
}

fn ask_tcp(target: SocketAddr, counts: &Counts) {
    add(&counts.tried);
    if TcpStream::connect_timeout(&target, LOST).is_ok() {
        add(&counts.answered);
    }
}

/// One connection that is used until the end.
fn stand(target: SocketAddr, ended: &AtomicBool, counts: &Counts) {
    let Ok(mut stream) = TcpStream::connect_timeout(&target, LOST) else {
        add(&counts.broken);
        return;
    };
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(LOST)).unwrap();
    let mut number = 0_u64;
    while !ended.load(Ordering::Relaxed) {
        let mut back = [0; 8];
        let told = stream.write_all(&number.to_be_bytes());
        let answered = told.and_then(|()| stream.read_exact(&mut back));
        match answered {
            Ok(()) if back == number.to_be_bytes() => number += 1,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => {
                add(&counts.broken);
                return;
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
}
