//! What `podwall test` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::{Source, with_codes};

const TEST_EXAMPLES: &str = "\
A file of assertions:
  assertions:
  - name: only the web servers reach the application
    only: {into: app-pod, from: web-pod, ports: 5000}
  - deny: {from: internet, to: [app-pod, db-pod]}

Examples:
  $ podwall test three-tier.test.yaml -f three-tier/
  ok       only the web servers reach the application
  ok       internet does not reach app-pod, db-pod

  all 2 assertions hold

  $ podwall test shop.test.yaml --lab NAME             with packets, too
  $ podwall test shop.test.yaml -o junit > report.xml  on the cluster of kubectl
  $ podwall test --write shop.test.yaml -f shop/       a first file, from what holds
  $ podwall test --mutate shop.test.yaml -f shop/      what would nobody notice?";

/// Do the assertions of a file hold?
#[derive(Args, Debug)]
#[command(
    long_about = "\
Do the assertions of a file hold?

An assertion says what has to pass (allow), what must not (deny), who alone may (only), who has to \
be isolated (isolated), or that nothing passes but what the file's other assertions let pass \
(nowhereElse). `podwall schema test-file` describes the file.

Assertions are evaluated on the policies, in milliseconds. What depends on a missing fact does not \
hold: it is unknown, and the fact is named. With --lab packets are sent as well, and an assertion \
holds if both say so; beside each packet that must be dropped goes one that has to arrive, so that \
nothing passes for shut because nobody is there.",
    after_long_help = with_codes(TEST_EXAMPLES)
)]
pub(crate) struct Test {
    /// The file of assertions; - is stdin.
    #[arg(value_name = "FILE", required_unless_present = "write")]
    pub(crate) file: Option<PathBuf>,
    /// Write a first file from what holds today, to FILE (which must not exist yet) or stdout.
    #[arg(long, conflicts_with_all = ["mutate", "output", "without_packets"])]
    pub(crate) write: bool,
    /// Change the policies in one place at a time and say which changes no assertion notices.
    #[arg(long)]
    pub(crate) mutate: bool,
    /// With --lab: only evaluate, send no packets.
    #[arg(long = "static", requires = "lab")]
    pub(crate) without_packets: bool,
    /// How to answer.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: TestFormat,
    #[command(flatten)]
    pub(crate) source: Source,
}

/// Formats of a test's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TestFormat {
    /// For people.
    Text,
    /// For programs; `podwall schema test` describes it.
    Json,
    /// For CI systems.
    Junit,
    /// Test Anything Protocol, version 14.
    Tap,
}
