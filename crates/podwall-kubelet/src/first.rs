//! What does a pod send before anybody knows it?
//!
//! ```text
//!   lab.podwall.dev/first: blast 10.244.1.2:9000
//!     namespace made ─▶ send, send, send …  ── ADD ── address! ─▶ packets … ── ADD returns ─▶ packets
//! ```
//!
//! A program that is started in a pod may send as soon as there is a way out, long before the pod's
//! address reaches the API server. For tests of what happens then, a pod can be given a sender that is
//! in its namespace before the first plugin is. Each packet says whose it is and, once that is so, how
//! long ago the last plugin returned: `first NAMESPACE/NAME UID NUMBER MICROSECONDS`, or `-` before.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use podwall_lab::netns::NetNs;
use serde_json::Value;

use crate::records::Record;

/// The annotation.
const ANNOTATION: &str = "lab.podwall.dev/first";

/// Between two packets while all is new, and later. A sleep takes some 50 µs more.
const HURRY: Duration = Duration::from_micros(20);
const LATER: Duration = Duration::from_millis(10);

/// How long after its network is made a pod is new.
const NEW: Duration = Duration::from_millis(500);

/// Where a pod is to send from the beginning.
///
/// # Errors
/// The annotation says something else.
pub(crate) fn wanted(pod: &Value) -> Result<Option<SocketAddr>, String> {
    let annotations = pod.pointer("/metadata/annotations");
    let Some(text) = annotations.and_then(|all| all.get(ANNOTATION)?.as_str()) else {
        return Ok(None);
    };
    let to = text.strip_prefix("blast ").and_then(|address| address.trim().parse().ok());
    to.map(Some)
        .ok_or_else(|| format!("annotation {ANNOTATION}: {text:?} is not `blast ADDRESS:PORT`"))
}

/// A sender at work; ends with this value.
#[derive(Debug)]
pub(crate) struct First {
    shared: Arc<Sending>,
}

#[derive(Debug, Default)]
struct Sending {
    over: AtomicBool,
    /// When the last plugin returned.
    added: OnceLock<Instant>,
    sent: AtomicU64,
}

// === impl First ===

impl First {
    /// Starts to send from a pod's namespace.
    pub(crate) fn start(ns: &NetNs, to: SocketAddr, who: &Record) -> io::Result<Self> {
        let shared = Arc::new(Sending::default());
        let (sending, ns) = (Arc::clone(&shared), ns.try_clone().map_err(io::Error::other)?);
        let who = format!("first {}/{} {}", who.namespace, who.name, who.uid);
        thread::Builder::new().name("first".to_owned()).spawn(move || {
            if ns.enter_thread().is_ok() {
                // Ours is the only handle that would outlive the pod.
                drop(ns);
                let _ = sending.work(to, &who);
            }
        })?;
        Ok(Self { shared })
    }

    /// The last plugin has returned.
    pub(crate) fn added(&self) {
        let _ = self.shared.added.set(Instant::now());
    }
}

impl Drop for First {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

// === impl Sending ===

impl Sending {
    fn work(&self, to: SocketAddr, who: &str) -> io::Result<()> {
        let any: IpAddr = match to.is_ipv4() {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        while !self.over.load(Ordering::Relaxed) {
            let since = self.added.get().map(Instant::elapsed);
            let number = self.sent.load(Ordering::Relaxed);
            let since_words = since.map_or("-".to_owned(), |it| it.as_micros().to_string());
            let text = format!("{who} {number} {since_words}");
            // No way out yet: that is what is waited for.
            if socket.send_to(text.as_bytes(), to).is_ok() {
                self.sent.fetch_add(1, Ordering::Relaxed);
            }
            thread::sleep(if since.is_some_and(|it| it > NEW) { LATER } else { HURRY });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_annotation_says_where_to() {
        let pod = |text: &str| json!({"metadata": {"annotations": {(ANNOTATION): text}}});
        assert_eq!(wanted(&json!({})).unwrap(), None);
        assert_eq!(wanted(&pod("blast [fd00::1]:9")).unwrap(), "[fd00::1]:9".parse().ok());
        assert!(wanted(&pod("blast web:80")).unwrap_err().contains("ADDRESS:PORT"));
    }
}
