//! What does the cluster hold that kubectl talks to?
//!
//! ```text
//!   kubeconfig ──▶ API server ══ pages of raw JSON, a list a kind ══▶ podwall-manifest ──▶ Cluster
//!                     │
//!                     ├─ forbidden: the caller's namespace alone, or without the kind; it is said
//!                     └─ absent: a kind that the server does not have holds nothing
//! ```
//!
//! The JSON goes through the reader of manifests, object by object, so that the cluster and a file of
//! the same objects mean the same. Workloads are not asked for: a cluster has the pods that it has,
//! and these name their owners.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use podwall_manifest::{Code, Diagnostic, Object, Options, cluster, object_from_json, render_all};
use serde_json::Value;

use super::{Objects, for_answers};
use crate::cli::Source;
use crate::output::{Failure, remark};

/// Objects a page, as kubectl asks for them.
const PAGE: usize = 500;

/// How long a server may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// A kind as the API server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    /// Without it there is no answer at all.
    needed: bool,
}

/// What every server has.
const KINDS: [Listed; 5] = [
    Listed::new("v1", "Namespace", "namespaces", false, false),
    Listed::new("v1", "Node", "nodes", false, false),
    Listed::new("v1", "Pod", "pods", true, true),
    Listed::new("v1", "Service", "services", true, false),
    Listed::new("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", true, true),
];

/// What a server may have besides: policies of administrators.
const TIERS: [Listed; 3] = [
    Listed::new(
        "policy.networking.k8s.io/v1alpha2",
        "ClusterNetworkPolicy",
        "clusternetworkpolicies",
        false,
        false,
    ),
    Listed::new(
        "policy.networking.k8s.io/v1alpha1",
        "AdminNetworkPolicy",
        "adminnetworkpolicies",
        false,
        false,
    ),
    Listed::new(
        "policy.networking.k8s.io/v1alpha1",
        "BaselineAdminNetworkPolicy",
        "baselineadminnetworkpolicies",
        false,
        false,
    ),
];

/// What leads to Services from outside, and every server has.
const INGRESSES: [Listed; 2] = [
    Listed::new("networking.k8s.io/v1", "Ingress", "ingresses", true, false),
    Listed::new("networking.k8s.io/v1", "IngressClass", "ingressclasses", false, false),
];

/// What a server may have besides, newest version first.
const GATEWAYS: [Listed; 13] = [
    Listed::new("gateway.networking.k8s.io/v1", "GatewayClass", "gatewayclasses", false, false),
    Listed::gateway("gateway.networking.k8s.io/v1", "Gateway", "gateways"),
    Listed::gateway("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes"),
    Listed::gateway("gateway.networking.k8s.io/v1", "GRPCRoute", "grpcroutes"),
    Listed::gateway("gateway.networking.k8s.io/v1", "TLSRoute", "tlsroutes"),
    Listed::gateway("gateway.networking.k8s.io/v1", "ReferenceGrant", "referencegrants"),
    Listed::new(
        "gateway.networking.k8s.io/v1beta1",
        "GatewayClass",
        "gatewayclasses",
        false,
        false,
    ),
    Listed::gateway("gateway.networking.k8s.io/v1beta1", "Gateway", "gateways"),
    Listed::gateway("gateway.networking.k8s.io/v1beta1", "HTTPRoute", "httproutes"),
    Listed::gateway("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", "referencegrants"),
    Listed::gateway("gateway.networking.k8s.io/v1alpha2", "TLSRoute", "tlsroutes"),
    Listed::gateway("gateway.networking.k8s.io/v1alpha2", "TCPRoute", "tcproutes"),
    Listed::gateway("gateway.networking.k8s.io/v1alpha2", "UDPRoute", "udproutes"),
];

/// What came of all lists.
#[derive(Default)]
struct Found {
    objects: Vec<Object>,
    /// Objects that cannot be read: what is wrong with each.
    broken: Vec<Diagnostic>,
    /// Their names, as they are left out.
    left_out: Vec<String>,
    /// What the caller may not see, in sentences.
    unseen: Vec<String>,
}

/// Reads the cluster of the kubeconfig.
pub(super) fn load(source: &Source, options: &Options) -> Result<Objects, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(format!("cannot ask the API server: {error}")))?;
    runtime.block_on(from_cluster(source, options.entrances))
}

