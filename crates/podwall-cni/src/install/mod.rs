//! How does the plugin get onto a node, and off it again?
//!
//! ```text
//!   install    1 program ──▶ bin-dir         2 backup, entry ──▶ first file of conf-dir
//!   uninstall  1 entry out of every file of conf-dir, backups    2 program
//! ```
//!
//! A runtime takes the first file of its directory, by name, that ends in `.conf`, `.conflist` or
//! `.json`. At every moment, also if the installer is killed, the network has one valid file, and an
//! entry of ours only while the program is there. For a single plugin (`.conf`) that takes a file that
//! can be read both as one plugin and as a chain (`chain.rs`), so that one `rename` turns the one into the other.

mod chain;
mod files;
mod text;
mod undo;
mod watch;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use self::chain::Chain;
pub use self::chain::{ChainError, Entry};
use self::files::Text;
pub use self::undo::{Removed, uninstall};
pub use self::watch::watch;
use crate::TYPE;

/// Where runtimes look for plugins.
pub const BIN_DIR: &str = "/opt/cni/bin";
/// Where they look for networks.
pub const CONF_DIR: &str = "/etc/cni/net.d";

/// How often a file is read again that somebody else is writing.
const TRIES: u32 = 5;

/// Where things are on a node, and what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The program that is copied.
    pub program: PathBuf,
    /// Where to.
    pub bin_dir: PathBuf,
    /// The runtime's directory of network configurations.
    pub conf_dir: PathBuf,
    /// Our entry.
    pub entry: Entry,
}

/// What an installation changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Whether the program was written; else it was there already.
    pub program: bool,
    /// The file that has the entry.
    pub file: PathBuf,
    /// What was done to it.
    pub change: Change,
}

/// What was done to a network configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: it was right.
    None,
    /// The chain got our entry.
    Added,
    /// Our entry was changed.
    Updated,
    /// A single plugin became a chain with our entry.
    Wrapped,
}

/// Why the plugin is not installed, or not removed.
#[derive(Debug, Error)]
pub enum InstallError {
    /// A file or directory.
    #[error("cannot {doing} {}: {source}{}", path.display(), hint(source))]
    File {
        /// What was tried.
        doing: &'static str,
        /// With which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else wrote a file while it was edited.
    #[error("{} is being changed by somebody else; try once more", .0.display())]
    Changed(PathBuf),
    /// The runtime has no network yet.
    #[error(
        "{} has no network configuration yet (*.conf, *.conflist, *.json): install the cluster's CNI \
         plugin first, or use --watch to wait for it", .0.display()
    )]
    NoNetwork(PathBuf),
    /// The configuration cannot be edited. It was not touched.
    #[error("{}: {source} (the file was left as it is)", path.display())]
    Chain {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: ChainError,
    },
    /// The chain would get a name that the runtime does not look at, or that is another file's.
    #[error(
        "cannot make a chain of {}: no name for it is free that comes first in its directory; rename \
         it to a .conflist by hand, or take the file away that is in the way", .0.display()
    )]
    NoName(PathBuf),
    /// Signals or notifications of the kernel.
    #[error("cannot watch the directory of network configurations: {0}")]
    Watch(#[source] io::Error),
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "; in a container, mount the host's directory writable"
        }
        io::ErrorKind::PermissionDenied => "; this needs root",
        _ => "",
    }
}

// === impl InstallError ===

impl InstallError {
    fn file(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { doing, path: path.to_path_buf(), source }
    }

    fn chain(path: &Path) -> impl FnOnce(ChainError) -> Self {
        move |source| Self::Chain { path: path.to_path_buf(), source }
    }
}

/// Puts the program and the entry where they belong; what is right stays untouched.
///
/// # Errors
/// There is no network yet, it cannot be edited, or a file cannot be written. Then the network is
/// as it was.
pub fn install(installation: &Installation) -> Result<Installed, InstallError> {
    let Installation { program, bin_dir, conf_dir, entry } = installation;
    let written = copy(program, bin_dir)?;
    let _lock = match files::lock(conf_dir) {
        Err(InstallError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(InstallError::NoNetwork(conf_dir.clone()));
        }
        lock => lock?,
    };
    let mut tries = 0;
    loop {
        tries += 1;
        match edit(conf_dir, entry) {
            Err(InstallError::Changed(_)) if tries < TRIES => {}
            edited => {
                let (file, change) = edited?;
                return Ok(Installed { program: written, file, change });
            }
        }
    }
}

