//! Where does the kernel differ from what it should hold?

use std::fmt;

/// One difference between the kernel and the tables. Loading full tables again
/// ([`DataPlane::replace`](crate::DataPlane::replace)) repairs all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drift {
    /// Nothing of Podwall is there: nothing is enforced.
    NotThere {
        /// What is missing, as `table inet podwall`.
        what: String,
    },
    /// Another version or configuration of Podwall, or somebody else, wrote it.
    OtherProgram {
        /// What differs.
        what: String,
    },
    /// An entry that should be there is not.
    Missing {
        /// The entry with what it should say.
        entry: String,
    },
    /// An entry is there that should not be.
    Extra {
        /// The entry with what it says.
        entry: String,
    },
    /// An entry says something else than it should.
    Different {
        /// The entry with what it should say.
        entry: String,
        /// What it says.
        found: String,
    },
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere { what } => write!(f, "{what} is not there"),
            Self::OtherProgram { what } => write!(f, "{what} is not as Podwall makes it"),
            Self::Missing { entry } => write!(f, "{entry} is missing"),
            Self::Extra { entry } => write!(f, "{entry} should not be there"),
            Self::Different { entry, found } => {
                write!(f, "{entry} should be there, but the kernel says {found}")
            }
        }
    }
}
