//! `podwall can SRC DST`.

use std::process::ExitCode;

use podwall_analysis::can::{Answer, Ask, PortAsk, can};
use podwall_analysis::exposure::{Path, paths_into};
use podwall_analysis::fix::patch::patches;
use podwall_analysis::fix::{Fixes, fixes};
use podwall_analysis::peer::{self, Peer, resolve};
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::object::ServicePort;
use podwall_render::patch::unified;
use podwall_render::{json, text};

use crate::cli::{Can, CanFormat};
use crate::output::{Failure, code, print};
use crate::source::{Objects, Options, for_answers, load_as};

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
    let fix = command.fix || command.output == CanFormat::Patch;
    // Only who comes from outside takes a path that an Ingress or a Gateway opens.
    let entrances = peer::is_outside(&command.src);
    let objects =
        load_as(&command.source, &Options { keep_texts: fix, entrances, ..for_answers() })?;
    let cluster = &objects.cluster;
    let namespace = &objects.namespace;
    let src = resolve(cluster, &command.src, namespace)?;
    let dst = resolve(cluster, &command.dst, namespace)?;
    let answer = can(cluster, &src, &dst, &ask)?;
    let fix = fix.then(|| fixes(cluster, &answer));
    let paths = matches!(src, Peer::Outside { .. }).then(|| paths(cluster, &dst, &ask));
    print(&match command.output {
        CanFormat::Text => {
            let mut page = text::can::can(
                cluster,
                &answer,
                paths.as_deref().unwrap_or_default(),
                fix.is_some(),
            );
            if let Some(fix) = &fix {
                page.push_str(&text::fix::fixes(cluster, &objects.texts, fix));
            }
            page
        }
        CanFormat::Json => {
            let mut json = json::can::can(cluster, &answer, paths.as_deref(), &objects.left_out);
            if let Some(json) = &mut json {
                let of = |fix| json::fix::fixes(cluster, &objects.texts, fix);
                json.fix = fix.as_ref().map(of);
            }
            json::pretty(&json)?
        }
        CanFormat::Patch => patch(&objects, &answer, fix.as_ref())?,
    })?;
    Ok(code(answer.verdict))
}

/// The paths from outside to the destination, as far as it was asked for.
fn paths(cluster: &Cluster, dst: &Peer<'_>, ask: &Ask) -> Vec<Path> {
    let mut paths = paths_into(cluster, &dst.pods(cluster));
    match (dst, &ask.port) {
        (Peer::Service(service), port) => paths.retain(|path| {
            path.service == service.name
                && port
                    .as_ref()
                    .is_none_or(|port| service.ports.iter().any(|its| names(path, its, port)))
        }),
        (_, Some(PortAsk::Number(port))) => {
            paths.retain(|path| path.targets.iter().any(|(_, target)| target == port));
        }
        _ => {}
    }
    paths
}

/// Whether a path leads to the port of its Service that was asked for. Objects name a Service's port by
/// number or by name, the Service itself with its protocol.
fn names(path: &Path, its: &ServicePort, asked: &PortAsk) -> bool {
    let is_asked = match asked {
        PortAsk::Number(number) => its.port == *number,
        PortAsk::Name(name) => its.name.as_deref() == Some(&**name),
    };
    let number = its.port.to_string();
    is_asked
        && (path.port == number
            || path.port == format!("{} {number}", its.protocol)
            || its.name.as_deref() == Some(&*path.port))
}

/// The best fix that stands in files.
fn patch(objects: &Objects, answer: &Answer<'_>, fix: Option<&Fixes>) -> Result<String, Failure> {
    let fixes = fix.map(|fix| &fix.fixes[..]).unwrap_or_default();
    let written =
        fixes.iter().find_map(|fix| patches(&objects.texts, &objects.cluster, &fix.changes));
    if let Some(patches) = written {
        return Ok(unified(&patches));
    }
    let failure = Failure::new(format!(
        "no patch turns the answer on {} and {} round",
        answer.src, answer.dst
    ));
    let obstacles = fix.map(|fix| fix.obstacles.join("; ")).unwrap_or_default();
    Err(if obstacles.is_empty() {
        failure.hint("--fix says it in words and commands")
    } else {
        failure.hint(obstacles)
    })
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
