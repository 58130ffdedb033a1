//! What stays in the kernel when the process ends?
//!
//! ```text
//!   /sys/fs/bpf/podwall/        a bpffs
//!     9f3c…/                    one program with its maps; the name says which
//!       addresses4 … ports      outer maps      control, rule_packets, …     link-4-1 … link-10-4
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::libbpf_sys::{self, BPF_F_NETFILTER_IP_DEFRAG};
use libbpf_rs::{
    ErrorKind, Link, MapCore, MapFlags, MapHandle, MapType, NF_INET_LOCAL_IN, NF_INET_POST_ROUTING,
    NFPROTO_IPV4, NFPROTO_IPV6, NetfilterOpts, Object, ObjectBuilder,
};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use podwall_compile::tables::NodeTables;
use podwall_policy::address::AddressSet;
use rustc_hash::FxHasher;

use super::Config;
use super::edit::Model;
use super::hex;
use super::layout::{self, CONTROL, LAYOUT, Table};
use super::maps::Copies;
use super::needs;
use crate::namespace::Namespace;
use crate::{Drift, Error};

/// The program, as it was compiled with this crate.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/podwall.bpf.o"));

/// Where it is attached, and at which priority at most: NF_IP_PRI_NAT_SRC is 100, and IPVS, which has to
/// have taken packets to its Services, at LOCAL_IN one before it (net/netfilter/ipvs/ip_vs_core.c).
const HOOKS: [(i32, i32); 2] = [(NF_INET_LOCAL_IN, 119), (NF_INET_POST_ROUTING, 95)];
/// The kernel has one eBPF program a priority; another version's may hold ours, and what starts that
/// were killed had attached some more.
const PRIORITIES: i32 = 16;

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

/// Those of [`SINGLE`] that the program itself does not read: notes of a process for the next one.
const NOTES: [&str; 2] = ["rule_names", "default_names"];

/// A program with its maps, pinned or about to be.
pub(crate) struct Pinned {
    directory: PathBuf,
    pub(crate) tables: BTreeMap<Table, Copies>,
    control: MapHandle,
    /// Only until it is attached.
    object: Option<Object>,
    /// The program's number, once it is attached.
    program: Option<u32>,
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
            .map_err(|errno| needs::mount(path, errno.into()))
    };
    let usual = Path::new(USUAL);
    if path.starts_with(usual) && !is_bpf(usual) {
        mount_on(usual)?;
    }
    fs::create_dir_all(path).map_err(file_error("make", path))?;
    if !is_bpf(path) {
        mount_on(path)?;
    }
    Ok(())
}

/// Loads the program and lets go of it again.
pub(crate) fn try_loading() -> Result<(), Error> {
    let open = || ObjectBuilder::default().open_memory(PROGRAM);
    needs::loading(|| open().and_then(libbpf_rs::OpenObject::load).map(drop))
}

