//! `podwall diff`.

pub(crate) mod args;
mod git;
mod sides;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use podwall_analysis::difference::{Difference, Future, difference};
use podwall_analysis::matrix;
use podwall_policy::cluster::Cluster;
use podwall_render::diff::{Told, json as render_json, markdown, sarif, text};
use podwall_render::json;

use self::args::{Diff, DiffFormat};
use self::git::{Range, Repository};
use crate::cli::By;
use crate::output::{Failure, NO, UNKNOWN, YES, print};
use crate::source::{Objects, Options, from_inputs, load, load_with_entrances};

/// Both sides, ready to be compared.
struct Sides {
    clusters: [Cluster; 2],
    names: [String; 2],
    notes: Vec<String>,
    left_out: Vec<String>,
}

pub(crate) fn run(command: &Diff) -> Result<ExitCode, Failure> {
    let sides = sides(command)?;
    let by = match command.by {
        By::Pod => matrix::By::Pod,
        By::Workload => matrix::By::Workload,
    };
    let [before, after] = &sides.clusters;
    let found = difference(before, after, by);
    let nobody = sides.clusters.iter().all(|cluster| !sides::has_pods(cluster));
    let asked = command.strict || command.output == DiffFormat::Json || found.is_nothing();
    let future = asked.then(|| found.future());
    let code = code(&found, future.as_ref().filter(|_| command.strict || nobody));
    let Sides { names, notes, left_out, .. } = sides;
    let told = Told { difference: &found, names, future, notes, left_out };
    print(&match command.output {
        DiffFormat::Text => text::diff(&told),
        DiffFormat::Json => json::pretty(&render_json::diff(&told))?,
        DiffFormat::Md => markdown::diff(&told),
        DiffFormat::Sarif => sarif::sarif(&told, env!("CARGO_PKG_VERSION"))?,
    })?;
    Ok(ExitCode::from(code))
}

/// What certainly differs goes before what is not known.
fn code(found: &Difference<'_>, future: Option<&Future>) -> u8 {
    match future {
        _ if found.is_certain() => NO,
        Some(Future::Differs(_)) => NO,
        _ if !found.is_nothing() => UNKNOWN,
        Some(Future::Unproved { .. }) => UNKNOWN,
        Some(Future::Same) | None => YES,
    }
}

fn sides(command: &Diff) -> Result<Sides, Failure> {
    match &command.sets[..] {
        [a, b] => {
            if let Some(range) = Range::read(a).or_else(|| Range::read(b)) {
                return Err(Failure::new(format!(
                    "{}.. is a range of revisions, and there is another set beside it",
                    range.before
                ))
                .hint("a range stands alone: podwall diff REV1..REV2 -f PATH"));
            }
            if a == "-" && b == "-" {
                return Err(Failure::new("stdin cannot be both sets"));
            }
            if !command.files.is_empty() {
                return Err(Failure::new("-f goes with revisions")
                    .hint("two sets are named as they are: podwall diff A B")
                    .hint("pods from elsewhere: --with PATH"));
            }
            let objects = [files(command, a)?, files(command, b)?];
            two(command, objects, [a.clone(), b.clone()])
        }
        [set] => match Range::read(set) {
            Some(range) => revisions(command, &range),
            None => one(command, set),
        },
        _ => Err(Failure::new("one or two sets are compared")),
    }
}

fn files(command: &Diff, path: &str) -> Result<Objects, Failure> {
    load_with_entrances(&command.source(vec![PathBuf::from(path)]))
}

