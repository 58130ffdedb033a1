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
use podwall_render::patch::{base, unified};
use podwall_render::{json, text};

use crate::cli::{Can, CanFormat};
use crate::output::{Failure, code, print, remark};
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
        if let Some(base) = base(&patches) {
            remark(&format!(
                "the files are outside of this directory: apply the patch with\n  patch -p1 -d {}\n",
                quoted(&base.to_string_lossy())
            ));
        }
        return Ok(unified(&patches));
    }
    let obstacles = fix.map(|fix| fix.obstacles.join("; ")).unwrap_or_default();
    Err(no_patch(answer, !objects.texts.is_empty(), obstacles))
}

/// Why there is none. Objects of a lab or a cluster stand in no file, whatever would turn it round.
fn no_patch(answer: &Answer<'_>, has_files: bool, obstacles: String) -> Failure {
    let (src, dst) = (&answer.src, &answer.dst);
    if !has_files && obstacles.is_empty() {
        return Failure::new(format!(
            "there is no file to patch: the objects of {src} and {dst} come from a lab or a cluster"
        ))
        .hint("--fix says the change as kubectl commands; -f names files");
    }
    let failure = Failure::new(format!("no patch turns the answer on {src} and {dst} round"));
    if obstacles.is_empty() {
        failure.hint("--fix says it in words and commands")
    } else {
        failure.hint(obstacles)
    }
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if path.chars().all(plain) {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', "'\\''"))
}

/// A port by number or by name.
fn port(text: &str) -> Result<PortAsk, Failure> {
    if let Some((port, protocol)) = text.split_once('/') {
        return Err(Failure::new(format!("--port {text} is not a port"))
            .hint(format!("write --port {port} --protocol {}", protocol.to_ascii_uppercase())));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(PortAsk::Name(text.to_owned()));
    }
    match text.parse::<u16>() {
        Ok(number) if number > 0 => Ok(PortAsk::Number(number)),
        _ => Err(Failure::new(format!("--port {text} is not a port"))
            .hint("a port is a number from 1 to 65535, or the name of a container port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_manifest::{Input, read};

    /// `-o patch --lab` said that no patch turns the answer round, where there was nothing to patch.
    #[test]
    fn where_there_is_no_file_that_is_said() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, \
                    image: c}]}\n";
        let input = Input::Text { name: "x".to_owned(), text: text.to_owned() };
        let cluster = read(&[input], &Options::default()).cluster();
        let x = resolve(&cluster, "x", "default").unwrap();
        let outside = resolve(&cluster, "internet", "default").unwrap();
        let answer = can(&cluster, &outside, &x, &Ask::default()).unwrap();
        let said = |files, why: &str| format!("{:?}", no_patch(&answer, files, why.to_owned()));
        assert!(said(false, "").contains("no file to patch"), "{}", said(false, ""));
        assert!(said(false, "").contains("--fix says the change as kubectl"));
        assert!(said(true, "").contains("no patch turns"));
        assert!(said(false, "because").contains("because"));
    }

    /// `--port 53/udp` was taken for the name of a port.
    #[test]
    fn a_port_with_its_protocol_is_told_apart() {
        let said = format!("{:?}", port("53/udp").unwrap_err());
        assert!(said.contains("--port 53 --protocol UDP"), "{said}");
    }
}
