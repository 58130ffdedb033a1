//! What answers in each place of the lab?
//!
//! A pod serves the ports that it declares, the name server's pod answers names as well, and the
//! outside serves every port that anybody may ask it for.

use std::collections::BTreeSet;
use std::sync::Arc;

use podwall_policy::cluster::Cluster;
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::Direction;
use podwall_policy::port::{PortMatch, Protocol};

use super::{Engine, EngineError};
use crate::serve::{ServeError, Served};

// === impl Engine ===

impl Engine {
    /// Serves a pod's ports; the name server's pod answers names.
    pub(super) fn serve(&mut self, name: &Name) -> Result<(), EngineError> {
        let Some(pod) = self.store.cluster().pods.get(name) else { return Ok(()) };
        let Some(plugged) = self.plugged.get(name) else { return Ok(()) };
        let ns = if plugged.host_network {
            self.fabric.node(&plugged.node)?
        } else {
            self.fabric.pod(&plugged.uid)?
        };
        let mut served = Served::of_pod(pod);
        if is_name_server(pod) {
            served = served.with_dns(Arc::clone(&self.dns));
        }
        self.servers.ensure(&ns, &served).map_err(|errors| servers_error(&errors))
    }

    /// The outside answers on every port that anybody may ask it for: those of pods, of Services,
    /// of policies, and those that probes asked for.
    pub(super) fn serve_outside(&mut self) -> Result<(), EngineError> {
        let mut ports = outside_ports(self.store.cluster());
        ports.extend(&self.asked_outside);
        let ns = self.fabric.outside()?;
        self.servers.ensure(&ns, &Served::outside(ports)).map_err(|errors| servers_error(&errors))
    }
}

pub(super) fn servers_error(errors: &[ServeError]) -> EngineError {
    let words: Vec<String> = errors.iter().map(ToString::to_string).collect();
    EngineError::Servers(words.join("; "))
}

/// The pods behind the cluster's name Service.
fn is_name_server(pod: &Pod) -> bool {
    &*pod.name.namespace == "kube-system" && pod.labels.get("k8s-app") == Some("kube-dns")
}

/// The ports that pods and policies name, and the usual ones.
fn outside_ports(cluster: &Cluster) -> BTreeSet<(Protocol, u16)> {
    let declared =
        cluster.pods.values().flat_map(|p| p.ports.iter().map(|c| (c.protocol, c.number)));
    let named = cluster
        .policies
        .values()
        .filter_map(|policy| policy.rules(Direction::Egress))
        .flatten()
        .flat_map(|rule| &rule.ports)
        .filter_map(|spec| match spec.port {
            PortMatch::Range(range) => Some((spec.protocol, range.first)),
            PortMatch::Any | PortMatch::Named(_) => None,
        });
    let usual = [(Protocol::TCP, 80), (Protocol::TCP, 443), (Protocol::UDP, 53)];
    declared.chain(named).chain(usual).collect()
}
