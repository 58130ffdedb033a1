//! What does a finding hold?

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use podwall_policy::object::Name;
use podwall_policy::source::{FieldPath, Source};

use super::catalog::Rule;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; may well be meant.
    Note,
    /// Probably not what was meant, or a risk.
    Warning,
    /// What is written cannot have the effect that it says.
    Error,
}

impl Severity {
    /// `error`, `warning`, `note`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// `NetworkPolicy`, `Namespace`.
    pub kind: &'static str,
    /// Namespace and name; both are the name for a Namespace.
    pub name: Name,
    /// The field; empty for the object as a whole.
    pub field: FieldPath,
    /// Where the object starts, if it stands in a file.
    pub object: Option<Source>,
    /// Where the rule starts, or else the object.
    pub source: Option<Source>,
}

impl At {
    /// `NetworkPolicy shop/web`, `Namespace shop`.
    pub fn object_name(&self) -> String {
        if self.kind == "Namespace" {
            format!("{} {}", self.kind, self.name.name)
        } else {
            format!("{} {}", self.kind, self.name)
        }
    }
}

/// A stretch of a line of a file, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// Where it starts.
    pub source: Source,
    /// How many characters.
    pub length: u32,
    /// The whole line; `None` where it cannot be shown.
    pub line: Option<Arc<str>>,
}

/// One finding. It owns nothing of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of finding it is.
    pub rule: &'static Rule,
    /// How bad this one is.
    pub severity: Severity,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Where.
    pub at: At,
    /// The exact place, where the text of the file is at hand; whoever has it fills it in.
    pub snippet: Option<Snippet>,
    /// What shows that it is so: pods, rules, flows with the evaluator's verdict. A sentence each.
    pub proof: Vec<String>,
    /// What to do next.
    pub help: Option<String>,
    /// An edit that mends it.
    pub fix: Option<Fix>,
    /// The edit in terms of the text, where that is at hand; whoever has it fills it in.
    pub replacements: Vec<Replacement>,
    /// What the finding is about in words that stay the same when lines move and rules change
    /// their places; with rule and object it is the finding's identity in a baseline.
    pub about: String,
}

/// A stretch of a file's text that becomes another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Where it starts.
    pub start: Source,
    /// The line and column behind its last character, from 1, in characters.
    pub end: (u32, u32),
    /// What it becomes.
    pub text: String,
}

/// An edit of the policy's own text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// What it does, in a few words: "write `app: nginx`".
    pub what: String,
    /// The changes, which belong together.
    pub changes: Vec<Change>,
    /// Whether it is certainly what was meant; others are shown and not applied.
    pub sure: bool,
}

/// One change of a text, in terms of fields. Everything else stays byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes another scalar value.
    Value(FieldPath, String),
    /// Writes another key, with the same value.
    Key(FieldPath, String),
    /// Makes one item of a list's item and the one before it.
    Join(FieldPath),
    /// Adds an item to a list: lines of YAML, without indentation of their own.
    Append(FieldPath, Vec<String>),
    /// Adds `key: value` before a field of the same mapping.
    Insert(FieldPath, String),
    /// Takes an item out of a list.
    Remove(FieldPath),
}

impl Finding {
    /// `PW101 NetworkPolicy shop/web app=ngnix`: the same for the same mistake.
    pub fn identity(&self) -> String {
        let about = if self.about.is_empty() { String::new() } else { format!(" {}", self.about) };
        format!("{} {}{about}", self.rule.id, self.at.object_name())
    }

    /// By place, then by rule.
    pub(super) fn order(&self) -> impl Ord + '_ {
        let place = self.at.source.as_ref().map(|s| (&s.file, s.line, s.column));
        (ByPlace(place), &self.at.name, self.rule.id, self.at.field.clone(), &self.about)
    }
}

#[derive(PartialEq, Eq)]
struct ByPlace<'a>(Option<(&'a Arc<str>, u32, u32)>);

impl PartialOrd for ByPlace<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByPlace<'_> {
    /// What has no place comes last.
    fn cmp(&self, other: &Self) -> Ordering {
        (self.0.is_none(), &self.0).cmp(&(other.0.is_none(), &other.0))
    }
}
