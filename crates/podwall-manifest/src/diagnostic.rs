//! What is wrong, where, and what should be written instead?
//!
//! ```text
//!   error[unknown-field]: unknown field `ingres` in `spec`       severity, code, message
//!    --> web.yaml:8:3                                            place
//!     |
//!   8 |   ingres:
//!     |   ^^^^^^ not a field of a NetworkPolicy's spec             label
//!     = help: did you mean `ingress`?                            help
//! ```
//!
//! A diagnostic is plain data and carries the line that it speaks of, so that it can be printed,
//! counted or written as JSON long after the file was read.

use std::fmt;
use std::sync::Arc;

use podwall_policy::source::Source;

use crate::text::visible;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object is left out; whatever changes state refuses the whole input.
    Error,
    /// The object is taken, but says something that its author may not expect.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Error { "error" } else { "warning" })
    }
}

/// The kind of a finding: stable, for filters and for links to documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// A file or directory cannot be read.
    Unreadable,
    /// A directory holds no manifest.
    NothingToRead,
    /// A limit on size, depth, aliases or number is exceeded.
    Limit,
    /// Not UTF-8, or a character that YAML forbids.
    Encoding,
    /// Not YAML or not JSON.
    Syntax,
    /// A tab where YAML wants spaces.
    Tab,
    /// An unrendered template.
    Template,
    /// A mapping has a key twice.
    DuplicateKey,
    /// A document that is not a Kubernetes object.
    NotAnObject,
    /// `apiVersion` does not serve this kind.
    WrongApiVersion,
    /// No such kind, but one of nearly that name.
    UnknownKind,
    /// A required field is missing.
    MissingField,
    /// A field that the kind does not have.
    UnknownField,
    /// A mapping where a list belongs, a number where a string belongs, …
    WrongType,
    /// A name, namespace or port name that breaks the naming rules.
    InvalidName,
    /// A label key or value that breaks the rules of labels.
    InvalidLabel,
    /// A port or a range of ports that cannot be.
    InvalidPort,
    /// An address or a CIDR that cannot be.
    InvalidAddress,
    /// None of the values that the field knows.
    UnsupportedValue,
    /// Fields that exclude each other, or that do not go together.
    Conflict,
    /// An item of a list that may stand there only once.
    DuplicateValue,
    /// The same kind, namespace and name twice in one run.
    DuplicateObject,
    /// Accepted, but without the effect that it seems to have (warning).
    NoEffect,
    /// Accepted, but written in a way that can be misread (warning).
    Ambiguous,
    /// A tool makes other objects of the files than those that they state (warning).
    NotBuilt,
}

impl Code {
    /// The code as it is printed: `unknown-field`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::NothingToRead => "nothing-to-read",
            Self::Limit => "limit",
            Self::Encoding => "encoding",
            Self::Syntax => "syntax",
            Self::Tab => "tab",
            Self::Template => "template",
            Self::DuplicateKey => "duplicate-key",
            Self::NotAnObject => "not-an-object",
            Self::WrongApiVersion => "wrong-api-version",
            Self::UnknownKind => "unknown-kind",
            Self::MissingField => "missing-field",
            Self::UnknownField => "unknown-field",
            Self::WrongType => "wrong-type",
            Self::InvalidName => "invalid-name",
            Self::InvalidLabel => "invalid-label",
            Self::InvalidPort => "invalid-port",
            Self::InvalidAddress => "invalid-address",
            Self::UnsupportedValue => "unsupported-value",
            Self::Conflict => "conflict",
            Self::DuplicateValue => "duplicate-value",
            Self::DuplicateObject => "duplicate-object",
            Self::NoEffect => "no-effect",
            Self::Ambiguous => "ambiguous",
            Self::NotBuilt => "not-built",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A stretch of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// File, line and column of its start; line 0 for an object that came from no file.
    pub source: Source,
    /// How many characters it spans on that line; 1 where it goes on over several lines.
    pub length: u32,
    /// The line's text without its end; `None` where there is none, or where it is too long to be
    /// shown.
    pub text: Option<Arc<str>>,
}