async fn from_cluster(source: &Source, entrances: bool) -> Result<Objects, Failure> {
    let mut config = config(source).await?;
    config.connect_timeout = Some(PATIENCE);
    let namespace = source.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| {
        Failure::new(format!("the kubeconfig cannot be used: {}", words(&error)))
    })?;
    let asked = Asked { client, server: server.trim_end_matches('/'), namespace: &namespace };

    let mut kinds = KINDS.to_vec();
    kinds.extend(asked.tiers().await?);
    if entrances {
        kinds.extend(INGRESSES);
        kinds.extend(asked.gateways().await?);
    }
    let mut found = Found::default();
    for read in join_all(kinds.iter().map(|kind| asked.read(kind))).await {
        let read = read?;
        found.objects.extend(read.objects);
        found.broken.extend(read.broken);
        found.left_out.extend(read.left_out);
        found.unseen.extend(read.unseen);
    }
    for sentence in &found.unseen {
        remark(&format!("note: {sentence}\n"));
    }
    if !found.left_out.is_empty() {
        remark(&render_all(&found.broken, true));
        if !source.keep_going {
            return Err(Failure::new(format!(
                "objects of the cluster cannot be read, so nothing is answered from it: {}",
                found.left_out.join(", ")
            ))
            .hint("mend them, or add --keep-going to answer from the others"));
        }
        remark(&format!("left out (--keep-going): {}\n", found.left_out.join(", ")));
    }
    found.left_out.append(&mut found.unseen);
    let complete = found.left_out.is_empty();
    Ok(Objects {
        cluster: cluster(&found.objects),
        left_out: found.left_out,
        objects: found.objects,
        texts: BTreeMap::new(),
        complete,
        namespace,
    })
}

/// The API server, and who we are to it, as kubectl finds them.
async fn config(source: &Source) -> Result<Config, Failure> {
    let options =
        KubeConfigOptions { context: source.context.clone(), ..KubeConfigOptions::default() };
    let unusable = |error: &kube::config::KubeconfigError| {
        Failure::new(format!("the kubeconfig cannot be used: {}", words(error)))
            .hint("--kubeconfig names another, --context another of its contexts")
    };
    match &source.kubeconfig {
        Some(file) => {
            let read = Kubeconfig::read_from(file).map_err(|error| unusable(&error))?;
            Config::from_custom_kubeconfig(read, &options).await.map_err(|error| unusable(&error))
        }
        None if source.context.is_some() => {
            Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))
        }
        None => Config::infer().await.map_err(|error| {
            let failure = Failure::new(
                "no objects to answer from: neither -f PATH nor --lab NAME is given, and no cluster \
                 is configured",
            );
            // A kubeconfig that is there and broken is worth a line; none at all is not.
            let broken = std::env::var_os("KUBECONFIG").is_some();
            let failure = if broken { failure.hint(words(&error)) } else { failure };
            failure
                .hint("for manifests write -f manifests/, for a lab --lab NAME")
                .hint("for a cluster name its kubeconfig: --kubeconfig FILE, KUBECONFIG, or")
                .hint("~/.kube/config")
        }),
    }
}

/// Who is asked, and by whom.
struct Asked<'a> {
    client: Client,
    server: &'a str,
    namespace: &'a str,
}

/// Why a list did not come.
enum Refusal {
    Forbidden(String),
    Absent,
    Other(String),
}

