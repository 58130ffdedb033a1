//! How does the agent learn what the cluster looks like?
//!
//! ```text
//!   watcher (a kind) ── list, then watch; again after a failure, later and later ──▶ Event ──▶ channel
//! ```
//!
//! Each kind has a watch of its own, which starts anew by itself: after a failure with a pause that
//! grows, and with a part of chance in it so that a thousand agents do not ask at once.

use std::sync::mpsc::Sender;
use std::time::Instant;

use futures_util::StreamExt as _;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use crate::index::Event;
use crate::known::Said;
use crate::objects::{
    Read, SlimNamespace, SlimNode, SlimPod, SlimPolicy, Watched, called, unusable,
};
use crate::told::Told;

/// Seconds after which a watch is asked anew. Some load balancers drop a connection on which nothing
/// came for four minutes, without a word.
const TIMEOUT: u32 = 200;

/// Watches all kinds, of nodes the one, and tells what it hears, until nobody listens any more.
pub(crate) async fn all(client: Client, node: &str, tell: Sender<Told>) {
    let every = watcher::Config::default().timeout(TIMEOUT);
    let ours = every.clone().fields(&format!("metadata.name={node}"));
    let (every, ours) = (&every, &ours);
    tokio::join!(
        one::<SlimNamespace>(client.clone(), every, tell.clone(), Event::Namespace),
        one::<SlimPod>(client.clone(), every, tell.clone(), Event::Pod),
        one::<SlimPolicy>(client.clone(), every, tell.clone(), Event::Policy),
        one::<SlimNode>(client, ours, tell, Event::Node),
    );
}

/// Watches one kind.
async fn one<W>(
    client: Client,
    config: &watcher::Config,
    tell: Sender<Told>,
    event: fn(Said<W>) -> Event,
) where
    W: Watched + Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    W: Send + Sync + 'static,
{
    let kind = W::KIND;
    let api: Api<DeserializeGuard<W>> = Api::all(client);
    let mut events = watcher(api, config.clone()).default_backoff().boxed();
    while let Some(next) = events.next().await {
        let said = match next {
            Ok(watcher::Event::Init) => Some(Said::ListBegins),
            Ok(watcher::Event::InitDone) => Some(Said::ListEnds),
            Ok(watcher::Event::InitApply(object)) => read(object, Said::Listed),
            Ok(watcher::Event::Apply(object)) => read(object, Said::Put),
            Ok(watcher::Event::Delete(object)) => W::key(object.meta()).map(Said::Gone),
            Err(error) => {
                tracing::warn!(%kind, error = causes(&error), "the watch starts anew");
                if tell.send(Told::Failed(kind)).is_err() {
                    return;
                }
                None
            }
        };
        if let Some(said) = said
            && tell.send(Told::Heard(event(said), Instant::now())).is_err()
        {
            return;
        }
    }
}

fn read<W>(
    object: DeserializeGuard<W>,
    said: fn(W::Key, Read<W::Object>) -> Said<W>,
) -> Option<Said<W>>
where
    W: Watched + Resource<DynamicType = ()>,
{
    let meta = object.meta().clone();
    let key = W::key(&meta);
    let read = match object.0 {
        Ok(object) => object.read(),
        Err(error) => Err(unusable(W::KIND, &meta, error.error)).into(),
    };
    if key.is_none() {
        tracing::warn!(kind = %W::KIND, name = called(&meta), "an object without a name");
    }
    key.map(|key| said(key, read))
}

