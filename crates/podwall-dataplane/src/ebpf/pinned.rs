//! What stays in the kernel when the process ends?
//!
//! ```text
//!   /sys/fs/bpf/podwall/        a bpffs
//!     9f3c…/                    one program with its maps; the name says which
//!       local4 … ports          outer maps      control, rule_packets, …     link-4-1 … link-10-4
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use libbpf_rs::libbpf_sys::BPF_F_NETFILTER_IP_DEFRAG;
use libbpf_rs::{
    ErrorKind, Link, MapCore, MapFlags, MapHandle, NF_INET_LOCAL_IN, NF_INET_POST_ROUTING,
    NFPROTO_IPV4, NFPROTO_IPV6, NetfilterOpts, Object, ObjectBuilder,
};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use rustc_hash::FxHasher;

use super::Config;
use super::edit::Model;
use super::layout::{LAYOUT, Table};
use super::maps::Copies;
use crate::namespace::Namespace;
use crate::{Drift, Error};

/// The program, as it was compiled with this crate.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/podwall.bpf.o"));

/// Where it is attached, and at which priority: NF_IP_PRI_NAT_SRC is 100, NF_IP_PRI_FILTER 0.
const HOOKS: [(i32, i32); 2] = [(NF_INET_LOCAL_IN, 0), (NF_INET_POST_ROUTING, 95)];
/// The kernel has one eBPF program a priority; another version's may hold ours.
const PRIORITIES: i32 = 4;

/// Maps that there is one of, by their names in the program.
const SINGLE: [&str; 8] = [
    "control",
    "rule_packets",
    "rule_names",
    "default_packets",
    "default_names",
    "events",
    "limits",
    "passed",
];

/// A program with its maps, pinned or about to be.
pub(crate) struct Pinned {
    directory: PathBuf,
    pub(crate) tables: BTreeMap<Table, Copies>,
    control: MapHandle,
    /// Only until it is attached.
    object: Option<Object>,
}

fn cannot(doing: impl Into<String>) -> impl FnOnce(libbpf_rs::Error) -> Error {
    let doing = doing.into();
    move |source| Error::Bpf { doing, answer: source }
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}

/// Where distributions mount it.
const USUAL: &str = "/sys/fs/bpf";

/// Makes the directory; if it does not lie in a bpffs, mounts one: on the usual place for what is
/// below that, else on the directory itself.
pub(crate) fn ensure_bpffs(path: &Path) -> Result<(), Error> {
    let is_bpf = |path: &Path| statfs(path).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC);
    let mount_on = |path: &Path| {
        mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .map_err(|e| file_error("mount a bpffs on", path)(e.into()))
    };
    let usual = Path::new(USUAL);
    if path.starts_with(usual) && !is_bpf(usual) {
        mount_on(usual)?;
    }
    fs::create_dir_all(path).map_err(file_error("make", path))?;
    if is_bpf(path) { Ok(()) } else { mount_on(path) }
}

/// Loads the program and lets go of it again.
pub(crate) fn try_loading() -> Result<(), Error> {
    ObjectBuilder::default()
        .open_memory(PROGRAM)
        .and_then(libbpf_rs::OpenObject::load)
        .map(drop)
        .map_err(cannot("load the eBPF program"))
}

