//! How do pods find each other by name?
//!
//! ```text
//!   curl backend ── resolv.conf: search demo.svc.cluster.local … ──▶ backend.demo.svc.cluster.local
//!        │                                                                     │ UDP or TCP 53
//!        ▼                                                                     ▼
//!   10.96.0.10 ── Service's NAT ──▶ pod kube-system/kube-dns ── DnsServer ── DnsData
//! ```
//!
//! The server is reached like any pod: a policy that forgets DNS breaks resolution here exactly as
//! in a cluster. [`answer`] is pure; [`crate::serve`] feeds it packets, and whoever follows the
//! cluster gives [`DnsServer::set`] a new [`DnsData`] when Services or pods change.

mod data;
mod wire;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

pub use data::{DnsData, ZONE};
use wire::{NoQuery, Query};

/// The DNS of one lab: what can be resolved now. Shared between the servers, which read, and
/// whoever follows the cluster.
#[derive(Debug, Default)]
pub struct DnsServer {
    data: RwLock<Arc<DnsData>>,
}

impl DnsServer {
    /// A server that knows this.
    pub fn new(data: DnsData) -> Self {
        Self { data: RwLock::new(Arc::new(data)) }
    }

    /// Replaces everything; queries that come after this get the new answers.
    pub fn set(&self, data: DnsData) {
        *self.data.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(data);
    }

    /// What is known now.
    pub fn data(&self) -> Arc<DnsData> {
        self.data.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a query came, and so how long the answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// 512 bytes, or what EDNS allows; a longer answer is cut and marked.
    Udp,
    /// 65,535 bytes.
    Tcp,
}

/// The answer to a message; `None` for what must not be answered (an answer, or noise shorter than
/// a header). Everything else gets an answer at once: unknown names do not exist, also those
/// outside the cluster, since the lab has no other DNS to ask.
pub fn answer(message: &[u8], data: &DnsData, transport: Transport) -> Option<Vec<u8>> {
    let query = match Query::parse(message) {
        Ok(query) => query,
        Err(NoQuery::Silence) => return None,
        Err(NoQuery::Reply(reply)) => return Some(reply),
    };
    let mut reply = data.resolve(&query.labels, query.kind);
    if let Some(turn) = query.turn().checked_rem(reply.answers.len()) {
        reply.answers.rotate_left(turn);
    }
    let limit = match transport {
        Transport::Udp => query.udp_limit(),
        Transport::Tcp => usize::from(u16::MAX),
    };
    Some(reply.to_bytes(&query, limit))
}

/// A pod's `/etc/resolv.conf` as the kubelet writes it with `dnsPolicy: ClusterFirst`; empty
/// without a DNS Service.
pub fn resolv_conf(namespace: &str, servers: &[IpAddr]) -> String {
    if servers.is_empty() {
        return String::new();
    }
    let mut text = format!("search {namespace}.svc.{ZONE} svc.{ZONE} {ZONE}\n");
    for server in servers {
        // Writing to a String does not fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    // The kubelet leaves glibc's patience of several times 5 s; where a policy forgets DNS, people
    // should see "could not resolve host" and not a clock.
    text.push_str("options ndots:5 timeout:1 attempts:2\n");
    text
}

/// A pod's `/etc/hosts` as the kubelet writes it (`pkg/kubelet/kubelet_pods.go`). `full` is the
/// fully qualified name of a pod with a subdomain.
pub fn hosts_file(hostname: &str, full: Option<&str>, addresses: &[IpAddr]) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n\
        127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::0\tip6-localnet\n\
        fe00::0\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\n\
        fe00::2\tip6-allrouters\n"
        .to_owned();
    for address in addresses {
        // Writing to a String does not fail.
        let _ = match full {
            Some(full) => writeln!(text, "{address}\t{full}\t{hostname}"),
            None => writeln!(text, "{address}\t{hostname}"),
        };
    }
    text
}

#[cfg(test)]
mod tests;
