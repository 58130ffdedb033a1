//! How does a program of this machine run as if it were in a pod?
//!
//! ```text
//!   caller ── Holder::run ──▶ lab's user, mount, pid namespaces
//!                               └─ the pod's network namespace
//!                                  own mount namespace: resolv.conf, hosts
//!                                  own UTS namespace: host name            ──▶ execvp(program)
//! ```
//!
//! Standard input, output and the terminal are the caller's; the exit code comes back. The program
//! ends with the lab.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{execvp, sethostname};

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
    holder.run(|| {
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
        // Rust ignores SIGPIPE, and what is ignored is inherited; programs expect to die of it.
        default_signal(Signal::SIGPIPE);
        let Err(error) = execvp(program, &arguments);
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
    sethostname(&place.hostname)?;
    let dir = holder.inside().join("etc");
    fs::create_dir_all(&dir)?;
    cover(&dir, &place.hostname, "/etc/resolv.conf", &place.resolv_conf)?;
    cover(&dir, &place.hostname, "/etc/hosts", &place.hosts)?;
    // /sys shows the interfaces of the namespace that mounted it.
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>);
    Ok(())
}

/// Lays a text over a file. The file may be a symbolic link (then what it leads to is covered) and
/// may be missing (then nothing is done: a mount needs something to lie on).
fn cover(dir: &Path, pod: &str, target: &str, text: &str) -> io::Result<()> {
    let Ok(target) = fs::canonicalize(target) else { return Ok(()) };
    let name = target.file_name().map(OsStr::to_owned).unwrap_or_default();
    let source: PathBuf = dir.join(format!("{pod}-{}-{}", std::process::id(), name.display()));
    fs::write(&source, text)?;
    let mounted = mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    // The mount keeps the file; its name is not needed any more.
    fs::remove_file(&source)?;
    mounted.map_err(io::Error::from)
}
