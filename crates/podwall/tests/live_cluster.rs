//! The same objects give the same answers, whether they stand in files or in a cluster.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};

use podwall_cluster::{Cluster, mk_namespace, mk_node, mk_pod};
use serde_json::{Value, json};

const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: sql}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web, annotations: {podwall.dev/ignore: PW503 customers have IPv4}}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}, {namespaceSelector: {matchLabels: {team: ops}}}]
  egress:
  - to: [{podSelector: {matchLabels: {app: db}}}]
";

const ENTRANCES: &str = "\
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {namespace: shop, name: front}
spec:
  rules:
  - host: shop.example.com
    http:
      paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]
";

const ROUTES: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {namespace: shop, name: door}
spec: {gatewayClassName: any, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: shop, name: all}
spec:
  parentRefs: [{name: door}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

const ASSERTIONS: &str = "\
apiVersion: podwall/v1
kind: PolicyTest
assertions:
- name: the shop asks its database
  allow: {from: shop/web-1, to: shop/db, ports: 5432}
- name: nobody else does
  deny: {from: tools/ops, to: shop/db, ports: 5432}
";

fn podwall(within: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_podwall"))
        .args(args)
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("HOME", within)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// A shop with a Service, two kinds of pods, and somebody in another namespace.
fn shop() -> Cluster {
    let cluster = Cluster::start();
    let node: IpAddr = "192.168.7.1".parse().unwrap();
    cluster.create(&mk_node("n1", &[node], &["10.1.0.0/24"]));
    cluster.create(&mk_namespace("shop", &[("team", "shop")]));
    cluster.create(&mk_namespace("tools", &[("team", "ops")]));
    let pod = |namespace: &str, name: &str, app: &str, last: u8| {
        let mut pod = mk_pod(namespace, name, &[("app", app)], "n1");
        if app == "db" {
            pod["spec"]["containers"][0]["ports"] = json!([{"name": "sql", "containerPort": 5432}]);
        }
        if app == "web" {
            pod["metadata"]["labels"]["pod-template-hash"] = json!("7f9c");
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind":
                "ReplicaSet", "name": "web-7f9c", "uid": "1", "controller": true}]);
        }
        let ips: [IpAddr; 2] =
            [[10, 1, 0, last].into(), [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)].into()];
        cluster.run_pod(&pod, &ips);
    };
    pod("shop", "web-1", "web", 11);
    pod("shop", "web-2", "web", 12);
    pod("shop", "db", "db", 13);
    pod("tools", "ops", "ops", 14);
    cluster.apply(POLICIES);
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: db}\n\
         spec: {selector: {app: db}, ports: [{port: 3306, targetPort: sql}]}\n",
    );
    cluster
}

/// A file of all that the cluster has.
fn dump(cluster: &Cluster) -> String {
    let kinds = "namespaces,nodes,pods,services,networkpolicies,ingresses.networking.k8s.io";
    let file = cluster.dir().join("dump.yaml");
    std::fs::write(&file, cluster.kubectl(&["get", kinds, "-A", "-o", "yaml"], None)).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Without what differs: places of rules and objects, edits of files, and how sure lint is, since a
/// cluster is all there is and a file may not be.
fn without_places(mut answer: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                let place = |it: &Value| it.as_str().is_some_and(|it| it.contains(['(', ':']));
                fields.retain(|key, value| match key.as_str() {
                    "source" => !place(value),
                    "edits" | "severity" | "counts" => false,
                    _ => true,
                });
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut answer);
    answer
}