/// An error with all its causes, each said once.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        // Many errors say their cause themselves.
        if !text.contains(&more) {
            text += ": ";
            text += &more;
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::mpsc::{Receiver, channel};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::extract::{Path, Query, State};
    use axum::response::{IntoResponse as _, Response};
    use axum::routing::get;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;
    use crate::objects::Kind;

    type Shared<T> = Arc<Mutex<T>>;
    /// The plural of its kind, and what feeds it.
    type Watch = (String, mpsc::UnboundedSender<Value>);

    /// An API server of three lists, whose watches say what a test tells them to.
    #[derive(Clone, Default)]
    struct Server {
        /// What lists hold, by the plural of the kind.
        lists: Shared<HashMap<&'static str, Vec<Value>>>,
        /// Where open watches are fed.
        watches: Shared<Vec<Watch>>,
        /// How often each kind was listed.
        listed: Shared<Vec<String>>,
    }

    type Asked = Query<HashMap<String, String>>;

    impl Server {
        fn client(&self) -> Client {
            let routes = Router::new()
                .route("/api/v1/{kind}", get(Self::answer))
                .route("/apis/networking.k8s.io/v1/{kind}", get(Self::answer))
                .with_state(self.clone());
            Client::new(routes, "default")
        }

        async fn answer(
            State(server): State<Self>,
            Path(kind): Path<String>,
            Query(query): Asked,
        ) -> Response {
            if query.get("watch").is_some_and(|watch| watch == "true") {
                let (feed, fed) = mpsc::unbounded_channel();
                server.watches.lock().unwrap().push((kind, feed));
                let lines = futures_util::stream::unfold(fed, |mut fed| async {
                    let event: Value = fed.recv().await?;
                    Some((Ok::<_, std::io::Error>(format!("{event}\n")), fed))
                });
                return Body::from_stream(lines).into_response();
            }
            server.listed.lock().unwrap().push(kind.clone());
            let items = server.lists.lock().unwrap().get(&*kind).cloned();
            let list = json!({
                "kind": "List", "apiVersion": "v1",
                "metadata": { "resourceVersion": "10" }, "items": items.unwrap_or_default(),
            });
            list.to_string().into_response()
        }

        /// Feeds the watch of a kind, once there is one.
        async fn tell(&self, kind: &str, event: &Value) {
            for _ in 0..2000 {
                let sent = self
                    .watches
                    .lock()
                    .unwrap()
                    .iter()
                    .rev()
                    .any(|(of, feed)| of == kind && feed.send(event.clone()).is_ok());
                if sent {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            panic!("nobody watches {kind}");
        }
    }

    fn mk_pod(name: &str, port: impl Into<Value>) -> Value {
        let port: Value = port.into();
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": { "namespace": "shop", "name": name, "resourceVersion": "3" },
            "spec": { "nodeName": "n1", "containers": [{ "ports": [{ "containerPort": port }] }] },
            "status": { "podIP": "10.0.0.1" },
        })
    }

    /// What is said of pods, as words.
    fn words(told: &Receiver<Told>) -> Vec<String> {
        let word = |told: Told| match told {
            Told::Heard(event, _) => of_pods(event),
            _ => None,
        };
        told.try_iter().filter_map(word).collect()
    }

    fn of_pods(event: Event) -> Option<String> {
        match event {
            Event::Pod(Said::ListBegins) => Some("begins".to_owned()),
            Event::Pod(Said::ListEnds) => Some("ends".to_owned()),
            Event::Pod(Said::Listed(name, read)) => {
                let how = if read.object.is_some() { "listed" } else { "unusable" };
                Some(format!("{how} {name}"))
            }
            Event::Pod(Said::Put(name, read)) => {
                let how = if read.object.is_some() { "put" } else { "unusable" };
                Some(format!("{how} {name}"))
            }
            Event::Pod(Said::Gone(name)) => Some(format!("gone {name}")),
            _ => None,
        }
    }

    async fn until(told: &Receiver<Told>, last: &str) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..4000 {
            all.extend(words(told));
            if all.last().is_some_and(|word| word == last) {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{last} did not come: {all:?}");
    }

    #[tokio::test]
    async fn one_object_that_cannot_be_decoded_stops_no_other() {
        let server = Server::default();
        let pods = vec![mk_pod("a", 80), mk_pod("b", "eighty"), mk_pod("c", 81)];
        server.lists.lock().unwrap().insert("pods", pods);
        let (tell, told) = channel();
        let client = server.client();
        let watching = tokio::spawn(async move { all(client, "n1", tell).await });
        assert_eq!(
            until(&told, "ends").await,
            ["begins", "listed shop/a", "unusable shop/b", "listed shop/c", "ends"]
        );
        for (what, pod) in [
            ("ADDED", mk_pod("d", 99_999_999)),
            ("MODIFIED", mk_pod("a", 82)),
            ("DELETED", mk_pod("c", "eighty")),
        ] {
            server.tell("pods", &json!({ "type": what, "object": pod })).await;
        }
        let heard = until(&told, "gone shop/c").await;
        assert_eq!(heard, ["unusable shop/d", "put shop/a", "gone shop/c"]);
        let mut listed = server.listed.lock().unwrap().clone();
        listed.sort();
        assert_eq!(listed, ["namespaces", "networkpolicies", "nodes", "pods"]);
        watching.abort();
    }

    #[tokio::test]
    async fn a_watch_that_is_too_old_lists_anew() {
        let server = Server::default();
        let (tell, told) = channel();
        let client = server.client();
        let watching = tokio::spawn(async move { all(client, "n1", tell).await });
        assert_eq!(until(&told, "ends").await, ["begins", "ends"]);
        server.lists.lock().unwrap().insert("pods", vec![mk_pod("a", 80)]);
        let expired = json!({ "type": "ERROR", "object": {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "too old resource version", "reason": "Expired", "code": 410,
        } });
        server.tell("pods", &expired).await;
        assert_eq!(until(&told, "ends").await, ["begins", "listed shop/a", "ends"]);
        watching.abort();
    }

    #[tokio::test]
    async fn kinds_do_not_wait_for_each_other() {
        let server = Server::default();
        let (tell, told) = channel();
        let client = server.client();
        let watching = tokio::spawn(async move { all(client, "n1", tell).await });
        until(&told, "ends").await;
        for (kind, plural) in [(Kind::Namespace, "namespaces"), (Kind::Pod, "pods")] {
            let object = json!({ "kind": kind.to_string(), "apiVersion": "v1",
                "metadata": { "namespace": "x", "name": "x", "resourceVersion": "4" } });
            server.tell(plural, &json!({ "type": "ADDED", "object": object })).await;
        }
        until(&told, "put x/x").await;
        watching.abort();
    }
}
