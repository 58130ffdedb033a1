//! Which addresses has the pod's interface got?
//!
//! ```text
//!   interfaces  0 cni0 ""  1 veth3243 ""  2 eth0 /run/netns/a
//!   ips         10.1.0.5/16 → 2   fd00::5/64 → 2               CNI_IFNAME = eth0: both
//! ```
//!
//! CNI specification 1.1.0, section 5, "ADD Success". A result may list interfaces of the host and,
//! where several networks are joined, other interfaces of the pod.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::config::object;
use crate::error::PluginError;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Ip>>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    name: String,
    #[serde(default)]
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    #[serde(default)]
    interface: Option<i64>,
}

/// The result of the plugins before.
#[derive(Debug)]
pub(crate) struct Previous<'a> {
    raw: &'a str,
    versioned: bool,
    /// The addresses of the interface, in order, each once.
    pub(crate) addresses: Vec<IpAddr>,
}

// === impl Previous ===

impl<'a> Previous<'a> {
    /// Reads it, for the interface of this name inside the pod.
    pub(crate) fn read(raw: &'a RawValue, interface: &str) -> Result<Self, PluginError> {
        let wire: Wire = object(raw.get()).map_err(PluginError::DecodePrevious)?;
        let interfaces = wire.interfaces.unwrap_or_default();
        let mut addresses = Vec::new();
        for ip in wire.ips.unwrap_or_default() {
            // Plugins that list no interfaces, or none for an address, mean the one they were asked for.
            let named = ip.interface.and_then(|at| interfaces.get(usize::try_from(at).ok()?));
            let other = named.is_some_and(|of| {
                of.name != interface || of.sandbox.as_deref().unwrap_or_default().is_empty()
            });
            if other {
                continue;
            }
            let text = ip.address.split('/').next().unwrap_or_default();
            let address: IpAddr = text.parse().map_err(|_| {
                PluginError::Config(format!(
                    "prevResult has the address {:?}, which is none",
                    ip.address
                ))
            })?;
            let address = address.to_canonical();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(Self { raw: raw.get(), versioned: wire.cni_version.is_some(), addresses })
    }

    /// The plugin's own result: the same text, with the version where that was left out.
    pub(crate) fn passed_on(&self, version: &str) -> String {
        match self.raw.strip_prefix('{') {
            Some(rest) if !self.versioned => {
                let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
                format!("{{\"cniVersion\":\"{version}\"{comma}{rest}")
            }
            _ => self.raw.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Vec<String>, String), PluginError> {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let previous = Previous::read(raw, "eth0")?;
        let addresses = previous.addresses.iter().map(ToString::to_string).collect();
        Ok((addresses, previous.passed_on("1.0.0")))
    }

    const INTERFACES: &str = "\"interfaces\":[{\"name\":\"cni0\"},{\"name\":\"eth0\",\"sandbox\":\"\"},\
                              {\"name\":\"eth0\",\"sandbox\":\"/n\"},{\"name\":\"net1\",\"sandbox\":\"/n\"}]";

    #[test]
    fn addresses_of_the_pods_own_interface_count() {
        let ips = "\"ips\":[{\"address\":\"10.0.0.1/24\",\"interface\":0},\
                   {\"address\":\"10.0.0.2/24\",\"interface\":1},\
                   {\"address\":\"10.0.0.3/24\",\"interface\":2},\
                   {\"address\":\"fd00::3/64\",\"interface\":2},\
                   {\"address\":\"10.0.0.3/24\",\"interface\":2},\
                   {\"address\":\"10.0.0.4/24\",\"interface\":3}]";
        let (addresses, _) = read(&format!("{{{INTERFACES},{ips}}}")).unwrap();
        assert_eq!(addresses, ["10.0.0.3", "fd00::3"]);
    }

    #[test]
    fn addresses_of_no_interface_are_the_pods() {
        let (addresses, _) = read("{\"ips\":[{\"address\":\"10.0.0.3/24\"}]}").unwrap();
        assert_eq!(addresses, ["10.0.0.3"]);
        for at in ["9", "-1"] {
            let ips = format!("\"ips\":[{{\"address\":\"10.0.0.5\",\"interface\":{at}}}]");
            let (addresses, _) = read(&format!("{{{INTERFACES},{ips}}}")).unwrap();
            assert_eq!(addresses, ["10.0.0.5"]);
        }
        assert!(read("{\"ips\":null,\"interfaces\":null}").unwrap().0.is_empty());
    }

    #[test]
    fn a_mapped_address_is_the_one_that_it_maps() {
        let (addresses, _) = read("{\"ips\":[{\"address\":\"::ffff:10.0.0.3/128\"}]}").unwrap();
        assert_eq!(addresses, ["10.0.0.3"]);
    }

    #[test]
    fn what_is_no_result_is_refused() {
        assert_eq!(read("{\"ips\":[{\"address\":\"here\"}]}").unwrap_err().code(), 7);
        assert_eq!(read("{\"ips\":[{}]}").unwrap_err().code(), 6);
        assert_eq!(read("[]").unwrap_err().code(), 6);
        assert_eq!(read("\"text\"").unwrap_err().code(), 6);
    }

    #[test]
    fn a_result_is_passed_on_as_it_was_written() {
        let text = "{ \"ips\" : [ ], \"cniVersion\":\"0.4.0\", \"x\": 1.50 , \"dns\":{} }";
        assert_eq!(read(text).unwrap().1, text);
        assert_eq!(read("{ \"ips\":[]}").unwrap().1, "{\"cniVersion\":\"1.0.0\", \"ips\":[]}");
        assert_eq!(read("{ }").unwrap().1, "{\"cniVersion\":\"1.0.0\" }");
    }
}
