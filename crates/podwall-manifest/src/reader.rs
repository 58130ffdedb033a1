//! How are many documents read at once, as if one had been read after the other?
//!
//! ```text
//!   files ──▶ queue ──▶ jobs: a document each ──▶ threads: tree, checks ┐
//!                         (with an anchor: alone)                       ▼
//!   Reading ◀── stated twice? too much? ◀── in the order of the input: Document
//! ```
//!
//! A thread knows its document and nothing of the run. What depends on the run, which object came
//! first and how much room is left, is decided when documents are put together, in the order of the
//! input, so that the same input gives the same answer on any machine.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use podwall_policy::source::Source;
use rustc_hash::FxHashMap;

use crate::diagnostic::{Code, Diagnostic, Findings, Place, Severity};
use crate::object::{Document, LeftOut, ObjectKey, Outcome, read_document};
use crate::reading::{Options, Reading};
use crate::text::{At, Part, Text};
use crate::walk::Walk;
use crate::written::Written;
use crate::yaml::Broken;
use crate::{json, yaml};

/// How many nodes aliases may add to all documents of a run.
const ALIASED_IN_RUN: usize = 2_000_000;

/// So much text is read before its objects are put together, in bytes: enough for some threads, and
/// what they have in hand stays small.
const WINDOW: usize = 4 << 20;

/// Below this, in bytes, starting threads would take longer than reading.
const WORTH_THREADS: usize = 64 << 10;

/// More threads than these only wait for memory.
const MOST_THREADS: usize = 8;

/// Documents that a thread takes at a time.
const HANDFUL: usize = 8;

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
    /// Files by name that are not read yet, and whether they were found; and their length together.
    queue: Vec<(String, String, bool)>,
    queued: usize,
    /// 0: as many as are good. Who keeps everything hands it on to a lab, enters namespaces and
    /// forks, which a process may do that has one thread; and one that has ended is not gone at once.
    threads: usize,
}

/// What is read in one piece.
enum Job<'t> {
    Json,
    Yaml(Part<'t>),
    /// It is seen at once that it cannot be read.
    Broken(Broken),
}

/// What came out of a piece.
#[derive(Debug, Default)]
struct Examined {
    documents: Vec<Document>,
    /// Why no more came out.
    broken: Vec<Broken>,
}

impl<'o> Reader<'o> {
    pub(crate) fn new(options: &'o Options) -> Self {
        Self {
            options,
            reading: Reading::default(),
            findings: Findings::new(options.max_findings),
            places: FxHashMap::default(),
            aliased: ALIASED_IN_RUN,
            values: options.max_values,
            queue: Vec::new(),
            queued: 0,
            threads: usize::from(options.written == Written::All),
        }
    }

    pub(crate) fn finish(mut self) -> Reading {
        self.read_queue();
        self.reading.diagnostics = self.findings.finish();
        self.reading
    }

    /// A finding about a file as a whole.
    pub(crate) fn file_error(
        &mut self,
        name: &str,
        code: Code,
        message: String,
    ) -> &mut Diagnostic {
        self.read_queue();
        let mut diagnostic = Diagnostic::error(code, message);
        let source = Source::new(name, 0, 0);
        if code != Code::NothingToRead {
            let source = source.clone();
            let left_out = LeftOut { kind: None, namespace: None, name: None, source };
            self.reading.leave_out(left_out, self.options);
        }
        diagnostic.place = Some(Place { source, length: 1, text: None });
        self.findings.push(diagnostic)
    }

    /// Something to know of a file as a whole.
    pub(crate) fn file_warning(
        &mut self,
        name: &str,
        code: Code,
        message: String,
    ) -> &mut Diagnostic {
        self.read_queue();
        let mut diagnostic = Diagnostic::error(code, message);
        diagnostic.severity = Severity::Warning;
        diagnostic.place = Some(Place { source: Source::new(name, 0, 0), length: 1, text: None });
        self.findings.push(diagnostic)
    }

    /// Takes one file's content; `found` if nobody named it.
    pub(crate) fn bytes(&mut self, name: &str, bytes: Vec<u8>, found: bool) {
        self.reading.files += 1;
        if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = &bytes[..] {
            self.file_error(name, Code::Encoding, "this file is UTF-16, not UTF-8".into())
                .help("save it as UTF-8");
            return;
        }
        match String::from_utf8(bytes) {
            Ok(mut content) => {
                if content.starts_with('\u{feff}') {
                    content.drain(..'\u{feff}'.len_utf8());
                }
                self.queued += content.len();
                self.queue.push((name.to_owned(), content, found));
                if self.queued >= WINDOW {
                    self.read_queue();
                }
            }
            Err(error) => {
                self.read_queue();
                let valid = error.utf8_error().valid_up_to();
                let bytes = error.into_bytes();
                let (good, rest) = bytes.split_at(valid);
                let good = std::str::from_utf8(good).unwrap_or_default();
                let good = good.strip_prefix('\u{feff}').unwrap_or(good);
                let text = Text::new(name.into(), good);
                let byte = rest.first().copied().unwrap_or_default();
                let message = format!("byte 0x{byte:02x} is not UTF-8");
                let broken = Broken::new(Code::Encoding, position(&text, good.len()), message);
                self.broken(&text, broken.help("save the file as UTF-8"));
            }
        }
    }

