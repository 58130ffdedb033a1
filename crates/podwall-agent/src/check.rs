//! Could an agent work here, and what is missing?
//!
//! ```text
//!   node:   eBPF? nftables? bridges?          server: reachable? may each kind be listed?
//! ```
//!
//! Changes nothing: programs are loaded and thrown away, nothing is attached.

use kube::api::{Api, ListParams};
use kube::{Client, Resource};
use podwall_dataplane::guard::Guard;
use podwall_dataplane::{Choice, Ebpf, Namespace, Nftables, bridge};
use serde::de::DeserializeOwned;

use crate::objects::{SlimNamespace, SlimNode, SlimPod, SlimPolicy, Watched};
use crate::watch::causes;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub what: String,
    /// Whether it is as an agent needs it.
    pub ok: bool,
    /// Whether an agent can do without.
    pub optional: bool,
    /// How it is, and where it is not as it should be, what to do.
    pub words: String,
}

impl Finding {
    pub(crate) fn new(
        what: impl Into<String>,
        optional: bool,
        found: Result<String, String>,
    ) -> Self {
        let ok = found.is_ok();
        let words = found.unwrap_or_else(|words| words);
        Self { what: what.into(), ok, optional, words }
    }
}

/// What the node offers, in a network namespace or the calling thread's, to a data plane of choice.
pub fn node(choice: Choice, netns: Option<&Namespace>) -> Vec<Finding> {
    let within = |work: fn() -> Result<(), podwall_dataplane::Error>| match netns {
        Some(namespace) => namespace.run(work),
        None => work(),
    };
    let possible = |found: Result<(), podwall_dataplane::Error>| {
        found.map(|()| "possible".to_owned()).map_err(|error| error.to_string())
    };
    let mut findings = Vec::new();
    if choice != Choice::Nftables {
        let optional = choice == Choice::Auto;
        findings.push(Finding::new("eBPF", optional, possible(within(Ebpf::check))));
    }
    if choice != Choice::Ebpf {
        let open = || Nftables::open(podwall_dataplane::Config::default()).map(drop);
        // With eBPF, `auto` never comes to it.
        let optional = findings.iter().any(|finding| finding.ok);
        findings.push(Finding::new("nftables", optional, possible(within(open))));
    }
    let bridged = match bridge::check() {
        Ok(()) => Ok("pods on one bridge meet the firewall".to_owned()),
        Err(error) => Err(format!("{error} (of no matter where pods are not on a bridge)")),
    };
    findings.push(Finding::new("bridges", true, bridged));
    let guarded =
        within(Guard::check).map(|()| "forged source addresses can be dropped".to_owned());
    findings.push(Finding::new("guard", true, guarded.map_err(|error| error.to_string())));
    findings
}

/// What the API server says.
pub async fn server(client: &Client) -> Vec<Finding> {
    let version = client.apiserver_version().await;
    let reached = version.is_ok();
    let version = version.map(|it| it.git_version).map_err(|error| causes(&error));
    let mut findings = vec![Finding::new("API server", false, version)];
    if reached {
        findings.push(listed::<SlimNamespace>(client).await);
        findings.push(listed::<SlimPod>(client).await);
        findings.push(listed::<SlimPolicy>(client).await);
        findings.push(listed::<SlimNode>(client).await);
    }
    findings
}

/// Whether a kind may be listed.
async fn listed<W>(client: &Client) -> Finding
where
    W: Watched + Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let one = ListParams::default().limit(1);
    let found = Api::<W>::all(client.clone()).list(&one).await;
    let words = found.map(|_| "can be listed".to_owned()).map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!("{}; the agent's ClusterRole lets it get, list and watch them", status.message)
        }
        other => causes(&other),
    });
    Finding::new(W::plural(&()).into_owned(), false, words)
}
