use std::io::Cursor;

use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_manifest::flows::read_flows;
use podwall_manifest::{Input as File, Options as Reading, read};
use podwall_policy::evaluate::evaluate;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::Pod;
use podwall_policy::policy::Peer;

use super::*;

const SHOP: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: kube-system}}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.1.0.0/16]}
status: {addresses: [{type: InternalIP, address: 10.0.9.1}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web, tier: front}}, spec: {containers: [{name: c, image: i}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart, tier: back}}
    spec: {containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}]}]}
---
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.96.0.7,
 selector: {app: cart}, ports: [{port: 80, targetPort: http}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: idle, namespace: shop, labels: {app: idle}},
 spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIP: 10.1.0.5}}
---
apiVersion: v1
kind: Pod
metadata: {name: coredns-1, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec: {containers: [{name: c, image: i, ports: [{name: dns, containerPort: 1053, protocol: UDP},
  {name: dns-tcp, containerPort: 1053}]}]}
---
{apiVersion: v1, kind: Service, metadata: {name: kube-dns, namespace: kube-system}, spec: {clusterIP: 10.96.0.10,
 selector: {k8s-app: kube-dns}, ports: [{name: a, port: 53, protocol: UDP, targetPort: dns}, {name: b, port: 53, targetPort: dns-tcp}]}}
"#;

fn cluster(text: &str) -> Cluster {
    let input = File::Text { name: "shop.yaml".into(), text: text.to_owned() };
    let reading = read(&[input], &Reading::default());
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    reading.cluster()
}

fn log(text: &str) -> FlowLog {
    let mut log = FlowLog::new(false);
    read_flows(&mut log, "flows", &mut Cursor::new(text), None).unwrap();
    assert_eq!(log.broken, 0, "{:?}", log.diagnostics);
    log
}

fn made(cluster: &Cluster, flows: &str, options: &Options) -> Generated {
    let (selectors, log) = (BTreeMap::new(), log(flows));
    generate(&Input { cluster, selectors: &selectors, log: &log }, options)
}

/// Rules in words: policy, direction, peers, ports.
fn rules(made: &Generated) -> Vec<String> {
    let mut out = Vec::new();
    for proposed in &made.policies {
        let policy = &proposed.policy;
        for direction in Direction::BOTH {
            for rule in policy.rules(direction).unwrap_or_default() {
                let peers: Vec<String> = rule.peers.iter().map(ToString::to_string).collect();
                let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
                let name = &policy.name.name;
                let (peers, ports) = (peers.join(" + "), ports.join(" + "));
                out.push(format!("{name} {direction} {peers}: {ports}"));
            }
        }
    }
    out
}

fn beyond(made: &Generated) -> Vec<String> {
    let words = |b: &Beyond| format!("{} > {}: {} ({:?})", b.src, b.dst, b.ports, b.because);
    made.report.beyond.iter().map(words).collect()
}

#[test]
fn services_become_pods_names_numbers_and_dns_is_let_out() {
    let cluster = cluster(SHOP);
    let flows = "src,dst,protocol,port\n\
        shop/deploy/web,shop/svc/cart,TCP,80\n\
        shop/Deployment/cart,203.0.113.9,TCP,443\n\
        shop/Deployment/cart,203.0.113.8,TCP,443\n\
        10.0.9.1,shop/deploy/web,TCP,8000\n";
    let made = made(&cluster, flows, &Options::default());
    assert_eq!(
        rules(&made),
        [
            "allow-cart egress pods k8s-app=kube-dns in namespaces \
             kubernetes.io/metadata.name=kube-system: TCP 1053 + UDP 1053",
            "allow-cart egress 203.0.113.8/31: TCP 443",
            "allow-cart ingress pods app=web in namespace shop: TCP 8080",
            "allow-web egress pods app=cart in namespace shop: TCP 8080",
            "allow-web egress pods k8s-app=kube-dns in namespaces \
             kubernetes.io/metadata.name=kube-system: TCP 1053 + UDP 1053",
            "allow-web ingress 10.0.9.1/32: TCP 8000",
        ]
    );
    let names: Vec<String> = made.policies.iter().map(|p| p.policy.name.to_string()).collect();
    assert_eq!(names, ["shop/default-deny", "shop/allow-cart", "shop/allow-web"]);
    assert!(made.report.failing.is_empty() && made.report.unplaced.is_empty());
    assert_eq!(
        beyond(&made),
        [
            "shop/Deployment/cart > kube-system/coredns-1: TCP 1053; UDP 1053 (Dns)",
            "shop/Deployment/web > kube-system/coredns-1: TCP 1053; UDP 1053 (Dns)",
        ]
    );
    let idle = made.report.units.iter().find(|unit| unit.label == "shop/idle").unwrap();
    assert!(!idle.seen && idle.isolated == [true, true]);
    let dns = made.report.units.iter().find(|unit| unit.label == "kube-system/coredns-1").unwrap();
    assert_eq!(dns.isolated, [false, false], "the system's namespace is left alone");
}

/// A flow to a headless Service was placed at its targetPort, which nobody had connected to.
#[test]
fn the_port_of_a_headless_service_is_its_pods_own() {
    let shop = SHOP.replace("clusterIP: 10.96.0.7", "clusterIP: None");
    assert_ne!(shop, SHOP);
    let made = made(
        &cluster(&shop),
        "src,dst,protocol,port\nshop/deploy/web,shop/svc/cart,TCP,80\n",
        &Options::default(),
    );
    let rules = rules(&made);
    assert!(
        rules.contains(&"allow-cart ingress pods app=web in namespace shop: TCP 80".to_owned()),
        "{rules:?}"
    );
}

#[test]
fn directions_and_default_deny_are_separate() {
    let cluster = cluster(SHOP);
    let flows = "src,dst,protocol,port\nshop/deploy/web,shop/svc/cart,TCP,80\n";
    let ingress: BTreeSet<Direction> = [Direction::Ingress].into();
    let only = Options {
        directions: ingress.clone(),
        default_deny: BTreeSet::new(),
        ..Options::default()
    };
    let only = made(&cluster, flows, &only);
    let names: Vec<String> = only.policies.iter().map(|p| p.policy.name.to_string()).collect();
    assert_eq!(names, ["shop/allow-cart"]);
    assert!(only.policies[0].policy.egress.is_none());
    let open = beyond(&only).iter().filter(|line| line.ends_with("(Open)")).count();
    assert!(open > 3, "{:?}", beyond(&only));
    let without = Options { default_deny: BTreeSet::new(), dns: false, ..Options::default() };
    let without = made(&cluster, flows, &without);
    let web = &without.policies[1].policy;
    assert_eq!(
        (web.ingress.as_deref(), web.egress.as_ref().map(Vec::len)),
        (Some(&[][..]), Some(1))
    );
}

#[test]
fn who_is_gone_is_found_by_what_records_and_names_say() {
    let cluster = cluster(SHOP);
    let hubble = |src: &str, dst: &str| {
        format!(
            r#"{{"flow":{{"verdict":"FORWARDED","IP":{{"source":"10.1.7.7","destination":"10.1.8.8"}},"l4":{{"TCP":{{"destination_port":8080}}}},"source":{src},"destination":{dst},"is_reply":false}}}}"#
        )
    };
    let cart = r#"{"namespace":"shop","pod_name":"gone-1","labels":["k8s:app=cart","k8s:pod-template-hash=9"]}"#;
    let web = r#"{"namespace":"shop","pod_name":"gone-2","workloads":[{"name":"web","kind":"Deployment"}]}"#;
    let by_name = r#"{"namespace":"shop","pod_name":"web-6c7b8d5f49-x2kqp"}"#;
    let nobody = r#"{"namespace":"shop","pod_name":"web-of-lies"}"#;
    let flows =
        [hubble(web, cart), hubble(by_name, cart), hubble(nobody, cart), hubble("{}", cart)];
    let made = made(&cluster, &flows.join("\n"), &Options::default());
    let links: Vec<(String, String, u64)> = made
        .report
        .links
        .iter()
        .filter(|link| !link.seen.is_empty())
        .map(|l| (made.report.end(l.src), made.report.end(l.dst), l.evidence.count))
        .collect();
    assert_eq!(links, [("shop/Deployment/web".to_owned(), "shop/Deployment/cart".to_owned(), 2)]);
    let why: Vec<String> =
        made.report.unplaced.iter().map(|u| format!("{}: {}", u.what, u.why)).collect();
    assert_eq!(
        why,
        [
            "10.1.7.7: a pod's address that nobody has now",
            "pod shop/web-of-lies: there is no such pod any more, and nothing says which workload it \
             was of",
        ]
    );
}

#[test]
fn what_no_labels_tell_apart_is_said_and_shared() {
    let twins = "
{apiVersion: v1, kind: Pod, metadata: {name: old, namespace: a, labels: {app: x}}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: new, namespace: a}, spec: {selector: {matchLabels: {app: x}},
 template: {metadata: {labels: {app: x, pod-template-hash: q}}, spec: {containers: [{name: c, image: i}]}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: a, labels: {app: db}}, spec: {containers: [{name: c, image: i}]}}
";
    let cluster = cluster(twins);
    let made = made(&cluster, "src,dst,protocol,port\na/old,a/db,TCP,1\n", &Options::default());
    assert_eq!(
        rules(&made),
        [
            "allow-new egress pods app=db in namespace a: TCP 1",
            "allow-db ingress pods app=x in namespace a: TCP 1"
        ]
    );
    assert_eq!(beyond(&made), ["a/Deployment/new > a/db: TCP 1 (Labels)"]);
    let old = made.report.units.iter().find(|unit| unit.label == "a/old").unwrap();
    assert_eq!(old.besides.len(), 1);
}

#[test]
fn addresses_are_widened_only_if_asked_and_then_it_is_said() {
    let cluster = cluster(SHOP);
    let flows = "src,dst,protocol,port\n\
        shop/idle,203.0.113.1,TCP,443\nshop/idle,203.0.113.99,TCP,443\nshop/idle,198.51.100.1,TCP,443\n\
        shop/idle,internet,UDP,123\n";
    let blocks = |options: &Options| -> Vec<String> {
        let made = made(&cluster, flows, options);
        let peers = made.policies.iter().flat_map(|p| p.policy.egress.iter().flatten());
        let peers = peers.flat_map(|rule| &rule.peers);
        peers.filter(|p| matches!(p, Peer::Block(_))).map(ToString::to_string).collect()
    };
    let dns = Options { dns: false, ..Options::default() };
    let single = ["198.51.100.1/32", "203.0.113.1/32", "203.0.113.99/32"];
    let outside = ["0.0.0.0/0 except 10.1.0.0/16", "::/0"];
    assert_eq!(blocks(&dns), [&outside[..], &single].concat());
    let wide = Options { aggregate: [Some(24), None], ..dns };
    assert_eq!(blocks(&wide), [&outside[..], &["198.51.100.1/32", "203.0.113.0/24"]].concat());
    let made = made(&cluster, flows, &wide);
    assert_eq!(made.report.beyond.len(), 1, "{:?}", beyond(&made));
    assert_eq!(made.report.beyond[0].because, Because::Aggregated);
}

#[test]
fn what_other_policies_deny_is_found() {
    let mut cluster = cluster(SHOP);
    let mut policy = Policy::network_policy("kube-system", "shut", Default::default());
    policy.ingress = Some(Vec::new());
    cluster.put_policy(policy);
    let flows = "src,dst,protocol,port\nshop/idle,kube-system/svc/kube-dns,UDP,53\n";
    let found = made(&cluster, flows, &Options::default());
    assert_eq!(found.report.failing.len(), 1);
    assert!(found.report.failing[0].isolated_by.contains(&Name::new("kube-system", "shut")));
    let both =
        Options { namespaces: vec!["shop".into(), "kube-system".into()], ..Options::default() };
    let both = made(&cluster, flows, &both);
    assert!(both.report.failing.is_empty(), "the new policies let it in");
    assert_eq!(both.report.staying, [Name::new("kube-system", "shut")]);
}

/// Of random clusters and flows: what was seen passes, and what else passes is said, by the evaluator.
#[test]
fn nothing_passes_that_is_neither_seen_nor_said() {
    let (mut seen, mut more, mut denied) = (0, 0, 0);
    for seed in 0..300 {
        let dice = &mut Dice::seeded(seed);
        let mut cluster = random::cluster(dice);
        cluster.policies.clear();
        cluster.strangers.clear();
        let pods: Vec<Name> = cluster.pods.keys().cloned().collect();
        let mut text = String::from("src,dst,protocol,port\n");
        for _ in 0..dice.between(1, 6) {
            let end = |dice: &mut Dice| match dice.chance(75) {
                true => dice.pick(&pods).to_string(),
                false => (*dice.pick(&["203.0.113.1", "192.0.2.7", "2001:db8::7"])).to_owned(),
            };
            let port = *dice.pick(&[80, 81, 443]);
            text += &format!("{},{},TCP,{port}\n", end(dice), end(dice));
        }
        let made = made(&cluster, &text, &Options::default());
        let mut after = cluster.clone();
        for proposed in &made.policies {
            after.put_policy(proposed.policy.clone());
        }
        let report = &made.report;
        let mut known: BTreeMap<(String, String), PortSet> = BTreeMap::new();
        let mut put = |src: String, dst: String, ports: &PortSet| {
            let all = known.entry((src, dst)).or_default();
            *all = all.union(ports);
        };
        for link in &report.links {
            put(report.end(link.src), report.end(link.dst), &link.seen);
        }
        for beyond in &report.beyond {
            put(beyond.src.clone(), beyond.dst.clone(), &beyond.ports);
        }
        let places = places::Places::new(&cluster, &BTreeMap::new());
        let label =
            |pod: &Pod| places.unit_of(&pod.name).map(|unit| report.units[unit].label.clone());
        let namespaces = &report.namespaces;
        for src in cluster.pods.values() {
            for dst in cluster.pods.values() {
                let (Some(from), Some(to)) = (label(src), label(dst)) else { continue };
                let ours = |pod: &Pod| namespaces.contains(&pod.name.namespace);
                // Pods that share an address are the network's fault.
                if src.name == dst.name || !(ours(src) || ours(dst)) {
                    continue;
                }
                let nothing = PortSet::empty();
                let said = known.get(&(from.clone(), to.clone())).unwrap_or(&nothing);
                for flow in Flow::between(Party::Pod(src), Party::Pod(dst)) {
                    let passes = evaluate(&after, &flow).allowed();
                    let extra = passes.difference(said);
                    assert!(extra.is_empty(), "seed {seed}: {from} > {to}: {extra}\n{text}");
                    denied += usize::from(passes.is_empty());
                    more += usize::from(!passes.is_empty());
                }
            }
        }
        for link in report.links.iter().filter(|link| !link.seen.is_empty()) {
            let failing = report.failing.iter().any(|failing| {
                failing.src == report.end(link.src) && failing.dst == report.end(link.dst)
            });
            let ends = |end: End| match end {
                End::Unit(unit) => places.units[unit].pods.clone(),
                _ => Vec::new(),
            };
            for src in ends(link.src) {
                for dst in ends(link.dst) {
                    for flow in Flow::between(Party::Pod(src), Party::Pod(dst)) {
                        let passes = evaluate(&after, &flow).allowed();
                        let all = link.seen.difference(&passes).is_empty();
                        assert!(all || failing, "seed {seed}: {}\n{text}", link.seen);
                        seen += usize::from(all);
                    }
                }
            }
        }
    }
    assert!(seen > 200 && more > 200 && denied > 1000, "{seen} {more} {denied}");
}
