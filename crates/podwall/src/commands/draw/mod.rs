//! `podwall draw`.
//!
//! ```text
//!   objects, those before ──▶ picture ──view──▶ scene ──▶ html, svg, dot, mermaid ──▶ file, stdout
//! ```

pub(crate) mod args;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use podwall_analysis::matrix;
use podwall_analysis::peer::resolve;
use podwall_analysis::picture::scene::{Scene, View};
use podwall_analysis::picture::{MOST_ROWS, Picture, picture};
use podwall_render::draw;

use self::args::{Draw, DrawFormat};
use crate::cli::{By, Source};
use crate::output::{Failure, print, remark};
use crate::source::{Objects, load};

/// Where the page goes if nothing else is said.
const PAGE: &str = "podwall.html";
/// What each page of ours has near its beginning.
const OURS: &str = "content=\"podwall draw\"";
/// As many boxes as one sheet has at most around a focus, before others are drawn as namespaces.
const AROUND: usize = 40;

pub(crate) fn run(command: &Draw) -> Result<ExitCode, Failure> {
    let format = format(command)?;
    let objects = load(&command.source)?;
    let before = before(command)?;
    let by = match command.by {
        By::Pod => matrix::By::Pod,
        By::Workload => matrix::By::Workload,
    };
    let picture =
        picture(&objects.cluster, before.as_ref().map(|b| &b.cluster), by).map_err(|rows| {
            Failure::new(format!(
                "{rows} workloads and classes of addresses are more than a picture holds"
            ))
            .hint(format!(
                "it holds {MOST_ROWS}; draw one namespace's manifests, or ask podwall matrix"
            ))
        })?;
    let view = view(command, &picture, &objects, by)?;
    let scene = Scene::of(&picture, &view);
    let title = command.title.clone().unwrap_or_else(|| title(command));
    let text = match format {
        DrawFormat::Html => draw::html(&picture, &scene, &title)?,
        DrawFormat::Svg => draw::svg(&picture, &scene, &title),
        DrawFormat::Dot => draw::dot(&picture, &scene, &title),
        DrawFormat::Mermaid => draw::mermaid(&picture, &scene),
    };
    let path = match (&command.out, command.output) {
        (Some(path), _) if path.as_os_str() == "-" => None,
        (Some(path), _) => Some(path.clone()),
        (None, Some(_)) => None,
        (None, None) => Some(default_file()?),
    };
    let Some(path) = path else {
        print(&text)?;
        return Ok(ExitCode::SUCCESS);
    };
    fs::write(&path, text)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    let open = if format == DrawFormat::Html { "; open it in a browser" } else { "" };
    remark(&format!("{}: {}{open}\n", path.display(), draw::summary(&picture)));
    Ok(ExitCode::SUCCESS)
}

fn format(command: &Draw) -> Result<DrawFormat, Failure> {
    if let Some(format) = command.output {
        return Ok(format);
    }
    let Some(path) = command.out.as_deref().filter(|path| path.as_os_str() != "-") else {
        return Ok(DrawFormat::Html);
    };
    match path.extension().and_then(|end| end.to_str()) {
        Some("html" | "htm") => Ok(DrawFormat::Html),
        Some("svg") => Ok(DrawFormat::Svg),
        Some("dot" | "gv") => Ok(DrawFormat::Dot),
        Some("mmd" | "mermaid") => Ok(DrawFormat::Mermaid),
        _ => Err(Failure::new(format!(
            "what should be written to {} cannot be told",
            path.display()
        ))
        .hint("let it end in .html, .svg, .dot or .mmd, or add -o FORMAT")),
    }
}

/// The objects before, from files.
fn before(command: &Draw) -> Result<Option<Objects>, Failure> {
    if command.against.is_empty() {
        return Ok(None);
    }
    let source = Source {
        files: command.against.clone(),
        keep_going: command.source.keep_going,
        ..Source::default()
    };
    load(&source).map(Some)
}

fn view(
    command: &Draw,
    picture: &Picture,
    objects: &Objects,
    by: matrix::By,
) -> Result<View, Failure> {
    if let Some(focus) = &command.focus {
        if let Some(name) = focus.strip_prefix("namespace/").or_else(|| focus.strip_prefix("ns/")) {
            let space = picture.spaces.iter().position(|space| space.name == name);
            return match space {
                Some(space) => Ok(View::namespace(picture, space)),
                None => Err(Failure::new(format!("no workload is in a namespace {name}")).hint(
                    format!(
                        "there are {}",
                        picture
                            .spaces
                            .iter()
                            .map(|s| &*s.name)
                            .take(20)
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                )),
            };
        }
        let peer = resolve(&objects.cluster, focus, &objects.namespace)?;
        let rows = picture.rows_of(&objects.cluster, &peer, by);
        if rows.is_empty() {
            return Err(Failure::new(format!("{focus} is no box of this picture"))
                .hint("it has no running pods"));
        }
        return Ok(View::rows(picture, rows, AROUND));
    }
    let workloads = picture.rows.iter().filter(|row| row.space().is_some()).count();
    let few = workloads <= draw::FEW || picture.spaces.len() < 2 && workloads <= 2 * draw::FEW;
    Ok(if command.expand || (few && !command.collapse) {
        View::everything(picture)
    } else {
        View::overview(picture)
    })
}

fn title(command: &Draw) -> String {
    let what = match &command.focus {
        Some(focus) => format!("Who has to do with {}", focus.trim_start_matches("namespace/")),
        None => "Who can reach whom".to_owned(),
    };
    if command.against.is_empty() { what } else { format!("{what}: what changes") }
}

/// The default file; one that something else has written is left alone.
fn default_file() -> Result<PathBuf, Failure> {
    let path = Path::new(PAGE);
    match fs::read_to_string(path) {
        Ok(text) if text.get(..4096).unwrap_or(&text).contains(OURS) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        _ => {
            return Err(Failure::new(format!("{PAGE} is there and no page of podwall draw"))
                .hint("say where to write with --out FILE"));
        }
    }
    Ok(path.to_owned())
}
