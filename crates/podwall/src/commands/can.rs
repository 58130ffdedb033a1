//! `podwall can SRC DST`.

use std::process::ExitCode;

use podwall_analysis::can::{Ask, PortAsk, can};
use podwall_analysis::peer::resolve;
use podwall_policy::address::Family;
use podwall_render::{json, text};

use crate::cli::{Can, Format};
use crate::output::{Failure, code, print};
use crate::source::load;

pub(crate) fn run(command: &Can) -> Result<ExitCode, Failure> {
    let ask = Ask {
        port: command.port.as_deref().map(port).transpose()?,
        protocol: command.protocol,
        family: match (command.ipv4, command.ipv6) {
            (true, _) => Some(Family::V4),
            (_, true) => Some(Family::V6),
            _ => None,
        },
    };
    let objects = load(&command.source)?;
    let cluster = &objects.cluster;
    let namespace = &objects.namespace;
    let src = resolve(cluster, &command.src, namespace)?;
    let dst = resolve(cluster, &command.dst, namespace)?;
    let answer = can(cluster, &src, &dst, &ask)?;
    print(&match command.output {
        Format::Text => text::can::can(&answer),
        Format::Json => {
            let answer = json::can::can(cluster, &answer, &objects.left_out);
            json::pretty(&answer)?
        }
    })?;
    Ok(code(answer.verdict))
}

/// A port by number or by name.
fn port(text: &str) -> Result<PortAsk, Failure> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(PortAsk::Name(text.to_owned()));
    }
    match text.parse::<u16>() {
        Ok(number) if number > 0 => Ok(PortAsk::Number(number)),
        _ => Err(Failure::new(format!("--port {text} is not a port"))
            .hint("a port is a number from 1 to 65535, or the name of a container port")),
    }
}
