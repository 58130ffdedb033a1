//! Which pods open the connections of an Ingress or a Gateway?
//!
//! ```text
//!   pods with the Gateway's name in a label ──┐
//!   pods that were named (--ingress-controller)├▶ the first that there are; else unknown
//!   pods with the labels of a known controller ┘
//!                     └ whose name the class states, or is in the class's name
//! ```
//!
//! No object says which pods serve an Ingress. Its class, where it is among the objects, says which
//! controller; else the class's name is taken for a hint.

use std::collections::BTreeMap;

use podwall_policy::cluster::Cluster;
use podwall_policy::entrance::{ClassKind, Entrances};
use podwall_policy::object::{Name, Phase, Pod};

/// The label that pods of a Gateway of its own carry (GEP-1762), and Envoy Gateway's two.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const ENVOY_NAME: &str = "gateway.envoyproxy.io/owning-gateway-name";
const ENVOY_NAMESPACE: &str = "gateway.envoyproxy.io/owning-gateway-namespace";

/// A controller as its chart installs it.
struct Known {
    /// A label of its pods.
    label: (&'static str, &'static str),
    /// What classes of it are called, more or less.
    classes: &'static [&'static str],
    /// What classes of it state as their controller.
    controllers: &'static [&'static str],
}

const NAME: &str = "app.kubernetes.io/name";

const KNOWN: [Known; 14] = [
    Known {
        label: (NAME, "ingress-nginx"),
        classes: &["nginx"],
        controllers: &["k8s.io/ingress-nginx"],
    },
    Known {
        label: (NAME, "nginx-ingress"),
        classes: &["nginx"],
        controllers: &["nginx.org/ingress-controller"],
    },
    Known {
        label: (NAME, "nginx-gateway-fabric"),
        classes: &["nginx"],
        controllers: &["gateway.nginx.org/nginx-gateway-controller"],
    },
    Known {
        label: (NAME, "traefik"),
        classes: &["traefik"],
        controllers: &["traefik.io/ingress-controller", "traefik.io/gateway-controller"],
    },
    Known {
        label: (NAME, "haproxy-ingress"),
        classes: &["haproxy"],
        controllers: &["haproxy-ingress.github.io/controller"],
    },
    Known {
        label: (NAME, "kubernetes-ingress"),
        classes: &["haproxy"],
        controllers: &["haproxy.org/ingress-controller/haproxy", "haproxy.org/ingress-controller"],
    },
    Known { label: (NAME, "kong"), classes: &["kong"], controllers: KONG },
    Known { label: (NAME, "ingress"), classes: &["kong"], controllers: KONG },
    Known {
        label: (NAME, "envoy"),
        classes: &["contour", "envoy"],
        controllers: &[
            "projectcontour.io/ingress-controller",
            "projectcontour.io/gateway-controller",
            "gateway.envoyproxy.io/gatewayclass-controller",
        ],
    },
    Known {
        label: (NAME, "contour"),
        classes: &["contour"],
        controllers: &[
            "projectcontour.io/ingress-controller",
            "projectcontour.io/gateway-controller",
        ],
    },
    Known {
        label: (NAME, "emissary-ingress"),
        classes: &["emissary", "ambassador"],
        controllers: &["getambassador.io/ingress-controller"],
    },
    Known {
        label: (NAME, "apisix"),
        classes: &["apisix"],
        controllers: &[
            "apisix.apache.org/apisix-ingress",
            "apisix.apache.org/apisix-ingress-controller",
        ],
    },
    Known {
        label: ("istio", "ingressgateway"),
        classes: &["istio"],
        controllers: &["istio.io/ingress-controller", "istio.io/gateway-controller"],
    },
    Known {
        label: ("ingresscontroller.operator.openshift.io/deployment-ingresscontroller", "default"),
        classes: &["openshift"],
        controllers: &["openshift.io/ingress-to-route", "openshift.io/gateway-controller/v1"],
    },
];

const KONG: &[&str] = &["ingress-controllers.konghq.com/kong", "konghq.com/kic-gateway-controller"];

/// Components of the same charts that serve no requests.
const NO_SERVERS: [&str; 5] =
    ["admission-webhook", "default-backend", "defaultbackend", "contour", "certgen"];

/// The controllers that there are.
pub(super) struct Controllers<'a> {
    named: Vec<&'a Pod>,
    gateways: BTreeMap<(String, String), Vec<&'a Pod>>,
    /// By the place in [`KNOWN`].
    known: BTreeMap<usize, Vec<&'a Pod>>,
    entrances: &'a Entrances,
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
            let place = KNOWN.iter().position(|known| {
                let (key, value) = known.label;
                pod.labels.get(key) == Some(value)
            });
            if let Some(place) = place {
                known.entry(place).or_default().push(pod);
            }
        }
        Self { named, gateways, known, entrances: &cluster.entrances }
    }

    /// Who serves Ingresses of a class.
    pub(super) fn of_ingress(&self, class: Option<&str>) -> Found<'a> {
        if !self.named.is_empty() {
            return Found::Pods(self.named.clone());
        }
        self.by_class(ClassKind::Ingress, class)
    }

    /// Who serves a Gateway.
    pub(super) fn of_gateway(&self, gateway: &Name, class: Option<&str>) -> Found<'a> {
        let key = (gateway.namespace.to_string(), gateway.name.to_string());
        match self.gateways.get(&key) {
            Some(pods) => Found::Pods(pods.clone()),
            None if !self.named.is_empty() => Found::Pods(self.named.clone()),
            None => self.by_class(ClassKind::Gateway, class),
        }
    }

    fn by_class(&self, kind: ClassKind, class: Option<&str>) -> Found<'a> {
        let stated = self.entrances.class(kind, class);
        let class = stated.map(|class| &*class.name).or(class);
        let fits = |known: &Known| match (stated, class) {
            (Some(stated), _) => known.controllers.contains(&&*stated.controller),
            (None, class) => {
                class.is_some_and(|class| known.classes.iter().any(|word| class.contains(word)))
            }
        };
        let there = self.known.iter();
        let fitting: Vec<&Vec<&Pod>> = there
            .filter(|(place, _)| KNOWN.get(**place).is_some_and(fits))
            .map(|(_, pods)| pods)
            .collect();
        let all: Vec<&Vec<&Pod>> = self.known.values().collect();
        match (fitting.as_slice(), all.as_slice()) {
            ([one], _) => Found::Pods((*one).clone()),
            ([], [one]) if class.is_none() => Found::Pods((*one).clone()),
            _ => {
                let mut of = class.map_or_else(String::new, |class| format!(" of class {class}"));
                if let Some(stated) = stated {
                    of.push_str(&format!(", {}", stated.controller));
                }
                Found::Not(format!(
                    "which pods are the controller{of} (exposure --ingress-controller)"
                ))
            }
        }
    }
}
