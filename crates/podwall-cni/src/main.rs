//! The CNI plugin of Podwall, and its installer.
//!
//! ```text
//!   CNI_COMMAND is set: a runtime calls ──▶ plugin::run
//!   else:               a person does   ──▶ install, uninstall, --help
//! ```

use std::io::{self, Write as _};
use std::process::ExitCode;

use podwall_cni::plugin;

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_none() {
        return ExitCode::FAILURE;
    }
    let get = |name: &str| std::env::var(name).ok();
    let outcome = plugin::run(get, io::stdin().lock());
    for note in &outcome.notes {
        // A runtime that closed its end does not want to know.
        let _ = writeln!(io::stderr(), "podwall-cni: {note}");
    }
    let written = match outcome.output.as_str() {
        "" => Ok(()),
        output => writeln!(io::stdout(), "{output}"),
    };
    if outcome.ok && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
