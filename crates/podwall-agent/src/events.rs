//! Who tells the author of an object that it cannot be enforced as it stands?
//!
//! ```text
//!   writer ── Complaint (once for each reason) ──▶ Events of the API server ──▶ kubectl describe
//! ```
//!
//! Of a policy only the agents speak that have pods which it isolates: not every node of a large
//! cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use podwall_policy::object::Name;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::objects::{Kind, SlimPolicy};
use crate::watch::causes;
use crate::writer::Writer;

/// So many at once are told; more at a time are left to log and metrics.
const MOST: usize = 50;
/// Between two Events.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest note that an Event takes, in bytes (`pkg/apis/core/validation/events.go`).
const LONGEST: usize = 1024;

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Complaint {
    kind: Kind,
    /// Empty for objects of the cluster.
    namespace: String,
    name: String,
    uid: Option<Arc<str>>,
    /// In one word, as Events have it.
    reason: &'static str,
    note: String,
}

/// Says everything once. Owned by the writer.
pub(crate) struct Complaints {
    tell: UnboundedSender<Complaint>,
    said: BTreeSet<Complaint>,
}

impl Complaints {
    pub(crate) fn new(tell: UnboundedSender<Complaint>) -> Self {
        Self { tell, said: BTreeSet::new() }
    }

    /// Tells what is new of all that is wrong now; what is not wrong any more may be said again.
    fn tell(&mut self, now: BTreeSet<Complaint>) {
        let room = MOST.saturating_sub(now.intersection(&self.said).count());
        for complaint in now.difference(&self.said).take(room) {
            // Without a listener there is nobody to tell.
            drop(self.tell.send(complaint.clone()));
        }
        self.said = now;
    }
}

impl Writer {
    /// Tells the authors of objects what is wrong with them here.
    pub(crate) fn complain(&mut self) {
        let fill = self.plane.fill();
        if fill.isolated.is_empty() && self.index.unusable().next().is_none() {
            self.complaints.said.clear();
            return;
        }
        let tables = self.compiler.tables();
        let in_force: BTreeSet<String> = tables.policies.values().map(Name::to_string).collect();
        let mut now = BTreeSet::new();
        for wrong in self.index.unusable() {
            let concerns_us = match wrong.kind {
                Kind::NetworkPolicy => in_force.contains(&wrong.name),
                Kind::Node => true,
                // Whose node a pod is on that cannot be read is not known.
                Kind::Namespace | Kind::Pod => false,
            };
            if concerns_us {
                let (namespace, name) = wrong.name.split_once('/').unwrap_or(("", &wrong.name));
                now.insert(Complaint {
                    kind: wrong.kind,
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                    uid: wrong.uid.clone(),
                    reason: "CannotBeRead",
                    note: format!("{wrong}"),
                });
            }
        }
        let full: BTreeSet<&Name> =
            fill.isolated.keys().flat_map(|class| tables.names_behind(*class)).collect();
        for policy in full {
            now.insert(Complaint {
                kind: Kind::NetworkPolicy,
                namespace: policy.namespace.to_string(),
                name: policy.name.to_string(),
                uid: None,
                reason: "TablesFull",
                note: format!(
                    "the tables of the node {} have no room for its rules: pods that it selects \
                     there are isolated with no rule; --limits of the agent makes room",
                    self.node
                ),
            });
        }
        self.complaints.tell(now);
    }
}

/// Writes Events until nobody complains any more.
pub(crate) async fn publish(client: Client, node: &str, mut told: UnboundedReceiver<Complaint>) {
    let reporter =
        Reporter { controller: "podwall-agent".to_owned(), instance: Some(node.to_owned()) };
    let recorder = Recorder::new(client.clone(), reporter);
    while let Some(complaint) = told.recv().await {
        let Complaint { kind, namespace, name, uid, reason, note } = complaint;
        let uid = match (uid, kind) {
            (Some(uid), _) => Some(uid.to_string()),
            (None, Kind::NetworkPolicy) => uid_of(&client, &namespace, &name).await,
            (None, _) => None,
        };
        let api = match kind {
            Kind::NetworkPolicy => "networking.k8s.io/v1",
            Kind::Namespace | Kind::Pod | Kind::Node => "v1",
        };
        let object = ObjectReference {
            api_version: Some(api.to_owned()),
            kind: Some(kind.to_string()),
            namespace: Some(namespace).filter(|it| !it.is_empty()),
            name: Some(name),
            uid,
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(cut(note)),
            action: "Enforcing".to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &object).await {
            tracing::warn!(%kind, error = causes(&error), "an Event could not be written");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `kubectl describe` shows the Events of an object by its UID.
async fn uid_of(client: &Client, namespace: &str, name: &str) -> Option<String> {
    let api: Api<SlimPolicy> = Api::namespaced(client.clone(), namespace);
    let found: PartialObjectMeta<SlimPolicy> = api.get_metadata_opt(name).await.ok()??;
    found.meta().uid.clone()
}

fn cut(mut note: String) -> String {
    if note.len() > LONGEST {
        let end = (0..=LONGEST - "…".len()).rev().find(|at| note.is_char_boundary(*at));
        note.truncate(end.unwrap_or_default());
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    fn mk_complaint(name: &str, note: &str) -> Complaint {
        Complaint {
            kind: Kind::NetworkPolicy,
            namespace: "shop".into(),
            name: name.into(),
            uid: None,
            reason: "CannotBeRead",
            note: note.into(),
        }
    }

    #[test]
    fn everything_is_said_once_and_again_when_it_comes_back() {
        let (tell, mut told) = unbounded_channel();
        let mut all = Complaints::new(tell);
        let (a, b) = (mk_complaint("a", "so"), mk_complaint("b", "so"));
        let both = BTreeSet::from([a.clone(), b.clone()]);
        all.tell(both.clone());
        all.tell(both.clone());
        all.tell(BTreeSet::from([a.clone()]));
        all.tell(both);
        let said: Vec<String> =
            std::iter::from_fn(|| told.try_recv().ok()).map(|it| it.name).collect();
        assert_eq!(said, ["a", "b", "b"]);
    }

    #[test]
    fn a_flood_of_wrong_objects_is_no_flood_of_events() {
        let (tell, mut told) = unbounded_channel();
        let mut all = Complaints::new(tell);
        let many = (0..500).map(|number| mk_complaint(&format!("p{number:03}"), "so"));
        let many: BTreeSet<Complaint> = many.collect();
        all.tell(many.clone());
        all.tell(many);
        assert_eq!(std::iter::from_fn(|| told.try_recv().ok()).count(), MOST);
    }

    #[test]
    fn a_note_is_cut_between_letters() {
        assert_eq!(cut("short".into()), "short");
        let long = cut("ä".repeat(600));
        assert!(long.len() <= LONGEST && long.ends_with("ä…"), "{}", long.len());
    }
}
