//! Can this kernel, and this process, have the eBPF data plane; and if not, why?
//!
//! ```text
//!   release, BTF, rights (Facts) ──▶ check ──▶ load ── refused: answer, verifier's log ──▶ Missing
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libbpf_rs::{ErrorKind, PrintLevel};
use nix::sys::utsname::uname;

use crate::Error;

/// NETFILTER programs came with 6.4.
const NEEDED: (u32, u32) = (6, 4);

/// Where the kernel describes its types.
const TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Bits of `CapEff` (linux/capability.h).
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_BPF: u64 = 1 << 39;

/// Why the eBPF data plane is not possible here, as the end of a sentence.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The kernel is older than netfilter programs.
    #[error("it needs kernel 6.4 or later, this is {release}")]
    Kernel {
        /// What runs, as in `uname -r`.
        release: String,
    },
    /// The kernel does not describe its types.
    #[error("it needs BTF, and this kernel has no {TYPES} (CONFIG_DEBUG_INFO_BTF)")]
    Types,
    /// The process has not the rights.
    #[error("it needs root{0}")]
    Root(&'static str),
    /// No bpffs can be mounted.
    #[error("it needs a bpffs, and none can be mounted on {}: {source}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Something above the rights forbids it.
    #[error("{by} forbids this process to load eBPF programs")]
    Forbidden {
        /// A security module, a lockdown.
        by: String,
    },
    /// The verifier refuses the program.
    #[error("this kernel's verifier refuses the program: {0}")]
    Verifier(String),
}

/// What of machine and process says whether eBPF is possible. Each is empty if it cannot be read.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// `/proc/self/uid_map`.
    uid_map: String,
    /// `CapEff` of `/proc/self/status`; `None`: unknown.
    rights: Option<u64>,
    /// `/sys/kernel/security/lockdown`: the mode in force stands in brackets.
    lockdown: String,
    /// `/sys/kernel/security/lsm`: modules, by commas.
    modules: String,
    /// `/proc/sys/kernel/unprivileged_bpf_disabled`.
    unprivileged: String,
}

impl Facts {
    fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let status = text("/proc/self/status");
        let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Self {
            uid_map: text("/proc/self/uid_map"),
            rights: rights.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()),
            lockdown: text("/sys/kernel/security/lockdown"),
            modules: text("/sys/kernel/security/lsm"),
            unprivileged: text("/proc/sys/kernel/unprivileged_bpf_disabled"),
        }
    }

    /// The rights that are asked for before anything is tried. Netfilter programs are not for
    /// unprivileged users whatever `unprivileged_bpf_disabled` says (`bpf_prog_load` in
    /// kernel/bpf/syscall.c), and rights count in the machine's own user namespace only (`capable`).
    fn has_rights(&self) -> Result<(), Missing> {
        let own_users = |map: &str| {
            let numbers: Vec<&str> = map.split_whitespace().collect();
            numbers != ["0", "0", "4294967295"]
        };
        if !self.uid_map.is_empty() && own_users(&self.uid_map) {
            let why = "; a user namespace's root, as in ordinary users' labs, is not enough";
            return Err(Missing::Root(why));
        }
        let enough = |rights: u64| {
            let both = CAP_BPF | CAP_NET_ADMIN;
            rights & CAP_SYS_ADMIN != 0 || rights & both == both
        };
        match self.rights {
            Some(rights) if !enough(rights) => Err(Missing::Root(", or CAP_BPF and CAP_NET_ADMIN")),
            _ => Ok(()),
        }
    }

    /// Why the kernel said EPERM to a process that has the rights.
    fn forbidden(&self) -> Missing {
        if let Err(missing) = self.has_rights() {
            return missing;
        }
        let locked = self.lockdown.split(['[', ']']).nth(1).filter(|mode| *mode != "none");
        let by = match (locked, &*self.modules, &*self.unprivileged) {
            (Some(mode), ..) => format!("kernel lockdown ({mode}, see kernel_lockdown(7))"),
            (_, "", "") => "a security module or a seccomp filter".to_owned(),
            (_, "", setting) => {
                format!("a seccomp filter (kernel.unprivileged_bpf_disabled is {setting})")
            }
            (_, modules, _) => format!("a security module ({modules}) or a seccomp filter"),
        };
        Missing::Forbidden { by }
    }
}

/// # Errors
/// The first thing that is missing, without trying anything.
pub(super) fn check() -> Result<(), Error> {
    let name = uname()
        .map_err(|e| Error::Socket { doing: "ask for the kernel's version", source: e.into() })?;
    let release = name.release().to_string_lossy();
    Ok(possible(&release, Path::new(TYPES).exists(), &Facts::read())?)
}