impl Asked<'_> {
    /// The kinds of administrators' policies that the server has. Everybody may ask which kinds
    /// there are, so a kind that may not be listed can be told from one that is not there.
    async fn tiers(&self) -> Result<Vec<Listed>, Failure> {
        let mut there = Vec::new();
        for version in ["v1alpha1", "v1alpha2"] {
            let path = format!("/apis/policy.networking.k8s.io/{version}");
            let resources = match self.get(&path).await {
                Ok(resources) => resources,
                Err(Refusal::Absent) => continue,
                Err(refusal) => return Err(self.failure("the kinds of policies", refusal)),
            };
            let has = |kind: &Listed| {
                let plural = |it: &Value| it["name"] == kind.plural;
                kind.api_version.ends_with(version)
                    && resources["resources"].as_array().is_some_and(|all| all.iter().any(plural))
            };
            there.extend(TIERS.iter().filter(|kind| has(kind)).cloned());
        }
        Ok(there)
    }

    /// The kinds of the Gateway API that the server has, each in one version. Where there are none
    /// there are no Gateways and routes.
    async fn gateways(&self) -> Result<Vec<Listed>, Failure> {
        let mut there: Vec<Listed> = Vec::new();
        for version in ["v1", "v1beta1", "v1alpha2"] {
            let path = format!("/apis/gateway.networking.k8s.io/{version}");
            let resources = match self.get(&path).await {
                Ok(resources) => resources,
                Err(Refusal::Absent) => continue,
                Err(refusal) => return Err(self.failure("the kinds of the Gateway API", refusal)),
            };
            let resources = resources["resources"].as_array().cloned().unwrap_or_default();
            for kind in &GATEWAYS {
                let (_, its) = kind.api_version.rsplit_once('/').unwrap_or_default();
                if its == version
                    && resources.iter().any(|it| it["name"] == kind.plural)
                    && !there.iter().any(|known| known.kind == kind.kind)
                {
                    there.push(kind.clone());
                }
            }
        }
        Ok(there)
    }

    /// Everything of a kind that the caller may see.
    async fn read(&self, kind: &Listed) -> Result<Found, Failure> {
        let mut found = Found::default();
        let forbidden = match self.pages(kind, None, &mut found).await {
            Ok(()) => return Ok(found),
            Err(Refusal::Absent) if !kind.needed => return Ok(found),
            Err(Refusal::Forbidden(why)) => why,
            Err(refusal) => return Err(self.failure(kind.plural, refusal)),
        };
        if kind.kind == "Namespace" {
            let own = self.get(&format!("/api/v1/namespaces/{}", self.namespace)).await;
            if let Ok(own) = own {
                take(kind, own, &mut found);
            }
            found.unseen.push(format!(
                "namespaces may not be listed ({forbidden}), so their labels are not known"
            ));
            return Ok(found);
        }
        if kind.namespaced && self.pages(kind, Some(self.namespace), &mut found).await.is_ok() {
            found.unseen.push(format!(
                "{} of other namespaces than {} may not be listed ({forbidden}), so they are not \
                 taken into account; -n names another",
                kind.plural, self.namespace
            ));
            return Ok(found);
        }
        if kind.needed {
            return Err(self.failure(kind.plural, Refusal::Forbidden(forbidden)));
        }
        found.unseen.push(format!(
            "{} may not be listed ({forbidden}), so they are not taken into account",
            kind.plural
        ));
        Ok(found)
    }

    /// Reads a list page by page. A list that has become too old between two pages starts again.
    async fn pages(
        &self,
        kind: &Listed,
        namespace: Option<&str>,
        found: &mut Found,
    ) -> Result<(), Refusal> {
        let path = kind.path(namespace);
        let mut token = String::new();
        let mut again = 2;
        loop {
            let more = if token.is_empty() { String::new() } else { format!("&continue={token}") };
            let page = match self.get(&format!("{path}?limit={PAGE}{more}")).await {
                Err(Refusal::Other(why)) if again > 0 && why.starts_with("410") => {
                    again -= 1;
                    token.clear();
                    *found = Found::default();
                    continue;
                }
                page => page?,
            };
            let Value::Object(mut page) = page else {
                return Err(Refusal::Other("the answer is no list".to_owned()));
            };
            if let Some(Value::Array(items)) = page.remove("items") {
                for item in items {
                    take(kind, item, found);
                }
            }
            let next = page.get("metadata").and_then(|it| it["continue"].as_str());
            token = escape(next.unwrap_or_default());
            if token.is_empty() {
                return Ok(());
            }
        }
    }

    async fn get(&self, path: &str) -> Result<Value, Refusal> {
        let request = Request::get(path).body(Vec::new());
        let request = request.map_err(|error| Refusal::Other(error.to_string()))?;
        self.client.request(request).await.map_err(|error| match error {
            kube::Error::Api(status) if status.code == 403 => Refusal::Forbidden(status.message),
            kube::Error::Api(status) if status.code == 404 => Refusal::Absent,
            kube::Error::Api(status) => {
                Refusal::Other(format!("{} {}", status.code, status.message))
            }
            other => Refusal::Other(words(&other)),
        })
    }

    fn failure(&self, what: &str, refusal: Refusal) -> Failure {
        match refusal {
            Refusal::Forbidden(why) => {
                Failure::new(format!("{what} of the cluster may not be listed: {why}"))
                    .hint("it needs the right to list pods and networkpolicies, in all namespaces")
                    .hint("or in the one that -n names")
            }
            Refusal::Absent => {
                Failure::new(format!("the API server at {} knows no {what}", self.server))
                    .hint("is it a Kubernetes API server?")
            }
            Refusal::Other(why) => {
                Failure::new(format!("cannot ask the API server at {}: {why}", self.server))
                    .hint("is it the right cluster? --kubeconfig and --context name another")
                    .hint("for manifests write -f manifests/, for a lab --lab NAME")
            }
        }
    }
}