    /// Reads what waits.
    fn read_queue(&mut self) {
        self.queued = 0;
        let queue = std::mem::take(&mut self.queue);
        let texts: Vec<Text<'_>> = queue
            .iter()
            .map(|(name, text, found)| Text::new(name.as_str().into(), text).found(*found))
            .collect();
        let mut jobs = Vec::new();
        for text in &texts {
            if self.options.keep_texts {
                self.reading.texts.insert(text.name.clone(), text.text.into());
            }
            if let Some(offset) = text.text.bytes().position(is_forbidden) {
                let byte = text.text.as_bytes().get(offset).copied().unwrap_or_default();
                let message = format!("control character 0x{byte:02x} cannot stand in a manifest");
                let broken = Broken::new(Code::Encoding, position(text, offset), message);
                jobs.push((text, Job::Broken(broken.help("this may be no text file"))));
            } else if json::looks_like_json(text.text) {
                jobs.push((text, Job::Json));
            } else {
                jobs.extend(text.documents().into_iter().map(|part| (text, Job::Yaml(part))));
            }
        }
        let mut jobs = jobs.into_iter().peekable();
        while jobs.peek().is_some() {
            let mut bytes = 0;
            let mut window = Vec::new();
            while let Some(next) = jobs.next_if(|_| bytes < WINDOW) {
                bytes += next.1.bytes(next.0);
                window.push(next);
            }
            let examined = if bytes < WORTH_THREADS || window.len() < 2 || self.threads() < 2 {
                window.iter().map(|_| None).collect()
            } else {
                at_once(&window, self.threads(), self.options)
            };
            for ((text, job), examined) in window.into_iter().zip(examined) {
                let examined = match examined {
                    Some(examined) => examined,
                    None => examine(text, job, self.options, &mut self.aliased),
                };
                examined.documents.into_iter().for_each(|document| self.document(document));
                examined.broken.into_iter().for_each(|broken| self.broken(text, broken));
            }
        }
    }

    /// How many threads to read with. Asked only when there is much to read: it takes longer than
    /// reading a file.
    fn threads(&mut self) -> usize {
        if self.threads == 0 {
            let there = thread::available_parallelism().map_or(1, usize::from);
            self.threads = there.min(MOST_THREADS);
        }
        self.threads
    }