fn possible(release: &str, types: bool, facts: &Facts) -> Result<(), Missing> {
    if !is_enough(release) {
        return Err(Missing::Kernel { release: release.to_owned() });
    }
    if !types {
        return Err(Missing::Types);
    }
    facts.has_rights()
}

/// A release whose numbers cannot be read is given the benefit of the doubt: loading will tell.
fn is_enough(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= NEEDED,
        _ => true,
    }
}

/// Why a bpffs cannot be mounted.
pub(super) fn mount(path: &Path, source: io::Error) -> Missing {
    mount_with(path, source, &Facts::read())
}

fn mount_with(path: &Path, source: io::Error, facts: &Facts) -> Missing {
    match facts.has_rights() {
        Err(missing) if source.kind() == io::ErrorKind::PermissionDenied => missing,
        _ => Missing::Mount { path: path.to_owned(), source },
    }
}

/// What the library printed while it loaded.
static LOG: Mutex<String> = Mutex::new(String::new());
/// One loads at a time: the library has one place for what it prints.
static LOADING: Mutex<()> = Mutex::new(());

#[expect(clippy::needless_pass_by_value, reason = "what the library calls")]
fn keep(_: PrintLevel, text: String) {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    // A verifier's log can have megabytes; what matters stands at its end.
    if log.len() > 1 << 20 {
        log.clear();
    }
    log.push_str(&text);
}

/// Loads something, and says why if the kernel refuses.
///
/// # Errors
/// What the kernel lacks or forbids, in words; any other failure as it came.
pub(super) fn loading<T>(load: impl FnOnce() -> libbpf_rs::Result<T>) -> Result<T, Error> {
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    LOG.lock().unwrap_or_else(PoisonError::into_inner).clear();
    libbpf_rs::set_print(Some((PrintLevel::Warn, keep)));
    let result = load();
    // What goes wrong elsewhere is in the errors; the library would print it, too.
    libbpf_rs::set_print(None);
    result.map_err(|answer| {
        let log = std::mem::take(&mut *LOG.lock().unwrap_or_else(PoisonError::into_inner));
        let denied = answer.kind() == ErrorKind::PermissionDenied;
        match refused(&log, denied, &Facts::read()) {
            Some(missing) => missing.into(),
            None => Error::Bpf { doing: "load the eBPF program".to_owned(), answer },
        }
    })
}

/// The verifier says EACCES or EINVAL and writes a log; what forbids loading says EPERM before there
/// is one.
fn refused(log: &str, denied: bool, facts: &Facts) -> Option<Missing> {
    match verifiers_words(log) {
        Some(words) => Some(Missing::Verifier(words)),
        None => denied.then(|| facts.forbidden()),
    }
}

