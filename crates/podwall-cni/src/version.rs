//! Which versions of the specification are spoken?
//!
//! ```text
//!   0.1  0.2 │ 0.3.0  0.3.1 │ 0.4.0  1.0.0 │ 1.1.0
//!    no chains│ ADD, DEL     │ and CHECK    │ and STATUS, GC
//! ```

use std::fmt;

/// What `VERSION` lists: results before 0.3.0 have another form and no chains.
pub const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

// === impl Version ===

impl Version {
    /// The first with chains.
    pub(crate) const CHAINS: Self = Self { major: 0, minor: 3, patch: 0 };
    /// The first with `CHECK`.
    pub(crate) const CHECK: Self = Self { major: 0, minor: 4, patch: 0 };
    /// The first with `STATUS` and `GC`, and the newest that is spoken.
    pub(crate) const NEWEST: Self = Self { major: 1, minor: 1, patch: 0 };

    /// Reads `1.0.0`; missing numbers are zero, as in libraries of runtimes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|part| part.parse::<u32>().ok());
        let major = numbers.next()??;
        let mut next = || numbers.next().unwrap_or(Some(0));
        let version = Self { major, minor: next()?, patch: next()? };
        numbers.next().is_none().then_some(version)
    }

    /// Whether it is one of [`SUPPORTED`].
    pub(crate) fn supported(self) -> bool {
        SUPPORTED.iter().any(|supported| Self::parse(supported) == Some(self))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let parse = |text| Version::parse(text).unwrap();
        assert!(parse("0.10.0") > parse("0.4.0"));
        assert_eq!(parse("1"), parse("1.0.0"));
        for bad in ["", "1.x", "1.0.0.0", "-1.0.0", "v1.0.0"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
        let supported: Vec<bool> =
            ["0.2.0", "0.3.1", "0.3.2", "1.1.0", "1.2.0"].map(|v| parse(v).supported()).into();
        assert_eq!(supported, [false, true, false, true, false]);
    }
}
