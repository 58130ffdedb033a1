//! What must a kubelet know that comes after this one?
//!
//! ```text
//!   ADD begins ──▶ UID.json: who, where        ADD ends ──▶ UID.json: and the result
//!   DEL ends   ──▶ (no file)
//! ```
//!
//! In the lab's private memory, so it ends with what it is about.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A pod that may have a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    /// What the plugins said; `None`: they have not ended yet.
    pub(crate) result: Option<Value>,
    /// When it started, as in `status.startTime`.
    pub(crate) started: String,
}

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

// === impl Records ===

impl Records {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.dir.join(format!("{uid}.json"))
    }

    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        let new = self.dir.join(format!(".{}", record.uid));
        fs::write(&new, serde_json::to_vec(record)?)?;
        fs::rename(new, self.path(&record.uid))
    }

    pub(crate) fn remove(&self, uid: &str) -> io::Result<()> {
        match fs::remove_file(self.path(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All that can be read.
    pub(crate) fn all(&self) -> io::Result<Vec<Record>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|it| it == "json") {
                found.extend(fs::read(&path).ok().and_then(|it| serde_json::from_slice(&it).ok()));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_found_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(&dir.path().join("pods")).unwrap();
        let record = Record {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u-1".into(),
            node: "n".into(),
            result: None,
            started: String::new(),
        };
        records.write(&record).unwrap();
        let ended = Record { result: Some(Value::from(1)), ..record };
        records.write(&ended).unwrap();
        assert_eq!(records.all().unwrap(), [ended]);
        records.remove("u-1").unwrap();
        records.remove("u-1").unwrap();
        assert!(records.all().unwrap().is_empty());
    }
}