fn revisions(command: &Diff, range: &Range) -> Result<Sides, Failure> {
    let repository = Repository::here()?;
    let base = repository.base(range)?;
    let before = repository.at(&base, &command.files)?;
    let after = match &range.after {
        Some(revision) => repository.at(revision, &command.files)?,
        None => repository.now(&command.files)?,
    };
    if before.inputs.is_empty() && after.inputs.is_empty() {
        return Err(Failure::new("neither revision has manifests there").hint(
            "files named *.yaml, *.yml and *.json are read, below this directory or -f PATH",
        ));
    }
    let source = command.source(Vec::new());
    let options = Options { entrances: true, ..Options::default() };
    let read = |texts: &git::Texts| from_inputs(&texts.inputs, &source, &options);
    let objects = [read(&before)?, read(&after)?];
    let first = if range.branched {
        format!("{} ({})", range.before, base.get(..10).unwrap_or(&base))
    } else {
        range.before.clone()
    };
    let second = range.after.clone().unwrap_or_else(|| "the files now".to_owned());
    two(command, objects, [first, second])
}

/// Two sets; pods that they lack come from elsewhere.
fn two(command: &Diff, objects: [Objects; 2], names: [String; 2]) -> Result<Sides, Failure> {
    if command.prune {
        return Err(Failure::new("--prune goes with one set that is applied to a cluster or lab")
            .hint("of two sets each is taken as it is"));
    }
    let mut notes = Vec::new();
    let mut left_out: Vec<String> = objects.iter().flat_map(|its| its.left_out.clone()).collect();
    let mut clusters = objects.map(|its| its.cluster);
    notes.extend(sides::entrances(&clusters));
    let lender = if command.is_live() {
        let live = load(&command.live())?;
        Some((live, whose(command)))
    } else if command.with.is_empty() {
        None
    } else {
        let from = load(&command.source(command.with.clone()))?;
        Some((from, some_paths(&command.with)))
    };
    if let Some((lender, whose)) = lender {
        notes.push(format!("asked of {}", sides::lent(&lender.cluster, &whose)));
        left_out.extend(lender.left_out);
        for cluster in &mut clusters {
            sides::lend(cluster, &lender.cluster);
        }
    }
    for s in [0, 1] {
        if !sides::has_pods(&clusters[s]) && sides::has_pods(&clusters[1 - s]) {
            let other = clusters[1 - s].clone();
            let lent = sides::lent(&other, &names[1 - s]);
            notes.push(format!("{} has no pods: it is asked of {lent}", names[s]));
            sides::lend(&mut clusters[s], &other);
        }
    }
    if clusters.iter().all(|its| !sides::has_pods(its)) {
        notes.push(
            "no set has pods: pods that may come are asked; name workloads with --with PATH, or a \
             cluster with --cluster"
                .to_owned(),
        );
    }
    Ok(Sides { clusters, names, notes, left_out })
}

/// One set, applied to what is there.
fn one(command: &Diff, set: &str) -> Result<Sides, Failure> {
    if !command.is_live() {
        let failure = Failure::new(format!("{set} is compared with nothing"));
        return Err(match Path::new(set).exists() || set == "-" {
            true => failure
                .hint("with another set: podwall diff A B")
                .hint("with what is there: podwall diff B --cluster, or --lab NAME"),
            false => failure
                .hint("there is no such file; for a revision write podwall diff REV..")
                .hint("(REV against the files now) or podwall diff REV1..REV2"),
        });
    }
    if !command.files.is_empty() || !command.with.is_empty() {
        return Err(Failure::new("-f and --with do not go with one set")
            .hint("podwall diff B --cluster applies B to the cluster"));
    }
    let files = files(command, set)?;
    let live = load(&command.live())?;
    let whose = whose(command);
    let (after, mut notes) =
        sides::apply(&live.cluster, &files.objects, &files.cluster, command.prune);
    let left_out = files.left_out.into_iter().chain(live.left_out).collect();
    let names = [whose.clone(), format!("{whose} with {set}")];
    notes.insert(0, format!("asked of {}", sides::lent(&live.cluster, &whose)));
    Ok(Sides { clusters: [live.cluster, after], names, notes, left_out })
}

fn whose(command: &Diff) -> String {
    match (&command.lab, &command.context) {
        (Some(lab), _) => format!("lab {lab}"),
        (None, Some(context)) => format!("cluster {context}"),
        (None, None) => "the cluster".to_owned(),
    }
}

fn some_paths(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    podwall_render::words::some(&names, 3)
}
