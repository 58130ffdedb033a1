//! What answers inside the pods?
//!
//! ```text
//!   ServerSet ──▶ one thread, one runtime
//!                   ├── web's namespace:     TCP 80 ○   UDP 80 ○   SCTP ○ (raw, all ports)
//!                   ├── kube-dns' namespace: TCP 53 ○   UDP 53 ○   SCTP ○
//!                   └── outside:             every port asked for, on every address
//! ```
//!
//! A socket belongs to the network namespace in which it was made, and works from any thread: so
//! one thread of one process serves all pods of a lab, and a pod costs a few descriptors instead
//! of a process. Every port is open, and listening, before [`ServerSet::ensure`] returns.

mod http;
pub mod identity;
mod sctp;
pub(crate) mod sctp_wire;
pub(crate) mod socket;
mod tcp;
mod udp;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use nix::sys::stat::fstat;
use podwall_policy::object::Pod;
use podwall_policy::port::Protocol;
use thiserror::Error;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::dns::DnsServer;
use crate::netns::{NetNs, NetNsError};
use identity::Identity;
pub(crate) use sctp::{read_cookie, split_ipv4};

/// Why a port is not served, or nothing is.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The thread of the servers could not be started.
    #[error("cannot start the servers of the lab: {0}")]
    Start(#[source] io::Error),
    /// The namespace could not be entered.
    #[error("cannot serve {who}: {source}")]
    Namespace {
        /// Who was to be served.
        who: Identity,
        /// Why not.
        source: NetNsError,
    },
    /// One port could not be opened; the others are served.
    #[error("{who} cannot serve {protocol} port {port}: {reason}")]
    Port {
        /// Who was to serve it.
        who: Identity,
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
        /// What the kernel said, and what to do about it.
        reason: String,
    },
}

/// What is to be served in one place.
#[derive(Clone)]
pub struct Served {
    /// Who says so in every answer.
    pub identity: Identity,
    /// Protocols and ports. Protocols other than TCP, UDP and SCTP are ignored.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// Answers DNS on TCP and UDP port 53, if those are among the ports.
    pub dns: Option<Arc<DnsServer>>,
}

impl Served {
    /// What a pod declares. One that declares no port serves 80 over TCP, UDP and SCTP, so that
    /// every protocol can be tried on every pod.
    pub fn of_pod(pod: &Pod) -> Self {
        let mut ports: BTreeSet<_> = pod.ports.iter().map(|p| (p.protocol, p.number)).collect();
        if ports.is_empty() {
            ports = Protocol::WITH_PORTS.into_iter().map(|protocol| (protocol, 80)).collect();
        }
        Self { identity: Identity::Pod(pod.name.clone()), ports, dns: None }
    }

    /// The world outside, on these ports.
    pub fn outside(ports: impl IntoIterator<Item = (Protocol, u16)>) -> Self {
        Self { identity: Identity::Outside, ports: ports.into_iter().collect(), dns: None }
    }

    /// The same, and answering DNS on port 53, which is added to the ports.
    #[must_use]
    pub fn with_dns(mut self, dns: Arc<DnsServer>) -> Self {
        self.ports.extend([(Protocol::UDP, 53), (Protocol::TCP, 53)]);
        self.dns = Some(dns);
        self
    }
}

/// All servers of one lab. Dropping it stops them.
pub struct ServerSet {
    /// Starts tasks on the servers' thread.
    runtime: Handle,
    /// Ends the thread when it is dropped.
    stop: Option<oneshot::Sender<()>>,
    /// Joined by [`Drop`].
    thread: Option<thread::JoinHandle<()>>,
    /// What runs; changed only under the lock, by whoever calls.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What each place serves, by who it is.
    places: HashMap<Identity, Place>,
    /// SCTP, which is served once a namespace: hostNetwork pods of one node share it.
    hosts: HashMap<NamespaceId, SctpHost>,
}

/// A namespace as the kernel tells it from others: device and inode.
type NamespaceId = (u64, u64);

struct Place {
    namespace: NamespaceId,
    dns: Option<Arc<DnsServer>>,
    /// Which ports are served, and the task that does it (SCTP has none of its own).
    ports: BTreeMap<(Protocol, u16), Option<JoinHandle<()>>>,
}

struct SctpHost {
    /// Read by the task that answers.
    ports: sctp::Ports,
    /// None where the kernel has SCTP sockets: then it answers, for every port.
    task: Option<JoinHandle<()>>,
    /// The places in this namespace; the host ends with the last.
    members: BTreeSet<Identity>,
}

/// A socket that was made in the namespace.
enum Opened {
    Tcp(std::net::TcpListener),
    /// And whether it is of the IPv6 family.
    Udp(OwnedFd, bool),
    /// A listening socket of the kernel's own SCTP.
    KernelSctp(OwnedFd),
    /// Served by the namespace's [`SctpHost`].
    RawSctp,
}

/// The raw SCTP sockets of a namespace, one of each family.
struct RawSctp {
    v4: io::Result<OwnedFd>,
    v6: io::Result<OwnedFd>,
}

// === impl ServerSet ===

