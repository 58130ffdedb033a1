//! The CNI plugin of Podwall, and its installer.
//!
//! ```text
//!   CNI_COMMAND is set: a runtime calls ──▶ plugin::run
//!   else:               a person does   ──▶ install, uninstall, --help
//! ```

mod args;

use std::io::{self, Write as _};
use std::process::ExitCode;

use podwall_cni::plugin;

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_none() {
        return args::run();
    }
    let get = |name: &str| std::env::var(name).ok();
    let outcome = plugin::run(get, io::stdin().lock());
    for line in &outcome.notes {
        note(line);
    }
    let written = match outcome.output.as_str() {
        "" => Ok(()),
        output => writeln!(io::stdout(), "{output}"),
    };
    if outcome.ok && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A line for an operator. Standard output is the runtime's.
fn note(line: &str) {
    // One that closed its end does not want to know.
    let _ = writeln!(io::stderr(), "podwall-cni: {line}");
}
