//! Through what can the outside reach which pods? Scenes as manifests, and each path in a line.

#![expect(clippy::unwrap_used, reason = "helpers of tests; only what fails a test")]

use podwall_analysis::exposure::paths::{Path, Seen, Via};
use podwall_analysis::exposure::{Outcome, exposure, paths_into};
use podwall_analysis::outside::describe;
use podwall_analysis::peer::resolve;
use podwall_manifest::{Input, Options, read, render_all};

/// `WORKLOAD < VIA PORT as WHOM: OUTCOME`; paths to no pod have no workload.
fn paths(text: &str, controller: Option<&str>) -> Vec<String> {
    let options = Options { entrances: true, ..Options::default() };
    let reading = read(&[Input::Text { name: "t".into(), text: text.into() }], &options);
    assert!(!reading.has_errors(), "{}", render_all(&reading.diagnostics, false));
    let cluster = reading.cluster();
    let controller = controller.map(|text| resolve(&cluster, text, "default").unwrap());
    let controller = controller.map(|peer| peer.pods(&cluster)).unwrap_or_default();
    let found = exposure(&cluster, &controller);
    let mut lines = Vec::new();
    for workload in &found.workloads {
        // Who asks for one workload alone is told the same.
        if controller.is_empty() {
            assert_eq!(paths_into(&cluster, &workload.pods), workload.paths, "{}", workload.label);
        }
        lines.extend(
            workload.paths.iter().map(|path| format!("{} < {}", workload.label, line(path))),
        );
    }
    lines.sort();
    lines.extend(found.loose.iter().map(line));
    lines
}

fn line(path: &Path) -> String {
    let via = match &path.via {
        Via::NodePort(number) => format!("node port {}", number.unwrap_or_default()),
        Via::LoadBalancer(_) => "load balancer".to_owned(),
        Via::ExternalIps(ips) => format!("external {ips:?}"),
        Via::Ingress { what, .. } => format!("ingress [{what}]"),
        Via::Gateway { listener, port, route, .. } => {
            format!("gateway {listener}:{port} {} {}", route.0, route.1)
        }
    };
    let targets: Vec<String> = path.targets.iter().map(|(p, n)| format!("{p} {n}")).collect();
    let seen = match &path.seen {
        Seen::Node(_) => "node".to_owned(),
        Seen::Client => "client".to_owned(),
        Seen::Unknown => "?".to_owned(),
        Seen::Controller(pods) => pods[0].to_string(),
    };
    let outcome = match &path.outcome {
        Outcome::Open(None) => "open".to_owned(),
        Outcome::Open(Some(to)) => format!("open to {}", describe(to)),
        Outcome::OwnNodeOnly(None) => "own node only".to_owned(),
        Outcome::OwnNodeOnly(Some(to)) => format!("own node only, to {}", describe(to)),
        Outcome::Shut => "shut".to_owned(),
        Outcome::Unknown(facts) => format!("unknown: {}", facts.join(", ")),
        Outcome::Broken(why) => format!("broken: {why}"),
    };
    format!("{via} -> {} as {seen}: {outcome}", targets.join(","))
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec: \
                   {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}\n---\n";

fn service(spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{selector: {{app: web}}, \
         ports: [{{name: main, port: 80, targetPort: http}}], {spec}}}\n---\n"
    )
}

fn policy(from: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: in}}\nspec: \
         {{podSelector: {{}}, policyTypes: [Ingress], ingress: [{from}]}}\n---\n"
    )
}

const BLOCK: &str = "{from: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 8080}]}";

#[test]
fn a_node_port_shows_policies_the_node_and_the_client_at_the_pods_own() {
    let node_port = service("type: NodePort");
    assert_eq!(
        paths(&(POD.to_owned() + &node_port), None),
        ["default/web < node port 0 -> TCP 8080 as node: open"]
    );
    assert_eq!(
        paths(&(POD.to_owned() + &node_port + &policy("")), None),
        ["default/web < node port 0 -> TCP 8080 as node: shut"],
        "exposure said that policies never keep a client out who asks the pod's own node"
    );
    let anybody = policy("{ports: [{port: 80}]}");
    assert_eq!(
        paths(&(POD.to_owned() + &node_port + &anybody), None),
        ["default/web < node port 0 -> TCP 8080 as node: shut"],
        "the pod's port counts, not the Service's"
    );
    assert_eq!(
        paths(&(POD.to_owned() + &node_port + &policy(BLOCK)), None),
        ["default/web < node port 0 -> TCP 8080 as node: own node only, to 203.0.113.0/24"]
    );
}

