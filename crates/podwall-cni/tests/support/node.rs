//! How does a runtime run a chain, on a node that is a network namespace?
//!
//! ```text
//!   Node ── namespace ── bridge | ptp ── host-local ── podwall-cni      plugins run inside it
//!   Pod ─── namespace ── eth0
//! ```
//!
//! The plugins of Debian's `containernetworking-plugins` set `net.ipv4.ip_forward` where they run, so
//! they never run in the machine's own namespace.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

use super::{Said, program, run};

/// Where Debian puts the plugins.
pub(crate) const PLUGINS: &str = "/usr/lib/cni";

/// Whether chains can run here; says why not.
pub(crate) fn possible() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return false;
    }
    assert!(
        Path::new(PLUGINS).join("bridge").exists(),
        "{PLUGINS} has no plugins: scripts/deps test installs containernetworking-plugins"
    );
    true
}

/// A network namespace that ends with this value and all in it.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            // Else each IPv6 address takes a second until it is certain that nobody else has it.
            for which in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0").unwrap();
            }
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        Self(thread::spawn(make).join().unwrap())
    }

    /// A path that other processes can open.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    /// What `ip` says.
    pub(crate) fn ip(&self, arguments: &str) -> Value {
        let output = self.within(|| {
            let mut command = std::process::Command::new("ip");
            command.arg("-j").args(arguments.split(' ')).output().unwrap()
        });
        assert!(output.status.success(), "ip {arguments}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }
}

/// A node with a chain.
pub(crate) struct Node {
    pub(crate) namespace: Namespace,
    pub(crate) list: Value,
    _data: tempfile::TempDir,
}

/// A pod of it.
pub(crate) struct Pod {
    pub(crate) namespace: Namespace,
    pub(crate) name: String,
}

impl Pod {
    pub(crate) fn new(name: &str) -> Self {
        Self { namespace: Namespace::new(), name: name.to_owned() }
    }
}

impl Node {
    /// `kind` is `bridge` or `ptp`; `ours` is the entry of podwall-cni.
    pub(crate) fn new(kind: &str, version: &str, subnets: &[&str], ours: &Value) -> Self {
        let data = tempfile::tempdir().unwrap();
        let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
        let mut first = json!({"type": kind, "ipam": {
            "type": "host-local", "dataDir": data.path(), "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}],
        }});
        if kind == "bridge" {
            first["bridge"] = json!("cni0");
            first["isGateway"] = json!(true);
            first["hairpinMode"] = json!(true);
        }
        let list = json!({"cniVersion": version, "name": "net", "plugins": [first, ours]});
        Self { namespace: Namespace::new(), list, _data: data }
    }

    /// Runs one plugin of the chain as libraries of runtimes do.
    fn plugin(&self, at: usize, verb: &str, pod: &Pod, previous: Option<&Value>) -> Said {
        let mut config = self.list["plugins"][at].clone();
        for key in ["cniVersion", "name"] {
            config[key] = self.list[key].clone();
        }
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let kind = config["type"].as_str().unwrap();
        let file = if kind == "podwall-cni" { program() } else { Path::new(PLUGINS).join(kind) };
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={0};K8S_POD_INFRA_CONTAINER_ID={0};\
             K8S_POD_UID=uid-{0}",
            pod.name
        );
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", &pod.name),
            ("CNI_NETNS", &pod.namespace.path()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", &args),
            ("CNI_PATH", PLUGINS),
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ];
        self.namespace.within(|| run(&file, &variables, &config.to_string()))
    }

    fn chain(&self) -> std::ops::Range<usize> {
        0..self.list["plugins"].as_array().unwrap().len()
    }

    /// The result, or what the plugin that failed said.
    pub(crate) fn add(&self, pod: &Pod) -> Result<Value, Said> {
        let mut previous = None;
        for at in self.chain() {
            let said = self.plugin(at, "ADD", pod, previous.as_ref());
            if !said.ok {
                return Err(said);
            }
            previous = Some(said.json());
        }
        Ok(previous.unwrap())
    }

    pub(crate) fn check(&self, pod: &Pod, result: &Value) -> Result<(), Said> {
        for at in self.chain() {
            let said = self.plugin(at, "CHECK", pod, Some(result));
            if !said.ok {
                return Err(said);
            }
        }
        Ok(())
    }

    pub(crate) fn del(&self, pod: &Pod, result: Option<&Value>) -> Result<(), Said> {
        for at in self.chain().rev() {
            let said = self.plugin(at, "DEL", pod, result);
            if !said.ok {
                return Err(said);
            }
        }
        Ok(())
    }
}

/// Where the fake agent of a test listens.
pub(crate) fn socket(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("agent.sock")
}

/// This machine's own setting, which tests must leave as it is.
pub(crate) fn forwarding() -> io::Result<String> {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
}
