//! Does a label selector match these labels, and if not, which of its requirements fails?
//!
//! Source: `LabelSelector` of `k8s.io/apimachinery/pkg/apis/meta/v1/types.go`; requirements are
//! ANDed, and an empty selector matches everything.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::label::Labels;

/// A label selector: all requirements must hold. No requirement: everything matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Selector {
    /// The requirements in the order of the manifest, `matchLabels` first.
    pub requirements: Vec<Requirement>,
}

/// One requirement on one label key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// The label key.
    pub key: Arc<str>,
    /// What is required of it.
    pub operator: Operator,
}

/// What a requirement asks of its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// From `matchLabels`: the key has exactly this value.
    Equals(Arc<str>),
    /// The key has one of these values.
    In(BTreeSet<Arc<str>>),
    /// The key has none of these values, or is absent.
    NotIn(BTreeSet<Arc<str>>),
    /// The key is there, with any value.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

impl Selector {
    /// The selector that matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// A selector from `matchLabels` pairs.
    pub fn labels<K: Into<Arc<str>>, V: Into<Arc<str>>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let requirements = pairs
            .into_iter()
            .map(|(k, v)| Requirement { key: k.into(), operator: Operator::Equals(v.into()) })
            .collect();
        Self { requirements }
    }

    /// Reads what `kubectl -l` takes: `app=web,env in (a,b),tier!=db,!old,team`. `Display` writes
    /// the same form.
    ///
    /// # Errors
    /// A sentence that quotes the part that cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut selector = Self::default();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if !part.is_empty() {
                selector.requirements.push(Requirement::parse(part)?);
            }
        }
        Ok(selector)
    }

    /// Adds one requirement (builder for tests and parsers).
    #[must_use]
    pub fn and(mut self, key: impl Into<Arc<str>>, operator: Operator) -> Self {
        self.requirements.push(Requirement { key: key.into(), operator });
        self
    }

    /// Whether every requirement holds.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Whether this selector has no requirement.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The requirements that these labels do not meet.
    pub fn failing<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = &'a Requirement> {
        self.requirements.iter().filter(move |r| !r.matches(labels))
    }
}

/// At commas that do not stand between the values of `in (…)`.
fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

impl Requirement {
    fn parse(part: &str) -> Result<Self, String> {
        let key = |text: &str| -> Result<Arc<str>, String> {
            let text = text.trim();
            let bad = text.is_empty() || text.contains([' ', '(', ')', '!', '=']);
            if bad { Err(format!("{part:?} has no label key")) } else { Ok(text.into()) }
        };
        let values = |text: &str| -> Result<BTreeSet<Arc<str>>, String> {
            let list = text.trim().strip_prefix('(').and_then(|t| t.strip_suffix(')'));
            let list = list.ok_or_else(|| format!("{part:?} wants values as (a,b)"))?;
            Ok(list.split(',').map(|v| v.trim().into()).collect())
        };
        if let Some(absent) = part.strip_prefix('!') {
            return Ok(Self { key: key(absent)?, operator: Operator::DoesNotExist });
        }
        let (name, operator) = if let Some((name, value)) = part.split_once("!=") {
            (name, Operator::NotIn([value.trim().into()].into()))
        } else if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
            (name, Operator::Equals(value.trim().into()))
        } else if let Some((name, list)) = part.split_once(" notin ") {
            (name, Operator::NotIn(values(list)?))
        } else if let Some((name, list)) = part.split_once(" in ") {
            (name, Operator::In(values(list)?))
        } else {
            (part, Operator::Exists)
        };
        Ok(Self { key: key(name)?, operator })
    }

    /// Whether the labels meet this requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::Equals(wanted) => value == Some(wanted),
            Operator::In(values) => value.is_some_and(|v| values.contains(v)),
            Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl fmt::Display for Selector {
    /// As `kubectl -l` takes it: `app=web,env in (a,b),!old`; `<everything>` where it is empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("<everything>");
        }
        for (i, requirement) in self.requirements.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, operator } = self;
        let list =
            |values: &BTreeSet<Arc<str>>| values.iter().map(|v| &**v).collect::<Vec<_>>().join(",");
        match operator {
            Operator::Equals(value) => write!(f, "{key}={value}"),
            Operator::In(values) => write!(f, "{key} in ({})", list(values)),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", list(values)),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(list: &[&str]) -> BTreeSet<Arc<str>> {
        list.iter().map(|v| Arc::from(*v)).collect()
    }

    #[test]
    fn operators_follow_the_api_document() {
        let web: Labels = [("app", "web"), ("env", "")].into_iter().collect();
        let table = [
            (Operator::Equals("web".into()), "app", true),
            (Operator::Equals("db".into()), "app", false),
            (Operator::Equals("".into()), "env", true),
            (Operator::Equals("".into()), "absent", false),
            (Operator::In(values(&["db", "web"])), "app", true),
            (Operator::In(values(&["db"])), "app", false),
            (Operator::In(values(&["web"])), "absent", false),
            (Operator::NotIn(values(&["web"])), "app", false),
            (Operator::NotIn(values(&["db"])), "app", true),
            (Operator::NotIn(values(&["web"])), "absent", true),
            (Operator::Exists, "env", true),
            (Operator::Exists, "absent", false),
            (Operator::DoesNotExist, "env", false),
            (Operator::DoesNotExist, "absent", true),
        ];
        for (operator, key, expected) in table {
            let selector = Selector::everything().and(key, operator);
            assert_eq!(selector.matches(&web), expected, "{selector}");
        }
        assert!(Selector::everything().matches(&Labels::default()));
    }

    #[test]
    fn what_kubectl_takes_is_read_and_printed_again() {
        for text in ["app=web", "app=web,env in (a,b),!old,team,zone notin (x)", "a/b=c"] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Selector::parse("tier!=db, app == web").unwrap().to_string(),
            "tier notin (db),app=web"
        );
        assert_eq!(Selector::parse("").unwrap(), Selector::everything());
        for broken in ["=web", "app in a,b", "!", "a b"] {
            assert!(Selector::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_selector_prints_as_kubectl_takes_it() {
        let selector = Selector::labels([("app", "web")])
            .and("env", Operator::In(values(&["b", "a"])))
            .and("old", Operator::DoesNotExist)
            .and("team", Operator::Exists)
            .and("zone", Operator::NotIn(values(&["x"])));
        assert_eq!(selector.to_string(), "app=web,env in (a,b),!old,team,zone notin (x)");
        assert_eq!(Selector::everything().to_string(), "<everything>");
    }
}
