//! Where are the programs of a cluster?

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the directory; `scripts/kube-apiserver` prints it.
const HERE: [&str; 2] = ["PODWALL_KUBE_ASSETS", "KUBEBUILDER_ASSETS"];

/// Set by `scripts/test`: a missing server fails tests.
const REQUIRED: &str = "PODWALL_REQUIRE_CLUSTER";

/// The programs.
#[derive(Clone, Debug)]
pub(crate) struct Assets {
    pub(crate) server: PathBuf,
    pub(crate) etcd: PathBuf,
    pub(crate) kubectl: PathBuf,
    /// The server's minor version: 20 of 1.20.
    pub(crate) minor: u32,
}

impl Assets {
    /// The programs, or what to do.
    pub(crate) fn find() -> Result<Self, String> {
        let dir = HERE.iter().find_map(env::var_os).map(PathBuf::from).ok_or(
            "needs a kube-apiserver: export PODWALL_KUBE_ASSETS=$(scripts/kube-apiserver), which \
             builds it once",
        )?;
        let server = dir.join("kube-apiserver");
        let said = Command::new(&server)
            .arg("--version")
            .output()
            .map_err(|error| format!("cannot run {}: {error}", server.display()))?;
        let version = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
        let minor = minor.ok_or_else(|| format!("no version of Kubernetes: {version:?}"))?;
        let beside = |name: &str| {
            let paths = env::var_os("PATH").unwrap_or_default();
            [dir.clone()]
                .into_iter()
                .chain(env::split_paths(&paths))
                .map(|dir| dir.join(name))
                .find(|path| path.is_file())
                .ok_or_else(|| format!("needs {name}, in {} or in PATH", dir.display()))
        };
        Ok(Self { etcd: beside("etcd")?, kubectl: beside("kubectl")?, server, minor })
    }

    /// Whether there can be a cluster. Says loudly if not, and fails where it must be possible.
    pub(crate) fn is_there() -> bool {
        match Self::find() {
            Ok(_) => true,
            Err(missing) => {
                assert!(env::var_os(REQUIRED).is_none(), "{REQUIRED} is set: {missing}");
                eprintln!("SKIPPED: {missing}");
                false
            }
        }
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
