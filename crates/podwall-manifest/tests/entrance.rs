//! Ingresses, Gateways and routes: read where they are asked for, and checked as far as they are.

use podwall_manifest::{Input, Options, Reading, Typed, object_from_json, read};
use podwall_policy::entrance::{BackendPort, ClassKind, Entrance, RoutesFrom};
use podwall_policy::object::Name;

fn options() -> Options {
    Options { entrances: true, ..Options::default() }
}

fn reading(kind: &str, spec: &str) -> Reading {
    let version = match kind {
        "Ingress" => "networking.k8s.io/v1",
        "ReferenceGrant" => "gateway.networking.k8s.io/v1beta1",
        "TCPRoute" => "gateway.networking.k8s.io/v1alpha2",
        _ => "gateway.networking.k8s.io/v1",
    };
    let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n{spec}\n");
    read(&[Input::Text { name: "t".into(), text }], &options())
}

fn entrance(kind: &str, spec: &str) -> Entrance {
    let reading = reading(kind, spec);
    let messages: Vec<&str> = reading.diagnostics.iter().map(|d| d.message.as_str()).collect();
    assert!(messages.is_empty(), "{messages:?}");
    match &reading.objects[0].typed {
        Typed::Entrance(entrance) => (**entrance).clone(),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn an_ingress_is_its_backends_with_their_lines() {
    let Entrance::Ingress(ingress) = entrance(
        "Ingress",
        "spec:\n  ingressClassName: nginx\n  tls: [{hosts: [a]}]\n  defaultBackend: {service: {name: \
         d, port: {name: http}}}\n  rules:\n  - host: a.example\n    http:\n      paths:\n      - path: \
         /x\n        pathType: Exact\n        backend: {service: {name: w, port: {number: 80}}}\n      \
         - path: /\n        pathType: Prefix\n        backend: {resource: {kind: Bucket, name: b}}\n",
    ) else {
        unreachable!()
    };
    assert_eq!(ingress.class.as_deref(), Some("nginx"));
    let [first, default] = &ingress.backends[..] else { unreachable!("{ingress:?}") };
    assert_eq!((first.host.as_deref(), first.path.as_deref()), (Some("a.example"), Some("/x")));
    assert_eq!(first.port, BackendPort::Number(80));
    assert_eq!(first.source.as_ref().unwrap().line, 14);
    assert_eq!((&*default.service, &default.port), ("d", &BackendPort::Name("http".into())));
}

#[test]
fn the_class_may_be_an_annotation() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: x, annotations: \
                {kubernetes.io/ingress.class: traefik}}\nspec: {defaultBackend: {service: {name: d, \
                port: {number: 1}}}}\n";
    let reading = read(&[Input::Text { name: "t".into(), text: text.into() }], &options());
    let cluster = reading.cluster();
    let ingress = &cluster.entrances.ingresses[&Name::new("default", "x")];
    assert_eq!(ingress.class.as_deref(), Some("traefik"));
}

#[test]
fn a_class_is_its_controller_and_has_no_namespace() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: front, \
                annotations: {ingressclass.kubernetes.io/is-default-class: \"true\"}}\n\
                spec: {controller: k8s.io/ingress-nginx}\n---\n\
                apiVersion: gateway.networking.k8s.io/v1beta1\nkind: GatewayClass\n\
                metadata: {name: door}\nspec: {controllerName: istio.io/gateway-controller}\n";
    let reading = read(&[Input::Text { name: "t".into(), text: text.into() }], &options());
    assert!(reading.diagnostics.is_empty(), "{:?}", reading.diagnostics);
    let entrances = reading.cluster().entrances;
    let of = |kind, name| {
        entrances
            .class(kind, name)
            .map(|class| (class.name.to_string(), class.controller.to_string()))
    };
    let front = Some(("front".to_owned(), "k8s.io/ingress-nginx".to_owned()));
    let door = Some(("door".to_owned(), "istio.io/gateway-controller".to_owned()));
    assert_eq!(of(ClassKind::Ingress, Some("front")), front);
    assert_eq!(of(ClassKind::Ingress, None), front);
    assert_eq!(of(ClassKind::Gateway, Some("door")), door);
    assert_eq!(of(ClassKind::Gateway, None), None);
    assert_eq!(of(ClassKind::Gateway, Some("front")), None);

    let wrong = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\n\
                 metadata: {name: x, namespace: y}\nspec: {}\n";
    let reading = read(&[Input::Text { name: "t".into(), text: wrong.into() }], &options());
    let messages: Vec<&str> = reading.diagnostics.iter().map(|d| d.message.as_str()).collect();
    assert!(messages.contains(&"`spec.controller` is required"), "{messages:?}");
    assert_eq!(messages.len(), 2, "{messages:?}");
}

