//! Where does a statement stand?

use std::fmt;
use std::sync::Arc;

/// The place that an object or a part of it came from. Prints as `file:line:column`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// The file as the user named it, `<stdin>`, or `NAMESPACE/KIND/NAME (manager)` for an object
    /// of a cluster.
    pub file: Arc<str>,
    /// Line, from 1; 0 where the place has no lines (an object of a cluster).
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Source {
    /// A place in a file.
    pub fn new(file: impl Into<Arc<str>>, line: u32, column: u32) -> Self {
        Self { file: file.into(), line, column }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}", self.file)
        } else {
            write!(f, "{}:{}:{}", self.file, self.line, self.column)
        }
    }
}

/// One step from a mapping or list to a value in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// The value of a key.
    Key(Arc<str>),
    /// An item of a list, from 0.
    Item(usize),
}

/// The way from an object to one of its fields. Prints as the API server writes it:
/// `spec.ingress[0].from[1].podSelector`, `spec.podSelector.matchLabels[a.b/c]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FieldPath(pub Vec<Step>);

impl FieldPath {
    /// A path of keys: `spec.podSelector`.
    pub fn keys(path: &str) -> Self {
        Self(path.split('.').map(|key| Step::Key(key.into())).collect())
    }

    /// The same path, and a key further.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.into()))
    }

    /// The same path, and an item further.
    #[must_use]
    pub fn item(&self, index: usize) -> Self {
        self.with(Step::Item(index))
    }

    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Item(index) => write!(f, "[{index}]")?,
                Step::Key(key) if key.contains(['.', '/']) => write!(f, "[{key}]")?,
                Step::Key(key) if i == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_prints_as_the_api_server_writes_it() {
        let peer = FieldPath::keys("spec.ingress").item(0).key("from").item(1);
        let label = peer.key("podSelector").key("matchLabels").key("a.b/c");
        assert_eq!(label.to_string(), "spec.ingress[0].from[1].podSelector.matchLabels[a.b/c]");
    }
}
