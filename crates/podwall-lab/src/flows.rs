//! Who is being denied right now, and by which policies?
//!
//! ```text
//!   node-1's data plane ─┐                   names, policies of this moment (evaluator)
//!   node-2's data plane ─┼─▶ pump ─▶ Hub ──▶ every follower ──▶ Flow
//!   node-3's data plane ─┘
//! ```
//!
//! A data plane's reports have one reader, so that the hub reads them and gives each follower all.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use podwall_dataplane::{Account, Denials, Denied};
use podwall_local::Flow;
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Verdict, side};
use podwall_policy::flow::{Flow as Packet, Party};
use podwall_policy::policy::Direction;

/// A report with the node that it comes from.
pub(crate) type Report = (Arc<str>, Denied);

/// Gives the reports of all nodes to all followers.
#[derive(Default)]
pub(crate) struct Hub {
    followers: Arc<Mutex<Vec<Sender<Report>>>>,
    /// Nodes whose reports are read.
    nodes: BTreeSet<Arc<str>>,
}

/// How long a pump may take to see that it is no longer needed.
const PAUSE: Duration = Duration::from_secs(1);

impl Hub {
    /// Everything that is denied from now on.
    pub(crate) fn follow(&self) -> Receiver<Report> {
        let (sender, receiver) = channel();
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    pub(crate) fn reads(&self, node: &str) -> bool {
        self.nodes.contains(node)
    }

    /// Reads a node's reports from now on.
    pub(crate) fn read(&mut self, node: Arc<str>, denials: Denials) {
        self.nodes.insert(Arc::clone(&node));
        let followers = Arc::downgrade(&self.followers);
        // Without a thread nothing is reported; the firewall does not need it.
        let _ = thread::Builder::new().name("flows".to_owned()).spawn(move || {
            loop {
                let denied = denials.next(PAUSE);
                let Some(followers) = followers.upgrade() else { return };
                let Some(denied) = denied else { continue };
                let mut followers = followers.lock().unwrap_or_else(PoisonError::into_inner);
                followers.retain(|follower| follower.send((Arc::clone(&node), denied)).is_ok());
            }
        });
    }
}

/// A report in words, by what the cluster is at this moment.
pub(crate) fn in_words(cluster: &Cluster, (node, denied): &Report) -> Flow {
    let [src, dst] = [denied.src, denied.dst].map(|address| Party::at(cluster, address));
    let packet = Packet { src, dst, family: Family::of(denied.src) };
    let side = side(cluster, &packet, denied.direction);
    let isolated_by: Vec<String> = side.isolated_by.iter().map(ToString::to_string).collect();
    let way = denied.direction;
    let whose = match way {
        Direction::Egress => src,
        Direction::Ingress => dst,
    };
    let reason = match side.verdict(denied.protocol, denied.port) {
        Verdict::Allowed if isolated_by.is_empty() => {
            format!("nothing isolates {whose} for {way} any more")
        }
        Verdict::Allowed => "allowed by now".to_owned(),
        Verdict::Denied | Verdict::Unknown => format!(
            "{whose} is isolated for {way} by {}, no rule allows it",
            isolated_by.join(", ")
        ),
    };
    denied.in_words(node, Account { src: name(src), dst: name(dst), isolated_by, reason })
}

fn name(party: Party<'_>) -> Option<String> {
    match party {
        Party::Pod(pod) => Some(pod.name.to_string()),
        Party::Node(node) => Some(node.name.to_string()),
        Party::Address(_) => None,
    }
}
