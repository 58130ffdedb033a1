//! What do people and programs get to read?
//!
//! ```text
//!   parts/*.json ──▶ bench.json   every number, with the machine
//!                    bench.md     tables, with the plots
//!                    *.svg        a plot of every curve
//! ```

mod criterion;
pub(crate) mod machine;
mod markdown;
mod plot;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::results;

/// Puts together what the parts have left, and what `cargo bench` has.
pub(crate) fn write(out: &Path, estimates: Option<&Path>) -> Result<()> {
    let mut parts = results::load(out)?;
    if let Some(directory) = estimates {
        parts.insert("tables".to_owned(), criterion::read(directory));
    }
    // Labs are measured by a program that does not look.
    for part in parts.values_mut().filter(|part| part.machine.is_empty()) {
        part.machine = machine::machine();
    }
    ensure!(!parts.is_empty(), "{}: no part has run yet", results::directory(out).display());
    let plots = plot::draw(out, &parts)?;
    let text = markdown::text(&parts, &plots);
    let json = json!({ "version": 1, "parts": parts });
    for (file, text) in
        [("bench.md", text), ("bench.json", serde_json::to_string_pretty(&json)? + "\n")]
    {
        let path = out.join(file);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    println!("{0}/bench.md, {0}/bench.json and {1} plots", out.display(), plots.len());
    Ok(())
}
