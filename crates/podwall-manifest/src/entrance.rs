//! Where do an Ingress, a Gateway and its routes lead?
//!
//! ```text
//!   Ingress       spec.rules[].http.paths[].backend.service, spec.defaultBackend
//!   Gateway       spec.listeners[] with allowedRoutes
//!   …Route        spec.parentRefs[], spec.rules[].backendRefs[]
//!   ReferenceGrant   spec.from[], spec.to[]
//!   IngressClass, GatewayClass   spec.controller, spec.controllerName
//! ```
//!
//! Slim: what leads to Services is read and checked, all else is left to the API server. Sources:
//! `ValidateIngress`, `ValidateIngressClass` in `pkg/apis/networking/validation/validation.go`; the CRDs of
//! `gateway.networking.k8s.io/v1`.

use std::sync::Arc;

use podwall_policy::entrance::{
    BackendPort, Class, ClassKind, Entrance, Gateway, Grant, Ingress, IngressBackend, Listener,
    Parent, Route, RouteBackend, RoutesFrom,
};
use podwall_policy::object::Name;

use crate::diagnostic::Code;
use crate::node::{Entry, Map, Node, Value};
use crate::selector;
use crate::text::At;
use crate::walk::{Path, Walk};

/// The group of Gateways and routes.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// The annotation that named the class before there was a field.
const CLASS: &str = "kubernetes.io/ingress.class";

/// The annotation of the IngressClass that is meant where none is named.
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// Reads an object of one of these kinds.
pub(crate) fn read(
    walk: &mut Walk<'_>,
    kind: &str,
    name: Name,
    object: &Map<'_>,
    at: At,
) -> Option<Entrance> {
    let path = Path::root("spec");
    let spec = object.get("spec").filter(|e| !e.value.is_null());
    let Some(entry) = spec else {
        walk.missing_unless_typo(object, "spec", at, &path, "write a `spec`");
        return None;
    };
    let spec = walk.map(&entry.value, &path)?;
    let mut reader = Reader { walk, name, spec, at: entry.at, object_at: at };
    Some(match kind {
        "Ingress" => Entrance::Ingress(reader.ingress(object, &path)),
        "Gateway" => Entrance::Gateway(reader.gateway(&path)?),
        "IngressClass" => {
            let is_default = annotation(object, DEFAULT_CLASS) == Some("true");
            Entrance::Class(reader.class(ClassKind::Ingress, "controller", is_default, &path)?)
        }
        "GatewayClass" => {
            Entrance::Class(reader.class(ClassKind::Gateway, "controllerName", false, &path)?)
        }
        "ReferenceGrant" => Entrance::Grant(reader.grant(&path)),
        _ => Entrance::Route(reader.route(kind, &path)),
    })
}

/// One object, while it is read.
struct Reader<'r, 'w, 't> {
    walk: &'r mut Walk<'w>,
    name: Name,
    spec: &'r Map<'t>,
    /// Where `spec` stands.
    at: At,
    /// Where the object starts.
    object_at: At,
}

fn present<'m, 't>(map: &'m Map<'t>, key: &str) -> Option<&'m Entry<'t>> {
    map.get(key).filter(|entry| !entry.value.is_null())
}

