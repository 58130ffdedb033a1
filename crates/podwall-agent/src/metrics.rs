//! Which numbers does the agent tell?
//!
//! ```text
//!   State ── snapshot ──▶ one reading ──▶ text as Prometheus reads it
//! ```
//!
//! Names and units follow Prometheus' conventions: base units, `_total` for what only grows.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::objects::Kind;
use crate::state::Snapshot;

/// The content type of the text.
pub(crate) const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From an event to the kernel, in seconds: 0.1 ms to 13 s.
pub(crate) fn latencies() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 18))
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    kind: Kind,
}

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(&self.to_string(), encoder)
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfTable {
    table: String,
}

/// One reading, as text.
pub(crate) fn text(now: &Snapshot, latency: &Histogram) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("podwall");
    let labels = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("node", now.node.to_string()),
        ("dataplane", now.dataplane.to_owned()),
    ];
    registry.register("agent", "What runs here", Info::new(labels));
    let gauge = |value: usize| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge
    };
    registry.register(
        "synced",
        "1 when namespaces, pods and policies were listed to the end once",
        gauge(usize::from(now.synced)),
    );
    registry.register(
        "enforced",
        "1 when the kernel holds what the cluster asked for when it was last told",
        gauge(usize::from(now.enforced)),
    );
    let objects = Family::<OfKind, Gauge>::default();
    for (kind, count) in &now.objects {
        objects
            .get_or_create(&OfKind { kind: *kind })
            .set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
    registry.register("objects", "Objects that are known", objects);
    let unusable = Family::<OfKind, Gauge>::default();
    for kind in Kind::ALL {
        let count = now.unusable.iter().filter(|wrong| wrong.kind == kind).count();
        unusable.get_or_create(&OfKind { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register("unusable_objects", "Objects that cannot be read", unusable);
    registry.register(
        "policy_ready_seconds",
        "From an event of the API server to the kernel that enforces it",
        latency.clone(),
    );
    registry.register("changes", "Changes that the kernel took", ConstCounter::new(now.changes));
    registry.register(
        "kernel_errors",
        "Changes that the kernel refused",
        ConstCounter::new(now.failures),
    );
    let (entries, wanted, limits) = (
        Family::<OfTable, Gauge>::default(),
        Family::<OfTable, Gauge>::default(),
        Family::<OfTable, Gauge>::default(),
    );
    for fill in &now.fill.tables {
        let of = OfTable { table: fill.table.name().to_owned() };
        for (family, value) in [(&entries, fill.used), (&wanted, fill.wanted), (&limits, fill.size)]
        {
            family.get_or_create(&of).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
    registry.register("table_entries", "Entries in the kernel's tables", entries);
    registry.register("table_wanted_entries", "Entries that there should be", wanted);
    registry.register("table_entries_limit", "Entries that there may be", limits);
    registry.register(
        "full_tables_isolated_classes",
        "Classes of pods that are isolated because a table is full",
        gauge(now.fill.isolated.len()),
    );
    let mut out = String::new();
    encode(&mut out, &registry)?;
    Ok(out)
}
