//! `podwall generate --from-matrix`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use podwall_analysis::rewrite::rewrite;
use podwall_manifest::{LAST_APPLIED, Object, Typed};
use podwall_policy::object::Name;
use podwall_policy::policy::Policy;
use podwall_render::{json, manifest, text};
use serde_json::{Map, Value};

use super::args::{Generate, Output};
use super::files;
use crate::output::{Failure, YES, print, remark};
use crate::source::load;

/// What a server adds to metadata, and what belongs to one object's life.
const OF_THE_SERVER: [&str; 8] = [
    "creationTimestamp",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

pub(super) fn run(command: &Generate) -> Result<ExitCode, Failure> {
    let objects = load(&command.source)?;
    let metadata = metadata(&objects.objects);
    let of = |policy: &Policy| metadata.get(&policy.name).cloned();
    let made = rewrite(&objects.cluster, &command.namespaces)
        .map_err(|error| Failure::new(error.to_string()))?;
    if made.before.policies == 0 {
        return Err(Failure::new("there is no NetworkPolicy among the objects to write anew"));
    }
    if let Some(folder) = &command.out {
        files::write(folder, &made.policies, &of, command.force)?;
    }
    if command.output == Output::Json {
        print(&json::pretty(&json::generate::rewritten(&made, &of, &objects.left_out))?)?;
        return Ok(ExitCode::from(YES));
    }
    if command.out.is_none() {
        print(&manifest::yaml(&made.policies, &of))?;
    }
    remark(&text::generate::rewritten(&made));
    Ok(ExitCode::from(YES))
}

/// What policies' authors wrote into their metadata.
fn metadata(objects: &[Object]) -> BTreeMap<Name, Map<String, Value>> {
    let mut out = BTreeMap::new();
    for object in objects {
        let Typed::Policy(policy) = &object.typed else { continue };
        let Some(all) = object.raw.get("metadata").and_then(Value::as_object) else { continue };
        let mut own: Map<String, Value> = all
            .iter()
            .filter(|(key, _)| !OF_THE_SERVER.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if let Some(annotations) = own.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
            if annotations.is_empty() {
                own.remove("annotations");
            }
        }
        out.insert(policy.name.clone(), own);
    }
    out
}
