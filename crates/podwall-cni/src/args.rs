//! What can a person ask of the program?
//!
//! ```text
//!   podwall-cni install [--watch] │ uninstall │ --help │ --version
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use podwall_cni::duration;
use podwall_cni::install::{
    BIN_DIR, CONF_DIR, Entry, InstallError, Installation, install, uninstall, watch,
};
use podwall_local::{Otherwise, SOCKET};

/// The CNI plugin of Podwall: pods start with their policies in force.
#[derive(Parser, Debug)]
#[command(
    version,
    long_about = "\
The CNI plugin of Podwall: pods start with their policies in force.

A container runtime calls it for each pod, with CNI_COMMAND in its environment. Called by a person it \
puts itself on a node, or takes itself off."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Write the program and append it to the chain of the node's network.
    Install(InstallArgs),
    /// Take the program and its entries away, and undo what install changed.
    Uninstall(UninstallArgs),
}

#[derive(Args, Debug)]
struct Places {
    /// Where the runtime looks for plugins.
    #[arg(long, default_value = BIN_DIR, value_name = "DIR")]
    bin_dir: PathBuf,
    /// Where the runtime looks for network configurations.
    #[arg(long, default_value = CONF_DIR, value_name = "DIR")]
    conf_dir: PathBuf,
}

#[derive(Args, Debug)]
struct InstallArgs {
    #[command(flatten)]
    places: Places,
    /// Where the agent listens, as the node's own programs see it.
    #[arg(long, default_value = SOCKET, value_name = "PATH")]
    socket: PathBuf,
    /// How long a new pod waits for the agent, in all: 10ms to 110s.
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = time)]
    timeout: String,
    /// What becomes of a pod that the agent does not know in time.
    #[arg(long, default_value = "fail", value_name = "WHAT")]
    on_timeout: OnTimeout,
    /// Let pods send from other source addresses than their own.
    #[arg(long)]
    no_guard: bool,
    /// Stay, and append it again whenever the configuration is written anew.
    #[arg(long)]
    watch: bool,
}

#[derive(Args, Debug)]
struct UninstallArgs {
    #[command(flatten)]
    places: Places,
    /// Leave the program: runtimes that remember a pod's chain (CRI-O) need it to remove the pod.
    #[arg(long)]
    keep_program: bool,
}

/// What becomes of a pod that the agent does not know in time.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnTimeout {
    /// It is made again by the runtime.
    Fail,
    /// It starts, isolated until it is known.
    Isolate,
}

fn time(text: &str) -> Result<String, String> {
    duration(text).map(|_| text.to_owned())
}

/// Does what a person asked.
pub(crate) fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Install(args) => run_install(&args),
        Command::Uninstall(args) => run_uninstall(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::note(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run_install(args: &InstallArgs) -> Result<(), InstallError> {
    let on_timeout = match args.on_timeout {
        OnTimeout::Fail => Otherwise::Fail,
        OnTimeout::Isolate => Otherwise::Isolate,
    };
    let program = std::env::current_exe().map_err(|source| InstallError::File {
        doing: "find",
        path: PathBuf::from("/proc/self/exe"),
        source,
    })?;
    let installation = Installation {
        program,
        bin_dir: args.places.bin_dir.clone(),
        conf_dir: args.places.conf_dir.clone(),
        entry: Entry::new(args.socket.clone(), args.timeout.clone(), on_timeout, !args.no_guard),
    };
    if args.watch {
        return watch(&installation, crate::note);
    }
    crate::note(&install(&installation)?.words());
    Ok(())
}

fn run_uninstall(args: &UninstallArgs) -> Result<(), InstallError> {
    let Places { bin_dir, conf_dir } = &args.places;
    let removed = uninstall(bin_dir, conf_dir, args.keep_program)?;
    for file in &removed.files {
        crate::note(&format!("took podwall-cni out of {}", file.display()));
    }
    if removed.program {
        crate::note(&format!("removed the program from {}", bin_dir.display()));
    }
    if removed.files.is_empty() && !removed.program {
        crate::note("nothing to do: podwall-cni is not installed");
    }
    Ok(())
}
