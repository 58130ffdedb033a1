//! What does the agent of a node answer to the programs of its node, and is it true?
//!
//! ```text
//!   pods by kubectl, CNI ─▶ podwall status, status POD, flows ─▶ what packets and the kernel say
//! ```

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use podwall_cluster::mk_policy;
use podwall_lab::netns::NetNs;
use serde_json::{Value, json};

use super::{Nodes, mk_pod};

/// Plugins of Debian, and ours; `None`, said aloud, if ours is not built.
pub(super) fn plugins() -> Option<String> {
    let beside = Path::new(env!("CARGO_BIN_EXE_podwall")).parent()?.to_owned();
    if !beside.join("podwall-cni").is_file() {
        let words = "there is no podwall-cni beside the program: cargo build -p podwall-cni";
        assert!(std::env::var_os("PODWALL_REQUIRE_CLUSTER").is_none(), "{words}");
        eprintln!("SKIPPED: {words}");
        return None;
    }
    let all = [beside, "/usr/lib/cni".into(), "/opt/cni/bin".into()];
    Some(all.iter().map(|dir: &PathBuf| dir.display().to_string()).collect::<Vec<_>>().join(":"))
}

/// One node with an agent; pods: `web`, which may be reached by `friend` alone, and `foe`.
fn mk_nodes(word: &str, network: &str, bin: &str, more: &[&str]) -> Nodes {
    let args = ["--nodes", "1", "--network", network, "--ip-family", "v4", "--cni-bin", bin];
    let nodes = Nodes::up(word, &[&args[..], more].concat());
    let only = json!({"podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]});
    nodes.cluster.create(&mk_policy("default", "friends-only", &only));
    for name in ["web", "friend", "foe"] {
        nodes.cluster.create(&mk_pod("default", name, &[("app", name)]));
    }
    nodes.all_run(&["default/web", "default/friend", "default/foe"]);
    nodes.agree("before", &[]);
    nodes
}

fn ask(nodes: &Nodes, verb: &[&str]) -> Output {
    let socket = nodes.dir().join("agents/agent-node-1/agent.sock");
    Command::new(env!("CARGO_BIN_EXE_podwall"))
        .args(verb)
        .arg("--socket")
        .arg(socket)
        .output()
        .unwrap()
}

#[track_caller]
fn json(nodes: &Nodes, verb: &[&str]) -> Value {
    let output = ask(nodes, &[verb, &["-o", "json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {output:?}"))
}

fn namespace(nodes: &Nodes, pod: &str) -> NetNs {
    let uid = nodes.pod(pod).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    NetNs::open(&nodes.inside().join(format!("ns/pod-{uid}"))).unwrap()
}

#[test]
fn status_says_what_is_in_force_and_flows_says_who_is_denied() {
    let Some(bin) = plugins().filter(|_| Nodes::are_possible()) else { return };
    let nodes = mk_nodes("kubs", "bridge", &bin, &[]);
    let now = json(&nodes, &["status"]);
    assert_eq!((&now["synced"], &now["enforced"]), (&json!(true), &json!(true)), "{now}");
    assert_eq!((&now["localPods"], &now["isolatedPods"]), (&json!(3), &json!(1)), "{now}");
    assert_eq!((&now["attachments"], &now["guarded"]), (&json!(3), &json!(3)), "{now}");
    assert_eq!(now["podRanges"], json!(["10.244.1.0/24"]), "{now}");
    assert!(ask(&nodes, &["status"]).status.success());

    let web = json(&nodes, &["status", "web"]);
    assert_eq!(web["ingress"]["isolatedBy"], json!(["default/friends-only"]), "{web}");
    assert_eq!(web["egress"]["isolated"], json!(false), "{web}");
    assert_eq!(web["addresses"], json!([nodes.address("default/web")]), "{web}");
    assert_eq!(web["knownFrom"], "cni", "{web}");
    let entries = web["ingress"]["entries"].to_string();
    assert!(entries.contains("default/friends-only ingress rule 1"), "{entries}");
    let none = ask(&nodes, &["status", "nobody"]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    assert!(String::from_utf8_lossy(&none.stderr).contains("no pod default/nobody runs on"));

    // A denied packet, while somebody follows.
    let (from, to) = (namespace(&nodes, "default/foe"), nodes.address("default/web"));
    let flow = thread::scope(|scope| {
        let follower = scope.spawn(|| json(&nodes, &["flows", "web", "--count", "1"]));
        let socket = from.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        while !follower.is_finished() {
            let _ = socket.send_to(b"?", (to.as_str(), 4321));
            thread::sleep(Duration::from_millis(50));
        }
        follower.join().unwrap()
    });
    assert_eq!((&flow["src"], &flow["dst"]), (&json!("default/foe"), &json!("default/web")));
    assert_eq!((&flow["port"], &flow["protocol"]), (&json!(4321), &json!("UDP")), "{flow}");
    assert_eq!(flow["isolatedBy"], json!(["default/friends-only"]), "{flow}");
    let reason = flow["reason"].as_str().unwrap();
    assert!(reason.contains("isolated for ingress by default/friends-only"), "{reason}");
}

#[test]
fn what_somebody_takes_out_of_the_kernel_is_found_and_put_back() {
    let Some(bin) = plugins().filter(|_| Nodes::are_possible()) else { return };
    let nodes = mk_nodes(
        "kubd",
        "ptp",
        &bin,
        &["--dataplane", "nftables", "--agent-arg=--verify-every=1s"],
    );
    let fine = json(&nodes, &["status", "--verify", "--full"]);
    assert_eq!(fine["drift"], json!([]), "{fine}");
    let node = NetNs::open(&nodes.inside().join("ns/node-node-1")).unwrap();
    let nft = |what: &str| {
        let run = || Command::new("nft").arg(what).output().unwrap();
        let done = node.within(run).unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    // Found by whoever asks …
    nft("delete table inet podwall");
    let found = ask(&nodes, &["status", "--verify"]);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let words = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(words.contains("table inet podwall is not there"), "{words}");
    nodes.agree("put back", &[]);
    // … and by itself.
    nft("flush ruleset");
    nodes.until("the agent has seen it", || {
        let now = json(&nodes, &["status"]);
        (now["drifts"].as_u64() >= Some(2) && now["enforced"] == true).then_some(())
    });
    nodes.agree("put back by itself", &[]);
}

/// Whether something that a pod sends from an address of its choice arrives.
fn arrives(nodes: &Nodes, from: &str, address: &str) -> bool {
    let (sender, receiver) =
        (namespace(nodes, &format!("default/{from}")), namespace(nodes, "default/friend"));
    let to = nodes.address("default/friend");
    let there = receiver.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    there.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let port = there.local_addr().unwrap().port();
    let run = |args: &[&str]| {
        let done = sender.within(|| Command::new("ip").args(args).output().unwrap()).unwrap();
        done.status.success()
    };
    // Its own address is there already.
    run(&["address", "add", &format!("{address}/32"), "dev", "eth0"]);
    let from = format!("{address}:0");
    let socket = sender.within(|| UdpSocket::bind(&from)).unwrap().unwrap();
    for _ in 0..5 {
        let _ = socket.send_to(b"!", (to.as_str(), port));
    }
    let mut buffer = [0; 8];
    there.recv_from(&mut buffer).is_ok_and(|(_, from)| from.ip().to_string() == address)
}

#[test]
fn a_pod_cannot_send_with_an_address_that_is_not_its_own() {
    let Some(bin) = plugins().filter(|_| Nodes::are_possible()) else { return };
    for network in ["bridge", "ptp"] {
        let nodes = mk_nodes("kubg", network, &bin, &[]);
        let own = nodes.address("default/foe");
        assert!(arrives(&nodes, "foe", &own), "{network}: its own address");
        for forged in [&nodes.address("default/web"), "192.0.2.77"] {
            assert!(!arrives(&nodes, "foe", forged), "{network}: {forged}");
        }
        let foe = json(&nodes, &["status", "foe"]);
        assert!(foe["guardedLink"].is_string(), "{foe}");
    }
    // It is the guard that does it, and it can be switched off.
    let nodes = mk_nodes("kubg", "ptp", &bin, &["--agent-arg=--allow-forged"]);
    assert!(arrives(&nodes, "foe", "192.0.2.77"), "without the guard");
    let foe = json(&nodes, &["status", "foe"]);
    assert!(foe["guardedLink"].is_null(), "{foe}");
}
