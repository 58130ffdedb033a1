//! How does a program of this machine run as if it were in a pod?
//!
//! ```text
//!   caller ── Holder::run ──▶ lab's user, mount, pid namespaces
//!                               └─ the pod's network namespace
//!                                  own mount namespace: resolv.conf, hosts, nsswitch.conf
//!                                  own UTS namespace: host name            ──▶ execvp(program)
//! ```
//!
//! Standard input, output and the terminal are the caller's (who has the terminal when is in
//! `holder/terminal.rs`); the exit code comes back. The program ends with the lab.

use std::ffi::{CString, NulError, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{execvpe, sethostname};

use crate::holder::{Holder, HolderError, default_signal};
use crate::netns::NetNs;
use crate::rpc::ExecPlace;

/// The exit code of a program that was not found, as shells have it.
const NOT_FOUND: i32 = 127;
/// The exit code of a program that could not be run.
const CANNOT_RUN: i32 = 126;

/// Runs a program in a pod and waits for it. The process must have a single thread.
pub fn run(
    holder: &Holder,
    place: &ExecPlace,
    command: &[OsString],
) -> Result<ExitStatus, HolderError> {
    let directory = std::env::current_dir().ok();
    holder.run_in_foreground(|| {
        if let Err(error) = move_in(holder, place) {
            eprintln!("podwall: cannot enter the pod: {error}");
            return CANNOT_RUN;
        }
        // Where the caller stands, if that exists inside.
        if let Some(directory) = &directory {
            let _ = std::env::set_current_dir(directory);
        }
        let arguments: Result<Vec<CString>, _> =
            command.iter().map(|a| CString::new(a.as_bytes())).collect();
        let Ok(arguments) = arguments else {
            eprintln!("podwall: an argument has a NUL byte");
            return CANNOT_RUN;
        };
        let Some(program) = arguments.first() else { return CANNOT_RUN };
        let Ok(environment) = environment(place) else { return CANNOT_RUN };
        // Rust ignores SIGPIPE, and what is ignored is inherited; programs expect to die of it.
        default_signal(Signal::SIGPIPE);
        let Err(error) = execvpe(program, &arguments, &environment);
        let name = OsStr::from_bytes(program.as_bytes()).display();
        match error {
            nix::Error::ENOENT => {
                eprintln!(
                    "podwall: {name}: not found; programs of this machine run in pods, no image is \
                     pulled"
                );
                NOT_FOUND
            }
            error => {
                eprintln!("podwall: {name}: {error}");
                CANNOT_RUN
            }
        }
    })
}

/// The caller's environment without what tells a program that it runs in some *other* cluster, and
/// with the pod's host name.
fn environment(place: &ExecPlace) -> Result<Vec<CString>, NulError> {
    let kept = std::env::vars_os()
        .filter(|(name, _)| name != "HOSTNAME" && !name.as_bytes().starts_with(b"KUBERNETES_"));
    let own = (OsString::from("HOSTNAME"), OsString::from(host_name(&place.hostname)));
    kept.chain([own])
        .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect()
}

/// The exit code of a status: a program that a signal ended has 128 and the signal's number.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Moves this process, which has a single thread, into the pod.
fn move_in(holder: &Holder, place: &ExecPlace) -> Result<(), Box<dyn std::error::Error>> {
    NetNs::open(Path::new(&place.netns))?.enter_thread()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    sethostname(host_name(&place.hostname))?;
    let mut files = Files::new(&holder.inside())?;
    let mut texts = [("/etc/resolv.conf", &place.resolv_conf), ("/etc/hosts", &place.hosts)];
    // Missing ones first: the copy of their directory would hide what was laid over it before.
    texts.sort_by_key(|(target, _)| fs::canonicalize(target).is_ok());
    for (target, text) in texts {
        files.put(target, text)?;
    }
    if let Ok(text) = fs::read_to_string(NSSWITCH) {
        files.put(NSSWITCH, &names_by_files_and_dns(&text))?;
    }
    // A cache of the host's names would answer past the pod's name server.
    if Path::new("/run/nscd").is_dir() {
        mount(Some("none"), "/run/nscd", Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>)?;
    }
    // /sys shows the interfaces of the namespace that mounted it.
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>);
    files.finish();
    Ok(())
}

