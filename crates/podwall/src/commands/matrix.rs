//! `podwall matrix`.

use std::process::ExitCode;

use podwall_analysis::matrix;
use podwall_policy::port::{PortRange, PortSet, Protocol};
use podwall_render::{json, text};

use crate::cli::{By, Matrix, MatrixFormat};
use crate::output::{Failure, print};
use crate::source::load;

pub(crate) fn run(command: &Matrix) -> Result<ExitCode, Failure> {
    let only = only(command)?;
    let objects = load(&command.source)?;
    let by = match command.by {
        By::Pod => matrix::By::Pod,
        By::Workload => matrix::By::Workload,
    };
    let answer = matrix::matrix(&objects.cluster, by, only.as_ref());
    print(&match command.output {
        MatrixFormat::Text => text::matrix::matrix(&answer),
        MatrixFormat::Csv => text::matrix::csv(&answer),
        MatrixFormat::Md => text::matrix::markdown(&answer),
        MatrixFormat::Json => json::pretty(&json::matrix::matrix(&answer, &objects.left_out))?,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The ports that are asked for; `None` for all.
fn only(command: &Matrix) -> Result<Option<PortSet>, Failure> {
    let (protocol, ports) = match (command.protocol, command.port) {
        (None, None) => return Ok(None),
        (_, Some(0)) => {
            return Err(
                Failure::new("--port 0 is not a port").hint("a port is a number from 1 to 65535")
            );
        }
        (Some(protocol), Some(_)) if !protocol.has_ports() => {
            return Err(Failure::new(format!("{protocol} has no ports")).hint("leave --port out"));
        }
        (protocol, Some(port)) => (protocol.unwrap_or(Protocol::TCP), PortRange::one(port)),
        (Some(protocol), None) => (protocol, PortRange::ALL),
    };
    Ok(Some(PortSet::range(protocol, ports)))
}