#[test]
fn a_cluster_and_a_file_of_its_objects_give_the_same_answers() {
    if !Cluster::is_possible() {
        return;
    }
    let cluster = shop();
    cluster.apply(ENTRANCES);
    let dump = dump(&cluster);
    let config = cluster.admin_kubeconfig();
    let (dump, config) = (dump.as_str(), config.to_str().unwrap());
    let wanted = cluster.dir().join("assertions.yaml");
    std::fs::write(&wanted, ASSERTIONS).unwrap();

    let questions: [&[&str]; 14] = [
        &["can", "shop/web-1", "shop/db", "--port", "5432"],
        &["can", "shop/web-1", "shop/db", "--port", "sql"],
        &["can", "shop/deploy/web", "shop/svc/db", "--port", "3306"],
        &["can", "tools/ops", "shop/db", "--port", "5432"],
        &["can", "tools/ops", "shop/deploy/web"],
        &["can", "internet", "shop/web-2", "--port", "80"],
        &["explain", "policy", "shop/db"],
        &["explain", "pod", "shop/web-1"],
        &["matrix"],
        &["matrix", "--by", "pod", "--port", "5432"],
        &["exposure"],
        &["lint"],
        &["test", wanted.to_str().unwrap()],
        &["generate", "--from-matrix"],
    ];
    let mut codes = Vec::new();
    for question in questions {
        let ask = |from: &[&str]| {
            let output = podwall(cluster.dir(), &[question, &["-o", "json"], from].concat());
            let answer = serde_json::from_slice(&output.stdout);
            let answer: Value = answer.unwrap_or_else(|_| panic!("{}", said(&output)));
            (output.status.code(), without_places(answer))
        };
        let of_file = ask(&["-f", dump]);
        if question == ["lint"] {
            // What annotations say is heard on a cluster, too.
            assert_ne!(of_file.1["suppressed"], json!([]), "{}", of_file.1);
        }
        assert_eq!(ask(&["--kubeconfig", config]), of_file, "{question:?}");
        codes.push(of_file.0);
    }
    assert!(codes.contains(&Some(0)) && codes.contains(&Some(1)), "{codes:?}");

    let drawn = |from: &[&str]| {
        let output = podwall(cluster.dir(), &[&["draw", "-o", "mermaid"], from].concat());
        (output.status.code(), said(&output))
    };
    assert_eq!(drawn(&["--kubeconfig", config]), drawn(&["-f", dump]));

    // A place is the object and who wrote it.
    let asked = ["can", "shop/web-1", "shop/db", "--port", "5432", "--kubeconfig", config];
    let text = said(&podwall(cluster.dir(), &asked));
    assert!(text.contains("shop/NetworkPolicy/db (kubectl"), "{text}");
}

#[test]
fn more_objects_than_a_page_holds_are_all_read() {
    if !Cluster::is_possible() {
        return;
    }
    let cluster = Cluster::start();
    cluster.create(&mk_namespace("many", &[]));
    let pods: Vec<_> = (0..520u16)
        .map(|i| {
            let [high, low] = i.to_be_bytes();
            (mk_pod("many", &format!("p{i}"), &[], "n1"), vec![[10, 2, high, low].into()])
        })
        .collect();
    cluster.run_pods(&pods);
    let config = cluster.admin_kubeconfig();
    let asked = ["explain", "pod", "many/p519", "-o", "json", "--kubeconfig"];
    let output = podwall(cluster.dir(), &[&asked[..], &[config.to_str().unwrap()]].concat());
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answer.to_string().contains("many/p0\""), "{answer}");
    assert!(answer.to_string().contains("many/p518\""), "{answer}");
}

