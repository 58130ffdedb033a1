//! `podwall explain`.

use std::process::ExitCode;

use crate::cli::Explain;
use crate::output::Failure;

pub(crate) fn run(_command: &Explain) -> Result<ExitCode, Failure> {
    Err(Failure::new("explain is not there yet"))
}
