//! How is a path loaded, and how fast does it go?
//!
//! ```text
//!   one processor:   client's sockets ──▶ path ──▶ server's sockets ──▶ path ──▶ …
//! ```
//!
//! Sockets belong to the namespace in which they were made and work from any thread, so one thread
//! can play both ends, and does where nothing else is said. A packet that it sends goes the whole
//! path, hooks included, before the call returns (a veth hands over in the same processor's soft
//! interrupt). So nobody sleeps or wakes, the scheduler has no say, and what is left is what packets
//! cost: more of it is policy than a user would ever see.

mod connect;
mod established;
mod flood;
mod pin;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cluster::{PORT, Seat};
use crate::site::Site;

pub(crate) use pin::{cpus, pin};

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// TCP between two threads: connect, request, response, close; connections a second.
    Connections,
    /// One byte there and one back on one TCP connection; round trips a second.
    RoundTrips,
    /// So many TCP streams; bytes a second.
    Streams(usize),
    /// UDP of 64 bytes; packets a second that arrived.
    Datagrams,
    /// TCP SYNs of the stranger to a server, in raw packets; packets a second that were sent.
    Flood,
}

/// One end of a path that waits to be loaded: a thread in the pod's namespace, and the server's
/// sockets.
pub(crate) struct Loader {
    jobs: Sender<(Load, Duration)>,
    rates: Receiver<Result<f64>>,
}

/// What the thread of a [`Loader`] has.
struct Ends {
    /// None for one that only floods.
    sockets: Option<(TcpListener, UdpSocket)>,
    server: SocketAddrV4,
    source: Ipv4Addr,
}

impl Loader {
    /// Starts the thread in `from`'s namespace, on a processor, and makes the server's sockets.
    pub(crate) fn new(site: &Site, from: Seat, to: Seat, cpu: usize) -> Result<Self> {
        let sockets = site.pod(to)?.within(|| -> Result<_> {
            let any = SocketAddr::from(([0, 0, 0, 0], PORT));
            Ok((TcpListener::bind(any)?, UdpSocket::bind(any)?))
        })??;
        Self::start_thread(site, from, to, cpu, Some(sockets))
    }

    /// One that can do nothing but flood.
    pub(crate) fn flooder(site: &Site, from: Seat, to: Seat, cpu: usize) -> Result<Self> {
        Self::start_thread(site, from, to, cpu, None)
    }

    fn start_thread(
        site: &Site,
        from: Seat,
        to: Seat,
        cpu: usize,
        sockets: Option<(TcpListener, UdpSocket)>,
    ) -> Result<Self> {
        let server = SocketAddrV4::new(to.address(), PORT);
        let ends = Ends { sockets, server, source: from.address() };
        let (jobs, todo) = channel::<(Load, Duration)>();
        let (done, rates) = channel();
        let pod = site.pod(from)?.try_clone()?;
        std::thread::Builder::new().name("load".into()).spawn(move || {
            let ready = pod.enter_thread().map_err(Into::into).and_then(|()| pin(cpu));
            if let Err(error) = ready {
                let _ = done.send(Err(error));
                return;
            }
            for (load, time) in todo {
                if done.send(ends.run(load, time)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, rates })
    }

    /// Starts to load the path.
    pub(crate) fn start(&self, load: Load, time: Duration) -> Result<()> {
        self.jobs.send((load, time)).context("the load's thread has ended")
    }

    /// Waits for the end of what [`Self::start`] began; how many a second.
    pub(crate) fn finish(&self) -> Result<f64> {
        self.rates.recv().context("the load's thread has ended")?
    }

    /// Loads the path and says how many a second.
    pub(crate) fn run(&self, load: Load, time: Duration) -> Result<f64> {
        self.start(load, time)?;
        self.finish()
    }
}

impl Ends {
    fn run(&self, load: Load, time: Duration) -> Result<f64> {
        if load == Load::Flood {
            return flood::flood(self.source, self.server, time);
        }
        let (listener, receiver) = self.sockets.as_ref().context("a flooder has no sockets")?;
        match load {
            Load::Connections => connect::connections(listener, self.server, time),
            Load::RoundTrips => established::round_trips(listener, self.server, time),
            Load::Streams(count) => established::streams(listener, self.server, count, time),
            Load::Datagrams | Load::Flood => established::datagrams(receiver, self.server, time),
        }
    }
}
