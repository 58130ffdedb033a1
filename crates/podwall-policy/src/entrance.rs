//! What leads from outside of the cluster to its Services?
//!
//! ```text
//!   Ingress ── host, path ──▶ Service port
//!   IngressClass, GatewayClass ──▶ the controller that serves them
//!   Gateway ◀── parentRefs ── HTTPRoute, GRPCRoute, TCPRoute, TLSRoute, UDPRoute ──▶ Service port
//!      └ listeners: which namespaces' routes may attach           └ ReferenceGrant: across namespaces
//! ```
//!
//! Policies see nothing of these objects: they see the pod of the controller that opens the
//! connection to the backend.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::object::Name;
use crate::selector::Selector;
use crate::source::Source;

/// All that is stated, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entrances {
    /// Ingresses.
    pub ingresses: BTreeMap<Name, Ingress>,
    /// Gateways.
    pub gateways: BTreeMap<Name, Gateway>,
    /// Routes by kind and name.
    pub routes: BTreeMap<(Arc<str>, Name), Route>,
    /// ReferenceGrants.
    pub grants: BTreeMap<Name, Grant>,
    /// IngressClasses and GatewayClasses by kind and name.
    pub classes: BTreeMap<(ClassKind, Arc<str>), Class>,
}

impl Entrances {
    /// Whether nothing is stated.
    pub fn is_empty(&self) -> bool {
        self.ingresses.is_empty() && self.gateways.is_empty() && self.routes.is_empty()
    }

    /// The class of this name; of Ingresses that name none, the default one.
    pub fn class(&self, kind: ClassKind, name: Option<&str>) -> Option<&Class> {
        match name {
            Some(name) => self.classes.get(&(kind, name.into())),
            None => self.classes.values().find(|class| class.kind == kind && class.is_default),
        }
    }
}

/// An object of this module, as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// An Ingress.
    Ingress(Ingress),
    /// A Gateway.
    Gateway(Gateway),
    /// A route to Services.
    Route(Route),
    /// A ReferenceGrant.
    Grant(Grant),
    /// An IngressClass or a GatewayClass.
    Class(Class),
}

/// What a class is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClassKind {
    /// Ingresses.
    Ingress,
    /// Gateways.
    Gateway,
}

/// An IngressClass or a GatewayClass: who serves what names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// What it is of.
    pub kind: ClassKind,
    /// Its name.
    pub name: Arc<str>,
    /// `spec.controller` or `spec.controllerName`, as `k8s.io/ingress-nginx`.
    pub controller: Arc<str>,
    /// Whether Ingresses that name no class are of this one.
    pub is_default: bool,
}

/// An Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Namespace and name.
    pub name: Name,
    /// `spec.ingressClassName`, or the annotation that was there before it.
    pub class: Option<Arc<str>>,
    /// Where its rules lead, the default backend last.
    pub backends: Vec<IngressBackend>,
    /// Where it stands.
    pub source: Option<Source>,
}

/// One path of an Ingress to a Service of its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressBackend {
    /// The host; `None` for any.
    pub host: Option<Arc<str>>,
    /// The path; `None` for any.
    pub path: Option<Arc<str>>,
    /// The Service's name.
    pub service: Arc<str>,
    /// The Service's port.
    pub port: BackendPort,
    /// Where it stands.
    pub source: Option<Source>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendPort {
    /// By its number.
    Number(u16),
    /// By its name.
    Name(Arc<str>),
}

/// A Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Namespace and name.
    pub name: Name,
    /// `spec.gatewayClassName`.
    pub class: Arc<str>,
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// Where it stands.
    pub source: Option<Source>,
}

/// What a Gateway listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Its port.
    pub port: u16,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP`, or an implementation's own.
    pub protocol: Arc<str>,
    /// The host name; `None` for any.
    pub host: Option<Arc<str>>,
    /// Whose routes may attach.
    pub from: RoutesFrom,
    /// The kinds of routes that may attach; empty: those that fit the protocol.
    pub kinds: Vec<Arc<str>>,
}

/// `allowedRoutes.namespaces`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutesFrom {
    /// Any namespace's.
    All,
    /// The Gateway's own namespace's, as where nothing is said.
    Same,
    /// Namespaces with these labels.
    Selected(Selector),
    /// Nobody's.
    Nobody,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `HTTPRoute`, …
    pub kind: Arc<str>,
    /// Namespace and name.
    pub name: Name,
    /// The Gateways that it wants to attach to.
    pub parents: Vec<Parent>,
    /// `spec.hostnames`.
    pub hosts: Vec<Arc<str>>,
    /// Where it leads.
    pub backends: Vec<RouteBackend>,
    /// Where it stands.
    pub source: Option<Source>,
}

/// A Gateway as a route names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The Gateway.
    pub gateway: Name,
    /// Only this listener.
    pub section: Option<Arc<str>>,
    /// Only listeners on this port.
    pub port: Option<u16>,
}

/// A Service as a route names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteBackend {
    /// The Service.
    pub service: Name,
    /// Its port.
    pub port: Option<u16>,
    /// Where it stands.
    pub source: Option<Source>,
}

/// A ReferenceGrant: who may name Services of its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Namespace and name.
    pub name: Name,
    /// Kinds and namespaces of those who may.
    pub from: Vec<(Arc<str>, Arc<str>)>,
    /// The Services that may be named; `None` for all.
    pub to: Vec<Option<Arc<str>>>,
}

impl Grant {
    /// Whether it lets a route of this kind and namespace name a Service of its own namespace.
    pub fn allows(&self, kind: &str, namespace: &str, service: &Name) -> bool {
        self.name.namespace == service.namespace
            && self.from.iter().any(|(its, of)| **its == *kind && **of == *namespace)
            && self.to.iter().any(|to| to.as_ref().is_none_or(|name| *name == service.name))
    }
}
