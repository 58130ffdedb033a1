//! What does each request do?

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use podwall_manifest::Typed;
use podwall_policy::label::{Labels, METADATA_NAME};
use podwall_policy::selector::Selector;
use serde_json::{Value, json};

use crate::engine::{Engine, EngineError};
use crate::flows;
use crate::rpc::{Change, Deleted, Manifest, ProbeRequest, Query, Request, Shown};
use crate::store::{Key, Put, Stored, Touched, checked, key_of};
use crate::trial;
use crate::worker::lock;

/// Answers every request that needs the engine to itself.
pub(crate) fn handle(engine: &mut Engine, request: &Request) -> Result<Value, EngineError> {
    if engine.store().mirrors() {
        mirrored_elsewhere(engine, request)?;
    }
    match request {
        Request::Mirror { put, gone, all } => mirror(engine, put, gone, *all),
        Request::Apply { objects } => apply(engine, objects),
        Request::Delete { queries, ignore_not_found } => delete(engine, queries, *ignore_not_found),
        Request::Get { query } => get(engine, query),
        Request::Label { query, labels, overwrite } => label(engine, query, labels, *overwrite),
        Request::Cluster => Ok(cluster(engine)),
        Request::Exec { namespace, pod } => Ok(json!(engine.exec_place(namespace, pod)?)),
        Request::Counters => Ok(json!(engine.counters()?)),
        Request::Tables { node } => Ok(json!(engine.tables(node)?)),
        Request::Verify => Ok(json!(engine.verify()?)),
        Request::Hello | Request::Retire | Request::Probe(_) | Request::Flows => Ok(Value::Null),
    }
}

/// Refuses what a lab that mirrors a cluster leaves to others.
fn mirrored_elsewhere(engine: &Engine, request: &Request) -> Result<(), EngineError> {
    let server = engine.store().config.mirrors.clone().unwrap_or_default();
    let what = match request {
        Request::Apply { .. } | Request::Delete { .. } | Request::Label { .. } => {
            return Err(EngineError::Unsupported {
                what: "to change objects".to_owned(),
                instead: format!("they are those of the cluster at {server}: use kubectl there"),
            });
        }
        Request::Counters => "to count packets",
        Request::Tables { .. } | Request::Verify => "to look into a node's tables",
        _ => return Ok(()),
    };
    Err(EngineError::Unsupported {
        what: what.to_owned(),
        instead: "its nodes have agents, which do: ask them, or look at their /metrics; `podwall \
                  lab up NAME` says where they are"
            .to_owned(),
    })
}

/// Follows another cluster's objects; the answer lists what could not be taken.
fn mirror(
    engine: &mut Engine,
    put: &[Value],
    gone: &[Query],
    all: bool,
) -> Result<Value, EngineError> {
    if !engine.store().mirrors() {
        return Err(EngineError::Unsupported {
            what: "to show another cluster's objects".to_owned(),
            instead: "this lab has its own".to_owned(),
        });
    }
    let (mut refused, mut touched) = (Vec::new(), Touched::default());
    let mut kept = std::collections::BTreeSet::new();
    for query in gone {
        let name = query.name.as_deref().unwrap_or_default();
        let namespace = query.namespace.as_deref().unwrap_or_default();
        engine.store_mut().forget(&Key::new(&query.kind, namespace, name), &mut touched)?;
    }
    for raw in put {
        match engine.store_mut().mirror(raw, &mut touched) {
            Ok(key) => drop(kept.insert(key)),
            Err(error) => refused.push(error.to_string()),
        }
    }
    if all {
        engine.store_mut().forget_others(&kept, &mut touched)?;
    }
    engine.enforce(touched)?;
    Ok(json!(refused))
}

/// kubectl's name for a kind: `networkpolicy.networking.k8s.io`.
fn resource(kind: &str) -> String {
    let group = match kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => ".apps",
        "Job" | "CronJob" => ".batch",
        "NetworkPolicy" => ".networking.k8s.io",
        _ => "",
    };
    format!("{}{group}", kind.to_ascii_lowercase())
}

fn change(key: &Key, what: &str) -> Change {
    Change { object: format!("{}/{}", resource(&key.kind), key.name), what: what.to_owned() }
}

