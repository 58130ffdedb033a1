//! Where is written which processes hold a lab?
//!
//! ```text
//!   DIR/holder.pid    4711 8812345     init
//!                     4710 8812344     keeper
//! ```

use std::path::Path;
use std::{fs, io};

use super::process::Process;

/// The record's name in the lab's directory.
const FILE: &str = "holder.pid";

/// The two processes of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Pid 1 of the lab, which holds its namespaces.
    pub(super) init: Process,
    /// Its parent, which removes the directory.
    pub(super) keeper: Process,
}

// === impl Record ===

impl Record {
    /// Reads the record; `None` if there is none or it is not one.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join(FILE)).ok()?;
        let mut lines = text.lines().map(Process::parse);
        Some(Self { init: lines.next()??, keeper: lines.next()?? })
    }

    /// Writes the record so that a reader sees all of it or nothing.
    pub(super) fn write(self, dir: &Path) -> io::Result<()> {
        let draft = dir.join(".holder.pid");
        fs::write(&draft, format!("{}\n{}\n", self.init, self.keeper))?;
        fs::rename(draft, dir.join(FILE))
    }
}
