//! Which plugins make a pod's network, and what is each told?
//!
//! ```text
//!   --network bridge │ ptp │ --cni-conf FILE ──▶ per node: ranges, files of its own ──▶ plugins
//! ```
//!
//! A file is one for all nodes, as on a cluster whose plugins read the node's range elsewhere; so
//! `host-local` without ranges gets the node's, and always a directory of the node's own.

use std::fs;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use podwall_lab::rpc::NetworkMode;
use serde_json::{Value, json};

use super::{CniError, Sandbox};

/// The newest version of the specification that is asked for.
const VERSION: &str = "1.0.0";

/// The name of the network that the lab makes up.
const NAME: &str = "podwall-lab";

/// The plugin that hands pods to the agent.
const CHAINED: &str = "podwall-cni";

/// A list of plugins, for one node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conflist {
    name: String,
    version: String,
    /// Each plugin's configuration.
    pub(crate) plugins: Vec<Value>,
}

/// What is a node's own.
#[derive(Clone, Debug)]
pub(crate) struct OfNode<'a> {
    pub(crate) cidrs: &'a [IpNet],
    /// Where `host-local` remembers addresses.
    pub(crate) data: PathBuf,
    /// Where the agent listens; `None` if there is none to be told of pods.
    pub(crate) socket: Option<&'a Path>,
}

// === impl Conflist ===

impl Conflist {
    /// The lab's own list.
    pub(crate) fn of_mode(mode: NetworkMode, node: &OfNode<'_>) -> Self {
        let mut plugin = match mode {
            NetworkMode::Bridge => json!({"type": "bridge", "bridge": "cni0",
                "isDefaultGateway": true, "hairpinMode": true}),
            NetworkMode::Ptp => json!({"type": "ptp"}),
        };
        let everything = |net: &IpNet| match net {
            IpNet::V4(_) => json!({"dst": "0.0.0.0/0"}),
            IpNet::V6(_) => json!({"dst": "::/0"}),
        };
        plugin["ipam"] = json!({"type": "host-local"});
        if mode == NetworkMode::Ptp {
            plugin["ipam"]["routes"] = node.cidrs.iter().map(everything).collect();
        }
        let list = Self { name: NAME.into(), version: VERSION.into(), plugins: vec![plugin] };
        list.completed(node)
    }

    /// A list from a file, `.conflist` or `.conf`.
    pub(crate) fn read(path: &Path, node: &OfNode<'_>) -> Result<Self, CniError> {
        let wrong = |reason: String| CniError::Config { path: path.to_owned(), reason };
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let raw: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let text = |key: &str| raw.get(key).and_then(Value::as_str).map(str::to_owned);
        let plugins = match raw.get("plugins") {
            Some(Value::Array(plugins)) => plugins.clone(),
            Some(_) => return Err(wrong("`plugins` is no list".into())),
            None if raw.get("type").is_some() => vec![raw.clone()],
            None => return Err(wrong("it has neither `plugins` nor a `type`".into())),
        };
        if plugins.is_empty()
            || plugins.iter().any(|p| p.get("type").is_none_or(|t| !t.is_string()))
        {
            return Err(wrong(
                "each of its plugins, of which there must be one, needs a `type`".into(),
            ));
        }
        let name = text("name").ok_or_else(|| wrong("it has no `name`".into()))?;
        let version = text("cniVersion").unwrap_or_else(|| "0.2.0".to_owned());
        Ok(Self { name, version, plugins }.completed(node))
    }

    fn completed(mut self, node: &OfNode<'_>) -> Self {
        for plugin in &mut self.plugins {
            let ipam = plugin.get_mut("ipam").filter(|ipam| ipam["type"] == "host-local");
            if let Some(ipam) = ipam {
                if ipam.get("ranges").is_none() && ipam.get("subnet").is_none() {
                    let range = |cidr: &IpNet| json!([{"subnet": cidr.to_string()}]);
                    ipam["ranges"] = node.cidrs.iter().map(range).collect();
                }
                ipam["dataDir"] = json!(node.data);
            }
        }
        match node.socket {
            None => self.plugins.retain(|plugin| plugin["type"] != CHAINED),
            Some(socket) => {
                if !self.plugins.iter().any(|plugin| plugin["type"] == CHAINED) {
                    self.plugins.push(json!({"type": CHAINED}));
                }
                let ours = self.plugins.iter_mut().filter(|plugin| plugin["type"] == CHAINED);
                ours.for_each(|plugin| plugin["socket"] = json!(socket));
            }
        }
        self
    }