/// A kubeconfig of the administrator as somebody else, with a namespace of its own.
fn config_as(cluster: &Cluster, user: &str, namespace: &str) -> String {
    let path = cluster.dir().join(format!("{user}.kubeconfig"));
    let text = std::fs::read_to_string(cluster.admin_kubeconfig()).unwrap();
    let text = text
        .replace("user: {token: admin-token}", &format!("user: {{token: admin-token, as: {user}}}"))
        .replace("cluster: test, user", &format!("cluster: test, namespace: {namespace}, user"));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn what_may_not_be_seen_is_said_and_never_taken_for_absent() {
    if !Cluster::is_possible() {
        return;
    }
    let cluster = shop();
    let dir = cluster.dir();

    // The agents' account may see all but Services.
    let agent = cluster.agent_kubeconfig();
    let agent = agent.to_str().unwrap();
    let output =
        podwall(dir, &["can", "shop/web-1", "shop/db", "--port", "sql", "--kubeconfig", agent]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("note: services may not be listed"), "{}", said(&output));

    // Somebody who may see one namespace is answered from it.
    let jane = config_as(&cluster, "jane", "shop");
    cluster.kubectl(
        &[
            "create",
            "role",
            "-n",
            "shop",
            "see",
            "--verb=get,list",
            "--resource=pods,services,networkpolicies.networking.k8s.io",
        ],
        None,
    );
    cluster.kubectl(
        &["create", "rolebinding", "-n", "shop", "see", "--role=see", "--user=jane"],
        None,
    );
    let output = podwall(dir, &["can", "web-1", "db", "--port", "5432", "--kubeconfig", &jane]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("pods of other namespaces than shop may not be listed"), "{text}");
    let output = podwall(dir, &["can", "internet", "web-1", "-o", "json", "--kubeconfig", &jane]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answer["leftOut"].as_array().unwrap().len() >= 3, "{answer}");

    // Who may see nothing gets no answer.
    let nobody = config_as(&cluster, "nobody", "shop");
    let output = podwall(dir, &["matrix", "--kubeconfig", &nobody]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("of the cluster may not be listed"), "{}", said(&output));

    // A policy that no reader understands stops the answer, unless one goes on without it.
    cluster.plant(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "odd"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}]}}));
    let admin = cluster.admin_kubeconfig();
    let asked = ["can", "shop/web-1", "shop/db", "--kubeconfig", admin.to_str().unwrap()];
    let output = podwall(dir, &asked);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("shop/NetworkPolicy/odd"), "{}", said(&output));
    let output = podwall(dir, &[&asked[..], &["--keep-going"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[test]
fn a_cluster_that_is_not_there_is_an_error_that_says_what_to_give_instead() {
    let dir = tempfile::tempdir().unwrap();
    let output = podwall(dir.path(), &["matrix"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for word in ["no cluster is configured", "-f manifests/", "--lab NAME", "--kubeconfig"] {
        assert!(text.contains(word), "{text}");
    }
    // Nobody listens at port 1 of loopback.
    let config = dir.path().join("config");
    let written = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
         contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n";
    std::fs::write(&config, written).unwrap();
    let config = config.to_str().unwrap();
    let output = podwall(dir.path(), &["matrix", "--kubeconfig", config]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("cannot ask the API server at http://127.0.0.1:1"), "{text}");
    let output = podwall(dir.path(), &["matrix", "--kubeconfig", config, "--context", "other"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("other"), "{}", said(&output));
}

#[test]
fn kubectl_runs_it_as_its_plugin_and_help_says_so() {
    if !Cluster::is_possible() {
        return;
    }
    let cluster = shop();
    let link = cluster.dir().join("kubectl-podwall");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_podwall"), link).unwrap();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths: Vec<_> =
        [cluster.dir().to_owned()].into_iter().chain(std::env::split_paths(&paths)).collect();
    let paths = std::env::join_paths(paths).unwrap();
    let assets = std::env::var_os("PODWALL_KUBE_ASSETS").map(std::path::PathBuf::from);
    let own = assets.map(|dir| dir.join("kubectl")).filter(|path| path.is_file());
    let kubectl = |args: &[&str]| {
        let output = Command::new(own.as_deref().unwrap_or(Path::new("kubectl")))
            .args(args)
            .env("KUBECONFIG", cluster.admin_kubeconfig())
            .env("HOME", cluster.dir())
            .env("PATH", &paths)
            .output()
            .unwrap();
        (output.status.code(), said(&output))
    };
    assert!(kubectl(&["plugin", "list"]).1.contains("kubectl-podwall"));
    // Exit codes come through.
    let (code, text) = kubectl(&["podwall", "can", "shop/web-1", "shop/db", "--port", "5432"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = kubectl(&["podwall", "can", "tools/ops", "shop/db", "--port", "5432"]);
    assert_eq!(code, Some(1), "{text}");
    let (code, help) = kubectl(&["podwall", "can", "--help"]);
    assert_eq!(code, Some(0), "{help}");
    assert!(help.contains("Usage: kubectl podwall can"), "{help}");
    assert!(help.contains("$ kubectl podwall can web-pod"), "{help}");
    assert!(!help.contains("$ podwall"), "{help}");
    let (_, overview) = kubectl(&["podwall"]);
    assert!(overview.contains("  kubectl podwall can SRC DST"), "{overview}");
    let (code, wrong) = kubectl(&["podwall", "can"]);
    assert_eq!(code, Some(2));
    assert!(wrong.contains("Usage: kubectl podwall can"), "{wrong}");
}

#[test]
fn a_change_is_compared_with_what_the_cluster_has() {
    if !Cluster::is_possible() {
        return;
    }
    let cluster = shop();
    let config = cluster.admin_kubeconfig();
    let config = config.to_str().unwrap();
    let write = |name: &str, text: &str| {
        let file = cluster.dir().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let diff = |args: &[&str]| {
        let output = podwall(
            cluster.dir(),
            &[&["diff", "--kubeconfig", config, "-o", "json"], args].concat(),
        );
        let answer = serde_json::from_slice(&output.stdout);
        let answer: Value = answer.unwrap_or_else(|_| panic!("{}", said(&output)));
        (output.status.code(), answer)
    };

    // What the server has added to the policies is no change, nor is another spelling.
    let same = write("same.yaml", &POLICIES.replace("name: db}\nspec", "name: sql}\nspec"));
    let (code, answer) = diff(&["--prune", &same]);
    assert_eq!(code, Some(0), "{answer:#}");

    // One rule more lets one workload in, and nobody else.
    let more = "[{podSelector: {matchLabels: {app: web}}}, {namespaceSelector: {}}]";
    let wider = POLICIES.replace("[{podSelector: {matchLabels: {app: web}}}]", more);
    let (code, answer) = diff(&[&write("wider.yaml", &wider)]);
    assert_eq!(code, Some(1), "{answer:#}");
    let changes = answer["changes"].as_array().unwrap();
    let ends: Vec<_> = changes.iter().map(|it| (&it["src"], &it["dst"], &it["change"])).collect();
    assert_eq!(ends, [(&json!("tools/ops"), &json!("shop/db"), &json!("appears"))], "{answer:#}");

    // What is applied then is what was foreseen.
    cluster.apply(&wider);
    let asked = ["can", "tools/ops", "shop/db", "--port", "5432", "--kubeconfig", config];
    assert_eq!(podwall(cluster.dir(), &asked).status.code(), Some(0));
    assert_eq!(diff(&[&write("wider.yaml", &wider)]).0, Some(0));
}

/// Serves lists of these objects as an API server does, until the test ends. The real one of Debian
/// falls over at the first custom resource (its JSON library is older than its Go).
fn serve(objects: Vec<Value>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let asked = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let path = asked.split([' ', '?']).nth(1).unwrap_or_default();
            let answer = answer(&objects, path);
            let (status, body) = match answer {
                Some(body) => ("200 OK", body),
                None => {
                    ("404 Not Found", json!({"kind": "Status", "status": "Failure", "code": 404}))
                }
            };
            let body = body.to_string();
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: ");
            let _ = write!(&stream, "{head}{}\r\n\r\n{body}", body.len());
        }
    });
    format!("http://{address}")
}

/// What a server answers at a path: the objects of a kind, or the kinds of a version.
fn answer(objects: &[Value], path: &str) -> Option<Value> {
    let plural = |it: &Value| match it["kind"].as_str().unwrap().to_lowercase() {
        kind if kind == "networkpolicy" => "networkpolicies".to_owned(),
        kind if kind.ends_with('s') => kind + "es",
        kind => kind + "s",
    };
    let root = |it: &Value| {
        let version = it["apiVersion"].as_str().unwrap();
        format!("/{}/{version}", if version.contains('/') { "apis" } else { "api" })
    };
    let items: Vec<_> =
        objects.iter().filter(|it| format!("{}/{}", root(it), plural(it)) == path).collect();
    if !items.is_empty() {
        return Some(json!({"items": items}));
    }
    let kinds: Vec<_> = objects
        .iter()
        .filter(|it| root(it) == path)
        .map(|it| json!({"name": plural(it), "kind": it["kind"]}))
        .collect();
    if !kinds.is_empty() {
        return Some(json!({"resources": kinds}));
    }
    // Kinds that every server has.
    path.ends_with("/pods").then(|| json!({"items": []}))
}

#[test]
fn gateways_and_their_routes_of_a_server_say_what_those_of_a_file_say() {
    let dir = tempfile::tempdir().unwrap();
    let pods = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-1, labels: {app: web}}
spec: {containers: [{name: c, image: i}], nodeName: n1}
status: {phase: Running, podIP: 10.1.0.11, podIPs: [{ip: 10.1.0.11}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: door, name: gate, labels: {gateway.networking.k8s.io/gateway-name: door}}
spec: {containers: [{name: c, image: i}], nodeName: n1}
status: {phase: Running, podIP: 10.1.0.12, podIPs: [{ip: 10.1.0.12}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: door}
";
    let text = [pods, ENTRANCES, ROUTES, POLICIES].join("---\n");
    let file = dir.path().join("objects.yaml");
    std::fs::write(&file, &text).unwrap();
    let stored = |it| {
        let mut object: Value = serde_saphyr::from_str(it).unwrap();
        object["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
        object
    };
    let objects = text.split("---\n").map(stored).collect();
    let config = dir.path().join("config");
    let server = serve(objects);
    let written = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
    );
    std::fs::write(&config, written).unwrap();
    let ask = |from: &[&str]| {
        let output = podwall(dir.path(), &[&["exposure", "-o", "json"], from].concat());
        let answer = serde_json::from_slice(&output.stdout);
        let answer: Value = answer.unwrap_or_else(|_| panic!("{}", said(&output)));
        without_places(answer)
    };
    let of_server = ask(&["--kubeconfig", config.to_str().unwrap()]);
    assert_eq!(of_server, ask(&["-f", file.to_str().unwrap()]));
    let path = "Gateway shop/door listener http (80) -> HTTPRoute shop/all -> Service shop/web";
    assert!(of_server.to_string().contains(path), "{of_server:#}");
}
