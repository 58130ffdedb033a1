//! How are paths compared?
//!
//! ```text
//!   round 1   C A E D B     each path for some tens of milliseconds, in an order of its own
//!   round 2   B E A C D     …
//! ```

use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use podwall_compile::testing::dice::Dice;

use crate::load::{Load, Loader};
use crate::site::Site;

/// A path that is compared.
pub(crate) struct Path {
    /// What it is called in errors.
    pub name: String,
    pub site: std::rc::Rc<Site>,
    pub loader: Loader,
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    pub count: usize,
    pub slice: Duration,
}

/// Loads all paths in every round; for each path its rates, one a round.
pub(crate) fn compare(
    paths: &[Path],
    load: Load,
    rounds: Rounds,
    progress: &ProgressBar,
) -> Result<Vec<Vec<f64>>> {
    let mut dice = Dice::seeded(7);
    let mut rates = vec![Vec::with_capacity(rounds.count); paths.len()];
    let run = |path: &Path, slice| -> Result<f64> {
        path.site.forget_connections()?;
        path.loader.run(load, slice).with_context(|| format!("{}, {load:?}", path.name))
    };
    for path in paths {
        run(path, rounds.slice / 2)?; // the first is slower: caches, ARP, lazy allocations
    }
    for _ in 0..rounds.count {
        let mut order: Vec<usize> = (0..paths.len()).collect();
        while let Some(last) = order.len().checked_sub(1) {
            let chosen = order.swap_remove(dice.below(last + 1));
            rates[chosen].push(run(&paths[chosen], rounds.slice)?);
        }
        progress.inc(1);
    }
    Ok(rates)
}

/// A bar for something that takes a while; nothing where nobody looks.
pub(crate) fn progress(length: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg:40} {bar:30} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}
