//! `podwall matrix`.

use std::process::ExitCode;

use crate::cli::Matrix;
use crate::output::Failure;

pub(crate) fn run(_command: &Matrix) -> Result<ExitCode, Failure> {
    Err(Failure::new("matrix is not there yet"))
}