#[test]
fn a_gateway_is_its_listeners_and_a_route_its_backends() {
    let Entrance::Gateway(gateway) = entrance(
        "Gateway",
        "spec: {gatewayClassName: c, addresses: [], listeners: [{name: a, port: 80, protocol: HTTP}, \
         {name: b, port: 443, protocol: HTTPS, hostname: '*.a', tls: {}, allowedRoutes: {namespaces: \
         {from: Selector, selector: {matchLabels: {a: b}}}, kinds: [{kind: GRPCRoute}]}}]}",
    ) else {
        unreachable!()
    };
    assert_eq!(gateway.listeners[0].from, RoutesFrom::Same);
    assert!(
        matches!(&gateway.listeners[1].from, RoutesFrom::Selected(s) if s.to_string() == "a=b")
    );
    assert_eq!(gateway.listeners[1].kinds, ["GRPCRoute".into()]);

    let Entrance::Route(route) = entrance(
        "TCPRoute",
        "spec: {parentRefs: [{name: g, namespace: infra, sectionName: s}, {kind: Service, name: mesh}], \
         rules: [{backendRefs: [{name: a, port: 1}, {name: a, port: 1}, {name: b, port: 2, weight: \
         0}, {name: c, namespace: o, port: 3}, {kind: Bucket, name: d}]}]}",
    ) else {
        unreachable!()
    };
    assert_eq!(route.parents.len(), 1, "a mesh's Service is no Gateway");
    assert_eq!(route.parents[0].section.as_deref(), Some("s"));
    let backends: Vec<String> =
        route.backends.iter().map(|b| format!("{}:{}", b.service, b.port.unwrap())).collect();
    assert_eq!(backends, ["default/a:1", "o/c:3"], "twice, without weight, no Service");
}

#[test]
fn a_grant_names_who_may_and_what() {
    let Entrance::Grant(grant) = entrance(
        "ReferenceGrant",
        "spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}], to: \
         [{group: '', kind: Service, name: w}, {group: '', kind: Secret}]}",
    ) else {
        unreachable!()
    };
    assert!(grant.allows("HTTPRoute", "a", &Name::new("default", "w")));
    assert!(!grant.allows("HTTPRoute", "a", &Name::new("default", "v")));
    assert!(!grant.allows("HTTPRoute", "b", &Name::new("default", "w")));
    assert!(!grant.allows("TCPRoute", "a", &Name::new("default", "w")));
    assert!(!grant.allows("HTTPRoute", "a", &Name::new("other", "w")));
}

