//! How is the agent, in one answer?

use std::collections::BTreeMap;
use std::net::IpAddr;

use podwall_local::{ObjectCount, Status, TableUse, UnusableObject};
use podwall_policy::policy::Direction;

use crate::objects::Kind;
use crate::writer::Writer;

impl Writer {
    /// What is known of it at this moment.
    pub(crate) fn status(&self) -> Status {
        let now = self.state.snapshot();
        let tables = self.compiler.tables();
        let kinds = Kind::ALL.into_iter().map(|kind| kind.to_string());
        let heard = kinds.zip(Kind::ALL.map(|kind| now.heard(kind))).collect::<BTreeMap<_, _>>();
        let locals: Vec<_> = self
            .index
            .locals()
            .filter(|object| object.pod.is_subject())
            .map(|object| self.index.attachments().addresses(object))
            .filter(|addresses| !addresses.is_empty())
            .collect();
        let of_isolated = |addresses: &&Vec<IpAddr>| {
            let is =
                |it: &IpAddr| Direction::BOTH.iter().any(|way| tables.subject(*way, *it).is_some());
            addresses.iter().any(is)
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.to_string(),
            dataplane: self.plane.name().to_owned(),
            instead: now.instead.clone(),
            synced: self.index.is_synced(),
            enforced: now.enforced && !self.index.is_pending(),
            heard: heard
                .into_iter()
                .map(|(kind, ago)| (kind, ago.map(|it| it.as_secs())))
                .collect(),
            objects: self
                .index
                .counts()
                .into_iter()
                .map(|(kind, count)| ObjectCount { kind: kind.to_string(), count })
                .collect(),
            unusable: self
                .index
                .unusable()
                .map(|it| UnusableObject {
                    kind: it.kind.to_string(),
                    name: it.name.clone(),
                    reason: it.reason.clone(),
                })
                .collect(),
            tables: self
                .plane
                .fill()
                .tables
                .iter()
                .map(|fill| TableUse {
                    table: fill.table.name().to_owned(),
                    entries: fill.used,
                    limit: fill.size,
                })
                .collect(),
            changes: now.changes,
            failures: now.failures,
            drifts: now.drifts,
            isolated_pods: locals.iter().filter(of_isolated).count(),
            local_pods: locals.len(),
            attachments: self.index.attachments().live().count(),
            guarded: self.links.len(),
            pod_ranges: self.index.ranges().iter().map(ToString::to_string).collect(),
            released: self.strangers.released().iter().copied().collect(),
        }
    }
}
