//! Which pods does a controller make?
//!
//! ```text
//!   Deployment, ReplicaSet, StatefulSet, ReplicationController   spec.replicas × spec.template
//!   DaemonSet                                                    one a node    × spec.template
//!   Job                                        parallelism (≤ completions)     × spec.template
//!   CronJob                                    the same below spec.jobTemplate.spec
//! ```
//!
//! Sources: `pkg/apis/apps/validation/validation.go`, `pkg/apis/batch/validation/validation.go`,
//! `pkg/apis/core/validation/validation.go` (ReplicationController).

use podwall_policy::label::Labels;
use podwall_policy::object::{Name, Pod, Replicas, Workload};
use podwall_policy::selector::Selector;

use crate::diagnostic::Code;
use crate::expand::MOST_PODS;
use crate::metadata::{self, Metadata};
use crate::node::{Entry, Map};
use crate::pod;
use crate::selector;
use crate::text::At;
use crate::walk::{Path, Unknown, Walk};

/// Reads a workload of any of the seven kinds.
pub(crate) fn read(
    walk: &mut Walk<'_>,
    kind: &'static str,
    name: Name,
    metadata: &Metadata,
    spec: Option<&Entry<'_>>,
    at: At,
) -> Option<Workload> {
    let path = Path::root("spec");
    let map = required_map(walk, spec, at, &path)?;
    let spec = spec?;
    let (job_spec_path, template_path);
    let (holder, holder_map, path) = if kind == "CronJob" {
        walk.fields(map, &path, &["jobTemplate", "suspend"], Unknown::RefuseTypos, |_| None);
        template_path = path.field("jobTemplate");
        let template = required_map(walk, map.get("jobTemplate"), spec.at, &template_path)?;
        let parent = map.get("jobTemplate").map_or(spec.at, |e| e.at);
        job_spec_path = template_path.field("spec");
        if template.get("template").is_some() && template.get("spec").is_none() {
            let message = "`template` stands one level too high";
            walk.error(Code::UnknownField, parent, &template_path, message)
                .help("a job template has a `spec`, and that has the pod's `template`");
            return None;
        }
        let job = template.get("spec");
        let job_map = required_map(walk, job, parent, &job_spec_path)?;
        (job?, job_map, &job_spec_path)
    } else {
        (spec, map, &path)
    };
    let known: &[&str] = match kind {
        "Job" | "CronJob" => {
            &["template", "selector", "parallelism", "completions", "suspend", "manualSelector"]
        }
        _ => &["template", "selector", "replicas"],
    };
    walk.fields(holder_map, path, known, Unknown::RefuseTypos, |_| None);
    let suspended = is_suspended(walk, map, holder_map, path);
    let replicas = match kind {
        "DaemonSet" => Replicas::EveryNode,
        "Job" | "CronJob" => job_replicas(walk, holder_map, suspended, path),
        _ => Replicas::Count(count(walk, holder_map, "replicas", path).unwrap_or(1)),
    };
    let template = template(walk, &name, holder_map, holder.at, path)?;
    match kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => {
            label_selector(walk, holder_map, holder.at, &template, path);
        }
        "ReplicationController" => map_selector(walk, holder_map, &template, path),
        _ => {}
    }
    Some(Workload {
        kind: kind.into(),
        name,
        replicas,
        template,
        owner: metadata.owner.clone(),
        source: Some(walk.text.source(at)),
    })
}

fn required_map<'n, 't>(
    walk: &mut Walk<'_>,
    entry: Option<&'n Entry<'t>>,
    parent: At,
    path: &Path<'_>,
) -> Option<&'n Map<'t>> {
    match entry.filter(|e| !e.value.is_null()) {
        Some(entry) => walk.map(&entry.value, path),
        None => {
            walk.missing(entry.map_or(parent, |e| e.at), path);
            None
        }
    }
}

fn is_suspended(walk: &mut Walk<'_>, outer: &Map<'_>, inner: &Map<'_>, path: &Path<'_>) -> bool {
    let mut suspended = false;
    for map in [outer, inner] {
        if let Some(entry) = map.get("suspend") {
            suspended |= walk.bool(&entry.value, &path.field("suspend")).unwrap_or(false);
        }
    }
    suspended
}

