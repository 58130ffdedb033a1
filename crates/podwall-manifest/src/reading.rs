//! What came out of all inputs of a run?
//!
//! ```text
//!   [Input] ──files──▶ Text ──documents──▶ Node ──checks──▶ Reading
//!                                                            ├─ objects      checked, unique
//!                                                            ├─ diagnostics  every error and warning
//!                                                            ├─ left_out     objects with an error
//!                                                            └─ skipped      kinds not read, counted
//! ```
//!
//! Reading never fails as a whole. Who changes state asks [`Reading::has_errors`] and refuses;
//! who answers questions may go on with `objects` and say what is in `left_out`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use podwall_policy::cluster::Cluster;

use crate::diagnostic::Diagnostic;
use crate::object::{LeftOut, Object};
use crate::reader::Reader;
use crate::written::Written;
use crate::{expand, files};

/// Where manifests come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file (any name), or a directory: its `*.yaml`, `*.yml` and `*.json` files and those of its
    /// subdirectories, sorted by path, but what is no Kubernetes object at all. `-` is standard input.
    Path(PathBuf),
    /// Standard input, named `<stdin>`.
    Stdin,
    /// A text that is at hand.
    Text {
        /// What places call it.
        name: String,
        /// YAML or JSON.
        text: String,
    },
    /// A text that was found where manifests are looked for, as in a directory: what is no Kubernetes
    /// object at all is passed over.
    Found {
        /// What places call it: its path.
        name: String,
        /// YAML or JSON.
        text: String,
    },
}

impl From<&str> for Input {
    /// As on a command line: `-` is standard input.
    fn from(argument: &str) -> Self {
        if argument == "-" { Self::Stdin } else { Self::Path(argument.into()) }
    }
}

/// Defaults and limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace of objects that name none (`kubectl -n`).
    pub default_namespace: Arc<str>,
    /// A file larger than this is refused, in bytes. Default: 64 MiB; an API server takes objects
    /// of about 1.5 MiB.
    pub max_file_bytes: u64,
    /// All files of a run together, in bytes. Default: 256 MiB.
    pub max_total_bytes: u64,
    /// How many files are read from directories. Default: 50,000.
    pub max_files: usize,
    /// How many values the objects that are kept may have together; of what is kept as JSON a mapping
    /// counts as eight. Default: 10,000,000, which takes about 1 GiB: some 13,000 pods as a cluster
    /// prints them, or 100,000 policies; 50,000 such pods where little is kept.
    pub max_values: usize,
    /// What is kept of what was written. Default: all.
    pub written: Written,
    /// How many findings are kept; the rest is counted. Default: 10,000.
    pub max_findings: usize,
    /// Whether [`Reading::texts`] keeps what was read, for who looks up places in it later or
    /// changes it. Default: no.
    pub keep_texts: bool,
    /// Whether a linter looks at the policies afterwards, so that what it finds is not warned of here,
    /// too. Default: no.
    pub linted: bool,
    /// Whether Ingresses, Gateways, their routes and ReferenceGrants are read, too. Default: no.
    pub entrances: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            default_namespace: "default".into(),
            max_file_bytes: 64 << 20,
            max_total_bytes: 256 << 20,
            max_files: 50_000,
            max_values: 10_000_000,
            max_findings: 10_000,
            keep_texts: false,
            written: Written::All,
            linted: false,
            entrances: false,
        }
    }
}

/// What came out of all inputs.
#[derive(Debug, Default)]
pub struct Reading {
    /// The objects without an error, in the order of the input.
    pub objects: Vec<Object>,
    /// Every error and warning, in the order of the input.
    pub diagnostics: Vec<Diagnostic>,
    /// Objects, documents and files with an error; not more than [`Options::max_findings`].
    pub left_out: Vec<LeftOut>,
    /// Kinds that are not read, and how many objects of each there were.
    pub skipped: BTreeMap<String, usize>,
    /// How many files were read; standard input and texts count as one each.
    pub files: usize,
    /// What was read, by the name that places give it; only with [`Options::keep_texts`]. A mark of
    /// byte order at the start is not part of it.
    pub texts: BTreeMap<Arc<str>, Arc<str>>,
}

impl Reading {
    /// Whether anything is wrong, beyond warnings.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    pub(crate) fn leave_out(&mut self, left_out: LeftOut, options: &Options) {
        if self.left_out.len() < options.max_findings {
            self.left_out.push(left_out);
        }
    }

    /// The cluster that the objects describe, workloads expanded to pods.
    pub fn cluster(&self) -> Cluster {
        expand::cluster(&self.objects)
    }
}

/// Reads all inputs.
pub fn read(inputs: &[Input], options: &Options) -> Reading {
    let mut reader = Reader::new(options);
    files::visit(inputs, options, &mut reader);
    let mut reading = reader.finish();
    if options.linted {
        reading.diagnostics.retain(|diagnostic| !diagnostic.is_for_linters());
    }
    reading
}
