//! How does the kubelet learn what is in the cluster?
//!
//! ```text
//!   a watch a kind ── list, then changes; after a break again ──▶ Said ──▶ one channel
//! ```

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use kube::api::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource as _};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::mirror::Key;

/// The kinds that are followed: group, kind.
pub(crate) const KINDS: [(&str, &str); 5] = [
    ("", "Namespace"),
    ("", "Node"),
    ("", "Pod"),
    ("", "Service"),
    ("networking.k8s.io", "NetworkPolicy"),
];

/// What is said of a kind.
#[derive(Debug)]
pub(crate) enum Said {
    /// It is there, or different.
    Put(Key, Value),
    /// It is gone.
    Gone(Key),
    /// These are all.
    Listed(BTreeSet<Key>),
}

/// Seconds after which a watch is asked anew: some load balancers drop connections silently.
const TIMEOUT: u32 = 200;

/// Watches a kind until nobody listens any more.
pub(crate) async fn kind(
    client: Client,
    (group, kind): (&'static str, &'static str),
    tell: UnboundedSender<(&'static str, Said)>,
) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let config = watcher::Config::default().timeout(TIMEOUT);
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        let said = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                None
            }
            Ok(watcher::Event::InitApply(object)) => {
                let (key, value) = read(kind, &resource, object);
                listed.insert(key.clone());
                Some(Said::Put(key, value))
            }
            Ok(watcher::Event::InitDone) => Some(Said::Listed(std::mem::take(&mut listed))),
            Ok(watcher::Event::Apply(object)) => {
                let (key, value) = read(kind, &resource, object);
                Some(Said::Put(key, value))
            }
            Ok(watcher::Event::Delete(object)) => Some(Said::Gone(read(kind, &resource, object).0)),
            Err(error) => {
                eprintln!("the watch of kind {kind} starts anew: {error}");
                None
            }
        };
        if let Some(said) = said
            && tell.send((kind, said)).is_err()
        {
            return;
        }
    }
}

fn read(kind: &'static str, resource: &ApiResource, mut object: DynamicObject) -> (Key, Value) {
    // Who changed what is of no use here, and most of the bytes.
    object.metadata.managed_fields = None;
    let meta = object.meta();
    let key =
        (kind, meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    object.types = None;
    let mut value = serde_json::to_value(&object).unwrap_or_default();
    // Objects of a list do not say what they are.
    value["apiVersion"] = json!(resource.api_version);
    value["kind"] = json!(kind);
    (key, value)
}