/// A further place that belongs to a finding, or a remark without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What there is to see.
    pub message: String,
    /// Where.
    pub place: Option<Place>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Its kind.
    pub code: Code,
    /// One sentence without a full stop.
    pub message: String,
    /// A few words for the end of the caret line.
    pub label: Option<String>,
    /// The path of the field as the API server writes it: `spec.ingress[0].ports[1].port`.
    pub field: Option<String>,
    /// The object, as far as it is known by then: `NetworkPolicy demo/web`.
    pub object: Option<String>,
    /// Where.
    pub place: Option<Place>,
    /// Further places and remarks.
    pub notes: Vec<Note>,
    /// What to write instead.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Whether it is about the sense of a policy that can be read: rules that are ignored, blocks that
    /// are taken otherwise than they are written.
    pub(crate) fn is_for_linters(&self) -> bool {
        let of_policy = self.object.as_ref().is_some_and(|it| it.starts_with("NetworkPolicy "));
        let block = |field: &String| field.contains(".ipBlock.");
        of_policy
            && match self.code {
                Code::NoEffect => true,
                Code::Ambiguous => self.field.as_ref().is_some_and(block),
                _ => false,
            }
    }

    /// An error that stands nowhere yet.
    pub fn error(code: Code, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            label: None,
            field: None,
            object: None,
            place: None,
            notes: Vec::new(),
            help: None,
        }
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    pub(crate) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = Some(label.into());
        self
    }

    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Messages quote what authors wrote. Whoever writes one escapes what it quotes, so that it can
    /// be read; here, once for all, nothing that a terminal obeys is let through.
    fn make_visible(&mut self) {
        let options = [&mut self.label, &mut self.field, &mut self.object, &mut self.help];
        let notes = self.notes.iter_mut().map(|note| &mut note.message);
        for text in options.into_iter().flatten().chain(notes).chain([&mut self.message]) {
            let harmless = |c: char| match c {
                '\n' => c,
                c if c.is_control() => char::REPLACEMENT_CHARACTER,
                c => visible(c),
            };
            if text.chars().any(|c| harmless(c) != c) {
                *text = text.chars().map(harmless).collect();
            }
        }
    }

    pub(crate) fn note(&mut self, message: impl Into<String>, place: Option<Place>) -> &mut Self {
        self.notes.push(Note { message: message.into(), place });
        self
    }
}

impl fmt::Display for Diagnostic {
    /// One line, as compilers print it for editors: `web.yaml:8:3: error[unknown-field]: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}: ", place.source)?;
        }
        write!(f, "{}[{}]: {}", self.severity, self.code, self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// The findings of a run, limited in number: a hostile file must not fill the memory with them.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) list: Vec<Diagnostic>,
    limit: usize,
    dropped: usize,
    errors: usize,
    /// Takes what comes after the limit.
    overflow: Diagnostic,
}

impl Findings {
    pub(crate) fn new(limit: usize) -> Self {
        let overflow = Diagnostic::error(Code::Limit, String::new());
        Self { list: Vec::new(), limit, dropped: 0, errors: 0, overflow }
    }

    /// Adds a finding and hands it back for details.
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) -> &mut Diagnostic {
        self.errors += usize::from(diagnostic.is_error());
        if self.list.len() < self.limit {
            self.list.push(diagnostic);
            if let Some(last) = self.list.last_mut() {
                return last;
            }
        } else {
            self.dropped += 1;
            self.overflow = diagnostic;
        }
        &mut self.overflow
    }

    /// Takes in those of a part of the run.
    pub(crate) fn absorb(&mut self, part: Self) {
        let room = self.limit.saturating_sub(self.list.len());
        self.errors += part.errors;
        self.dropped += part.dropped + part.list.len().saturating_sub(room);
        self.list.extend(part.list.into_iter().take(room));
    }

    /// Checks go by meaning; a reader goes by lines.
    pub(crate) fn sort_by_place(&mut self) {
        self.list.sort_by_key(|d| d.place.as_ref().map(|p| (p.source.line, p.source.column)));
    }

    /// Errors so far, those beyond the limit included.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        if self.dropped > 0 {
            let message = format!("{} more findings are not shown", self.dropped);
            let mut last = Diagnostic::error(Code::Limit, message);
            last.help("correct the ones above first");
            self.list.push(last);
        }
        self.list.iter_mut().for_each(Diagnostic::make_visible);
        self.list
    }
}