/// The pod's host name as the kubelet makes it: at most 63 characters, and no `-` or `.` at the end.
fn host_name(pod: &str) -> &str {
    const LONGEST: usize = 63;
    pod.get(..LONGEST).unwrap_or(pod).trim_end_matches(['-', '.'])
}

/// Which services look names up (`nsswitch.conf(5)`).
const NSSWITCH: &str = "/etc/nsswitch.conf";

/// The host's name services with `files dns` for host names: others (systemd-resolved, mDNS) ask
/// services of the host, by sockets that no network namespace holds back.
fn names_by_files_and_dns(nsswitch: &str) -> String {
    let lines = nsswitch.lines().filter(|line| !line.trim_start().starts_with("hosts:"));
    lines.chain(["hosts: files dns"]).map(|line| format!("{line}\n")).collect()
}

/// Texts in place of files of the host, for this mount namespace alone.
struct Files {
    /// A directory that nobody else uses.
    own: PathBuf,
    /// The directory that a copy lies over, if any does.
    overlaid: Option<PathBuf>,
}

// === impl Files ===

impl Files {
    fn new(inside: &Path) -> io::Result<Self> {
        let all = inside.join("exec");
        fs::create_dir_all(&all)?;
        // Process numbers come round, and what an earlier program left may still be in use.
        for n in 0u32.. {
            let own = all.join(format!("{}-{n}", std::process::id()));
            match fs::create_dir(&own) {
                Ok(()) => return Ok(Self { own, overlaid: None }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Puts a text over a file. The file may be a symbolic link; what it leads to is covered. It
    /// may be missing; a mount needs something to lie on, so then its whole directory is covered
    /// with a copy that can be written to.
    fn put(&mut self, target: &str, text: &str) -> io::Result<()> {
        let Ok(existing) = fs::canonicalize(target) else {
            return self.put_anew(Path::new(target), text);
        };
        let source = self.own.join("file");
        fs::write(&source, text)?;
        let mounted = mount(Some(&source), &existing, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        // The mount keeps the file; its name is not needed any more.
        fs::remove_file(&source)?;
        mounted.map_err(io::Error::from)
    }

    fn put_anew(&mut self, target: &Path, text: &str) -> io::Result<()> {
        let directory = target.parent().unwrap_or(Path::new("/"));
        if self.overlaid.as_deref() != Some(directory) {
            let (upper, work) = (self.own.join("upper"), self.own.join("work"));
            fs::create_dir(&upper)?;
            fs::create_dir(&work)?;
            let options = format!(
                "lowerdir={},upperdir={},workdir={}",
                directory.display(),
                upper.display(),
                work.display()
            );
            let none = MsFlags::empty();
            mount(Some("overlay"), directory, Some("overlay"), none, Some(options.as_str()))?;
            self.overlaid = Some(directory.to_owned());
        }
        match fs::remove_file(target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::write(target, text),
        }
    }

    /// The mounts keep what they need; only an overlay's directories have to stay.
    fn finish(self) {
        if self.overlaid.is_none() {
            // A directory of the lab's memory; it ends with the lab at the latest.
            let _ = fs::remove_dir(self.own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_cut_as_the_kubelet_cuts_them() {
        assert_eq!(host_name("web-0"), "web-0");
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(30));
        assert_eq!(host_name(&long), "a".repeat(62));
        assert_eq!(host_name(&"c".repeat(64)).len(), 63);
    }

    #[test]
    fn names_are_looked_up_in_the_pods_files_and_dns_alone() {
        let host = "passwd: files systemd\nhosts: mymachines resolve [!UNAVAIL=return] files dns\n";
        let text = names_by_files_and_dns(host);
        assert_eq!(text, "passwd: files systemd\nhosts: files dns\n");
    }
}
