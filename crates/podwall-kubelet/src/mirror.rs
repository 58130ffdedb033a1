//! How does the lab's worker come to know the cluster?
//!
//! ```text
//!   watches, pods' tasks ── put, gone ──▶ what should be there ── one batch at a time ──▶ worker
//!                                              └─ everything, to a worker that is new
//! ```
//!
//! The worker serves in pods, answers `get`, tries packets. It can be killed and come back with what
//! it knew then; so whoever connects to it says everything first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use podwall_lab::client::{Client, ClientError};
use podwall_lab::rpc::{Query, Request};
use serde_json::Value;
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::api::text;

/// An object's identity: kind, namespace, name.
pub(crate) type Key = (&'static str, String, String);

/// How long somebody waits for a worker that may not be there: the next command starts one.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// What the worker is told. Shared by whoever has something to tell.
#[derive(Clone, Default)]
pub(crate) struct Mirror {
    state: Arc<Mutex<State>>,
    news: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// What should be there.
    wanted: BTreeMap<Key, Value>,
    /// What the worker may not know yet.
    changed: BTreeSet<Key>,
    /// Who waits for what is wanted now.
    waiting: Vec<oneshot::Sender<()>>,
    /// Whether all lists were read: half a cluster is none.
    complete: bool,
}

// === impl Mirror ===

impl Mirror {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object is there, or is different.
    pub(crate) fn put(&self, key: Key, object: Value) {
        let mut state = self.state();
        state.wanted.insert(key.clone(), object);
        state.changed.insert(key);
        self.news.notify_one();
    }

    /// An object is gone; unless another one has its name by now.
    pub(crate) fn gone(&self, key: &Key, uid: Option<&str>) {
        let mut state = self.state();
        let known = state.wanted.get(key);
        if known.is_some_and(|known| uid.is_none() || text(known, "/metadata/uid") == uid) {
            state.wanted.remove(key);
            state.changed.insert(key.clone());
            self.news.notify_one();
        }
    }

    /// What there is of a kind.
    pub(crate) fn keys(&self, kind: &str) -> BTreeSet<Key> {
        self.state().wanted.keys().filter(|key| key.0 == kind).cloned().collect()
    }

    /// All lists were read.
    pub(crate) fn complete(&self) {
        self.state().complete = true;
        self.news.notify_one();
    }

    /// Waits until the worker has followed, or until that has taken too long.
    pub(crate) async fn followed(&self) -> bool {
        let (done, wait) = oneshot::channel();
        self.state().waiting.push(done);
        self.news.notify_one();
        matches!(timeout(PATIENCE, wait).await, Ok(Ok(())))
    }

    /// Tells the worker, for ever.
    pub(crate) async fn run(self, lab: String, dir: PathBuf) {
        // And whether it knows what was wanted when it was connected to.
        let mut client: Option<(Client, bool)> = None;
        loop {
            self.news.notified().await;
            loop {
                let connect = (lab.clone(), dir.clone());
                let connected = match client.take() {
                    Some(known) => Some(known),
                    None => spawn_blocking(move || Client::connect_within(&connect.0, &connect.1))
                        .await
                        .ok()
                        .flatten()
                        .map(|client| (client, false)),
                };
                let Some((mut worker, knows)) = connected else {
                    sleep(PAUSE).await;
                    continue;
                };
                let Some((request, waiting)) = self.batch(!knows) else {
                    client = Some((worker, knows));
                    break;
                };
                let told = spawn_blocking(move || {
                    let said = worker.call::<Vec<String>>(&request);
                    (worker, said)
                });
                let Ok((worker, said)) = told.await else { continue };
                match said {
                    Ok(refused) => {
                        refused.iter().for_each(|why| eprintln!("the lab cannot use: {why}"));
                    }
                    Err(ClientError::Refused { message }) => {
                        // Done as far as it went; the worker tries the rest at the next change.
                        eprintln!("the lab could not follow: {message}");
                    }
                    Err(error) => {
                        eprintln!("the lab's worker: {error}");
                        self.state().waiting.extend(waiting);
                        continue;
                    }
                }
                client = Some((worker, true));
                for done in waiting {
                    let _ = done.send(());
                }
            }
        }
    }

    /// What is to be told now, and who waits for it; everything to a worker that is `fresh`.
    fn batch(&self, fresh: bool) -> Option<(Request, Vec<oneshot::Sender<()>>)> {
        let mut state = self.state();
        if !state.complete {
            return None;
        }
        let changed = std::mem::take(&mut state.changed);
        let waiting = std::mem::take(&mut state.waiting);
        if changed.is_empty() && waiting.is_empty() && !fresh {
            return None;
        }
        let request = if fresh {
            Request::Mirror {
                put: state.wanted.values().cloned().collect(),
                gone: vec![],
                all: true,
            }
        } else {
            let put = changed.iter().filter_map(|key| state.wanted.get(key).cloned()).collect();
            let gone = changed.iter().filter(|key| !state.wanted.contains_key(*key)).map(query);
            Request::Mirror { put, gone: gone.collect(), all: false }
        };
        Some((request, waiting))
    }
}

fn query((kind, namespace, name): &Key) -> Query {
    Query {
        kind: (*kind).to_owned(),
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        selector: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key() -> Key {
        ("Pod", "shop".into(), "web".into())
    }

    fn pod(uid: &str) -> Value {
        json!({"kind": "Pod", "metadata": {"name": "web", "uid": uid}})
    }

    fn told(mirror: &Mirror, fresh: bool) -> Option<(usize, usize, bool)> {
        match mirror.batch(fresh)?.0 {
            Request::Mirror { put, gone, all } => Some((put.len(), gone.len(), all)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn half_a_cluster_is_not_told_and_a_new_worker_is_told_everything() {
        let mirror = Mirror::default();
        mirror.put(key(), pod("one"));
        assert_eq!(told(&mirror, true), None);
        mirror.complete();
        assert_eq!(told(&mirror, true), Some((1, 0, true)));
        assert_eq!(told(&mirror, false), None);
        assert_eq!(told(&mirror, true), Some((1, 0, true)));
    }

    #[test]
    fn the_end_of_a_pod_does_not_take_its_successor() {
        let mirror = Mirror::default();
        mirror.complete();
        mirror.put(key(), pod("one"));
        mirror.put(key(), pod("two"));
        mirror.gone(&key(), Some("one"));
        assert_eq!(told(&mirror, false), Some((1, 0, false)));
        mirror.gone(&key(), Some("two"));
        assert_eq!(told(&mirror, false), Some((0, 1, false)));
    }
}
