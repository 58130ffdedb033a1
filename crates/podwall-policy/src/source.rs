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