impl ServerSet {
    /// Starts the thread that serves; it serves nothing yet.
    pub fn start() -> Result<Self, ServeError> {
        socket::raise_descriptor_limit();
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(ServeError::Start)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name("servers".to_owned())
            .spawn(move || {
                // An error means that the sender is gone, which is what is waited for.
                let _ = runtime.block_on(stopped);
            })
            .map_err(ServeError::Start)?;
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
            state: Mutex::default(),
        })
    }

    /// Serves in a namespace what is asked for and nothing else: opens ports that are new, closes
    /// those that are gone with their connections, leaves the rest running. One place is known by
    /// its identity; the same one in another namespace is served anew.
    ///
    /// Blocks for the time of a few system calls. Every port that could be opened is served; the
    /// errors say which could not.
    pub fn ensure(&self, namespace: &NetNs, served: &Served) -> Result<(), Vec<ServeError>> {
        let who = &served.identity;
        let wrong = |source| vec![ServeError::Namespace { who: who.clone(), source }];
        let id = namespace_id(namespace).map_err(wrong)?;
        let mut state = self.state();
        if state.places.get(who).is_some_and(|p| p.namespace != id || !same(&p.dns, &served.dns)) {
            self.forget(&mut state, who);
        }
        let (new, gone) = match state.places.get(who) {
            None => (served.ports.iter().copied().collect(), Vec::new()),
            Some(place) => (
                served.ports.iter().filter(|p| !place.ports.contains_key(p)).copied().collect(),
                place.ports.keys().filter(|p| !served.ports.contains(p)).copied().collect(),
            ),
        };
        self.close(&mut state, who, &gone);
        let new: Vec<_> = new;
        let needs_host = !state.hosts.contains_key(&id);
        let (opened, raw) = namespace
            .within(|| {
                let kernel = kernel_has_sctp();
                if needs_host {
                    lift_icmp_limits();
                }
                let opened: Vec<_> = new.iter().map(|p| (*p, open(*p, kernel))).collect();
                (opened, (needs_host && !kernel).then(RawSctp::open))
            })
            .map_err(wrong)?;

        let State { places, hosts } = &mut *state;
        let mut errors = Vec::new();
        let mut port_error = |port, error| errors.push(port_error(who, port, &error));
        let host = hosts.entry(id).or_insert_with(|| {
            let ports = sctp::Ports::default();
            let task = raw.map(|raw| raw.run(&self.runtime, &ports, &mut port_error));
            SctpHost { ports, task, members: BTreeSet::new() }
        });
        host.members.insert(who.clone());
        let place = places.entry(who.clone()).or_insert_with(|| Place {
            namespace: id,
            dns: served.dns.clone(),
            ports: BTreeMap::new(),
        });
        for (port, socket) in opened {
            match socket.and_then(|socket| self.run(socket, port.1, served, host)) {
                Ok(task) => {
                    place.ports.insert(port, task);
                }
                Err(error) => port_error(port, error),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Stops serving a place; its connections end. Its ports are free when this returns.
    pub fn remove(&self, who: &Identity) {
        self.forget(&mut self.state(), who);
    }

    /// Who is served, and on which ports.
    pub fn served(&self) -> BTreeMap<Identity, BTreeSet<(Protocol, u16)>> {
        let state = self.state();
        let ports = |place: &Place| place.ports.keys().copied().collect();
        state.places.iter().map(|(who, place)| (who.clone(), ports(place))).collect()
    }

    /// Starts the task that serves one opened port.
    fn run(
        &self,
        socket: Opened,
        port: u16,
        served: &Served,
        host: &SctpHost,
    ) -> io::Result<Option<JoinHandle<()>>> {
        let _runtime = self.runtime.enter();
        let who = served.identity.clone();
        let dns = served.dns.clone().filter(|_| port == 53);
        let task = match socket {
            Opened::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                self.runtime.spawn(tcp::serve(listener, who, dns))
            }
            Opened::Udp(socket, v6) => {
                self.runtime.spawn(udp::serve(socket::watched(socket)?, port, v6, who, dns))
            }
            Opened::KernelSctp(socket) => {
                let socket = socket::watched(socket)?;
                self.runtime.spawn(async move {
                    while let Ok(mut ready) = socket.readable().await {
                        // The kernel has answered; the association ends with the descriptor.
                        let _ = ready.try_io(socket::accept);
                    }
                })
            }
            Opened::RawSctp => {
                let mut ports = host.ports.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(other) = ports.get(&port).filter(|other| **other != who) {
                    let reason = format!("{other} serves it in the same network namespace");
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, reason));
                }
                ports.insert(port, who);
                return Ok(None);
            }
        };
        Ok(Some(task))
    }

    /// Closes some ports of a place and waits until they are free.
    fn close(&self, state: &mut State, who: &Identity, gone: &[(Protocol, u16)]) {
        let Some(place) = state.places.get_mut(who) else { return };
        let mut tasks = Vec::new();
        for port in gone {
            match place.ports.remove(port) {
                Some(Some(task)) => tasks.push(task),
                Some(None) => {
                    if let Some(host) = state.hosts.get(&place.namespace) {
                        let mut ports = host.ports.lock().unwrap_or_else(PoisonError::into_inner);
                        ports.remove(&port.1);
                    }
                }
                None => {}
            }
        }
        self.end(tasks);
    }

    fn forget(&self, state: &mut State, who: &Identity) {
        let Some(place) = state.places.get(who) else { return };
        let (namespace, ports) = (place.namespace, place.ports.keys().copied().collect::<Vec<_>>());
        self.close(state, who, &ports);
        state.places.remove(who);
        if let Some(host) = state.hosts.get_mut(&namespace) {
            host.members.remove(who);
            if host.members.is_empty() {
                let task = state.hosts.remove(&namespace).and_then(|host| host.task);
                self.end(task.into_iter().collect());
            }
        }
    }

    /// Ends tasks and waits until they, and with them their sockets, are gone.
    fn end(&self, tasks: Vec<JoinHandle<()>>) {
        if tasks.is_empty() {
            return;
        }
        let (done, ended) = mpsc::channel::<()>();
        self.runtime.spawn(async move {
            for task in tasks {
                task.abort();
                // The error is the abort.
                let _ = task.await;
            }
            drop(done);
        });
        // An error means that the sender is gone, which is what is waited for.
        let _ = ended.recv();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ServerSet {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

// === impl RawSctp ===

impl RawSctp {
    fn open() -> Self {
        let open = |v6| socket::raw_socket(v6, Protocol::SCTP);
        Self { v4: open(false), v6: open(true) }
    }

    /// Starts the task that answers. A family that the kernel does not have is left out; with
    /// neither, SCTP is not served and `failed` hears why.
    fn run(
        self,
        runtime: &Handle,
        ports: &sctp::Ports,
        failed: &mut impl FnMut((Protocol, u16), io::Error),
    ) -> JoinHandle<()> {
        let _runtime = runtime.enter();
        let [v4, v6] = [self.v4, self.v6].map(|socket| socket.and_then(socket::watched));
        if let (Err(_), Err(error)) = (&v6, &v4) {
            failed((Protocol::SCTP, 0), io::Error::new(error.kind(), error.to_string()));
        }
        runtime.spawn(sctp::serve(v4.ok(), v6.ok(), ports.clone()))
    }
}

/// Opens a port in the calling thread's namespace.
fn open((protocol, port): (Protocol, u16), kernel_sctp: bool) -> io::Result<Opened> {
    match protocol {
        Protocol::TCP => socket::tcp_listener(port).map(Opened::Tcp),
        Protocol::UDP => socket::udp_socket(port).map(|(socket, v6)| Opened::Udp(socket, v6)),
        Protocol::SCTP if kernel_sctp => socket::sctp_listener(port).map(Opened::KernelSctp),
        Protocol::SCTP => Ok(Opened::RawSctp),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "only TCP, UDP and SCTP have ports")),
    }
}