/// Two programs that differ in a byte, or in what they were set up with, have different names.
fn name(config: &Config) -> String {
    let mut hasher = FxHasher::default();
    (LAYOUT, HOOKS, config.counters, PROGRAM).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Counters of a kind: the last one is for strangers.
fn counters(config: &Config) -> u32 {
    config.counters.saturating_add(1)
}

impl Pinned {
    /// What an earlier process with the same program left, if all of it is there: four links to one
    /// program, and under our names the very maps that it reads and notes of the right form. Anything
    /// else is not taken over; whatever of it is attached goes on until a new program is.
    pub(crate) fn find(config: &Config) -> Option<Self> {
        let directory = config.pins.join(name(config));
        let programs: Option<BTreeSet<u32>> =
            Self::link_paths(&directory).map(|path| program_of(&path)).collect();
        let [program] = programs?.into_iter().collect::<Vec<_>>()[..] else { return None };
        let reads = maps_of(program)?;
        let open = |name: &str| {
            let map = MapHandle::from_pinned_path(directory.join(name)).ok()?;
            reads.contains(&map.info().ok()?.info.id).then_some(map)
        };
        let mut tables = BTreeMap::new();
        for table in Table::ALL {
            tables.insert(table, Copies::found(table, open(table.name())?).ok()?);
        }
        let is_note = |name: &str| {
            MapHandle::from_pinned_path(directory.join(name)).is_ok_and(|map| {
                let form = (map.map_type(), map.key_size(), map.value_size(), map.max_entries());
                form == (MapType::Array, 4, 8, counters(config))
            })
        };
        let is_there =
            |name: &&str| if NOTES.contains(name) { is_note(name) } else { open(name).is_some() };
        if !SINGLE.iter().all(is_there) {
            return None;
        }
        let control = open("control")?;
        Some(Self { tables, control, object: None, program: Some(program), directory })
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
                map.set_max_entries(counters(config)).map_err(cannot("size the counters"))?;
            }
        }
        let object = needs::loading(|| open.load())?;
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
        let new = Self { directory, tables, control, object: Some(object), program: None };
        new.install(&Table::ALL, &[0, 1])?;
        Ok(new)
    }

    /// Pins the maps, attaches the program and pins the links. Whatever was attached before stays.
    pub(crate) fn attach(&mut self, namespace: &Namespace) -> Result<(), Error> {
        let Some(mut object) = self.object.take() else { return Ok(()) };
        // A program of which a piece is missing goes on with the rest until this one is attached;
        // then it is swept away.
        // So does what a process put aside that was killed before it came to the sweeping: it may
        // be all that decides.
        let aside = |number: u32| {
            let mut path = self.directory.clone().into_os_string();
            path.push(format!("-old{number}")); // a bpffs takes no dots in names
            PathBuf::from(path)
        };
        if self.directory.exists() {
            let free = (0..).map(aside).find(|path| !path.exists());
            let old = free.unwrap_or_else(|| aside(0));
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
        })?;
        self.program = Self::link_paths(&self.directory).find_map(|path| program_of(&path));
        Ok(())
    }

    /// Whether all links that are pinned lead to this program. Unlike [`Self::find`] that takes no
    /// CAP_SYS_ADMIN, which the kernel wants of who asks for programs and maps by their numbers.
    pub(crate) fn is_in_force(&self) -> bool {
        let ours = |path: PathBuf| self.program.is_some() && program_of(&path) == self.program;
        Self::link_paths(&self.directory).all(ours)
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
            .filter(|path| program_of(path).is_none())
            .map(|path| Drift::NotThere { what: path.display().to_string() })
            .collect()
    }

    /// All of `control`.
    pub(crate) fn control_bytes(&self) -> Result<[u8; CONTROL], Error> {
        let bytes = self.control.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY);
        let bytes = bytes.map_err(cannot("read map control"))?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; CONTROL]))
    }

    fn set_control(&self, bytes: &[u8; CONTROL]) -> Result<(), Error> {
        self.control
            .update(&0_u32.to_ne_bytes(), bytes, MapFlags::ANY)
            .map_err(cannot("write map control"))
    }

    /// The word of `control`.
    pub(crate) fn control(&self) -> Result<u64, Error> {
        let [a, b, c, d, e, f, g, h, ..] = self.control_bytes()?;
        Ok(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Writes the pod ranges of a copy, which must not be in force. A packet may read `control` at
    /// the same time: what is in force does not change.
    pub(crate) fn set_pod_ranges(&self, copy: usize, ranges: &AddressSet) -> Result<(), Error> {
        let mut bytes = self.control_bytes()?;
        layout::put_pod_ranges(&mut bytes, copy, ranges);
        self.set_control(&bytes)
    }

    /// Where the pod ranges differ from the tables'.
    pub(crate) fn other_pod_ranges(&self, tables: &NodeTables) -> Result<Vec<Drift>, Error> {
        let control = self.control_bytes()?;
        let counts = self.control()? & layout::POD_RANGE_COUNTS;
        let mut drift = Vec::new();
        for copy in 0..2 {
            let mut wanted = control;
            layout::put_pod_ranges(&mut wanted, copy, &tables.pod_ranges);
            if wanted != control || counts != layout::pod_range_counts(&tables.pod_ranges) {
                drift.push(Drift::Different {
                    entry: format!("pod ranges {:?} (copy {copy})", tables.pod_ranges.ranges()),
                    found: hex(&control[8..]),
                });
            }
        }
        Ok(drift)
    }

    /// Puts the other copy in force.
    pub(crate) fn turn(&self, flags: u64) -> Result<(), Error> {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
        let number = (self.control()? as u32).wrapping_add(1);
        let mut bytes = self.control_bytes()?;
        bytes[..8].copy_from_slice(&(u64::from(number) | flags).to_ne_bytes());
        self.set_control(&bytes)
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
    let ours = config.pins.join(name(config));
    entries(&config.pins).unwrap_or_default().into_iter().filter(|path| *path != ours).collect()
}

/// Takes away what programs of other versions left, and what is nobody's. Ours is attached.
pub(crate) fn sweep(config: &Config) -> Result<(), Error> {
    let ours = config.pins.join(name(config));
    let links: Vec<PathBuf> = Pinned::link_paths(&ours).collect();
    let is_map = |path: &Path| {
        let maps = Table::ALL.iter().map(|table| table.name()).chain(SINGLE);
        maps.into_iter().any(|name| ours.join(name) == path)
    };
    for path in entries(&ours)?.into_iter().filter(|path| !links.contains(path) && !is_map(path)) {
        remove(&path)?;
    }
    entries(&config.pins)?.iter().filter(|path| **path != ours).try_for_each(|path| remove(path))
}

/// Takes everything away.
pub(crate) fn remove_all(config: &Config) -> Result<(), Error> {
    if !config.pins.exists() {
        return Ok(());
    }
    entries(&config.pins)?.iter().try_for_each(|path| remove(path))?;
    // A mount of our own stays, empty.
    let _ = fs::remove_dir(&config.pins);
    Ok(())
}

/// All that is in a directory, but for the two files (`maps.debug`, `progs.debug`) that the kernel
/// itself puts at the root of each bpffs and nobody can take away. No other name there has a dot
/// (`bpf_lookup` in kernel/bpf/inode.c).
fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let found = fs::read_dir(directory).map_err(file_error("read", directory))?;
    let is_kernels = |path: &PathBuf| path.extension().is_some();
    Ok(found.flatten().map(|entry| entry.path()).filter(|path| !is_kernels(path)).collect())
}

/// Unpins a program, or whatever it is: links first, so that nothing decides without its maps.
fn remove(path: &Path) -> Result<(), Error> {
    if path.is_symlink() || !path.is_dir() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(file_error("remove", path)(error))
            }
            _ => Ok(()),
        };
    }
    let mut inside = entries(path)?;
    inside.sort_by_key(|path| !path.to_string_lossy().contains("/link-"));
    inside.iter().try_for_each(|path| remove(path))?;
    fs::remove_dir(path).map_err(file_error("remove", path))
}

