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
use rustc_hash::FxHashMap;

use crate::diagnostic::{Code, Diagnostic, Findings, Place};
use crate::object::{LeftOut, Object, ObjectKey, Outcome, read_document};
use crate::text::{At, Part, Text};
use crate::walk::Walk;
use crate::yaml::Broken;
use crate::{expand, files, json, yaml};

/// Where manifests come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file (any name), or a directory: its `*.yaml`, `*.yml` and `*.json` files and those of its
    /// subdirectories, sorted by path. `-` is standard input.
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
    /// How many values the objects that are kept may have together; a mapping counts as eight.
    /// Default: 10,000,000, which is some 13,000 pods as a cluster prints them, or 100,000 policies,
    /// and takes about 1 GiB.
    pub max_values: usize,
    /// How many findings are kept; the rest is counted. Default: 10,000.
    pub max_findings: usize,
    /// Whether [`Reading::texts`] keeps what was read, for who looks up places in it later or
    /// changes it. Default: no.
    pub keep_texts: bool,
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

    fn leave_out(&mut self, left_out: LeftOut, options: &Options) {
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
    let mut reader = Reader {
        options,
        reading: Reading::default(),
        findings: Findings::new(options.max_findings),
        places: FxHashMap::default(),
        aliased: ALIASED_IN_RUN,
        values: options.max_values,
    };
    files::visit(inputs, options, &mut reader);
    let Reader { mut reading, findings, .. } = reader;
    reading.diagnostics = findings.finish();
    reading
}

/// How many nodes aliases may add to all documents of a run.
const ALIASED_IN_RUN: usize = 2_000_000;

/// A run's state: what came out so far, and what of it is known for later objects.
pub(crate) struct Reader<'o> {
    options: &'o Options,
    reading: Reading,
    findings: Findings,
    /// Where each object's name stands.
    places: FxHashMap<ObjectKey, Place>,
    /// What aliases may still add.
    aliased: usize,
    /// How many values the objects that are kept may still have.
    values: usize,
}