#[test]
fn what_the_api_server_refuses_is_refused() {
    for (kind, spec, message) in [
        ("Ingress", "", "`spec` is required"),
        ("Ingress", "spec: {}", "either `spec.defaultBackend` or `spec.rules` is required"),
        (
            "Ingress",
            "spec: {defaultBackend: {service: {name: a}}}",
            "`spec.defaultBackend.service.port` is required",
        ),
        (
            "Ingress",
            "spec: {defaultBackend: {service: {name: a, port: {number: 1, name: b}}}}",
            "`spec.defaultBackend.service.port` has a number and a name",
        ),
        (
            "Ingress",
            "spec: {rules: [{http: {paths: [{path: /}]}}]}",
            "`spec.rules[0].http.paths[0].backend` is required",
        ),
        (
            "Ingress",
            "spec: {defaultBackend: {serviceName: a, servicePort: 1}}",
            "`spec.defaultBackend.service` is required",
        ),
        ("Gateway", "spec: {gatewayClassName: c}", "`spec.listeners` is required"),
        (
            "Gateway",
            "spec: {gatewayClassName: c, listeners: [{name: a, port: 0, protocol: HTTP}]}",
            "`spec.listeners[0].port` must be from 1 to 65535, not 0",
        ),
        ("HTTPRoute", "spec: {rules: 7}", "`spec.rules` must be a list, not a number"),
        (
            "HTTPRoute",
            "spec: {rules: [{backendRefs: [{name: a}]}]}",
            "`spec.rules[0].backendRefs[0].port` is required",
        ),
        (
            "ReferenceGrant",
            "spec: {from: [{kind: HTTPRoute}]}",
            "`spec.from[0].namespace` is required",
        ),
    ] {
        let reading = reading(kind, spec);
        let messages: Vec<&str> = reading.diagnostics.iter().map(|d| d.message.as_str()).collect();
        assert!(messages.contains(&message), "{kind} {spec}: {messages:?}");
        assert!(reading.objects.is_empty(), "{kind} {spec}");
    }
}

#[test]
fn they_are_skipped_unless_they_are_asked_for() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: x}\nspec: 7\n";
    let reading = read(&[Input::Text { name: "t".into(), text: text.into() }], &Options::default());
    assert_eq!(reading.skipped["Ingress"], 1);
    assert!(!reading.has_errors());
    let json = serde_json::json!({
        "apiVersion": "extensions/v1beta1", "kind": "Ingress", "metadata": {"name": "x"}, "spec": {}
    });
    let wrong = object_from_json(&json, "o", &options()).unwrap_err();
    assert_eq!(wrong[0].message, "`extensions/v1beta1` no longer serves Ingress");
    let json = serde_json::json!({
        "apiVersion": "example.com/v1", "kind": "Gateway", "metadata": {"name": "x"}, "spec": {}
    });
    assert!(
        object_from_json(&json, "o", &options()).unwrap_err()[0].message.contains("not one that")
    );
}

#[test]
fn a_load_balancers_ranges_and_external_addresses_are_read() {
    let service = |spec: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: x}}\nspec: {{ports: [{{port: 80}}], \
             {spec}}}\n"
        );
        read(&[Input::Text { name: "t".into(), text }], &Options::default())
    };
    let good = service(
        "type: LoadBalancer, externalTrafficPolicy: Local, externalIPs: [192.0.2.1], \
         loadBalancerSourceRanges: [10.0.0.0/8, ' 10.1.0.0/16 ']",
    );
    let cluster = good.cluster();
    let external = &cluster.services[&Name::new("default", "x")].external;
    assert!(external.load_balancer && external.local);
    assert_eq!((external.ips.len(), external.source_ranges.len()), (1, 2));
    for (spec, message) in [
        (
            "loadBalancerSourceRanges: [10.0.0.0/8]",
            "`spec.loadBalancerSourceRanges` belongs to type `LoadBalancer`",
        ),
        (
            "type: LoadBalancer, loadBalancerSourceRanges: [all]",
            "`spec.loadBalancerSourceRanges[0]` `all` must be an address with a prefix length, like \
             10.9.8.0/24",
        ),
    ] {
        let reading = service(spec);
        let messages: Vec<&str> = reading.diagnostics.iter().map(|d| d.message.as_str()).collect();
        assert_eq!(messages, [message]);
    }
}
