//! How does a pod get its network as in a cluster?
//!
//! ```text
//!   conflist ── ADD ──▶ bridge ─ result ─▶ podwall-cni ─ result ─▶ addresses
//!            ◀── DEL ── bridge ◀────────── podwall-cni             backwards, with the last result
//! ```
//!
//! A runtime as the CNI specification has it (containernetworking/cni, SPEC.md, §3 and §4): plugins
//! are programs that are run in the *node's* network namespace, with the pod's as a file in
//! `CNI_NETNS`. They write to the kernel settings of the namespace that they run in (forwarding), so
//! they must never run anywhere else.

pub(crate) mod conflist;
mod plugin;

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use podwall_lab::netns::{NetNs, NetNsError};
use serde_json::{Value, json};
use thiserror::Error;

pub(crate) use conflist::Conflist;

/// The interface that a pod gets.
const INTERFACE: &str = "eth0";

/// Why a network could not be made or taken away.
#[derive(Debug, Error)]
pub enum CniError {
    /// The configuration.
    #[error("cannot use the CNI configuration {}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A plugin that is not there.
    #[error("there is no CNI plugin {name:?} in {places}; --cni-bin names other directories")]
    Missing {
        /// Its type.
        name: String,
        /// Where it was looked for.
        places: String,
    },
    /// A plugin that could not be run, or took too long.
    #[error("CNI plugin {name} ({verb}): {reason}")]
    Run {
        /// Its type.
        name: String,
        /// `ADD`, `DEL`.
        verb: &'static str,
        /// What happened.
        reason: String,
    },
    /// A plugin said no.
    #[error("CNI plugin {name} ({verb}): {message} (code {code})")]
    Refused {
        /// Its type.
        name: String,
        /// `ADD`, `DEL`.
        verb: &'static str,
        /// Its message, with its details.
        message: String,
        /// Its code.
        code: i64,
    },
    /// A result without an address.
    #[error("the CNI plugins gave the pod no address: {result}")]
    NoAddress {
        /// The result.
        result: String,
    },
    /// The node's namespace.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
}

/// For whom a network is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// The file of the pod's network namespace.
    pub(crate) netns: PathBuf,
    /// `hostPort`s, for plugins that take them.
    pub(crate) ports: Vec<Value>,
}

impl Sandbox {
    /// What containerd says of a pod.
    fn arguments(&self) -> String {
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};\
             K8S_POD_UID={}",
            self.namespace, self.name, self.id, self.uid
        )
    }
}

/// The network of one node.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) conflist: Conflist,
    /// Where plugins are looked for.
    pub(crate) bin: Vec<PathBuf>,
    /// The node's namespace.
    pub(crate) node: PathBuf,
}

// === impl Network ===

impl Network {
    /// Runs all plugins in order; the last one's result.
    pub(crate) async fn add(&self, sandbox: &Sandbox) -> Result<Value, CniError> {
        let node = NetNs::open(&self.node)?;
        let mut result = Value::Null;
        for plugin in &self.conflist.plugins {
            let input = self.conflist.input(plugin, sandbox, &result);
            let said = plugin::run(self, &node, plugin, "ADD", sandbox, &input).await?;
            // A plugin that only looks may say nothing; then what was known holds.
            if !said.is_null() {
                result = said;
            }
        }
        if addresses(&result).is_empty() {
            return Err(CniError::NoAddress { result: result.to_string() });
        }
        Ok(result)
    }

    /// Runs all plugins backwards. The first that fails ends it: `DEL` is tried again as a whole.
    pub(crate) async fn del(&self, sandbox: &Sandbox, result: &Value) -> Result<(), CniError> {
        let node = NetNs::open(&self.node)?;
        for plugin in self.conflist.plugins.iter().rev() {
            let input = self.conflist.input(plugin, sandbox, result);
            plugin::run(self, &node, plugin, "DEL", sandbox, &input).await?;
        }
        Ok(())
    }
}

/// The pod's addresses in a result, one of each family at most, in order.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let listed = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let all = listed.filter_map(|ip| ip.get("address")?.as_str()?.parse::<IpNet>().ok());
    let mut found: Vec<IpAddr> = Vec::new();
    for address in all.map(|net| net.addr()) {
        if !found.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
            found.push(address);
        }
    }
    found
}

/// A pod's `hostPort`s as the `portMappings` capability has them.
pub(crate) fn port_mappings(pod: &Value) -> Vec<Value> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let ports = containers.into_iter().flatten().filter_map(|it| it.get("ports")?.as_array());
    ports
        .flatten()
        .filter(|port| port.get("hostPort").and_then(Value::as_u64).is_some_and(|port| port > 0))
        .map(|port| {
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
            json!({"hostPort": port["hostPort"], "containerPort": port["containerPort"],
                "protocol": protocol.to_lowercase(),
                "hostIP": port.get("hostIP").cloned().unwrap_or_default()})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_result() {
        let result = json!({"ips": [{"address": "10.1.0.2/24"}, {"address": "fd00::2/64"},
            {"address": "10.1.0.3/24"}, {"address": "nonsense"}]});
        let found: Vec<String> = addresses(&result).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.1.0.2", "fd00::2"]);
        assert!(addresses(&Value::Null).is_empty());
    }

    #[test]
    fn host_ports_are_mapped_and_others_are_not() {
        let pod = json!({"spec": {"containers": [{"ports": [
            {"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}, {"containerPort": 81}]}]}});
        let mapped = port_mappings(&pod);
        assert_eq!(mapped.len(), 1);
        assert_eq!((&mapped[0]["hostPort"], &mapped[0]["protocol"]), (&json!(8080), &json!("udp")));
    }
}
