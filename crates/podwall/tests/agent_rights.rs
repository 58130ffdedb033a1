//! What can an agent do without, and what does it keep from others?
//!
//! ```text
//!   a network namespace: etcd, API server, agent with CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON, read-only files
//!     ready? enforces? which sockets?        a user without rights at its socket: refused
//! ```

#![expect(clippy::unwrap_used, reason = "a test says by panic what is wrong")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use podwall_cluster::{Agent, Cluster, mk_namespace, mk_node, mk_policy};
use serde_json::json;

const PODWALL: &str = env!("CARGO_BIN_EXE_podwall");

/// A program that runs podwall with these capabilities alone, on files that nobody can write but for a
/// directory and the bpffs: as the DaemonSet runs it.
fn mk_confined(dir: &Path, capabilities: &str) -> PathBuf {
    let program = dir.join(format!("podwall-{}", capabilities.len()));
    let text = format!(
        "#!/bin/sh\n\
         exec unshare --mount sh -c '\n\
         mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind / || exit 9\n\
         exec setpriv --bounding-set=-all,{capabilities} --inh-caps=-all,{capabilities} \
         --ambient-caps=-all --no-new-privs {PODWALL} \"$@\"' {} \"$@\"\n",
        dir.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// The capabilities that a process has, as the kernel counts them (`uapi/linux/capability.h`).
fn capabilities(agent: &Agent) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let bits = u64::from_str_radix(line.trim(), 16).unwrap();
    (0..64).filter(|bit| bits >> bit & 1 == 1).collect()
}

/// The TCP and UDP sockets of a process that wait for anybody.
fn ports(agent: &Agent) -> Vec<u16> {
    let own: Vec<String> = fs::read_dir(format!("/proc/{}/fd", agent.pid()))
        .unwrap()
        .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
        .collect();
    let mut ports = Vec::new();
    for (table, state) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        let text = fs::read_to_string(format!("/proc/{}/net/{table}", agent.pid())).unwrap();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let inode = format!("socket:[{}]", words[9]);
            if words[3] == state && own.contains(&inode) {
                let (_, port) = words[1].rsplit_once(':').unwrap();
                ports.push(u16::from_str_radix(port, 16).unwrap());
            }
        }
    }
    ports
}

/// An agent of a data plane, in the network namespace that it enforces in.
fn confined(cluster: &Cluster, dataplane: &str, rights: &str, numbers: &[u32]) {
    let program = mk_confined(cluster.dir(), rights);
    let agent = cluster.agent(&program, "n1").dataplane(dataplane).pins(cluster.pins()).start();
    agent.until_ready();
    assert_eq!(capabilities(&agent), numbers, "{dataplane}");
    assert_eq!(agent.metric("podwall_kernel_errors_total"), 0.0);
    let root = fs::read_to_string(format!("/proc/{}/mountinfo", agent.pid())).unwrap();
    assert!(root.lines().any(|line| line.contains(" / ro")), "files that can be written: {root}");

    // Followed denials, a look at everything, and the guard need no more either.
    let ask = |args: &[&str]| {
        Command::new(PODWALL).args(args).arg("--socket").arg(agent.socket()).output()
    };
    let verified = ask(&["status", "--verify", "--full"]).unwrap();
    assert!(verified.status.success(), "{verified:?}");
    let log = agent.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");

    assert_eq!(ports(&agent).len(), 1, "metrics alone: {:?}", ports(&agent));
    let mode = fs::metadata(agent.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    refuses_others(&agent);
}

/// Also whoever finds the file open: the agent looks at who asks.
fn refuses_others(agent: &Agent) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let link = dir.path().join("agent.sock");
    symlink(agent.socket(), &link).unwrap();
    let podwall = dir.path().join("podwall");
    fs::copy(PODWALL, &podwall).unwrap();
    let mut path = Some(agent.socket());
    fs::set_permissions(agent.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    while let Some(dir) = path.and_then(Path::parent).filter(|dir| *dir != Path::new("/")) {
        let mode = fs::metadata(dir).unwrap().permissions().mode();
        fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o011)).unwrap();
        path = Some(dir);
    }
    let other = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let asked = Command::new("setpriv")
        .args(other)
        .arg(&podwall)
        .args(["status", "--socket"])
        .arg(&link)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert_eq!(asked.status.code(), Some(2), "{asked:?}");
    assert!(words.contains("answers root only, not the user 65534"), "{words}");
}

/// eBPF takes CAP_NET_ADMIN (12), CAP_PERFMON (38) and CAP_BPF (39), nftables the first alone. One after
/// the other on one node: each finds what the other left, and takes it away.
#[test]
fn an_agent_takes_few_capabilities_and_no_file() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    if !Cluster::is_possible() {
        return;
    }
    let node = || {
        // Of its own, with an API server in it: to enter another would take CAP_SYS_ADMIN.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        let cluster = Cluster::start();
        cluster.create(&mk_namespace("shop", &[]));
        cluster.create(&mk_node("n1", &[], &["10.1.0.0/24"]));
        let closed = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
        cluster.create(&mk_policy("shop", "closed", &closed));
        let all = "+net_admin,+perfmon,+bpf";
        let tables = || {
            let list = Command::new("nft").args(["list", "tables"]).output().unwrap();
            String::from_utf8(list.stdout).unwrap()
        };
        confined(&cluster, "ebpf", all, &[12, 38, 39]);
        assert!(!tables().contains("table inet podwall\n"), "{}", tables());
        confined(&cluster, "nftables", all, &[12, 38, 39]);
        assert!(tables().contains("table inet podwall\n"), "{}", tables());
        assert!(!cluster.pins().exists(), "what eBPF had pinned");
        confined(&cluster, "nftables", "+net_admin", &[12]);
        confined(&cluster, "ebpf", all, &[12, 38, 39]);
        assert!(!tables().contains("table inet podwall\n"), "{}", tables());
    };
    thread::scope(|scope| scope.spawn(node).join().unwrap());
}
