//! A cluster is a real one, and nothing of it is left.

use podwall_cluster::{Cluster, mk_namespace, mk_node, mk_pod};
use serde_json::{Value, json};

#[test]
fn a_cluster_takes_objects_stops_starts_forgets_and_leaves_nothing() {
    if !Cluster::is_possible() {
        return;
    }
    let cluster = Cluster::start();
    cluster.create(&mk_namespace("shop", &[("team", "a")]));
    let node = mk_node("n1", &["192.0.2.1".parse().unwrap()], &["10.0.0.0/24", "fd00::/64"]);
    cluster.create(&node);
    cluster.set_status(&node, &json!({ "status": node["status"] }));
    let ips = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    cluster.run_pod(&mk_pod("shop", "db", &[("app", "db")], "n1"), &ips);

    let shown = cluster.kubectl(&["get", "pods", "-n", "shop", "-o", "wide", "--no-headers"], None);
    assert_eq!(shown.split_whitespace().nth(5), Some("10.0.0.7"), "{shown}");
    let pod = cluster.get("/api/v1/namespaces/shop/pods/db");
    assert_eq!(pod["status"]["podIPs"], json!([{ "ip": "10.0.0.7" }, { "ip": "fd00::7" }]));
    let wrong = cluster.try_kubectl(&["apply", "-f", "-"], Some("kind: Nonsense"));
    assert!(wrong.is_err(), "{wrong:?}");

    // A version that is forgotten.
    let version = pod["metadata"]["resourceVersion"].as_str().unwrap();
    let watch = format!("/api/v1/pods?watch=true&timeoutSeconds=1&resourceVersion={version}");
    cluster.create(&mk_namespace("later", &[]));
    cluster.compact();
    cluster.stop_server();
    assert!(cluster.request("GET", "/readyz", &Value::Null).is_err());
    cluster.start_server();
    let said = cluster.get(&watch);
    assert_eq!(said["object"]["code"], 410, "{said}");
    assert_eq!(cluster.get("/api/v1/namespaces/later")["metadata"]["name"], "later");

    let dir = cluster.dir().to_owned();
    drop(cluster);
    assert!(!dir.exists());
}