fn apply(engine: &mut Engine, manifests: &[Manifest]) -> Result<Value, EngineError> {
    let mut objects = Vec::new();
    for manifest in manifests {
        let mut object = checked(&manifest.raw)?;
        object.set_places(&manifest.places);
        objects.push(object);
    }
    // Namespaces first, so that their labels are there when pods and policies come; pods before
    // policies would be open for a moment, were not everything made visible at once.
    let order = |kind: &str| match kind {
        "Namespace" => 0,
        "Node" => 1,
        "NetworkPolicy" => 2,
        "Service" => 3,
        _ => 4,
    };
    objects.sort_by_key(|o| order(&o.key.kind));
    let changes = change_all(engine, |engine, touched| {
        let mut changes = Vec::new();
        for object in objects {
            let key = key_of(&object);
            let what = match engine.store_mut().put(object, touched)? {
                Put::Created => "created",
                Put::Configured => "configured",
                Put::Unchanged => "unchanged",
            };
            changes.push(change(&key, what));
        }
        Ok(changes)
    })?;
    Ok(json!(changes))
}

/// Makes changes to the objects, all or none, and has the kernel follow.
fn change_all(
    engine: &mut Engine,
    work: impl FnOnce(&mut Engine, &mut Touched) -> Result<Vec<Change>, EngineError>,
) -> Result<Vec<Change>, EngineError> {
    let mut touched = Touched::default();
    match work(engine, &mut touched) {
        Ok(changes) => engine.enforce(touched).map(|()| changes),
        Err(error) => {
            engine.roll_back()?;
            Err(error)
        }
    }
}

fn delete(
    engine: &mut Engine,
    queries: &[Query],
    ignore_not_found: bool,
) -> Result<Value, EngineError> {
    let mut keys: Vec<Key> = Vec::new();
    let mut missing = Vec::new();
    for query in queries {
        match found(engine, query) {
            Ok(found) => keys.extend(found),
            Err(EngineError::NotFound { .. }) if ignore_not_found => {}
            Err(error @ EngineError::NotFound { .. }) => missing.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    keys.retain(|key| seen.insert(key.clone()));
    if let Some(node) = keys.iter().find(|key| key.kind == "Node") {
        return Err(EngineError::Unsupported {
            what: format!("removing node {}", node.name),
            instead: "nodes live as long as the lab; make a lab with fewer".to_owned(),
        });
    }
    let changes = change_all(engine, |engine, touched| {
        for key in &keys {
            // What a namespace or a workload took along is gone as well, and was asked for.
            engine.store_mut().delete(key, touched)?;
        }
        Ok(keys.iter().map(|key| change(key, "deleted")).collect())
    })?;
    Ok(json!(Deleted { changes, missing }))
}

fn get(engine: &Engine, query: &Query) -> Result<Value, EngineError> {
    let keys = found(engine, query)?;
    let shown = |key: &Key| {
        if key.kind == "Node" {
            let created = engine.started();
            return Some(Shown { object: engine.store().shown_node(&key.name)?, created });
        }
        let created = engine.store().get(key)?.created;
        Some(Shown { object: engine.store().shown(key)?, created })
    };
    let list: Vec<Shown> = keys.iter().filter_map(shown).collect();
    Ok(json!(list))
}

fn label(
    engine: &mut Engine,
    query: &Query,
    labels: &[(String, Option<String>)],
    overwrite: bool,
) -> Result<Value, EngineError> {
    let mut planned = Vec::new();
    for key in found(engine, query)? {
        let node = engine.store().cluster().nodes.get(key.name.as_str());
        let before = match (engine.store().get(&key), node) {
            (Some(stored), _) => labels_of(stored),
            (None, Some(node)) if key.kind == "Node" => node.labels.clone(),
            (None, _) => continue,
        };
        let mut after = before.clone();
        for (name, value) in labels {
            after = match value {
                Some(value) => {
                    let old = before.get(name).filter(|old| old != value);
                    if let (Some(old), false) = (old, overwrite) {
                        return Err(EngineError::Label {
                            object: format!("{}/{}", resource(&key.kind), key.name),
                            reason: format!(
                                "'{name}' already has a value ({old}), and --overwrite is false"
                            ),
                        });
                    }
                    after.with(name, value)
                }
                None => after.without(name),
            };
        }
        planned.push((key, before, after));
    }
    let changes = change_all(engine, |engine, touched| {
        let mut changes = Vec::new();
        for (key, before, after) in planned {
            let what = match () {
                () if before == after => "not labeled",
                () if after.iter().len() < before.iter().len() => "unlabeled",
                () => "labeled",
            };
            if before != after {
                engine.store_mut().relabel(&key, &after, touched)?;
            }
            changes.push(change(&key, what));
        }
        Ok(changes)
    })?;
    Ok(json!(changes))
}

/// The objects that a query means; an error where it names one that is not there.
fn found(engine: &Engine, query: &Query) -> Result<Vec<Key>, EngineError> {
    let selector = match &query.selector {
        Some(text) => Selector::parse(text)
            .map_err(|reason| EngineError::Selector { text: text.clone(), reason })?,
        None => Selector::everything(),
    };
    if query.kind == "Node" {
        let cluster = engine.store().cluster();
        let names = engine.store().node_names().iter();
        let keys: Vec<Key> = names
            .filter(|n| query.name.as_ref().is_none_or(|wanted| wanted == *n))
            .filter(|n| {
                cluster.nodes.get(n.as_str()).is_some_and(|node| selector.matches(&node.labels))
            })
            .map(|n| Key::new("Node", "", n))
            .collect();
        return or_not_found(engine, keys, query);
    }
    let keys: Vec<Key> = engine
        .store()
        .objects()
        .iter()
        .filter(|(key, _)| key.kind == query.kind)
        .filter(|(key, _)| query.namespace.as_ref().is_none_or(|ns| *ns == key.namespace))
        .filter(|(key, _)| query.name.as_ref().is_none_or(|name| *name == key.name))
        .filter(|(_, stored)| selector.matches(&labels_of(stored)))
        .map(|(key, _)| key.clone())
        .collect();
    or_not_found(engine, keys, query)
}

fn or_not_found(engine: &Engine, keys: Vec<Key>, query: &Query) -> Result<Vec<Key>, EngineError> {
    match &query.name {
        Some(name) if keys.is_empty() => Err(EngineError::NotFound {
            resource: resource(&query.kind),
            name: name.clone(),
            namespace: query.namespace.clone(),
            hint: hint(engine, query, name),
        }),
        _ => Ok(keys),
    }
}

/// What may have been meant by a name that is not there.
fn hint(engine: &Engine, query: &Query, name: &str) -> String {
    let of_kind = || engine.store().objects().keys().filter(|key| key.kind == query.kind);
    let here: Vec<&str> = match query.kind.as_str() {
        "Node" => engine.store().node_names().iter().map(String::as_str).collect(),
        _ => of_kind()
            .filter(|key| query.namespace.as_ref().is_none_or(|ns| *ns == key.namespace))
            .map(|key| key.name.as_str())
            .collect(),
    };
    if let Some(near) = podwall_manifest::nearest(name, &here) {
        return format!("; did you mean {near}?");
    }
    match of_kind().find(|key| key.name == name) {
        Some(key) => format!("; there is one in namespace {} (-n {0})", key.namespace),
        None => String::new(),
    }
}

fn labels_of(stored: &Stored) -> Labels {
    if let Typed::Namespace(ns) = &stored.object.typed {
        return ns.labels.without(METADATA_NAME);
    }
    let map = stored.object.raw.pointer("/metadata/labels").and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))).collect()
}