impl Listed {
    const fn new(
        api_version: &'static str,
        kind: &'static str,
        plural: &'static str,
        namespaced: bool,
        needed: bool,
    ) -> Self {
        Self { api_version, kind, plural, namespaced, needed }
    }

    const fn gateway(api_version: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Self::new(api_version, kind, plural, true, false)
    }

    fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        let within = namespace.map_or_else(String::new, |it| format!("namespaces/{it}/"));
        format!("/{root}/{}/{within}{}", self.api_version, self.plural)
    }
}

/// Reads one object. Items of a list do not say what they are.
fn take(kind: &Listed, mut item: Value, found: &mut Found) {
    let origin = origin(kind, &item);
    if let Value::Object(fields) = &mut item {
        fields.insert("apiVersion".into(), kind.api_version.into());
        fields.insert("kind".into(), kind.kind.into());
    }
    let options = Options { entrances: true, ..for_answers() };
    match object_from_json(&item, &origin, &options) {
        Ok(object) => found.objects.push(object),
        Err(wrong) => {
            let skipped = |it: &Diagnostic| it.code == Code::NotAnObject;
            let why = if wrong.iter().any(skipped) { " (this kind is not read)" } else { "" };
            found.left_out.push(format!("{origin}{why}"));
            found.broken.extend(wrong);
        }
    }
}

/// `shop/NetworkPolicy/db (kubectl)`: where an object of a cluster stands, and who wrote it last.
fn origin(kind: &Listed, item: &Value) -> String {
    let metadata = &item["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let place = match metadata["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{}/{name}", kind.kind),
        None => format!("{}/{name}", kind.kind),
    };
    let managers = metadata["managedFields"].as_array();
    let last = managers
        .into_iter()
        .flatten()
        .filter(|it| it["subresource"].as_str().unwrap_or_default().is_empty())
        .max_by_key(|it| it["time"].as_str().unwrap_or_default().to_owned());
    match last.and_then(|it| it["manager"].as_str()) {
        Some(manager) => format!("{place} ({manager})"),
        None => place,
    }
}

/// A token as a query has it; it is base64 in most servers, and theirs to choose.
fn escape(token: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    let escaped = |byte: u8| match plain(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    token.bytes().map(escaped).collect()
}

/// An error with its causes, each once.
fn words(error: &(impl std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const POLICY: &Listed = &KINDS[4];

    #[test]
    fn a_place_in_a_cluster_names_the_object_and_who_wrote_its_spec_last() {
        let written = |manager: &str, time: &str, subresource: &str| json!({"manager": manager, "time": time, "subresource": subresource});
        let mut object = json!({"metadata": {"namespace": "shop", "name": "db"}});
        assert_eq!(origin(POLICY, &object), "shop/NetworkPolicy/db");
        object["metadata"]["managedFields"] = json!([
            written("helm", "2026-01-02T00:00:00Z", ""),
            written("kubectl", "2026-01-01T00:00:00Z", ""),
            written("kubelet", "2026-01-03T00:00:00Z", "status"),
        ]);
        assert_eq!(origin(POLICY, &object), "shop/NetworkPolicy/db (helm)");
        assert_eq!(origin(&KINDS[1], &json!({"metadata": {"name": "n1"}})), "Node/n1");
    }

    #[test]
    fn what_cannot_be_read_is_named_and_does_not_hide_the_rest() {
        let mut found = Found::default();
        let policy = |name: &str, spec: &Value| json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
        take(POLICY, policy("good", &json!({"podSelector": {}})), &mut found);
        take(POLICY, policy("bad", &json!({"podSelector": 7})), &mut found);
        take(&TIERS[0], json!({"metadata": {"name": "all"}, "spec": {}}), &mut found);
        assert_eq!(found.objects.len(), 1);
        assert_eq!(found.left_out[0], "shop/NetworkPolicy/bad");
        assert!(!found.broken.is_empty());
    }

    #[test]
    fn a_token_goes_into_a_query_as_it_is() {
        assert_eq!(escape("ab+/=9"), "ab%2B%2F%3D9");
    }
}
