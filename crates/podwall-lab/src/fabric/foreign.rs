//! How does somebody else make the pods' networks?
//!
//! ```text
//!   make_pod      an empty namespace under the name that the engine looks for
//!     (plugins put an interface into it, from the node's namespace)
//!   remove_pod    its name; the namespace ends with the last who is in it
//! ```
//!
//! In a lab that mirrors a cluster the engine makes nodes and serves in pods, and touches no pod's
//! interface.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Fabric, FabricError, node_file, settle};
use crate::netns::NetNs;
use crate::plan::Families;

/// Where the namespaces of a lab have their names, for processes inside of it.
#[derive(Clone, Debug)]
pub struct Namespaces {
    dir: PathBuf,
    families: Families,
}

// === impl Namespaces ===

impl Namespaces {
    /// Those of the lab with this private directory.
    pub fn of(inside: &Path, families: Families) -> Self {
        Self { dir: Fabric::namespaces(inside), families }
    }

    /// The file of a node's namespace.
    pub fn node(&self, name: &str) -> PathBuf {
        self.dir.join(node_file(name))
    }

    /// The file of a pod's namespace.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.dir.join(format!("pod-{uid}"))
    }

    /// An empty namespace for a pod, with the settings that containers get: anybody may serve any
    /// port. One that is there is thrown away.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn make_pod(&self, uid: &str) -> Result<NetNs, FabricError> {
        let path = self.pod(uid);
        NetNs::unlink(&path)?;
        let ns = NetNs::create(&path)?;
        settle(&ns, &format!("pod {uid}"), self.families, None)?;
        Ok(ns)
    }

    /// Takes a pod's name away.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn remove_pod(&self, uid: &str) -> Result<(), FabricError> {
        Ok(NetNs::unlink(&self.pod(uid))?)
    }

    /// The pods that have a namespace, by UID.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn pods(&self) -> Result<Vec<String>, FabricError> {
        let error = |source| FabricError::Directory { path: self.dir.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            found.extend(
                name.to_str().and_then(|name| name.strip_prefix("pod-")).map(str::to_owned),
            );
        }
        Ok(found)
    }
}
