//! How do changes look in the files?
//!
//! ```text
//!   Change ──written──▶ object at line:column, edits ──splices──▶ the file's new text ──read──▶ asked again
//!                                                        └ none fits: told as YAML, to be put in by hand
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use podwall_manifest::{Input, Options, Splice, Written, apply, read, splices};
use podwall_policy::cluster::Cluster;

use super::Change;

/// Texts by the name of their file.
pub type Texts = BTreeMap<Arc<str>, Arc<str>>;

/// A file that becomes another, or a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Its name.
    pub file: Arc<str>,
    /// Its text; `None` for a file that is not there yet.
    pub before: Option<Arc<str>>,
    /// What its text becomes.
    pub after: String,
}

/// The patches for changes that belong together, by file. `None` where one of them stands in no
/// file, is written in a way that cannot be edited, or would be read as something else.
pub fn patches(texts: &Texts, cluster: &Cluster, changes: &[Change]) -> Option<Vec<Patch>> {
    let mut by_file: BTreeMap<Arc<str>, Vec<Splice>> = BTreeMap::new();
    let mut documents: Vec<(Arc<str>, String)> = Vec::new();
    for change in changes {
        let written = change.written(cluster);
        let object = written.object?;
        let text = texts.get(&object.file)?;
        if let Some(document) = written.document {
            documents.push((object.file, document));
            continue;
        }
        let at = (object.line, object.column);
        let fits = |way: &Vec<_>| {
            let found = splices(text, at, way).into_iter().collect::<Option<Vec<Splice>>>()?;
            apply(text, &found).is_some().then_some(found)
        };
        let found = written.ways.iter().find_map(fits)?;
        by_file.entry(object.file).or_default().extend(found);
    }
    let mut after = texts.clone();
    for (file, splices) in by_file {
        let text = apply(texts.get(&file)?, &splices)?;
        after.insert(file, text.into());
    }
    for (file, document) in documents {
        let (file, text) = with_document(&after, &file, &document);
        after.insert(file, text.into());
    }
    let mut wanted = cluster.clone();
    for change in changes {
        change.put_into(&mut wanted)?;
    }
    says(&after, &wanted).then(|| {
        let changed = after.into_iter().filter(|(file, text)| texts.get(file) != Some(text));
        changed
            .map(|(file, text)| Patch {
                before: texts.get(&file).cloned(),
                after: text.to_string(),
                file,
            })
            .collect()
    })
}

/// A document more in a file, or in one beside it if that holds JSON.
fn with_document(texts: &Texts, file: &Arc<str>, document: &str) -> (Arc<str>, String) {
    let text = texts.get(file).map_or("", |text| &**text);
    if text.trim_start().starts_with(['{', '[']) {
        let name = document.lines().find_map(|line| line.strip_prefix("  name: ")).unwrap_or("new");
        let beside = Path::new(&**file).with_file_name(format!("{}.yaml", name.trim_matches('"')));
        return (beside.to_string_lossy().into(), document.to_owned());
    }
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let document = document.replace('\n', newline);
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { newline };
    let text = text.trim_end_matches(['\n', '\r', ' ']);
    // What ends a document needs no second sign that the next begins.
    let mark = if text.ends_with("---") { String::new() } else { format!("---{newline}") };
    let end = if end.is_empty() { newline } else { end };
    (file.clone(), format!("{text}{end}{mark}{document}"))
}

/// Whether the texts say what is wanted: the same policies, and the same labels.
fn says(texts: &Texts, wanted: &Cluster) -> bool {
    let inputs: Vec<Input> = texts
        .iter()
        .map(|(name, text)| Input::Found { name: name.to_string(), text: text.to_string() })
        .collect();
    let reading = read(&inputs, &Options { written: Written::Little, ..Options::default() });
    if reading.has_errors() {
        return false;
    }
    let cluster = reading.cluster();
    let same_policies = cluster.policies.len() == wanted.policies.len()
        && cluster.policies.iter().zip(&wanted.policies).all(|((_, a), (_, b))| {
            let rules = |policy: &podwall_policy::policy::Policy| {
                let lists = [&policy.ingress, &policy.egress].map(|rules| {
                    let rules = rules.as_ref()?.iter();
                    // The order of peers and ports says nothing.
                    Some(
                        rules
                            .map(|rule| {
                                let (mut peers, mut ports) =
                                    (rule.peers.clone(), rule.ports.clone());
                                peers.sort();
                                ports.sort();
                                (peers, ports)
                            })
                            .collect::<Vec<_>>(),
                    )
                });
                (policy.name.clone(), policy.tier, policy.subject.clone(), lists)
            };
            rules(a) == rules(b)
        });
    same_policies
        && cluster.pods.values().map(|pod| &pod.labels).eq(wanted.pods.values().map(|p| &p.labels))
        && cluster
            .namespaces
            .values()
            .map(|its| &its.labels)
            .eq(wanted.namespaces.values().map(|its| &its.labels))
}