#[test]
fn the_nodes_that_there_are_decide_where_a_block_could_be_theirs() {
    let node = |name: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus: {{addresses: [{{type: \
             InternalIP, address: {address}}}]}}\n---\n"
        )
    };
    let placed = POD.replace("spec: {", "spec: {nodeName: a, ");
    let scene = placed + &service("type: NodePort") + &policy(BLOCK) + &node("a", "203.0.113.1");
    let line = "default/web < node port 0 -> TCP 8080 as node: ";
    assert_eq!(
        paths(&(scene.clone() + &node("b", "192.0.2.1")), None),
        [format!("{line}own node only, to 203.0.113.0/24")]
    );
    assert_eq!(paths(&(scene + &node("b", "203.0.113.2")), None), [format!("{line}open")]);
}

#[test]
fn with_the_policy_local_the_clients_address_counts() {
    let local = service("type: NodePort, externalTrafficPolicy: Local");
    assert_eq!(
        paths(&(POD.to_owned() + &local + &policy(BLOCK)), None),
        ["default/web < node port 0 -> TCP 8080 as client: open to 203.0.113.0/24"]
    );
    assert_eq!(
        paths(&(POD.to_owned() + &local + &policy("")), None),
        ["default/web < node port 0 -> TCP 8080 as client: shut"]
    );
}

#[test]
fn a_load_balancer_lets_its_ranges_in_and_has_a_node_port_too() {
    let ranges = "type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerSourceRanges: \
                  [203.0.113.64/26, 198.51.100.0/24]";
    assert_eq!(
        paths(&(POD.to_owned() + &service(ranges) + &policy(BLOCK)), None),
        [
            "default/web < load balancer -> TCP 8080 as client: open to 203.0.113.64/26",
            "default/web < node port 0 -> TCP 8080 as client: open to 203.0.113.0/24",
        ]
    );
}

/// The ranges were asked for only where the client's address was thought to count.
#[test]
fn with_the_policy_cluster_the_ranges_count_at_the_pods_own_node() {
    let ranges = "type: LoadBalancer, loadBalancerSourceRanges: [203.0.113.64/26, 198.51.100.0/24]";
    assert_eq!(
        paths(&(POD.to_owned() + &service(ranges) + &policy(BLOCK)), None)[0],
        "default/web < load balancer -> TCP 8080 as node: own node only, to 203.0.113.64/26"
    );
}

#[test]
fn external_addresses_are_a_path_of_a_cluster_service() {
    assert_eq!(
        paths(&(POD.to_owned() + &service("externalIPs: [192.0.2.9]")), None),
        ["default/web < external [192.0.2.9] -> TCP 8080 as node: open"]
    );
    assert!(paths(&(POD.to_owned() + &service("clusterIP: None")), None).is_empty());
}

const INGRESS: &str = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i}\nspec: \
                       {ingressClassName: nginx, rules: [{host: a.example, http: {paths: [{path: \
                       /x, pathType: Prefix, backend: {service: {name: web, port: {name: \
                       main}}}}]}}], defaultBackend: {service: {name: web, port: {number: \
                       81}}}}\n---\n";

fn controller(labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: ctl, namespace: edge, labels: \
         {{{labels}}}}}\nspec: {{containers: [{{name: c}}]}}\n---\n"
    )
}

#[test]
fn an_ingress_shows_policies_its_controller() {
    let scene = POD.to_owned()
        + &service("")
        + INGRESS
        + &controller("app.kubernetes.io/name: ingress-nginx");
    let no_port = "ingress [] ->  as ?: broken: Service default/web has no port 81";
    assert_eq!(
        paths(&scene, None),
        ["default/web < ingress [host a.example path /x] -> TCP 8080 as edge/ctl: open", no_port,]
    );
    assert_eq!(
        paths(&(scene.clone() + &policy("")), None),
        ["default/web < ingress [host a.example path /x] -> TCP 8080 as edge/ctl: shut", no_port,]
    );
    let from = "{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: edge}}}]}";
    assert!(paths(&(scene + &policy(from)), None)[0].ends_with("edge/ctl: open"));
}

#[test]
fn a_controller_that_nobody_knows_is_unknown_until_it_is_named() {
    let scene = POD.to_owned() + &service("") + INGRESS + &controller("app: proxy");
    assert_eq!(
        paths(&scene, None)[0],
        "default/web < ingress [host a.example path /x] -> TCP 8080 as ?: unknown: which pods are \
         the controller of class nginx (exposure --ingress-controller)"
    );
    assert!(paths(&scene, Some("edge/ctl"))[0].ends_with("as edge/ctl: open"));
}

