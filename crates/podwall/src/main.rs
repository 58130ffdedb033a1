//! The `podwall` command.
//!
//! ```text
//!   cli (what was typed) ─▶ source (the objects) ─▶ commands (ask, render) ─▶ output (exit code)
//! ```
//!
//! Nothing is decided here: the answers are those of `podwall-analysis`, the words and JSON those
//! of `podwall-render`.

mod agent;
mod cli;
mod commands;
mod demo;
mod flows;
mod lab;
mod node;
mod output;
mod source;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::parse();
    match arguments.and_then(|cli| commands::run(&cli)) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