/// All objects with their places, for questions that another process answers with the same engine.
fn cluster(engine: &Engine) -> Value {
    let store = engine.store();
    let nodes = store.node_names().iter().filter_map(|name| store.shown_node(name));
    let nodes = nodes.map(|raw| Manifest { raw, places: Value::Null });
    let objects = store.objects().iter().filter_map(|(key, stored)| {
        Some(Manifest { raw: store.shown(key)?, places: stored.object.places() })
    });
    let all: Vec<Manifest> = nodes.chain(objects).collect();
    json!(all)
}

/// Plans, sends and judges packets. The engine is locked for the plan alone.
pub(crate) fn probe(
    engine: &Arc<Mutex<Engine>>,
    request: &ProbeRequest,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Value, EngineError> {
    let (trials, bench) = {
        let mut engine = lock(engine);
        let config = engine.store().config.clone();
        let families = config.families.list();
        let trials = trial::plan(engine.store().cluster(), &config.externals, families, request)
            .map_err(EngineError::Trial)?;
        let bench = engine.bench(&trials)?;
        (trials, bench)
    };
    let findings = bench.run(&trials, request.patience_ms, progress)?;
    Ok(json!(findings))
}

/// Tells of denied packets until `tell` says that nobody listens. While there are none it is asked
/// now and then with nothing.
pub(crate) fn flows(
    engine: &Arc<Mutex<Engine>>,
    tell: &mut dyn FnMut(Option<Value>) -> bool,
) -> Result<Value, EngineError> {
    let reports = lock(engine).flows()?;
    if !tell(None) {
        return Ok(Value::Null);
    }
    loop {
        let more = match reports.recv_timeout(STILL_THERE) {
            Ok(report) => {
                let flow = flows::in_words(lock(engine).store().cluster(), &report);
                tell(Some(json!(flow)))
            }
            Err(RecvTimeoutError::Timeout) => tell(None),
            Err(RecvTimeoutError::Disconnected) => false,
        };
        if !more {
            return Ok(Value::Null);
        }
    }
}

/// How often to see whether somebody still listens.
const STILL_THERE: Duration = Duration::from_millis(500);