/// The number of the program that a pinned link attaches to a hook; `None` if it is no such link.
/// Asked in text: the kernel answers a question about a link for any kind of object, and what it
/// says of a map, read as a link's, has numbers where a link has pointers.
fn program_of(link: &Path) -> Option<u32> {
    let link = Link::open(link).ok()?;
    let info =
        fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_fd().as_raw_fd())).ok()?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("link_type:")? != "netfilter" {
        return None;
    }
    field("prog_id:")?.parse().ok()
}

/// The numbers of the maps that a program reads; `None` if it cannot be asked.
#[expect(
    unsafe_code,
    reason = "the library asks for the maps of all programs of the machine or none"
)]
fn maps_of(program: u32) -> Option<Vec<u32>> {
    // SAFETY: takes a number; the descriptor is checked and owned by nobody else.
    let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(program) };
    if fd < 0 {
        return None;
    }
    // SAFETY: `fd` is open and was just made.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut maps = vec![0_u32; 64];
    let mut info = libbpf_sys::bpf_prog_info {
        nr_map_ids: 64,
        map_ids: maps.as_mut_ptr() as u64,
        ..libbpf_sys::bpf_prog_info::default()
    };
    let mut size = u32::try_from(size_of_val(&info)).ok()?;
    // SAFETY: the kernel writes `size` bytes, which `info` has, and as many numbers as it is told
    // there is room for.
    let done = unsafe {
        libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut size)
    };
    if done != 0 {
        return None;
    }
    maps.truncate(usize::try_from(info.nr_map_ids).ok()?);
    Some(maps)
}
