//! `podwall schema`, `podwall completions`, `podwall man`: pages made from what the program knows
//! of itself.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::cli::{Cli, Completions, Man, Schema};
use crate::output::{Failure, print};

pub(crate) fn schema(command: &Schema) -> Result<ExitCode, Failure> {
    let schema = podwall_render::json::schema(&command.of)
        .ok_or_else(|| Failure::new(format!("no schema for \"{}\"", command.of)))?;
    print(&schema)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn completions(command: &Completions) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut Cli::command(), "podwall", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(command: &Man) -> Result<ExitCode, Failure> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    match &command.dir {
        None => print(&page(&root)?)?,
        Some(dir) => write_all(&root, dir)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn page(command: &clap::Command) -> Result<String, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut text)
        .map_err(|error| Failure::new(format!("cannot make a man page: {error}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Writes `podwall.1`, `podwall-can.1`, … for every command that is not hidden.
fn write_all(command: &clap::Command, dir: &Path) -> Result<(), Failure> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let file = dir.join(format!("{name}.1"));
    fs::write(&file, page(command)?).map_err(|error| {
        Failure::new(format!("cannot write {}: {error}", file.display()))
            .hint("--dir names a directory that exists and may be written to")
    })?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_all(sub, dir)?;
    }
    Ok(())
}
