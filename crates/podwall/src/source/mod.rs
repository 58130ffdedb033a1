//! Where do the objects come from?
//!
//! ```text
//!   -f PATH …   ──▶ manifests ┐
//!   --lab NAME  ──▶ a lab     ├──▶ Cluster, and what was left out
//!   otherwise   ──▶ kubeconfig┘
//! ```
//!
//! One parser reads all three, so that a manifest means the same wherever it is met.

mod live;

use std::collections::BTreeMap;
use std::sync::Arc;

use podwall_manifest::{Code, Object, Written, read, render_all};
pub(crate) use podwall_manifest::{Input, Options};
use podwall_policy::cluster::Cluster;

use crate::cli::Source;
use crate::output::{Failure, remark};

/// What is known, and what was left out of it.
pub(crate) struct Objects {
    /// Everything that could be read.
    pub(crate) cluster: Cluster,
    /// What could not, a line each: broken objects only with `--keep-going`, and what a cluster does
    /// not let the caller see.
    pub(crate) left_out: Vec<String>,
    /// The objects as they are written; not those of a lab that it has of itself.
    pub(crate) objects: Vec<Object>,
    /// The files' texts by name; only where they were asked for.
    pub(crate) texts: BTreeMap<Arc<str>, Arc<str>>,
    /// Whether these are all objects that there are: a lab's or a cluster's, not some files'.
    pub(crate) complete: bool,
    /// The namespace of names without one: `-n`, else the context's, else `default`.
    pub(crate) namespace: String,
}

/// Of objects that are only asked about little has to stay in memory.
pub(crate) fn for_answers() -> Options {
    Options { written: Written::Little, ..Options::default() }
}

/// Reads the objects that the command line names.
///
/// # Errors
/// If they cannot be read; with `--keep-going` only if nothing can.
pub(crate) fn load(source: &Source) -> Result<Objects, Failure> {
    load_as(source, &for_answers())
}

/// As [`load`], keeps the files' texts, and leaves it to a linter to warn of policies.
pub(crate) fn load_for_lint(source: &Source) -> Result<Objects, Failure> {
    load_as(source, &Options { keep_texts: true, linted: true, ..for_answers() })
}

/// As [`load`], and reads Ingresses, Gateways and their routes, too.
pub(crate) fn load_with_entrances(source: &Source) -> Result<Objects, Failure> {
    load_as(source, &Options { entrances: true, ..for_answers() })
}

/// Reads them as these options say.
pub(crate) fn load_as(source: &Source, options: &Options) -> Result<Objects, Failure> {
    if !source.files.is_empty() {
        return from_files(source, options);
    }
    if let Some(name) = &source.lab {
        return from_lab(name, namespace(source));
    }
    live::load(source, options)
}

/// The namespace that `-n` names.
fn namespace(source: &Source) -> String {
    source.namespace.clone().unwrap_or_else(|| "default".to_owned())
}

/// Manifests. Broken ones are reported in full; whether the rest is used is up to `--keep-going`.
fn from_files(source: &Source, options: &Options) -> Result<Objects, Failure> {
    let inputs: Vec<Input> = source
        .files
        .iter()
        .map(|path| if path.as_os_str() == "-" { Input::Stdin } else { Input::Path(path.clone()) })
        .collect();
    from_inputs(&inputs, source, options)
}

/// As files, from texts that are at hand.
pub(crate) fn from_inputs(
    inputs: &[Input],
    source: &Source,
    options: &Options,
) -> Result<Objects, Failure> {
    let mut reading = read(inputs, options);
    let texts = std::mem::take(&mut reading.texts);
    if !reading.diagnostics.is_empty() {
        // Escape codes are taken out again where nobody sees colours.
        remark(&render_all(&reading.diagnostics, true));
    }
    if !reading.has_errors() {
        let (cluster, left_out, namespace) = (reading.cluster(), Vec::new(), namespace(source));
        let objects = reading.objects;
        return Ok(Objects { cluster, left_out, objects, texts, complete: false, namespace });
    }
    if !source.keep_going {
        return Err(Failure::new("the manifests have errors, so nothing is answered from them")
            .hint("mend them, or add --keep-going to answer from what could be read"));
    }
    let mut left_out: Vec<String> = reading.left_out.iter().map(ToString::to_string).collect();
    // A file that cannot be opened holds no document to leave out, but is missing all the same.
    let unread = |diagnostic: &&podwall_manifest::Diagnostic| diagnostic.code == Code::Unreadable;
    left_out.extend(reading.diagnostics.iter().filter(unread).map(|d| d.message.clone()));
    if reading.objects.is_empty() {
        return Err(Failure::new("nothing of the manifests could be read"));
    }
    remark(&format!("left out (--keep-going): {}\n", left_out.join(", ")));
    let (cluster, namespace) = (reading.cluster(), namespace(source));
    Ok(Objects { cluster, left_out, objects: reading.objects, texts, complete: false, namespace })
}

/// The objects of a lab.
fn from_lab(name: &str, namespace: String) -> Result<Objects, Failure> {
    let objects = podwall_lab::client::Client::connect(name)
        .and_then(|mut client| podwall_lab::snapshot::objects(&mut client))
        .map_err(|error| Failure::new(error.to_string()))?;
    let cluster = podwall_lab::snapshot::cluster_of(&objects);
    let (left_out, texts) = (Vec::new(), BTreeMap::new());
    Ok(Objects { cluster, left_out, objects, texts, complete: true, namespace })
}