/// Two controllers, and classes whose names say nothing.
#[test]
fn a_class_says_by_its_controller_who_serves_it() {
    let class = |name: &str, controller: &str, default: bool| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: {name}, \
             annotations: {{ingressclass.kubernetes.io/is-default-class: \"{default}\"}}}}\nspec: \
             {{controller: {controller}}}\n---\n"
        )
    };
    let other = controller("app.kubernetes.io/name: traefik").replace("name: ctl", "name: other");
    let scene = POD.to_owned()
        + &service("")
        + &INGRESS.replace("nginx", "nginx-but-not-really")
        + &controller("app.kubernetes.io/name: ingress-nginx")
        + &other;
    let serves = |scene: &str, classes: &str| {
        let first = paths(&(scene.to_owned() + classes), None).remove(0);
        first.rsplit(" as ").next().unwrap().to_owned()
    };
    assert_eq!(serves(&scene, ""), "edge/ctl: open");
    let stated = class("nginx-but-not-really", "traefik.io/ingress-controller", false);
    assert_eq!(serves(&scene, &stated), "edge/other: open");
    assert_eq!(
        serves(&scene, &class("nginx-but-not-really", "example.com/own", false)),
        "?: unknown: which pods are the controller of class nginx-but-not-really, \
         example.com/own (exposure --ingress-controller)"
    );
    // Where no class is named the default one is meant.
    let scene = scene.replace("ingressClassName: nginx-but-not-really, ", "");
    assert!(!scene.contains("ingressClassName"), "{scene}");
    assert!(serves(&scene, "").contains("unknown"));
    let front = class("front", "k8s.io/ingress-nginx", false);
    let back = |default| front.clone() + &class("back", "traefik.io/ingress-controller", default);
    assert!(serves(&scene, &back(false)).contains("unknown"));
    assert_eq!(serves(&scene, &back(true)), "edge/other: open");
}

fn gateway(listener: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g, namespace: \
         edge}}\nspec: {{gatewayClassName: c, listeners: [{{name: web, port: 443, protocol: HTTPS, \
         {listener}}}]}}\n---\n"
    )
}

fn route(namespace: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: \
         {namespace}}}\nspec: {{parentRefs: [{{name: g, namespace: edge}}], rules: [{{backendRefs: \
         [{{name: web, namespace: default, port: 80}}]}}]}}\n---\n"
    )
}

#[test]
fn a_gateways_routes_lead_through_its_own_pods() {
    let proxy = controller("gateway.networking.k8s.io/gateway-name: g");
    let scene = POD.to_owned() + &service("") + &proxy + &route("default");
    let all = gateway("allowedRoutes: {namespaces: {from: All}}");
    assert_eq!(
        paths(&(scene.clone() + &all), None),
        ["default/web < gateway web:443 HTTPRoute default/r -> TCP 8080 as edge/ctl: open"]
    );
    assert_eq!(
        paths(&(scene.clone() + &all + &policy("")), None),
        ["default/web < gateway web:443 HTTPRoute default/r -> TCP 8080 as edge/ctl: shut"]
    );
    assert_eq!(
        paths(&(scene.clone() + &gateway("")), None),
        [
            "gateway :0 HTTPRoute default/r ->  as ?: broken: no listener of the Gateway takes this route"
        ]
    );
    assert_eq!(
        paths(&scene, None),
        [
            "gateway :0 HTTPRoute default/r ->  as ?: unknown: Gateway edge/g, which no object states"
        ]
    );
}

#[test]
fn a_service_of_another_namespace_needs_a_grant() {
    let proxy = controller("gateway.networking.k8s.io/gateway-name: g");
    let scene = POD.to_owned() + &service("") + &proxy + &route("edge") + &gateway("");
    assert!(paths(&scene, None)[0].contains("broken: no ReferenceGrant in namespace default"));
    let grant = |of: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: \
             x, namespace: default}}\nspec: {{from: [{{group: gateway.networking.k8s.io, kind: \
             HTTPRoute, namespace: {of}}}], to: [{{group: '', kind: Service}}]}}\n---\n"
        )
    };
    assert!(paths(&(scene.clone() + &grant("edge")), None)[0].ends_with("as edge/ctl: open"));
    assert!(paths(&(scene + &grant("other")), None)[0].contains("no ReferenceGrant"));
}

#[test]
fn what_selects_nobody_leads_nowhere() {
    assert_eq!(
        paths(&service("type: NodePort"), None),
        ["node port 0 ->  as ?: broken: the Service selects no running pod"]
    );
    let unnamed = service("type: NodePort").replace("http", "grpc");
    assert_eq!(
        paths(&(POD.to_owned() + &unnamed), None),
        ["default/web < node port 0 ->  as ?: broken: no pod has a TCP port named \"grpc\""]
    );
}
