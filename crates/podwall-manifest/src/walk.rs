//! How is a tree checked without stopping at the first mistake?
//!
//! ```text
//!   Walk ── map(), list(), text(), port() … ──▶ Some(value)
//!     │                                          or None, and a finding at the value's place
//!     └── Path: spec → ingress → [0] → ports      (a chain on the stack, written out on demand)
//! ```
//!
//! `null` counts as absent everywhere, as in the API server, which decodes JSON in Go.

use std::borrow::Cow;
use std::fmt;

use crate::diagnostic::{Code, Diagnostic, Findings, Place, Severity};
use crate::names::short;
use crate::node::{Entry, Map, Node, Value};
use crate::suggest;
use crate::text::{At, Text};
use crate::yaml::Broken;

/// Reads one object: knows its text, collects its findings.
pub(crate) struct Walk<'r> {
    pub(crate) text: &'r Text<'r>,
    pub(crate) findings: &'r mut Findings,
    /// `NetworkPolicy demo/web`, once known.
    pub(crate) object: Option<String>,
}

/// The way to a field from the object's root.
#[derive(Clone, Copy)]
pub(crate) struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Field(&'p str),
    Key(&'p str),
    Index(usize),
}

impl<'p> Path<'p> {
    pub(crate) const fn root(field: &'p str) -> Self {
        Self { parent: None, step: Step::Field(field) }
    }

    pub(crate) fn field(&'p self, field: &'p str) -> Self {
        Self { parent: Some(self), step: Step::Field(field) }
    }

    /// A key that the author chose: of a label or an annotation.
    pub(crate) fn key(&'p self, key: &'p str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }

    pub(crate) fn index(&'p self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.step {
            Step::Field("") => Ok(()),
            Step::Field(name) => {
                let is_first = self.parent.is_none_or(|p| matches!(p.step, Step::Field("")));
                write!(f, "{}{}", if is_first { "" } else { "." }, short(name))
            }
            Step::Key(key) => write!(f, "[{}]", short(key)),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// What to do about a field that nobody knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// An error.
    Refuse,
    /// An error only if it is nearly the name of a field that is read here: the kind has fields
    /// that this reader does not know.
    RefuseTypos,
}

impl Walk<'_> {
    /// A document that is no tree.
    pub(crate) fn broken(&mut self, broken: Broken) {
        let earlier = broken.earlier.map(|(at, what)| (self.place(at), what));
        let diagnostic = self.error(broken.code, broken.at, &Path::root(""), broken.message);
        if let Some(help) = broken.help {
            diagnostic.help(help);
        }
        if let Some((place, what)) = earlier {
            diagnostic.note(what, Some(place));
        }
    }

    /// A finding at a place.
    pub(crate) fn find(
        &mut self,
        severity: Severity,
        code: Code,
        at: At,
        path: &Path<'_>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        let mut diagnostic = Diagnostic::error(code, message);
        diagnostic.severity = severity;
        diagnostic.field = Some(path.to_string()).filter(|f| !f.is_empty());
        diagnostic.object.clone_from(&self.object);
        diagnostic.place = Some(self.place(at));
        self.findings.push(diagnostic)
    }

    pub(crate) fn error(
        &mut self,
        code: Code,
        at: At,
        path: &Path<'_>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.find(Severity::Error, code, at, path, message)
    }

    pub(crate) fn warning(
        &mut self,
        code: Code,
        at: At,
        path: &Path<'_>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.find(Severity::Warning, code, at, path, message)
    }

    pub(crate) fn place(&self, at: At) -> Place {
        self.text.place(at)
    }

    pub(crate) fn wrong_type(
        &mut self,
        node: &Node<'_>,
        path: &Path<'_>,
        wanted: &str,
    ) -> &mut Diagnostic {
        let message = format!("`{path}` must be {wanted}, not {}", node.describe());
        self.error(Code::WrongType, node.at, path, message).label(format!("expected {wanted}"))
    }

    /// A field that must be there. `parent` is the mapping in which it is missing.
    pub(crate) fn missing(&mut self, parent: At, path: &Path<'_>) -> &mut Diagnostic {
        self.error(Code::MissingField, parent, path, format!("`{path}` is required"))
    }

    /// As [`Self::missing`], unless a key of the mapping is nearly that one and was complained of.
    pub(crate) fn missing_unless_typo(
        &mut self,
        map: &Map<'_>,
        key: &str,
        at: At,
        path: &Path<'_>,
        help: &str,
    ) {
        if map.get(key).is_some() || suggest::nearest_key(map, key).is_none() {
            self.missing(at, path).help(help);
        }
    }

    /// The mapping itself, or nothing if it is null or something else.
    pub(crate) fn map<'n, 't>(
        &mut self,
        node: &'n Node<'t>,
        path: &Path<'_>,
    ) -> Option<&'n Map<'t>> {
        match &node.value {
            Value::Map(map) => Some(map),
            Value::Null => None,
            _ => {
                self.wrong_type(node, path, "a mapping");
                None
            }
        }
    }

    pub(crate) fn list<'n, 't>(
        &mut self,
        node: &'n Node<'t>,
        path: &Path<'_>,
    ) -> Option<&'n [Node<'t>]> {
        match &node.value {
            Value::List(items) => Some(items),
            Value::Null => None,
            _ => {
                let diagnostic = self.wrong_type(node, path, "a list");
                match &node.value {
                    Value::Map(_) => {
                        diagnostic.help("put `- ` before its first key to make it a list of one");
                    }
                    Value::Text(text) => {
                        diagnostic.help(format!("write [{}]", short(text)));
                    }
                    _ => {}
                }
                None
            }
        }
    }

    /// A string. Whatever else an unquoted word turned out to be is said.
    pub(crate) fn text<'n>(&mut self, node: &'n Node<'_>, path: &Path<'_>) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            Value::Null => None,
            _ => {
                self.not_a_string(node, path);
                None
            }
        }
    }

    pub(crate) fn not_a_string(&mut self, node: &Node<'_>, path: &Path<'_>) {
        let written = self.text.quote(node.at).filter(|_| is_scalar(node));
        let written = written.filter(|w| !w.is_empty());
        let diagnostic = self.wrong_type(node, path, "a string");
        if let Some(written) = written {
            if matches!(node.value, Value::Bool(_)) {
                diagnostic.label(format!("`{written}` without quotes is a boolean"));
            }
            diagnostic.help(format!("put it in quotes: \"{written}\""));
        }
    }

    pub(crate) fn bool(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<bool> {
        match &node.value {
            Value::Bool(bool) => Some(*bool),
            Value::Null => None,
            _ => {
                let meant = |text: &str| text.parse::<bool>().ok();
                self.perhaps_quoted(node, path, "a boolean", meant)
            }
        }
    }

    pub(crate) fn int(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<i64> {
        match &node.value {
            Value::Int(int) => Some(*int),
            Value::Null => None,
            _ => {
                let meant = |text: &str| text.parse::<i64>().ok();
                self.perhaps_quoted(node, path, "a number", meant)
            }
        }
    }

    /// Not what was wanted; says so, and what to do if the quotes are all that is wrong with it.
    fn perhaps_quoted<T: fmt::Display>(
        &mut self,
        node: &Node<'_>,
        path: &Path<'_>,
        wanted: &str,
        meant: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let meant = match &node.value {
            Value::Text(text) => meant(text),
            _ => None,
        };
        let diagnostic = self.wrong_type(node, path, wanted);
        if let Some(meant) = meant {
            diagnostic.help(format!("remove the quotes: {meant}"));
        }
        None
    }

    /// A port number, 1 to 65535 (`IsValidPortNum`).
    pub(crate) fn port(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<u16> {
        let number = self.int(node, path)?;
        self.port_number(number, node.at, path)
    }

    pub(crate) fn port_number(&mut self, number: i64, at: At, path: &Path<'_>) -> Option<u16> {
        match u16::try_from(number) {
            Ok(port) if port > 0 => Some(port),
            _ => {
                let message = format!("`{path}` must be from 1 to 65535, not {number}");
                self.error(Code::InvalidPort, at, path, message);
                None
            }
        }
    }

    /// Looks for fields that the mapping should not have. `hint` may know more about one.
    pub(crate) fn fields(
        &mut self,
        map: &Map<'_>,
        path: &Path<'_>,
        known: &[&str],
        unknown: Unknown,
        hint: impl Fn(&str) -> Option<&'static str>,
    ) {
        for Entry { key, at, .. } in &map.entries {
            if known.contains(&&**key) {
                continue;
            }
            let hint = hint(key);
            let near = suggest::nearest(key, known);
            if unknown == Unknown::RefuseTypos && near.is_none() && hint.is_none() {
                continue;
            }
            let place = path.to_string();
            let message = match place.as_str() {
                "" => format!("unknown field `{}`", short(key)),
                place => format!("unknown field `{}` in `{place}`", short(key)),
            };
            let list = match known {
                [] => String::new(),
                _ if known.len() <= 8 => format!("known here: {}", known.join(", ")),
                _ => String::new(),
            };
            let diagnostic = self.error(Code::UnknownField, *at, &path.field(key), message);
            diagnostic.label("unknown field");
            match (hint, near) {
                (Some(hint), _) => diagnostic.help(hint),
                (None, Some(near)) => diagnostic.help(format!("did you mean `{near}`?")),
                (None, None) if !list.is_empty() => diagnostic.help(list),
                (None, None) => diagnostic,
            };
        }
    }

    /// A value of a closed set.
    pub(crate) fn one_of<'k>(
        &mut self,
        node: &Node<'_>,
        path: &Path<'_>,
        known: &[&'k str],
    ) -> Option<&'k str> {
        let text = self.text(node, path)?;
        if let Some(found) = known.iter().find(|k| **k == text) {
            return Some(found);
        }
        let choices: Vec<Cow<'_, str>> = known.iter().map(|k| format!("`{k}`").into()).collect();
        let message = format!("`{path}` must be {}, not `{}`", or_list(&choices), short(text));
        let near = suggest::nearest(text, known).or_else(|| prefix_of(text, known));
        let diagnostic = self.error(Code::UnsupportedValue, node.at, path, message);
        if let Some(near) = near {
            diagnostic.help(format!("did you mean `{near}`?"));
        }
        None
    }
}

fn prefix_of<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    known.iter().copied().find(|k| {
        k.len() >= 4 && text.get(..k.len()).is_some_and(|head| head.eq_ignore_ascii_case(k))
    })
}

/// "a, b or c".
pub(crate) fn or_list(items: &[Cow<'_, str>]) -> String {
    match items {
        [] => String::new(),
        [one] => one.to_string(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    }
}

fn is_scalar(node: &Node<'_>) -> bool {
    !matches!(node.value, Value::List(_) | Value::Map(_))
}
