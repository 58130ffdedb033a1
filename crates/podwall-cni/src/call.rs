//! What does a runtime want, and of which interface?
//!
//! ```text
//!   CNI_COMMAND  CNI_CONTAINERID  CNI_NETNS  CNI_IFNAME  CNI_ARGS ──▶ Call, checked
//! ```
//!
//! CNI specification 1.1.0, section 2, "Parameters".

use std::path::PathBuf;

use podwall_local::Sandbox;

use crate::error::PluginError;

/// What a runtime asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// An interface was made.
    Add(Interface),
    /// It goes, or has gone.
    Del(Sandbox),
    /// Is all as it should be?
    Check(Interface),
    /// Could pods be added now?
    Status,
    /// Others than those of the configuration are gone.
    Gc,
    /// Which versions are spoken?
    Version,
}

/// An interface inside a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Container and name.
    pub(crate) sandbox: Sandbox,
    /// The pod's network namespace, a file.
    pub(crate) netns: PathBuf,
    /// Whose, where an orchestrator says so.
    pub(crate) pod: Option<Pod>,
}

/// What Kubernetes' runtimes say in `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub(crate) namespace: String,
    /// `K8S_POD_NAME`.
    pub(crate) name: String,
    /// `K8S_POD_UID`; containerd says it since 1.6, CRI-O always.
    pub(crate) uid: Option<String>,
}

// === impl Call ===

impl Call {
    /// Reads the environment through `get`.
    pub(crate) fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, PluginError> {
        match get("CNI_COMMAND").unwrap_or_default().as_str() {
            "ADD" => Ok(Self::Add(Interface::read(&get)?)),
            "DEL" => Ok(Self::Del(sandbox(&get)?)),
            "CHECK" => Ok(Self::Check(Interface::read(&get)?)),
            "STATUS" => Ok(Self::Status),
            "GC" => Ok(Self::Gc),
            "VERSION" => Ok(Self::Version),
            other => Err(wrong(
                "CNI_COMMAND",
                format!("is {other:?}; ADD, DEL, CHECK, STATUS, GC and VERSION are known"),
            )),
        }
    }

    /// Its word.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Del(_) => "DEL",
            Self::Check(_) => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }
}

impl Interface {
    fn read(get: &impl Fn(&str) -> Option<String>) -> Result<Self, PluginError> {
        let sandbox = sandbox(get)?;
        let netns = PathBuf::from(needed(get, "CNI_NETNS")?);
        Ok(Self { sandbox, netns, pod: pod(&get("CNI_ARGS").unwrap_or_default())? })
    }
}

fn wrong(variable: &'static str, problem: impl Into<String>) -> PluginError {
    PluginError::Environment { variable, problem: problem.into() }
}

fn needed(
    get: &impl Fn(&str) -> Option<String>,
    variable: &'static str,
) -> Result<String, PluginError> {
    match get(variable) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(wrong(variable, "is not set; the runtime must")),
    }
}

/// Both parts become a file's name (see [`podwall_local::Notes`]), so both are checked.
fn sandbox(get: &impl Fn(&str) -> Option<String>) -> Result<Sandbox, PluginError> {
    let container = needed(get, "CNI_CONTAINERID")?;
    let rest_ok = container.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !rest_ok || !container.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        let problem = format!("is {container:?}: letters, digits and _ . - inside are allowed");
        return Err(wrong("CNI_CONTAINERID", problem));
    }
    let interface = needed(get, "CNI_IFNAME")?;
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    // IFNAMSIZ of include/uapi/linux/if.h, with the zero at its end.
    if interface.len() > 15 || [".", ".."].contains(&interface.as_str()) || interface.contains(bad)
    {
        return Err(wrong("CNI_IFNAME", format!("is {interface:?}, which names no interface")));
    }
    Ok(Sandbox { container, interface })
}

/// The pod of `K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;…`; other keys are for others.
fn pod(args: &str) -> Result<Option<Pod>, PluginError> {
    let mut values = [const { None }; 3];
    let names = ["K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID"];
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(wrong("CNI_ARGS", format!("has {pair:?}, which is no KEY=VALUE")));
        };
        if let Some(at) = names.iter().position(|name| *name == key)
            && !value.is_empty()
        {
            values[at] = Some(value.to_owned());
        }
    }
    match values {
        [Some(namespace), Some(name), uid] => Ok(Some(Pod { namespace, name, uid })),
        [None, None, _] => Ok(None),
        [None, ..] => Err(wrong("CNI_ARGS", "has K8S_POD_NAME and no K8S_POD_NAMESPACE")),
        [_, None, _] => Err(wrong("CNI_ARGS", "has K8S_POD_NAMESPACE and no K8S_POD_NAME")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(changes: &[(&str, &str)]) -> Result<Call, PluginError> {
        let mut variables = vec![
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/a"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u"),
        ];
        variables.extend(changes);
        Call::read(|name| {
            variables.iter().rev().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn a_pods_interface_is_read_from_the_environment() {
        let Call::Add(interface) = read(&[]).unwrap() else { panic!() };
        assert_eq!(interface.sandbox.container, "c1");
        assert_eq!(interface.netns, PathBuf::from("/run/netns/a"));
        let pod = interface.pod.unwrap();
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_deref()),
            ("shop", "web", Some("u"))
        );
    }

    #[test]
    fn without_an_orchestrator_there_is_no_pod() {
        for args in ["", "IgnoreUnknown=1;FOO=bar", "K8S_POD_NAMESPACE=;K8S_POD_NAME="] {
            let Call::Check(interface) =
                read(&[("CNI_COMMAND", "CHECK"), ("CNI_ARGS", args)]).unwrap()
            else {
                panic!()
            };
            assert_eq!(interface.pod, None, "{args}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (variable, value) in [
            ("CNI_COMMAND", "add"),
            ("CNI_COMMAND", ""),
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "../c"),
            ("CNI_CONTAINERID", "-c"),
            ("CNI_NETNS", ""),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "a b"),
            ("CNI_IFNAME", "sixteen-letters-"),
            ("CNI_ARGS", "K8S_POD_NAME"),
            ("CNI_ARGS", "K8S_POD_NAME=a"),
            ("CNI_ARGS", "K8S_POD_NAMESPACE=a"),
        ] {
            let error = read(&[(variable, value)]).unwrap_err();
            assert_eq!(error.code(), 4);
            assert!(error.to_string().starts_with(variable), "{error}");
        }
    }

    #[test]
    fn to_remove_a_pod_needs_no_namespace() {
        let call = read(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", ""), ("CNI_ARGS", "broken")]);
        assert!(matches!(call, Ok(Call::Del(_))), "{call:?}");
    }
}
