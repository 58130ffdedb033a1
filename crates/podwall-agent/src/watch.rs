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

use crate::index::{Event, Said};
use crate::objects::{Read, SlimNamespace, SlimPod, SlimPolicy, Unusable, Watched, called};

/// What is told, and when it came.
pub(crate) type Told = (Event, Instant);

/// Seconds after which a watch is asked anew. Some load balancers drop a connection on which nothing
/// came for four minutes, without a word.
const TIMEOUT: u32 = 200;

/// Watches all kinds and tells what it hears, until nobody listens any more.
pub(crate) async fn all(client: Client, tell: Sender<Told>) {
    tokio::join!(
        one::<SlimNamespace>(client.clone(), tell.clone(), Event::Namespace),
        one::<SlimPod>(client.clone(), tell.clone(), Event::Pod),
        one::<SlimPolicy>(client, tell, Event::Policy),
    );
}

/// Watches one kind.
async fn one<W>(client: Client, tell: Sender<Told>, event: fn(Said<W>) -> Event)
where
    W: Watched + Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    W: Send + Sync + 'static,
{
    let kind = W::KIND;
    let api: Api<DeserializeGuard<W>> = Api::all(client);
    let config = watcher::Config::default().timeout(TIMEOUT);
    let mut events = watcher(api, config).default_backoff().boxed();
    while let Some(next) = events.next().await {
        let said = match next {
            Ok(watcher::Event::Init) => Some(Said::ListBegins),
            Ok(watcher::Event::InitDone) => Some(Said::ListEnds),
            Ok(watcher::Event::InitApply(object)) => read(object, Said::Listed),
            Ok(watcher::Event::Apply(object)) => read(object, Said::Put),
            Ok(watcher::Event::Delete(object)) => W::key(object.meta()).map(Said::Gone),
            Err(error) => {
                tracing::warn!(%kind, error = causes(&error), "the watch starts anew");
                None
            }
        };
        if let Some(said) = said
            && tell.send((event(said), Instant::now())).is_err()
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
    let key = W::key(object.meta());
    let name = called(object.meta());
    let read = match object.0 {
        Ok(object) => object.read(),
        Err(error) => {
            Err(Unusable { kind: W::KIND, name: name.clone(), reason: error.error }).into()
        }
    };
    if key.is_none() {
        tracing::warn!(kind = %W::KIND, name, "an object without a name");
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