/// Gives the entry to the network that a runtime takes.
fn edit(conf_dir: &Path, entry: &Entry) -> Result<(PathBuf, Change), InstallError> {
    let first = first(conf_dir)?.ok_or_else(|| InstallError::NoNetwork(conf_dir.to_path_buf()))?;
    if is_chain(&first) {
        let change = patch(&first, entry)?;
        return Ok((first, change));
    }
    wrap(&first, entry)
}

/// Copies the program, if another is there. A running one goes on as it is.
fn copy(program: &Path, bin_dir: &Path) -> Result<bool, InstallError> {
    let bytes = fs::read(program).map_err(|e| InstallError::file("read", program, e))?;
    let there = bin_dir.join(TYPE);
    let same = fs::read(&there).is_ok_and(|old| old == bytes)
        && fs::metadata(&there).is_ok_and(|metadata| metadata.mode() & 0o7777 == 0o755);
    if same {
        return Ok(false);
    }
    fs::create_dir_all(bin_dir).map_err(|e| InstallError::file("make", bin_dir, e))?;
    let _lock = files::lock(bin_dir)?;
    files::put(&there, &bytes, 0o755)?;
    Ok(true)
}

/// The file that a runtime takes.
fn first(conf_dir: &Path) -> Result<Option<PathBuf>, InstallError> {
    Ok(networks(conf_dir)?.into_iter().next())
}

/// The files that a runtime looks at, in its order.
fn networks(conf_dir: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let endings = ["conf", "conflist", "json"].map(|ending| Some(OsStr::new(ending)));
    let paths = files::names(conf_dir)?.into_iter().map(|name| conf_dir.join(name));
    Ok(paths.filter(|path| endings.contains(&path.extension()) && !path.is_dir()).collect())
}

fn is_chain(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("conflist"))
}

/// Adds our entry to a chain.
fn patch(path: &Path, entry: &Entry) -> Result<Change, InstallError> {
    let file = Text::read(path)?.ok_or_else(|| gone(path))?;
    let failed = || InstallError::chain(path);
    let chain = Chain::read(&file.text).map_err(failed())?;
    if let Some((name, single)) = chain.on_its_way() {
        // An installation or a removal was cut off between two names.
        let single = Chain::read(&single).map_err(failed())?;
        file.replace(&single.wrapped(&name, entry).map_err(failed())?)?;
        return Ok(Change::Wrapped);
    }
    let Some(text) = chain.with(entry).map_err(failed())? else { return Ok(Change::None) };
    if chain.has_ours() {
        file.replace(&text)?;
        return Ok(Change::Updated);
    }
    files::put(&files::backup(path), file.text.as_bytes(), 0o600)?;
    file.replace(&text)?;
    Ok(Change::Added)
}

/// Makes a chain of a single plugin.
fn wrap(path: &Path, entry: &Entry) -> Result<(PathBuf, Change), InstallError> {
    let file = Text::read(path)?.ok_or_else(|| gone(path))?;
    let failed = || InstallError::chain(path);
    let chain = Chain::read(&file.text).map_err(failed())?;
    let original = match chain.on_its_way() {
        Some((_, single)) => single,
        None => file.text.clone(),
    };
    let single = Chain::read(&original).map_err(failed())?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (hybrid, wrapped) = (
        single.hybrid(&name, Some(entry)).map_err(failed())?,
        single.wrapped(&name, entry).map_err(failed())?,
    );
    let to = chain_name(path, &name)?;
    files::put(&files::backup(path), original.as_bytes(), 0o600)?;
    file.replace(&hybrid)?;
    files::rename(path, &to)?;
    let file = Text::read(&to)?.ok_or_else(|| gone(&to))?;
    file.replace(&wrapped)?;
    Ok((to, Change::Wrapped))
}

/// The name of a chain that is made of this file: free, or an older chain that was made of it, and
/// first in its directory like the file itself.
fn chain_name(path: &Path, name: &str) -> Result<PathBuf, InstallError> {
    let conf_dir = path.parent().unwrap_or(Path::new("."));
    let others = networks(conf_dir)?;
    for to in [path.with_extension("conflist"), path.with_file_name(format!("{name}.conflist"))] {
        let ours = match Text::read(&to)? {
            None => true,
            Some(file) => Chain::read(&file.text)
                .is_ok_and(|chain| chain.wrapped_file().as_deref() == Some(name)),
        };
        if ours && others.iter().all(|other| other == path || *other >= to) {
            return Ok(to);
        }
    }
    Err(InstallError::NoName(path.to_path_buf()))
}

fn gone(path: &Path) -> InstallError {
    InstallError::file("read", path, io::ErrorKind::NotFound.into())
}
