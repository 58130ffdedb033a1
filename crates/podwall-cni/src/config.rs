//! What does the network configuration say?
//!
//! ```text
//!   {"cniVersion": "1.0.0", "name": "cbr0", "type": "podwall-cni",
//!    "socket": …, "timeout": "5s", "onTimeout": "fail", "guard": true,       ours
//!    "prevResult": {…}, "cni.dev/valid-attachments": […]}                    the runtime's
//! ```

use std::path::PathBuf;
use std::time::Duration;

use podwall_local::{Otherwise, SOCKET, Sandbox};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::PluginError;
use crate::version::Version;

/// How long a pod waits for the agent if nothing is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// A runtime gives up itself after about two minutes (kubelet's `runtimeRequestTimeout`).
const LONGEST: Duration = Duration::from_secs(110);
const SHORTEST: Duration = Duration::from_millis(10);

/// What a runtime gives on standard input. `prevResult` stays the text that it was.
#[derive(Debug)]
pub(crate) struct Config<'a> {
    /// `cniVersion`, as it was written.
    pub(crate) version_text: String,
    /// The same, as a number; one that is spoken.
    pub(crate) version: Version,
    /// `name`: the network's.
    pub(crate) network: String,
    /// Our own keys.
    pub(crate) settings: Settings,
    /// `prevResult`.
    pub(crate) previous: Option<&'a RawValue>,
    /// `cni.dev/valid-attachments`.
    pub(crate) valid: Option<Vec<Sandbox>>,
}

/// Our own keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where the agent listens.
    pub(crate) socket: PathBuf,
    /// How long `ADD` and `CHECK` wait for it, in all.
    pub(crate) timeout: Duration,
    /// What becomes of a pod that the agent does not know in time.
    pub(crate) on_timeout: Otherwise,
    /// Whether source addresses are guarded at the pod's link.
    pub(crate) guard: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    socket: Option<PathBuf>,
    #[serde(default)]
    timeout: Option<String>,
    #[serde(default)]
    on_timeout: Option<Otherwise>,
    #[serde(default)]
    guard: Option<bool>,
    #[serde(default, borrow)]
    prev_result: Option<&'a RawValue>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Valid>>,
    /// The name that the first libraries with `GC` gave it.
    #[serde(default, rename = "cni.dev/attachments")]
    valid_once: Option<Vec<Valid>>,
}

#[derive(Deserialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

// === impl Config ===

impl<'a> Config<'a> {
    /// Reads what a runtime gave.
    pub(crate) fn read(text: &'a str) -> Result<Self, PluginError> {
        let wire: Wire<'a> = object(text).map_err(PluginError::Decode)?;
        // A configuration without a version is of the first, which had no chains.
        let version_text = wire.cni_version.unwrap_or_else(|| "0.1.0".to_owned());
        let version = Version::parse(&version_text)
            .filter(|version| version.supported())
            .ok_or_else(|| PluginError::Version(version_text.clone()))?;
        let network = wire.name.unwrap_or_default();
        let rest_ok = network.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !rest_ok || !network.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return Err(PluginError::Config(format!(
                "name is {network:?}, which names no network"
            )));
        }
        let timeout = match wire.timeout.as_deref().map(duration) {
            None => DEFAULT_TIMEOUT,
            Some(Ok(timeout)) => timeout,
            Some(Err(problem)) => return Err(PluginError::Config(format!("timeout {problem}"))),
        };
        let socket = wire.socket.unwrap_or_else(|| PathBuf::from(SOCKET));
        if !socket.is_absolute() {
            let problem = format!("socket is {}, which is no absolute path", socket.display());
            return Err(PluginError::Config(problem));
        }
        let settings = Settings {
            socket,
            timeout,
            on_timeout: wire.on_timeout.unwrap_or_default(),
            guard: wire.guard.unwrap_or(true),
        };
        let valid = wire.valid.or(wire.valid_once).map(|list| {
            list.into_iter()
                .map(|valid| Sandbox { container: valid.container, interface: valid.ifname })
                .collect()
        });
        Ok(Self { version_text, version, network, settings, previous: wire.prev_result, valid })
    }
}

