//! What does each command do?

mod can;
pub(crate) mod diff;
pub(crate) mod draw;
mod explain;
pub(crate) mod exposure;
pub(crate) mod generate;
mod lint;
mod matrix;
mod pages;
pub(crate) mod test;
mod watch;

use std::process::ExitCode;

use anstream::ColorChoice;

use crate::cli::{Cli, Color, Command};
use crate::output::Failure;

/// Runs the command and gives the exit code.
pub(crate) fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    match cli.color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
    .write_global();
    match watch::watched(&cli.command) {
        Some(watched) => watch::run(&watched, || once(&cli.command)),
        None => once(&cli.command),
    }
}

fn once(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Can(can) => can::run(can),
        Command::Explain(explain) => explain::run(explain),
        Command::Matrix(matrix) => matrix::run(matrix),
        Command::Diff(args) => diff::run(args),
        Command::Exposure(command) => exposure::run(command),
        Command::Lint(lint) => lint::run(lint),
        Command::Test(args) => test::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Draw(args) => draw::run(args),
        Command::Lab(args) => crate::lab::run(args).map_err(Failure::from),
        Command::Agent(args) => crate::agent::run(args),
        Command::Status(args) => crate::node::status(args),
        Command::Flows(args) => crate::node::flows(args),
        Command::Demo => crate::demo::run().map_err(Failure::from),
        Command::DemoTraffic { target } => crate::demo::traffic(target).map_err(Failure::from),
        Command::Schema(schema) => pages::schema(schema),
        Command::Completions(completions) => pages::completions(completions),
        Command::Man(man) => pages::man(man),
    }
}
