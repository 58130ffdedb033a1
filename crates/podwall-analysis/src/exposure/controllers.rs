//! Which pods open the connections of an Ingress or a Gateway?
//!
//! ```text
//!   pods with the Gateway's name in a label ─┐
//!   pods that were named (--ingress-controller)├▶ the first that there are; else unknown
//!   pods with the labels of a known controller ┘
//! ```
//!
//! Nothing in an Ingress says which pods serve it, so where several controllers are known the one is
//! taken that its class names.

use std::collections::BTreeMap;

use podwall_policy::cluster::Cluster;
use podwall_policy::object::{Name, Phase, Pod};

/// The label that pods of a Gateway of its own carry (GEP-1762), and Envoy Gateway's two.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const ENVOY_NAME: &str = "gateway.envoyproxy.io/owning-gateway-name";
const ENVOY_NAMESPACE: &str = "gateway.envoyproxy.io/owning-gateway-namespace";

/// Controllers by what their charts label their pods, with what their classes are called.
const KNOWN: [(&str, &str, &[&str]); 14] = [
    ("app.kubernetes.io/name", "ingress-nginx", &["nginx"]),
    ("app.kubernetes.io/name", "nginx-ingress", &["nginx"]),
    ("app.kubernetes.io/name", "nginx-gateway-fabric", &["nginx"]),
    ("app.kubernetes.io/name", "traefik", &["traefik"]),
    ("app.kubernetes.io/name", "haproxy-ingress", &["haproxy"]),
    ("app.kubernetes.io/name", "kubernetes-ingress", &["haproxy"]),
    ("app.kubernetes.io/name", "kong", &["kong"]),
    ("app.kubernetes.io/name", "ingress", &["kong"]),
    ("app.kubernetes.io/name", "envoy", &["contour", "envoy"]),
    ("app.kubernetes.io/name", "contour", &["contour"]),
    ("app.kubernetes.io/name", "emissary-ingress", &["emissary", "ambassador"]),
    ("app.kubernetes.io/name", "apisix", &["apisix"]),
    ("istio", "ingressgateway", &["istio"]),
    (
        "ingresscontroller.operator.openshift.io/deployment-ingresscontroller",
        "default",
        &["openshift"],
    ),
];

/// Components of the same charts that serve no requests.
const NO_SERVERS: [&str; 5] =
    ["admission-webhook", "default-backend", "defaultbackend", "contour", "certgen"];

/// The controllers that there are.
pub(super) struct Controllers<'a> {
    named: Vec<&'a Pod>,
    gateways: BTreeMap<(String, String), Vec<&'a Pod>>,
    /// By the place in [`KNOWN`].
    known: BTreeMap<usize, Vec<&'a Pod>>,
}

/// The pods of a controller.
#[derive(Clone, Debug)]
pub(super) enum Found<'a> {
    /// These; never empty.
    Pods(Vec<&'a Pod>),
    /// None, or too many: the fact that is missing.
    Not(String),
}

impl<'a> Controllers<'a> {
    /// Of a cluster; `named` are the pods that somebody said it is.
    pub(super) fn new(cluster: &'a Cluster, named: &[&Pod]) -> Self {
        let of = |name: &Name| cluster.pods.get(name);
        let named = named.iter().filter_map(|pod| of(&pod.name)).collect();
        let mut gateways: BTreeMap<(String, String), Vec<&Pod>> = BTreeMap::new();
        let mut known: BTreeMap<usize, Vec<&Pod>> = BTreeMap::new();
        for pod in cluster.pods.values().filter(|pod| pod.phase == Phase::Alive) {
            let own = &*pod.name.namespace;
            if let Some(name) = pod.labels.get(GATEWAY_NAME) {
                gateways.entry((own.to_owned(), name.to_owned())).or_default().push(pod);
            }
            if let Some(name) = pod.labels.get(ENVOY_NAME) {
                let namespace = pod.labels.get(ENVOY_NAMESPACE).unwrap_or(own);
                gateways.entry((namespace.to_owned(), name.to_owned())).or_default().push(pod);
            }
            let component = pod.labels.get("app.kubernetes.io/component").unwrap_or_default();
            if NO_SERVERS.contains(&component) {
                continue;
            }
            let place =
                KNOWN.iter().position(|(key, value, _)| pod.labels.get(key) == Some(*value));
            if let Some(place) = place {
                known.entry(place).or_default().push(pod);
            }
        }
        Self { named, gateways, known }
    }

    /// Who serves Ingresses of a class.
    pub(super) fn of_ingress(&self, class: Option<&str>) -> Found<'a> {
        if !self.named.is_empty() {
            return Found::Pods(self.named.clone());
        }
        self.by_class(class)
    }

    /// Who serves a Gateway.
    pub(super) fn of_gateway(&self, gateway: &Name, class: Option<&str>) -> Found<'a> {
        let key = (gateway.namespace.to_string(), gateway.name.to_string());
        match self.gateways.get(&key) {
            Some(pods) => Found::Pods(pods.clone()),
            None if !self.named.is_empty() => Found::Pods(self.named.clone()),
            None => self.by_class(class),
        }
    }

    fn by_class(&self, class: Option<&str>) -> Found<'a> {
        let fits = |place: &usize| {
            let words = KNOWN.get(*place).map_or(&[][..], |(_, _, words)| *words);
            class.is_some_and(|class| words.iter().any(|word| class.contains(word)))
        };
        let fitting: Vec<&Vec<&Pod>> =
            self.known.iter().filter(|(place, _)| fits(place)).map(|(_, pods)| pods).collect();
        let all: Vec<&Vec<&Pod>> = self.known.values().collect();
        match (fitting.as_slice(), all.as_slice()) {
            ([one], _) => Found::Pods((*one).clone()),
            ([], [one]) if class.is_none() => Found::Pods((*one).clone()),
            _ => {
                let of = class.map_or_else(String::new, |class| format!(" of class {class}"));
                Found::Not(format!("which pods are the controller{of} (--ingress-controller)"))
            }
        }
    }
}