/// The lines of a verifier's log in which it says what it does not like: the last ones before its
/// figures that are neither instructions nor states of registers nor lines of the source.
fn verifiers_words(log: &str) -> Option<String> {
    let (_, log) = log.split_once("BEGIN PROG LOAD LOG --")?;
    let log = log.split("-- END PROG LOAD LOG").next()?;
    let is_figure = |line: &&str| {
        let listing = line.split_once(':').is_some_and(|(before, _)| {
            before
                .split_whitespace()
                .next()
                .is_some_and(|word| word.chars().all(|c| c.is_ascii_digit()) && !word.is_empty())
        });
        listing
            || line.is_empty()
            || line.starts_with(';')
            || line.starts_with("processed ")
            || line.starts_with("R0")
            || line.starts_with("from ")
            || line.starts_with("Validating ")
            || line.starts_with("Func#")
    };
    let words: Vec<&str> = log.lines().map(str::trim).filter(|line| !is_figure(line)).collect();
    let last = &words[words.len().saturating_sub(3)..];
    if last.is_empty() { Some("it does not say why".to_owned()) } else { Some(last.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Facts {
        Facts {
            uid_map: "0          0 4294967295".to_owned(),
            rights: Some(0x1ff_ffff_ffff),
            ..Facts::default()
        }
    }

    /// The whole sentence that an operator reads.
    fn words(missing: Missing) -> String {
        Error::from(missing).to_string()
    }

    #[test]
    fn kernels_since_6_4_will_do() {
        for (release, enough) in [
            ("6.18.44", true),
            ("6.4.0-rc1", true),
            ("6.3.13", false),
            ("5.15.0-91-generic", false),
            ("10.0", true),
            ("odd", true),
        ] {
            assert_eq!(is_enough(release), enough, "{release}");
        }
    }

    #[test]
    fn a_machine_that_has_everything_may() {
        assert!(possible("6.18.44", true, &root()).is_ok());
        let few = CAP_BPF | CAP_NET_ADMIN;
        assert!(possible("6.18.44", true, &Facts { rights: Some(few), ..root() }).is_ok());
        // What cannot be read is no reason: loading will tell.
        assert!(possible("6.18.44", true, &Facts::default()).is_ok());
    }

    #[test]
    fn an_old_kernel_is_named() {
        let text = words(possible("5.15.0-91", true, &root()).unwrap_err());
        assert_eq!(
            text,
            "ebpf is not possible here: it needs kernel 6.4 or later, this is 5.15.0-91; \
             take --dataplane auto or nftables"
        );
    }

    #[test]
    fn a_kernel_without_types_is_told_how_it_would_have_them() {
        let text = words(possible("6.8.0", false, &root()).unwrap_err());
        assert_eq!(
            text,
            "ebpf is not possible here: it needs BTF, and this kernel has no \
             /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF); take --dataplane auto or nftables"
        );
    }

    #[test]
    fn a_process_without_rights_is_told_which() {
        let few = Facts { rights: Some(CAP_NET_ADMIN), ..root() };
        assert_eq!(
            words(possible("6.8.0", true, &few).unwrap_err()),
            "ebpf is not possible here: it needs root, or CAP_BPF and CAP_NET_ADMIN; \
             take --dataplane auto or nftables"
        );
        let inside = Facts { uid_map: "0       1000          1".to_owned(), ..root() };
        assert_eq!(
            words(possible("6.8.0", true, &inside).unwrap_err()),
            "ebpf is not possible here: it needs root; a user namespace's root, as in ordinary \
             users' labs, is not enough; take --dataplane auto or nftables"
        );
    }

    #[test]
    fn a_bpffs_that_cannot_be_mounted_is_named_unless_rights_are_what_lacks() {
        let path = Path::new("/run/pins");
        let answer = || io::Error::from(nix::errno::Errno::EPERM);
        let text = words(mount_with(path, answer(), &root()));
        assert!(text.contains("needs a bpffs, and none can be mounted on /run/pins: "), "{text}");
        let few = Facts { rights: Some(0), ..root() };
        let text = words(mount_with(path, answer(), &few));
        assert!(text.contains("needs root"), "{text}");
        let other = io::Error::from(nix::errno::Errno::ENODEV);
        assert!(words(mount_with(path, other, &few)).contains("needs a bpffs"));
    }

    #[test]
    fn who_forbids_it_is_named() {
        let lockdown = "none integrity [confidentiality]".to_owned();
        for (facts, by) in [
            (Facts { lockdown, ..root() }, "kernel lockdown (confidentiality"),
            (
                Facts {
                    lockdown: "[none] integrity".into(),
                    modules: "bpf,selinux".into(),
                    ..root()
                },
                "a security module (bpf,selinux) or a seccomp filter",
            ),
            (Facts { unprivileged: "2".into(), ..root() }, "kernel.unprivileged_bpf_disabled is 2"),
            (root(), "a security module or a seccomp filter"),
            (Facts { rights: Some(0), ..root() }, "it needs root"),
        ] {
            let text = words(refused("", true, &facts).unwrap());
            assert!(text.contains(by), "{by} is not in {text}");
        }
        assert!(refused("", false, &root()).is_none(), "no room, say");
    }

    #[test]
    fn of_a_verifiers_log_the_reason_is_left() {
        let log = "libbpf: prog 'podwall': BPF program load failed: Permission denied\n\
            libbpf: prog 'podwall': -- BEGIN PROG LOAD LOG --\n\
            0: R1=ctx() R10=fp0\n\
            ; if (ct == CT_ESTABLISHED_REPLY) @ podwall.bpf.c:430\n\
            0: (61) r2 = *(u32 *)(r1 +0)          ; R1=ctx() R2_w=scalar()\n\
            from 12 to 14: R0=inv R10=fp0\n\
            14: (85) call bpf_dynptr_from_skb#71021\n\
            calling kernel function bpf_dynptr_from_skb is not allowed\n\
            processed 12 insns (limit 1000000) max_states_per_insn 0\n\
            -- END PROG LOAD LOG --\n\
            libbpf: failed to load object\n";
        for denied in [true, false] {
            let text = words(refused(log, denied, &root()).unwrap());
            assert_eq!(
                text,
                "ebpf is not possible here: this kernel's verifier refuses the program: calling \
                 kernel function bpf_dynptr_from_skb is not allowed; \
                 take --dataplane auto or nftables"
            );
        }
        let empty = "-- BEGIN PROG LOAD LOG --\nprocessed 0 insns\n-- END PROG LOAD LOG --";
        assert_eq!(verifiers_words(empty).unwrap(), "it does not say why");
    }
}
