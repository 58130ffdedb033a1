//! Which numbers does the agent tell?
//!
//! ```text
//!   State ── snapshot ──▶ one reading ──▶ text as Prometheus reads it
//! ```
//!
//! Names and units follow Prometheus' conventions: base units, `_total` for what only grows.

use std::fmt;
use std::sync::atomic::AtomicU64;

use podwall_policy::policy::Direction;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::names::Counted;
use crate::objects::Kind;
use crate::state::{Snapshot, State};

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
pub(crate) fn text(state: &State, counted: &Counted) -> Result<String, fmt::Error> {
    let now = &state.snapshot();
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
        gauge(usize::from(now.is_synced())),
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
        state.latencies.clone(),
    );
    registry.register(
        "cni_attach_seconds",
        "From a question of the CNI plugin to its answer",
        state.attaching.clone(),
    );
    sources(&mut registry, now);
    decided(&mut registry, counted);
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

/// What the numbers come from.
fn sources(registry: &mut Registry, now: &Snapshot) {
    let gauge = |value: usize| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge
    };
    let (heard, failures) =
        (Family::<OfKind, Gauge<f64, AtomicU64>>::default(), Family::<OfKind, Counter>::default());
    for kind in Kind::ALL {
        if let Some(ago) = now.heard(kind) {
            heard.get_or_create(&OfKind { kind }).set(ago.as_secs_f64());
        }
        let count = now.watch_failures.get(&kind).copied().unwrap_or_default();
        failures.get_or_create(&OfKind { kind }).inc_by(count);
    }
    registry.register("watch_silence_seconds", "Since the API server was last heard of", heard);
    registry.register("watch_failures", "Watches that failed and started anew", failures);
    registry.register(
        "drifts",
        "Times the kernel differed and was put right",
        ConstCounter::new(now.drifts),
    );
    registry.register(
        "subject_classes",
        "Classes of isolated pods",
        gauge(now.compiled.subject_classes),
    );
    registry.register("peer_classes", "Classes of peers", gauge(now.compiled.peer_classes));
    registry.register(
        "attachments",
        "Interfaces that the CNI plugin attached",
        gauge(now.attachments),
    );
    let [isolated, released] = now.strangers;
    registry.register(
        "strangers_isolated",
        "Addresses in the pod ranges that no pod is known to have and that are isolated",
        gauge(isolated),
    );
    registry.register("strangers_released", "Those that were let go after a time", gauge(released));
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfRule {
    direction: &'static str,
    namespace: String,
    policy: String,
    rule: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPolicies {
    direction: &'static str,
    policies: String,
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    }
}

/// What rules and defaults have decided. What has decided nothing is left out: rules that no packet
/// meets would be most of all numbers.
fn decided(registry: &mut Registry, counted: &Counted) {
    let (rules, denied) =
        (Family::<OfRule, Counter>::default(), Family::<OfPolicies, Counter>::default());
    for (rule, count) in &counted.rules {
        let of = OfRule {
            direction: word(rule.direction),
            namespace: rule.policy.namespace.to_string(),
            policy: rule.policy.name.to_string(),
            rule: rule.number,
        };
        rules.get_or_create(&of).inc_by(*count);
    }
    for (direction, policies, count) in &counted.denied {
        let policies: Vec<String> = policies.iter().map(ToString::to_string).collect();
        let of = OfPolicies { direction: word(*direction), policies: policies.join(",") };
        denied.get_or_create(&of).inc_by(*count);
    }
    registry.register("allowed_packets", "Packets that a rule allowed", rules);
    registry.register(
        "denied_packets",
        "Packets that no rule allowed, by the policies that isolate",
        denied,
    );
    registry.register(
        "forged_packets",
        "Packets with a source address that is not their pod's",
        ConstCounter::new(counted.forged),
    );
}