fn job_replicas(walk: &mut Walk<'_>, map: &Map<'_>, suspended: bool, path: &Path<'_>) -> Replicas {
    let parallelism = count(walk, map, "parallelism", path).unwrap_or(1);
    let completions = count(walk, map, "completions", path);
    let running = completions.map_or(parallelism, |c| c.min(parallelism));
    Replicas::Count(if suspended { 0 } else { running })
}

/// A number of pods: not negative (`ValidateNonnegativeField`).
fn count(walk: &mut Walk<'_>, map: &Map<'_>, key: &str, path: &Path<'_>) -> Option<u32> {
    let entry = map.get(key)?;
    let path = path.field(key);
    let number = walk.int(&entry.value, &path)?;
    let Some(count) = u32::try_from(number).ok().filter(|c| i32::try_from(*c).is_ok()) else {
        let message = format!("`{path}` must be from 0 to {}, not {number}", i32::MAX);
        walk.error(Code::UnsupportedValue, entry.value.at, &path, message);
        return None;
    };
    if count > MOST_PODS {
        let message = format!("only the first {MOST_PODS} of {count} pods are looked at");
        walk.warning(Code::Limit, entry.value.at, &path, message)
            .help("they are all alike to policies");
    }
    Some(count)
}

fn template(
    walk: &mut Walk<'_>,
    name: &Name,
    holder: &Map<'_>,
    parent: At,
    path: &Path<'_>,
) -> Option<Pod> {
    let path = path.field("template");
    let entry = holder.get("template");
    if entry.is_none() && crate::suggest::nearest_key(holder, "template").is_some() {
        return None;
    }
    let map = required_map(walk, entry, parent, &path)?;
    let at = entry.map_or(parent, |e| e.at);
    walk.fields(map, &path, &["metadata", "spec"], Unknown::RefuseTypos, |key| match key {
        "labels" => Some("put it under `metadata`"),
        "containers" => Some("put it under `spec`"),
        _ => None,
    });
    let metadata = match map.get("metadata") {
        Some(entry) => metadata::read_any(walk, &entry.value, &path.field("metadata")),
        None => Metadata::default(),
    };
    let mut pod = Pod::new(name.namespace.clone(), name.name.clone(), metadata.labels);
    pod.source = Some(walk.text.source(at));
    pod::spec(walk, &mut pod, map.get("spec"), at, &path.field("spec"));
    Some(pod)
}

/// The selector of `apps/v1`: required, not empty, and matching the template.
fn label_selector(
    walk: &mut Walk<'_>,
    holder: &Map<'_>,
    parent: At,
    template: &Pod,
    path: &Path<'_>,
) {
    let path = path.field("selector");
    let Some(entry) = holder.get("selector").filter(|e| !e.value.is_null()) else {
        let at = holder.get("selector").map_or(parent, |e| e.at);
        walk.missing(at, &path).help(format!(
            "write `selector: {{matchLabels: {{…}}}}` with the \
                                              labels of the template: {}",
            template.labels
        ));
        return;
    };
    let errors = walk.findings.errors();
    let selector = selector::read(walk, &entry.value, &path);
    if walk.findings.errors() > errors {
        return;
    }
    if selector.is_everything() {
        walk.error(Code::UnsupportedValue, entry.at, &path, format!("`{path}` must not be empty"))
            .help(format!("name the labels of the template: {}", template.labels));
        return;
    }
    matches(walk, entry, &selector, &template.labels, &path);
}

/// The selector of a ReplicationController: a plain mapping, by default the template's labels.
fn map_selector(walk: &mut Walk<'_>, holder: &Map<'_>, template: &Pod, path: &Path<'_>) {
    let path = path.field("selector");
    let Some(entry) = holder.get("selector") else { return };
    let errors = walk.findings.errors();
    let labels = metadata::labels(walk, &entry.value, &path);
    if walk.findings.errors() == errors {
        matches(walk, entry, &Selector::labels(labels.iter()), &template.labels, &path);
    }
}

fn matches(
    walk: &mut Walk<'_>,
    entry: &Entry<'_>,
    selector: &Selector,
    labels: &Labels,
    path: &Path<'_>,
) {
    let failing: Vec<String> = selector.failing(labels).map(ToString::to_string).collect();
    if !failing.is_empty() {
        let message = format!("`{path}` does not match the labels of `template`");
        walk.error(Code::Conflict, entry.at, path, message)
            .label(format!("not met: {}", crate::names::short(&failing.join(","))))
            .note(format!("the template has {labels}"), None);
    }
}