impl Reader<'_> {
    /// A finding about a file as a whole.
    pub(crate) fn file_error(
        &mut self,
        name: &str,
        code: Code,
        message: String,
    ) -> &mut Diagnostic {
        let mut diagnostic = Diagnostic::error(code, message);
        let source = podwall_policy::source::Source::new(name, 0, 0);
        if code != Code::NothingToRead {
            let source = source.clone();
            let left_out = LeftOut { kind: None, namespace: None, name: None, source };
            self.reading.leave_out(left_out, self.options);
        }
        diagnostic.place = Some(Place { source, length: 1, text: None });
        self.findings.push(diagnostic)
    }

    /// Reads one file's content.
    pub(crate) fn bytes(&mut self, name: &str, bytes: &[u8]) {
        self.reading.files += 1;
        if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = bytes {
            self.file_error(name, Code::Encoding, "this file is UTF-16, not UTF-8".into())
                .help("save it as UTF-8");
            return;
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(name, text),
            Err(error) => {
                let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let text = Text::new(name.into(), std::str::from_utf8(good).unwrap_or_default());
                let at = position(&text, good.len());
                let byte = bytes.get(good.len()).copied().unwrap_or_default();
                let message = format!("byte 0x{byte:02x} is not UTF-8");
                self.broken(
                    &text,
                    Broken::new(Code::Encoding, at, message).help("save the file as UTF-8"),
                );
            }
        }
    }

    /// Reads one text.
    pub(crate) fn text(&mut self, name: &str, content: &str) {
        let content = content.strip_prefix('\u{feff}').unwrap_or(content);
        if self.options.keep_texts {
            self.reading.texts.insert(name.into(), content.into());
        }
        let text = Text::new(name.into(), content);
        if let Some(offset) = content.bytes().position(is_forbidden) {
            let byte = content.as_bytes().get(offset).copied().unwrap_or_default();
            let message = format!("control character 0x{byte:02x} cannot stand in a manifest");
            let broken = Broken::new(Code::Encoding, position(&text, offset), message);
            self.broken(&text, broken.help("this may be no text file"));
            return;
        }
        if json::looks_like_json(content) {
            let (nodes, broken) = json::parse(content);
            // `{a: b}` is YAML that only looks like JSON; if it is neither, the JSON reader's
            // complaint is the better one for a file that says it is JSON or quotes its first key.
            let is_json = name.ends_with(".json") || broken.is_none() || quotes_first_key(content);
            if is_json {
                for node in &nodes {
                    self.document(&text, node);
                }
                if let Some(broken) = broken {
                    self.broken(&text, broken);
                }
                return;
            }
        }
        for part in text.documents() {
            self.yaml(&text, part);
        }
    }

    fn yaml(&mut self, text: &Text<'_>, part: Part<'_>) {
        let (nodes, broken) = yaml::parse(part, &mut self.aliased);
        for node in &nodes {
            self.document(text, node);
        }
        if let Some(broken) = broken {
            self.broken(text, broken);
        }
    }

    fn document(&mut self, text: &Text<'_>, node: &crate::node::Node<'_>) {
        let Self { options, reading, findings, places, values, .. } = self;
        let mut take = |outcome: Outcome, findings: &mut Findings| match outcome {
            Outcome::Skipped(kind) => *reading.skipped.entry(kind).or_default() += 1,
            Outcome::LeftOut(left_out) => reading.leave_out(left_out, options),
            Outcome::Object(object, place) => {
                let size = size(&object.raw);
                let diagnostic = match places.get(&object.key) {
                    None if size <= *values => {
                        *values -= size;
                        places.insert(object.key.clone(), place);
                        reading.objects.push(*object);
                        return;
                    }
                    None => {
                        // What comes after it is small enough only by chance: nothing more is kept.
                        *values = 0;
                        let message =
                            format!("more than {} values in all objects", options.max_values);
                        findings
                            .push(Diagnostic::error(Code::Limit, message))
                            .help("read fewer of them at a time")
                    }
                    Some(first) => {
                        let message = format!("{} is stated twice", object.key);
                        findings
                            .push(Diagnostic::error(Code::DuplicateObject, message))
                            .note("the first is here", Some(first.clone()))
                    }
                };
                diagnostic.field = Some("metadata.name".into());
                diagnostic.object = Some(object.key.to_string());
                diagnostic.place = Some(place);
                let ObjectKey { kind, namespace, name } = object.key;
                let left_out = LeftOut {
                    kind: Some(kind),
                    namespace: Some(namespace).filter(|n| !n.is_empty()),
                    name: Some(name),
                    source: object.source,
                };
                reading.leave_out(left_out, options);
            }
        };
        read_document(text, node, options, findings, &mut take);
    }

    /// A document that is no tree: nothing of it is read.
    fn broken(&mut self, text: &Text<'_>, broken: Broken) {
        let source = text.source(broken.at);
        Walk { text, findings: &mut self.findings, object: None }.broken(broken);
        let left_out = LeftOut { kind: None, namespace: None, name: None, source };
        self.reading.leave_out(left_out, self.options);
    }
}

/// Characters that YAML 1.2 forbids (5.1) and that no editor writes: controls but tab, LF and CR.
fn is_forbidden(byte: u8) -> bool {
    matches!(byte, 0..=8 | 11 | 12 | 14..=31 | 127)
}

/// How much room a tree takes, counted in values. The smallest mapping takes that of some eight.
fn size(json: &serde_json::Value) -> usize {
    match json {
        serde_json::Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        serde_json::Value::Object(map) => 8 + map.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

fn quotes_first_key(text: &str) -> bool {
    text.trim_start().strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with('"'))
}

/// The place of a byte.
fn position(text: &Text<'_>, offset: usize) -> At {
    let before = text.text.get(..offset).unwrap_or(text.text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    At { line: line as u32, column: column as u32, length: 1 }
}