    fn document(&mut self, document: Document) {
        let Self { options, reading, places, values, .. } = self;
        let Document { outcomes, mut findings } = document;
        for outcome in outcomes {
            let (object, place, size) = match outcome {
                Outcome::Skipped(kind) => {
                    *reading.skipped.entry(kind).or_default() += 1;
                    continue;
                }
                Outcome::LeftOut(left_out) => {
                    reading.leave_out(left_out, options);
                    continue;
                }
                Outcome::Object { object, place, values } => (object, place, values),
            };
            let diagnostic = match places.get(&object.key) {
                None if size <= *values => {
                    *values -= size;
                    places.insert(object.key.clone(), place);
                    reading.objects.push(*object);
                    continue;
                }
                None => {
                    // What comes after it is small enough only by chance: nothing more is kept.
                    *values = 0;
                    let message = format!("more than {} values in all objects", options.max_values);
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
        findings.sort_by_place();
        self.findings.absorb(findings);
    }

    /// A document that is no tree: nothing of it is read.
    fn broken(&mut self, text: &Text<'_>, broken: Broken) {
        let source = text.source(broken.at);
        Walk { text, findings: &mut self.findings, object: None }.broken(broken);
        let left_out = LeftOut { kind: None, namespace: None, name: None, source };
        self.reading.leave_out(left_out, self.options);
    }
}

impl Job<'_> {
    /// How much there is to read.
    fn bytes(&self, text: &Text<'_>) -> usize {
        match self {
            Self::Json => text.text.len(),
            Self::Yaml(part) => part.text.len(),
            Self::Broken(_) => 0,
        }
    }

    /// Whether it can be read without knowing what came before: an anchor may take of what is left
    /// for aliases.
    fn stands_alone(&self) -> bool {
        matches!(self, Self::Yaml(part) if !part.text.as_bytes().contains(&b'&'))
    }
}

/// Reads those that stand alone, by several threads.
fn at_once(
    jobs: &[(&Text<'_>, Job<'_>)],
    threads: usize,
    options: &Options,
) -> Vec<Option<Examined>> {
    let done: Vec<OnceLock<Examined>> = jobs.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let first = next.fetch_add(HANDFUL, Ordering::Relaxed);
            let handful: Range<usize> = first..(first + HANDFUL).min(jobs.len());
            if handful.is_empty() {
                return;
            }
            for ((text, job), done) in jobs[handful.clone()].iter().zip(&done[handful]) {
                if let (Job::Yaml(part), true) = (job, job.stands_alone()) {
                    done.get_or_init(|| examine_yaml(text, *part, options, &mut 0));
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // One that cannot be started is not waited for: there are the others, and this one.
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    done.into_iter().map(OnceLock::into_inner).collect()
}

fn examine(text: &Text<'_>, job: Job<'_>, options: &Options, aliased: &mut usize) -> Examined {
    match job {
        Job::Broken(broken) => Examined { documents: Vec::new(), broken: vec![broken] },
        Job::Yaml(part) => examine_yaml(text, part, options, aliased),
        Job::Json => {
            let (nodes, broken) = json::parse(text.text);
            // `{a: b}` is YAML that only looks like JSON; if it is neither, the JSON reader's
            // complaint is the better one for a file that says it is JSON or quotes its first key.
            if text.name.ends_with(".json") || broken.is_none() || quotes_first_key(text.text) {
                let documents = nodes.iter().map(|node| read_document(text, node, options));
                return Examined { documents: documents.collect(), broken: Vec::from_iter(broken) };
            }
            let mut all = Examined::default();
            for part in text.documents() {
                let examined = examine_yaml(text, part, options, aliased);
                all.documents.extend(examined.documents);
                all.broken.extend(examined.broken);
            }
            all
        }
    }
}

fn examine_yaml(
    text: &Text<'_>,
    part: Part<'_>,
    options: &Options,
    aliased: &mut usize,
) -> Examined {
    let (nodes, broken) = yaml::parse(part, aliased);
    let documents = nodes.iter().map(|node| read_document(text, node, options)).collect();
    Examined { documents, broken: Vec::from_iter(broken) }
}

/// Characters that YAML 1.2 forbids (5.1) and that no editor writes: controls but tab, LF and CR.
fn is_forbidden(byte: u8) -> bool {
    matches!(byte, 0..=8 | 11 | 12 | 14..=31 | 127)
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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn read(text: &str, threads: usize, options: &Options) -> Reading {
        let mut reader = Reader { threads, ..Reader::new(options) };
        reader.bytes("all.yaml", text.as_bytes().to_vec(), false);
        reader.bytes("more.yaml", text.replace("name: x", "name: y").into_bytes(), false);
        reader.file_error("gone.yaml", Code::Unreadable, "cannot be read: it is gone".into());
        reader.bytes("again.yaml", text.as_bytes().to_vec(), false);
        reader.finish()
    }

    /// Some 2,000 documents of all sorts: good, wrong, stated twice, with aliases, and no YAML.
    fn documents() -> String {
        let mut text = String::new();
        for i in 0..2_000 {
            let document = match i % 10 {
                0 => format!("kind: Pod\napiVersion: v1\nmetadata: {{name: x{}}}", i % 300),
                1 => format!("kind: Service\napiVersion: v1\nmetadata: {{name: x{i}}}"),
                2 => format!("kind: ConfigMap\napiVersion: v1\nmetadata: {{name: x{i}}}"),
                3 => format!(
                    "kind: Pod\napiVersion: v1\nmetadata: {{name: x{i}, labels: &l {{a: b}}}}\n\
                     spec: {{nodeSelector: *l, containers: [{{name: main, image: i}}]}}"
                ),
                4 if i % 50 == 4 => "kind: [".to_owned(),
                5 => format!(
                    "kind: List\napiVersion: v1\nitems:\n- kind: Namespace\n  apiVersion: v1\n  \
                     metadata: {{name: x{i}, name: x}}\n- 5"
                ),
                _ => format!(
                    "kind: Pod\napiVersion: v1\nmetadata: {{name: x{i}, labels: {{a: b, c: d}}}}\n\
                     spec: {{containers: [{{name: main, image: registry.example/some/image}}]}}"
                ),
            };
            let _ = writeln!(text, "---\n# document {i} {}\n{document}", "x".repeat(100));
        }
        assert!(text.len() > WORTH_THREADS);
        text
    }

    #[test]
    fn several_threads_read_what_one_does() {
        let text = documents();
        let few = Options { max_values: 30_000, max_findings: 50, ..Options::default() };
        for options in [Options::default(), few] {
            let [one, many] = [1, 4].map(|threads| read(&text, threads, &options));
            assert_eq!(one.objects, many.objects);
            assert_eq!(one.diagnostics, many.diagnostics);
            assert_eq!(one.left_out, many.left_out);
            assert_eq!(one.skipped, many.skipped);
            assert!(one.objects.len() > 300 && one.diagnostics.len() > 40, "{}", one.objects.len());
        }
    }

    #[test]
    fn documents_with_anchors_wait_for_their_turn() {
        let text = documents();
        let text = Text::new("all.yaml".into(), &text);
        let jobs: Vec<_> =
            text.documents().into_iter().map(|part| (&text, Job::Yaml(part))).collect();
        let examined = at_once(&jobs, 3, &Options::default());
        let waiting = examined.iter().filter(|examined| examined.is_none()).count();
        assert_eq!(waiting, 200);
    }
}