/// Reads an object: a struct would be made of a list as well.
pub(crate) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, serde_json::Error> {
    match text.trim_start().starts_with('{') {
        true => serde_json::from_str(text),
        false => Err(serde::de::Error::custom("it is no object")),
    }
}

/// Reads `5s`, `500ms`, `1m`, `1m30s`, `0.5s`, from 10 ms to 110 s.
///
/// # Errors
/// It is none, in words that follow the name of the key.
pub fn duration(text: &str) -> Result<Duration, String> {
    let no = || format!("is {text:?}; say 5s, 500ms or 1m30s, from 10ms to 110s");
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(no)?;
        let number: f64 = rest[..digits].parse().map_err(|_| no())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                _ => return Err(no()),
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|time| (SHORTEST..=LONGEST).contains(time))
        .ok_or_else(no)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &str) -> Result<Config<'static>, PluginError> {
        let text = format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"type\":\"x\"{keys}}}");
        Config::read(Box::leak(text.into_boxed_str()))
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = read("").unwrap();
        let settings = Settings {
            socket: SOCKET.into(),
            timeout: DEFAULT_TIMEOUT,
            on_timeout: Otherwise::Fail,
            guard: true,
        };
        assert_eq!(config.settings, settings);
        assert!(config.previous.is_none() && config.valid.is_none());
    }

    #[test]
    fn what_is_said_counts_and_other_keys_are_others() {
        let config = read(
            ",\"socket\":\"/a\",\"timeout\":\"250ms\",\"onTimeout\":\"isolate\",\"guard\":false,\
             \"args\":{},\"prevResult\":{ \"x\" : 1 },\
             \"cni.dev/valid-attachments\":[{\"containerID\":\"c\",\"ifname\":\"eth0\"}]",
        )
        .unwrap();
        let settings = Settings {
            socket: "/a".into(),
            timeout: Duration::from_millis(250),
            on_timeout: Otherwise::Isolate,
            guard: false,
        };
        assert_eq!(config.settings, settings);
        assert_eq!(config.previous.unwrap().get(), "{ \"x\" : 1 }");
        let sandbox = Sandbox { container: "c".to_owned(), interface: "eth0".to_owned() };
        assert_eq!(config.valid, Some(vec![sandbox]));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_code() {
        for (keys, code) in [
            (",\"name\":\"a/b\"", 6), // twice the same key
            (",\"timeout\":\"5\"", 7),
            (",\"timeout\":5", 6),
            (",\"onTimeout\":\"allow\"", 6),
            (",\"guard\":\"yes\"", 6),
            (",\"socket\":\"run/a\"", 7),
        ] {
            assert_eq!(read(keys).unwrap_err().code(), code, "{keys}");
        }
        let of = |text| Config::read(text).unwrap_err().code();
        assert_eq!(of("{\"cniVersion\":\"1.0.0\",\"name\":\"a/b\"}"), 7);
        assert_eq!(of("{\"cniVersion\":\"1.0.0\"}"), 7);
        assert_eq!(of("{\"cniVersion\":\"0.2.0\",\"name\":\"a\"}"), 1);
        assert_eq!(of("{\"cniVersion\":\"2.0.0\",\"name\":\"a\"}"), 1);
        assert_eq!(of("{\"name\":\"a\"}"), 1);
        for text in ["{", "", "[]", "[\"1.0.0\",\"a\"]"] {
            assert_eq!(of(text), 6, "{text}");
        }
    }

    #[test]
    fn times_are_written_as_elsewhere_in_kubernetes() {
        for (text, millis) in
            [("5s", 5000), ("500ms", 500), ("1m", 60_000), ("1m30s", 90_000), ("0.5s", 500)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1h", "9ms", "111s", "1.2.3s", "1e3s", "999999999999m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