/// An annotation of the object.
fn annotation<'o>(object: &'o Map<'_>, key: &str) -> Option<&'o str> {
    let map = |entry: &'o Entry<'_>| match &entry.value.value {
        Value::Map(map) => Some(map),
        _ => None,
    };
    let annotations = map(map(object.get("metadata")?)?.get("annotations")?)?;
    match &annotations.get(key)?.value.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

impl Reader<'_, '_, '_> {
    fn class(
        &mut self,
        kind: ClassKind,
        field: &str,
        is_default: bool,
        path: &Path<'_>,
    ) -> Option<Class> {
        let controller = self.required(self.spec, field, self.at, path)?;
        Some(Class { kind, name: self.name.name.clone(), controller, is_default })
    }

    fn ingress(&mut self, object: &Map<'_>, path: &Path<'_>) -> Ingress {
        let spec = self.spec;
        let mut backends = Vec::new();
        let rules_path = path.field("rules");
        for (i, rule) in self.items(spec, "rules", path).iter().enumerate() {
            let path = rules_path.index(i);
            let Some(rule) = self.walk.map(rule, &path) else { continue };
            let host = self.word(rule, "host", &path);
            let Some(http) = present(rule, "http") else { continue };
            let http_path = path.field("http");
            let Some(http) = self.walk.map(&http.value, &http_path) else { continue };
            let paths_path = http_path.field("paths");
            for (i, item) in self.items(http, "paths", &http_path).iter().enumerate() {
                let path = paths_path.index(i);
                let at = item.at;
                let Some(item) = self.walk.map(item, &path) else { continue };
                let its_path = self.word(item, "path", &path).filter(|path| **path != *"/");
                let backend_path = path.field("backend");
                let Some(backend) = present(item, "backend") else {
                    self.walk.missing(at, &backend_path);
                    continue;
                };
                let found = self.ingress_backend(&backend.value, &backend_path);
                backends.extend(found.map(|backend| IngressBackend {
                    host: host.clone(),
                    path: its_path,
                    ..backend
                }));
            }
        }
        let default_path = path.field("defaultBackend");
        match present(spec, "defaultBackend") {
            Some(entry) => backends.extend(self.ingress_backend(&entry.value, &default_path)),
            None if present(spec, "rules").is_none() => {
                let message = "either `spec.defaultBackend` or `spec.rules` is required";
                self.walk.error(Code::MissingField, self.at, path, message);
            }
            None => {}
        }
        let class = self.word(spec, "ingressClassName", path);
        let annotated = annotation(object, CLASS).map(Arc::from);
        let source = Some(self.walk.text.source(self.object_at));
        Ingress { name: self.name.clone(), class: class.or(annotated), backends, source }
    }

    /// `None` for one that is no Service, or is wrong.
    fn ingress_backend(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<IngressBackend> {
        let map = self.walk.map(node, path)?;
        if present(map, "resource").is_some() && present(map, "service").is_none() {
            return None;
        }
        let path = path.field("service");
        let Some(entry) = present(map, "service") else {
            let diagnostic = self.walk.missing(node.at, &path);
            if present(map, "serviceName").is_some() {
                diagnostic
                    .help("`networking.k8s.io/v1` has `service: {name: …, port: {number: …}}`");
            }
            return None;
        };
        let service = self.walk.map(&entry.value, &path)?;
        let name = self.required(service, "name", entry.at, &path);
        let port_path = path.field("port");
        let Some(port) = present(service, "port") else {
            self.walk.missing(entry.at, &port_path);
            return None;
        };
        let port_map = self.walk.map(&port.value, &port_path)?;
        let port = match (present(port_map, "number"), present(port_map, "name")) {
            (Some(number), None) => {
                BackendPort::Number(self.walk.port(&number.value, &port_path.field("number"))?)
            }
            (None, Some(_)) => BackendPort::Name(self.word(port_map, "name", &port_path)?),
            (Some(_), Some(_)) => {
                let message = format!("`{port_path}` has a number and a name");
                self.walk.error(Code::Conflict, port.at, &port_path, message);
                return None;
            }
            (None, None) => {
                self.walk.missing(port.at, &port_path.field("number"));
                return None;
            }
        };
        let source = Some(self.walk.text.source(node.at));
        Some(IngressBackend { host: None, path: None, service: name?, port, source })
    }

    fn gateway(&mut self, path: &Path<'_>) -> Option<Gateway> {
        let spec = self.spec;
        let class = self.required(spec, "gatewayClassName", self.at, path);
        let listeners_path = path.field("listeners");
        let items = self.items(spec, "listeners", path);
        if items.is_empty() {
            self.walk.missing(self.at, &listeners_path);
        }
        let mut listeners = Vec::new();
        for (i, item) in items.iter().enumerate() {
            listeners.extend(self.listener(item, &listeners_path.index(i)));
        }
        let source = Some(self.walk.text.source(self.object_at));
        Some(Gateway { name: self.name.clone(), class: class?, listeners, source })
    }

    fn listener(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<Listener> {
        let map = self.walk.map(node, path)?;
        let name = self.required(map, "name", node.at, path);
        let protocol = self.required(map, "protocol", node.at, path);
        let port = self.required_port(map, node.at, path);
        let host = self.word(map, "hostname", path);
        let (mut from, mut kinds) = (RoutesFrom::Same, Vec::new());
        let routes_path = path.field("allowedRoutes");
        if let Some(entry) = present(map, "allowedRoutes")
            && let Some(routes) = self.walk.map(&entry.value, &routes_path)
        {
            let namespaces_path = routes_path.field("namespaces");
            if let Some(entry) = present(routes, "namespaces")
                && let Some(namespaces) = self.walk.map(&entry.value, &namespaces_path)
            {
                from = self.routes_from(namespaces, &namespaces_path)?;
            }
            let kinds_path = routes_path.field("kinds");
            for (i, item) in self.items(routes, "kinds", &routes_path).iter().enumerate() {
                let path = kinds_path.index(i);
                let at = item.at;
                if let Some(item) = self.walk.map(item, &path) {
                    kinds.extend(self.required(item, "kind", at, &path));
                }
            }
        }
        Some(Listener { name: name?, port: port?, protocol: protocol?, host, from, kinds })
    }

    fn routes_from(&mut self, map: &Map<'_>, path: &Path<'_>) -> Option<RoutesFrom> {
        let from_path = path.field("from");
        let from = match present(map, "from") {
            None => "Same",
            Some(entry) => {
                let known = ["All", "Same", "Selector", "None"];
                self.walk.one_of(&entry.value, &from_path, &known)?
            }
        };
        Some(match (from, present(map, "selector")) {
            ("All", _) => RoutesFrom::All,
            ("Selector", Some(entry)) => RoutesFrom::Selected(selector::read(
                self.walk,
                &entry.value,
                &path.field("selector"),
            )),
            // As the CRD has it: a selector is needed, and without one nobody is selected.
            ("None", _) | ("Selector", None) => RoutesFrom::Nobody,
            _ => RoutesFrom::Same,
        })
    }

    fn route(&mut self, kind: &str, path: &Path<'_>) -> Route {
        let spec = self.spec;
        let parents_path = path.field("parentRefs");
        let mut parents = Vec::new();
        for (i, item) in self.items(spec, "parentRefs", path).iter().enumerate() {
            let path = parents_path.index(i);
            let at = item.at;
            let Some(map) = self.walk.map(item, &path) else { continue };
            let name = self.required(map, "name", at, &path);
            if !self.is(map, "kind", "Gateway", &path)
                || !self.is(map, "group", GATEWAY_GROUP, &path)
            {
                continue;
            }
            let namespace = self.word(map, "namespace", &path);
            let namespace = namespace.unwrap_or_else(|| self.name.namespace.clone());
            let section = self.word(map, "sectionName", &path);
            let port_path = path.field("port");
            let port = present(map, "port").and_then(|e| self.walk.port(&e.value, &port_path));
            parents.extend(name.map(|name| Parent {
                gateway: Name::new(namespace, name),
                section,
                port,
            }));
        }
        let hosts_path = path.field("hostnames");
        let mut hosts: Vec<Arc<str>> = Vec::new();
        for (i, item) in self.items(spec, "hostnames", path).iter().enumerate() {
            hosts.extend(self.walk.text(item, &hosts_path.index(i)).map(Arc::from));
        }
        let rules_path = path.field("rules");
        let mut backends: Vec<RouteBackend> = Vec::new();
        for (i, rule) in self.items(spec, "rules", path).iter().enumerate() {
            let path = rules_path.index(i);
            let Some(rule) = self.walk.map(rule, &path) else { continue };
            let refs_path = path.field("backendRefs");
            for (i, item) in self.items(rule, "backendRefs", &path).iter().enumerate() {
                let found = self.route_backend(item, &refs_path.index(i));
                let same = |a: &RouteBackend, b: &RouteBackend| {
                    (&a.service, a.port) == (&b.service, b.port)
                };
                if let Some(found) = found
                    && !backends.iter().any(|its| same(its, &found))
                {
                    backends.push(found);
                }
            }
        }
        let source = Some(self.walk.text.source(self.object_at));
        Route { kind: kind.into(), name: self.name.clone(), parents, hosts, backends, source }
    }

    /// `None` for one that is no Service, gets no traffic, or is wrong.
    fn route_backend(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<RouteBackend> {
        let map = self.walk.map(node, path)?;
        let name = self.required(map, "name", node.at, path);
        if !self.is(map, "kind", "Service", path) || !self.is(map, "group", "", path) {
            return None;
        }
        let weight_path = path.field("weight");
        let weight = present(map, "weight").and_then(|e| self.walk.int(&e.value, &weight_path));
        // The CRD: a Service needs a port.
        let port = self.required_port(map, node.at, path);
        let namespace = self.word(map, "namespace", path);
        let namespace = namespace.unwrap_or_else(|| self.name.namespace.clone());
        let source = Some(self.walk.text.source(node.at));
        let service = Name::new(namespace, name?);
        (weight != Some(0)).then_some(RouteBackend { service, port, source })
    }

    fn grant(&mut self, path: &Path<'_>) -> Grant {
        let spec = self.spec;
        let (from_path, to_path) = (path.field("from"), path.field("to"));
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for (i, item) in self.items(spec, "from", path).iter().enumerate() {
            let path = from_path.index(i);
            let at = item.at;
            let Some(map) = self.walk.map(item, &path) else { continue };
            let kind = self.required(map, "kind", at, &path);
            let namespace = self.required(map, "namespace", at, &path);
            if self.is(map, "group", GATEWAY_GROUP, &path) {
                from.extend(kind.zip(namespace));
            }
        }
        for (i, item) in self.items(spec, "to", path).iter().enumerate() {
            let path = to_path.index(i);
            let at = item.at;
            let Some(map) = self.walk.map(item, &path) else { continue };
            let kind = self.required(map, "kind", at, &path);
            if kind.is_some_and(|kind| *kind == *"Service") && self.is(map, "group", "", &path) {
                to.push(self.word(map, "name", &path));
            }
        }
        Grant { name: self.name.clone(), from, to }
    }

    /// The items of a list that may be absent.
    fn items<'m, 't>(&mut self, map: &'m Map<'t>, key: &str, path: &Path<'_>) -> &'m [Node<'t>] {
        let Some(entry) = present(map, key) else { return &[] };
        self.walk.list(&entry.value, &path.field(key)).unwrap_or_default()
    }

    /// A text that may be absent or empty.
    fn word(&mut self, map: &Map<'_>, key: &str, path: &Path<'_>) -> Option<Arc<str>> {
        let text = self.walk.text(&present(map, key)?.value, &path.field(key))?;
        (!text.is_empty()).then(|| Arc::from(text))
    }

    /// A port that must be there.
    fn required_port(&mut self, map: &Map<'_>, at: At, path: &Path<'_>) -> Option<u16> {
        let field = path.field("port");
        match present(map, "port") {
            Some(entry) => self.walk.port(&entry.value, &field),
            None => {
                self.walk.missing(at, &field);
                None
            }
        }
    }

    /// A text that must be there.
    fn required(&mut self, map: &Map<'_>, key: &str, at: At, path: &Path<'_>) -> Option<Arc<str>> {
        let field = path.field(key);
        match present(map, key) {
            Some(entry) => {
                let text = self.walk.text(&entry.value, &field)?;
                if text.is_empty() {
                    self.walk.missing(entry.at, &field);
                    return None;
                }
                Some(text.into())
            }
            None => {
                self.walk.missing(at, &field);
                None
            }
        }
    }

    /// Whether a text is this one, or not stated.
    fn is(&mut self, map: &Map<'_>, key: &str, wanted: &str, path: &Path<'_>) -> bool {
        match present(map, key) {
            None => true,
            Some(entry) => {
                self.walk.text(&entry.value, &path.field(key)).is_none_or(|text| text == wanted)
            }
        }
    }
}
