//! What ends a namespace where no controller manager does?
//!
//! ```text
//!   deletionTimestamp ─▶ delete all that is in it ─▶ nothing left? ─▶ PUT finalize ─▶ gone
//! ```
//!
//! `kubectl delete namespace` waits for it. Where there is a controller manager it does the same.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{Api, ApiError, text};
use crate::pod::Shared;

/// Before another look at what is left.
const PAUSE: Duration = Duration::from_millis(50);

/// A kind of objects that namespaces hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    /// `/api/v1`, `/apis/apps/v1`.
    group: String,
    /// `pods`.
    resource: String,
    /// Whether all of a namespace go with one request.
    at_once: bool,
}

/// Ends a namespace, however long that takes.
pub(crate) async fn end(shared: Arc<Shared>, name: String) {
    let api = &shared.api;
    let mut pause = PAUSE;
    loop {
        match clear(api, &name).await {
            Ok(true) => match finalize(api, &name).await {
                Err(error) if !error.is_gone() => eprintln!("namespace {name}: {error}"),
                _ => return,
            },
            Ok(false) => {}
            Err(error) => eprintln!("namespace {name}: {error}"),
        }
        tokio::time::sleep(pause).await;
        pause = Duration::from_secs(5).min(pause * 2);
    }
}

/// Deletes what is in a namespace; whether nothing is left.
async fn clear(api: &Api, namespace: &str) -> Result<bool, ApiError> {
    let mut empty = true;
    for held in kinds(api).await? {
        let all = format!("{}/namespaces/{namespace}/{}", held.group, held.resource);
        let list = api.get(&all).await?;
        let items: Vec<&Value> =
            list.get("items").and_then(Value::as_array).into_iter().flatten().collect();
        // Events are told of what is deleted here.
        empty &= items.is_empty() || held.resource == "events";
        if items.is_empty() {
            continue;
        }
        if held.at_once {
            api.end(&all).await?;
            continue;
        }
        for name in items.iter().filter_map(|it| text(it, "/metadata/name")) {
            match api.end(&format!("{all}/{name}")).await {
                Err(error) if !error.is_gone() => return Err(error),
                _ => {}
            }
        }
    }
    Ok(empty)
}

async fn finalize(api: &Api, name: &str) -> Result<Value, ApiError> {
    let mut namespace = api.get(&format!("/api/v1/namespaces/{name}")).await?;
    namespace["spec"]["finalizers"] = json!([]);
    api.put(&format!("/api/v1/namespaces/{name}/finalize"), &namespace).await
}

/// All kinds that the server has now.
async fn kinds(api: &Api) -> Result<Vec<Held>, ApiError> {
    let mut found = read("/api/v1", &api.get("/api/v1").await?);
    let groups = api.get("/apis").await?;
    let versions = groups.get("groups").and_then(Value::as_array).into_iter().flatten();
    for version in versions.filter_map(|group| text(group, "/preferredVersion/groupVersion")) {
        let group = format!("/apis/{version}");
        match api.get(&group).await {
            Ok(list) => found.extend(read(&group, &list)),
            // A server that is not there (an aggregated API) must not hold up the others.
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(found)
}

fn read(group: &str, list: &Value) -> Vec<Held> {
    let resources = list.get("resources").and_then(Value::as_array).into_iter().flatten();
    let can = |resource: &Value, verb: &str| {
        let verbs = resource.get("verbs").and_then(Value::as_array);
        verbs.is_some_and(|verbs| verbs.iter().any(|it| it == verb))
    };
    resources
        .filter(|it| it.get("namespaced") == Some(&json!(true)))
        .filter(|it| can(it, "list") && can(it, "delete"))
        .filter_map(|it| {
            let resource = it.get("name")?.as_str()?.to_owned();
            let at_once = can(it, "deletecollection");
            Some(Held { group: group.to_owned(), resource, at_once })
        })
        .collect()
}

/// Whether a namespace waits for somebody to end it.
pub(crate) fn waits(namespace: &Value) -> bool {
    let finalizers = namespace.pointer("/spec/finalizers").and_then(Value::as_array);
    crate::status::is_deleted(namespace)
        && finalizers.is_some_and(|all| all.iter().any(|it| it == "kubernetes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_deleted_is_deleted() {
        let list = json!({"resources": [
            {"name": "pods", "namespaced": true, "verbs": ["list", "delete", "deletecollection"]},
            {"name": "services", "namespaced": true, "verbs": ["list", "delete"]},
            {"name": "pods/log", "namespaced": true, "verbs": ["get"]},
            {"name": "nodes", "namespaced": false, "verbs": ["list", "delete"]}]});
        let found: Vec<(String, bool)> =
            read("/api/v1", &list).into_iter().map(|it| (it.resource, it.at_once)).collect();
        assert_eq!(found, [("pods".into(), true), ("services".into(), false)]);
    }

    #[test]
    fn a_namespace_waits_until_it_is_finalized() {
        let namespace = |finalizers: &Value| json!({"metadata": {"deletionTimestamp": "x"}, "spec": {"finalizers": finalizers}});
        assert!(waits(&namespace(&json!(["kubernetes"]))));
        assert!(!waits(&namespace(&json!([]))));
        assert!(!waits(&json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}})));
    }
}