/// Whether the calling thread's kernel has SCTP sockets loaded. Then it answers every `INIT`
/// itself, and two voices would contradict each other. Reading the list loads nothing, unlike
/// asking for a socket.
fn kernel_has_sctp() -> bool {
    std::fs::read_to_string("/proc/thread-self/net/protocols")
        .is_ok_and(|list| list.lines().any(|line| line.starts_with("SCTP ")))
}

/// Has the calling thread's namespace answer every packet with the ICMP error that is due. By
/// default a host sends a peer one such error a second (`icmp_ratelimit`), and so a hundred probes
/// of closed UDP ports would look like silence. Every served namespace gets this; those that only
/// route deserve it as well.
///
/// Best effort: where the switches cannot be set, refusals look like silence again.
pub fn lift_icmp_limits() {
    // A type that is not in the mask is not limited; 2 is "packet too big", which cannot be empty
    // in the bitmap (Documentation/networking/ip-sysctl.rst).
    for (file, value) in [("ipv4/icmp_ratemask", "0"), ("ipv6/icmp/ratemask", "2")] {
        let _ = std::fs::write(format!("/proc/sys/net/{file}"), value);
    }
}

fn namespace_id(namespace: &NetNs) -> Result<NamespaceId, NetNsError> {
    let stat = fstat(namespace.as_fd()).map_err(|error| NetNsError::File {
        action: "examine",
        path: namespace.path().unwrap_or("(unnamed)".as_ref()).to_owned(),
        source: error.into(),
    })?;
    Ok((stat.st_dev, stat.st_ino))
}

fn same(a: &Option<Arc<DnsServer>>, b: &Option<Arc<DnsServer>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

fn port_error(who: &Identity, (protocol, port): (Protocol, u16), error: &io::Error) -> ServeError {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another pod of this node with hostNetwork, or a program run in the pod, has it"
        }
        io::ErrorKind::PermissionDenied => "; the lab needs root, or a user namespace of its own",
        _ if error.raw_os_error() == Some(nix::libc::EMFILE) => {
            "; raise the limit of open files (ulimit -Hn)"
        }
        _ => "",
    };
    ServeError::Port { who: who.clone(), protocol, port, reason: format!("{error}{hint}") }
}

#[cfg(test)]
pub(crate) mod tests;