    /// What a plugin reads from its standard input.
    pub(super) fn input(&self, plugin: &Value, sandbox: &Sandbox, previous: &Value) -> Value {
        let mut input = plugin.clone();
        input["name"] = json!(self.name);
        input["cniVersion"] = json!(self.version);
        if !previous.is_null() {
            input["prevResult"] = previous.clone();
        }
        let takes_ports = plugin.pointer("/capabilities/portMappings") == Some(&json!(true));
        if takes_ports && !sandbox.ports.is_empty() {
            input["runtimeConfig"] = json!({"portMappings": sandbox.ports});
        }
        if let Some(map) = input.as_object_mut() {
            map.remove("capabilities");
        }
        input
    }
}

/// Whether the plugin that hands pods to the agent is installed.
pub(crate) fn has_chained(bin: &[PathBuf]) -> bool {
    bin.iter().any(|dir| dir.join(CHAINED).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_node<'a>(cidrs: &'a [IpNet], socket: Option<&'a Path>) -> OfNode<'a> {
        OfNode { cidrs, data: "/data/n1".into(), socket }
    }

    fn sandbox() -> Sandbox {
        let text = String::new;
        Sandbox {
            id: text(),
            namespace: text(),
            name: text(),
            uid: text(),
            netns: PathBuf::new(),
            ports: vec![json!({"hostPort": 1})],
        }
    }

    #[test]
    fn a_file_gets_what_is_the_nodes_own() {
        let cidrs = ["10.1.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = json!({"cniVersion": "0.4.0", "name": "net", "plugins": [
            {"type": "bridge", "ipam": {"type": "host-local"}},
            {"type": "portmap", "capabilities": {"portMappings": true}}]});
        fs::write(file.path(), text.to_string()).unwrap();
        let socket = Path::new("/run/agent.sock");
        let list = Conflist::read(file.path(), &of_node(&cidrs, Some(socket))).unwrap();
        let types: Vec<&Value> = list.plugins.iter().map(|plugin| &plugin["type"]).collect();
        assert_eq!(types, ["bridge", "portmap", "podwall-cni"], "ours is the last");
        assert_eq!(list.plugins[2]["socket"], "/run/agent.sock");
        let ipam = &list.plugins[0]["ipam"];
        assert_eq!(ipam["ranges"], json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]));
        assert_eq!(ipam["dataDir"], "/data/n1");
        let input = list.input(&list.plugins[1], &sandbox(), &json!({"ips": []}));
        assert_eq!((&input["name"], &input["cniVersion"]), (&json!("net"), &json!("0.4.0")));
        assert_eq!(input["runtimeConfig"]["portMappings"][0]["hostPort"], 1);
        assert!(input.get("capabilities").is_none() && input.get("prevResult").is_some());
        let first = list.input(&list.plugins[0], &sandbox(), &Value::Null);
        assert!(first.get("prevResult").is_none() && first.get("runtimeConfig").is_none());
    }

    #[test]
    fn without_an_agent_nobody_is_told() {
        let cidrs = ["10.1.0.0/24".parse().unwrap()];
        let list = Conflist::of_mode(NetworkMode::Ptp, &of_node(&cidrs, None));
        assert_eq!(list.plugins.len(), 1);
        assert_eq!(list.plugins[0]["ipam"]["routes"], json!([{"dst": "0.0.0.0/0"}]));
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_the_reason() {
        for (text, reason) in [
            ("{", "EOF"),
            ("{\"name\": \"a\"}", "neither"),
            ("{\"plugins\": [{\"type\": \"a\"}]}", "no `name`"),
            ("{\"name\": \"a\", \"plugins\": [{}]}", "needs a `type`"),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), text).unwrap();
            let error = Conflist::read(file.path(), &of_node(&[], None)).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
