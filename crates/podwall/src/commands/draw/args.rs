//! What can be typed after `podwall draw`?

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::{By, Source, with_codes};

const EXAMPLES: &str = "\
Examples:
  $ podwall draw -f three-tier/
  podwall.html: 3 workloads in 1 namespace; open it in a browser

  $ podwall draw -o svg -f three-tier/ > three-tier.svg
  $ podwall draw --out docs/network.svg -f shop/
  $ podwall draw --focus shop/Deployment/cart -f shop/
  $ podwall draw --focus namespace/shop --out shop.html
  $ podwall draw -f new/ --against old/ --out change.html";

/// A picture of who can reach whom: a page that answers, SVG, DOT or Mermaid.
#[derive(Args, Debug)]
#[command(
    long_about = "\
A picture of who can reach whom: a page that answers, SVG, DOT or Mermaid.

Without -o and --out a page is written to podwall.html: one file that needs no network, with a map, \
a matrix, a search, and the rules with file and line behind each line and cell. With -o alone the \
picture goes to stdout.

What is the same is one line: all workloads of a namespace, every address outside. Where no policy \
holds a workload, a mark on its side says so and no lines do. Of more than 60 workloads namespaces \
are drawn; the page opens each.",
    after_long_help = with_codes(EXAMPLES)
)]
pub(crate) struct Draw {
    /// What to write. Without it --out's ending decides, and a page is the default.
    #[arg(short = 'o', long, value_name = "FORMAT")]
    pub(crate) output: Option<DrawFormat>,
    /// Where to write it; - is stdout.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Draw what changed since these manifests. May be given several times.
    #[arg(long, value_name = "PATH")]
    pub(crate) against: Vec<PathBuf>,
    /// Only this peer, or namespace/NAME, and who has to do with it.
    #[arg(long, value_name = "PEER")]
    pub(crate) focus: Option<String>,
    /// Namespaces as boxes, however few workloads there are.
    #[arg(long, conflicts_with_all = ["expand", "focus"])]
    pub(crate) collapse: bool,
    /// Every workload as a box, however many there are.
    #[arg(long, conflicts_with = "focus")]
    pub(crate) expand: bool,
    /// One box for each workload, or for each pod.
    #[arg(long, value_name = "WHAT", default_value = "workload")]
    pub(crate) by: By,
    /// The heading.
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
    #[command(flatten)]
    pub(crate) source: Source,
}

/// Formats of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DrawFormat {
    /// One page that opens offline: map, matrix, search, rules.
    Html,
    /// A picture.
    Svg,
    /// For Graphviz.
    Dot,
    /// For Markdown that draws Mermaid.
    Mermaid,
}