/// Two programs that differ in a byte, or in what they were set up with, have different names.
fn name(config: &Config) -> String {
    let mut hasher = FxHasher::default();
    (LAYOUT, config.counters, PROGRAM).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

impl Pinned {
    /// What an earlier process with the same program left, if all of it is there.
    pub(crate) fn find(config: &Config) -> Result<Option<Self>, Error> {
        let directory = config.pins.join(name(config));
        let complete = Self::link_paths(&directory).all(|path| path.exists());
        if !complete {
            return Ok(None);
        }
        let open = |name: &str| {
            MapHandle::from_pinned_path(directory.join(name))
                .map_err(cannot(format!("open the pinned map {name}")))
        };
        let mut tables = BTreeMap::new();
        for table in Table::ALL {
            tables.insert(table, Copies::found(table, open(table.name())?)?);
        }
        let control = open("control")?;
        Ok(Some(Self { tables, control, object: None, directory }))
    }

    fn link_paths(directory: &Path) -> impl Iterator<Item = PathBuf> {
        let of = |family| HOOKS.map(|(hook, _)| directory.join(format!("link-{family}-{hook}")));
        [NFPROTO_IPV4, NFPROTO_IPV6].map(of).into_iter().flatten()
    }

    /// Loads the program with empty tables that have room for what is to come.
    pub(crate) fn load(config: &Config, model: &Model) -> Result<Self, Error> {
        let mut open = ObjectBuilder::default()
            .open_memory(PROGRAM)
            .map_err(cannot("read the eBPF program"))?;
        for mut map in open.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if name.ends_with("_packets") || name.ends_with("_names") {
                map.set_max_entries(config.counters).map_err(cannot("size the counters"))?;
            }
        }
        let object = open.load().map_err(cannot("load the eBPF program"))?;
        let handle = |name: &str| -> Result<MapHandle, Error> {
            let map = object.maps().find(|map| map.name() == name);
            let map =
                map.ok_or_else(|| Error::Config(format!("the eBPF program has no {name}")))?;
            MapHandle::try_from(&map).map_err(cannot(format!("open map {name}")))
        };
        let mut tables = BTreeMap::new();
        for table in Table::ALL {
            let count = model.counts.get(&table).copied().unwrap_or(0);
            tables.insert(table, Copies::fresh(table, handle(table.name())?, count)?);
        }
        let control = handle("control")?;
        let directory = config.pins.join(name(config));
        let new = Self { directory, tables, control, object: Some(object) };
        new.install(&Table::ALL, &[0, 1])?;
        Ok(new)
    }

    /// Pins the maps, attaches the program and pins the links. Whatever was attached before stays.
    pub(crate) fn attach(&mut self, namespace: &Namespace) -> Result<(), Error> {
        let Some(mut object) = self.object.take() else { return Ok(()) };
        // A program of which a piece is missing goes on with the rest until this one is attached;
        // then it is swept away.
        let mut old = self.directory.clone().into_os_string();
        old.push("-old"); // a bpffs takes no dots in names
        let old = PathBuf::from(old);
        remove(&old)?;
        if self.directory.exists() {
            fs::rename(&self.directory, &old).map_err(file_error("rename", &self.directory))?;
        }
        fs::create_dir_all(&self.directory).map_err(file_error("make", &self.directory))?;
        for mut map in object.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if SINGLE.contains(&name.as_str()) || Table::ALL.iter().any(|t| t.name() == name) {
                map.pin(self.directory.join(&name)).map_err(cannot(format!("pin map {name}")))?;
            }
        }
        let directory = &self.directory;
        namespace.run(move || {
            for program in object.progs_mut() {
                for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
                    for (hook, priority) in HOOKS {
                        let mut link = attach_at(&program, family, hook, priority)?;
                        link.pin(directory.join(format!("link-{family}-{hook}")))
                            .map_err(cannot("pin a link"))?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Where the ring buffer of events is.
    pub(crate) fn events(&self) -> PathBuf {
        self.directory.join("events")
    }

    /// Where all of it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The links that are not there.
    pub(crate) fn missing_links(&self) -> Vec<Drift> {
        Self::link_paths(&self.directory)
            .filter(|path| Link::open(path).is_err())
            .map(|path| Drift::NotThere { what: path.display().to_string() })
            .collect()
    }

    pub(crate) fn control(&self) -> Result<u64, Error> {
        let word = self.control.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY);
        let word = word.map_err(cannot("read map control"))?;
        Ok(word.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes))
    }

    /// Puts the other copy in force.
    pub(crate) fn turn(&self, flags: u64) -> Result<(), Error> {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
        let number = (self.control()? as u32).wrapping_add(1);
        let word = (u64::from(number) | flags).to_ne_bytes();
        self.control
            .update(&0_u32.to_ne_bytes(), &word, MapFlags::ANY)
            .map_err(cannot("write map control"))
    }

    /// Shows copies' new tables to the program. For each the kernel waits until no packet looks at
    /// the one before, so that all are shown at the same time.
    pub(crate) fn install(&self, tables: &[Table], copies: &[usize]) -> Result<(), Error> {
        std::thread::scope(|scope| {
            let tables = tables.iter().filter_map(|table| self.tables.get(table));
            let all = tables.flat_map(|table| copies.iter().map(move |copy| (table, *copy)));
            let threads: Vec<_> =
                all.map(|(table, copy)| scope.spawn(move || table.install(copy))).collect();
            let ends = threads.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Error::Lost("a thread ended".to_owned())))
            });
            ends.fold(Ok(()), Result::and)
        })
    }
}

fn attach_at(
    program: &libbpf_rs::ProgramMut<'_>,
    family: i32,
    hook: i32,
    priority: i32,
) -> Result<Link, Error> {
    let mut taken = None;
    for priority in (priority - PRIORITIES + 1..=priority).rev() {
        // With it conntrack's defragmentation is on before the first connection.
        let options = NetfilterOpts {
            protocol_family: family,
            hooknum: hook,
            priority,
            flags: BPF_F_NETFILTER_IP_DEFRAG,
            ..NetfilterOpts::default()
        };
        match program.attach_netfilter_with_opts(options) {
            Ok(link) => return Ok(link),
            // EBUSY, which the library does not tell from others.
            Err(error) if error.kind() == ErrorKind::Other => taken = Some(error),
            Err(error) => {
                return Err(cannot(format!("attach the eBPF program to hook {hook}"))(error));
            }
        }
    }
    let error = taken.unwrap_or_else(|| libbpf_rs::Error::from(io::Error::other("no priority")));
    Err(cannot(format!("attach the eBPF program to hook {hook}"))(error))
}

/// Where programs of other versions, or ours with a piece missing, are.
pub(crate) fn others(config: &Config) -> Vec<PathBuf> {
    let ours = name(config);
    let entries = fs::read_dir(&config.pins).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy() != ours).map(|e| e.path()).collect()
}

/// Takes away what programs of other versions left. Ours is attached.
pub(crate) fn sweep(config: &Config) -> Result<(), Error> {
    others(config).iter().try_for_each(|directory| remove(directory))
}

/// Takes everything away.
pub(crate) fn remove_all(config: &Config) -> Result<(), Error> {
    if !config.pins.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&config.pins).map_err(file_error("read", &config.pins))?.flatten() {
        remove(&entry.path())?;
    }
    // A mount of our own stays, empty.
    let _ = fs::remove_dir(&config.pins);
    Ok(())
}

/// Unpins a program: its links first, so that nothing decides without its maps.
fn remove(directory: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_by_key(|path| !path.to_string_lossy().contains("/link-"));
    for path in paths {
        fs::remove_file(&path).map_err(file_error("remove", &path))?;
    }
    fs::remove_dir(directory).map_err(file_error("remove", directory))
}
