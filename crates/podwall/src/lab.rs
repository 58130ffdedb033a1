//! What does `podwall lab VERB` do?
//!
//! ```text
//!   args ── kinds, files ──▶ Request ──▶ the lab's worker ──▶ reply ──▶ table, YAML, JSON, words
//! ```
//!
//! Everything that changes the lab is the worker's; here is only what people type and read.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use podwall_lab::client::{Client, ClientError};
use podwall_lab::rpc::{Change, Deleted, Manifest, Query, Request, Shown};
use podwall_manifest::{Input, Object, Options};
use serde_json::Value;

pub(crate) mod args;
mod counters;
mod describe;
mod flows;
mod kinds;
pub(crate) mod lifecycle;
mod nodes;
pub(crate) mod probe;
mod table;
mod yaml;

use args::{Apply, Chosen, Delete, Describe, Get, GetOutput, LabArgs, Label, Run, Tables, Verb};

/// Runs one verb. Must be called while the process has one thread: `up` and `exec` fork.
pub(crate) fn run(args: &LabArgs) -> Result<ExitCode> {
    verb(args).or_else(|error| {
        let closed = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
        // A reader that has seen enough (`| head`) is no failure.
        if closed.into_iter().any(|cause| cause.kind() == io::ErrorKind::BrokenPipe) {
            return Ok(ExitCode::SUCCESS);
        }
        Err(error)
    })
}

/// One line to standard output, which may be closed.
fn line(text: &str) -> Result<()> {
    Ok(writeln!(anstream::stdout(), "{text}")?)
}

fn verb(args: &LabArgs) -> Result<ExitCode> {
    let lab = args.lab.as_str();
    match &args.verb {
        Verb::Up(up) => lifecycle::up(up.name.as_deref().unwrap_or(lab), up),
        Verb::Down(down) => lifecycle::down(down.name.as_deref().unwrap_or(lab), down.all),
        Verb::List => lifecycle::list(),
        Verb::Exec(exec) => lifecycle::exec(lab, exec),
        Verb::Apply(apply) => self::apply(&mut nodes::connect(lab)?, apply),
        Verb::Delete(delete) => self::delete(&mut nodes::connect(lab)?, delete),
        Verb::Get(get) => self::get(&mut nodes::connect(lab)?, get),
        Verb::Describe(describe) => self::describe(&mut nodes::connect(lab)?, describe),
        Verb::Label(label) => self::label(&mut nodes::connect(lab)?, label),
        Verb::Run(run) => run_pod(&mut nodes::connect(lab)?, run),
        Verb::Probe(probe) => probe::probe(&mut nodes::connect(lab)?, probe),
        Verb::Flows(flows) => flows::flows(&mut nodes::connect(lab)?, flows),
        Verb::Counters(args) => counters::counters(&mut nodes::connect(lab)?, args),
        Verb::Tables(tables) => self::tables(&mut nodes::connect(lab)?, tables),
    }
}

/// Reads manifests; prints all that is wrong with them, and fails if anything is.
fn read(files: &[PathBuf], namespace: &str) -> Result<Vec<Object>> {
    let inputs: Vec<Input> = files.iter().map(|path| Input::Path(path.clone())).collect();
    let options = Options { default_namespace: namespace.into(), ..Options::default() };
    let reading = podwall_manifest::read(&inputs, &options);
    if !reading.diagnostics.is_empty() {
        let colour = io::stderr().is_terminal();
        eprint!("{}", podwall_manifest::render_all(&reading.diagnostics, colour));
    }
    if reading.has_errors() {
        bail!("nothing was changed: the manifests have errors");
    }
    let skipped: Vec<String> =
        reading.skipped.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if !skipped.is_empty() {
        eprintln!("note: skipped, because policies do not see them: {}", skipped.join(", "));
    }
    Ok(reading.objects)
}

/// Objects as the worker takes them.
pub(crate) fn manifests(objects: Vec<Object>) -> Vec<Manifest> {
    objects
        .into_iter()
        .map(|object| Manifest { places: object.places(), raw: object.raw })
        .collect()
}

fn print_changes(changes: &[Change]) -> Result<()> {
    let mut out = anstream::stdout().lock();
    for change in changes {
        writeln!(out, "{} {}", change.object, change.what)?;
    }
    Ok(())
}

fn apply(client: &mut Client, args: &Apply) -> Result<ExitCode> {
    let objects = manifests(read(&args.files, &args.namespace)?);
    let changes: Vec<Change> = client.call(&Request::Apply { objects })?;
    if changes.is_empty() {
        bail!("no objects in what was given");
    }
    print_changes(&changes)?;
    Ok(ExitCode::SUCCESS)
}

/// The objects that are to be changed. Every one of a kind is meant only if that was said.
fn chosen(words: &[String], choice: &Chosen) -> Result<Vec<Query>> {
    let selector = choice.selector.as_deref();
    let queries = kinds::queries(words, Some(&choice.namespace), selector)?;
    if queries.iter().any(|q| q.name.is_none()) && selector.is_none() && !choice.all {
        bail!("say which: names, -l SELECTOR, or --all");
    }
    Ok(queries)
}

fn delete(client: &mut Client, args: &Delete) -> Result<ExitCode> {
    let mut queries = Vec::new();
    if !args.files.is_empty() {
        for object in read(&args.files, &args.chosen.namespace)? {
            let namespace = Some(object.key.namespace.to_string()).filter(|ns| !ns.is_empty());
            queries.push(Query {
                kind: object.key.kind.to_string(),
                namespace,
                name: Some(object.key.name.to_string()),
                selector: None,
            });
        }
    }
    if !args.what.is_empty() {
        queries.extend(chosen(&args.what, &args.chosen)?);
    }
    if queries.is_empty() {
        bail!("say what to delete: KIND NAME, KIND/NAME, or -f FILE");
    }
    let request = Request::Delete { queries, ignore_not_found: args.ignore_not_found };
    let Deleted { changes, missing } = client.call(&request)?;
    let mut out = anstream::stdout().lock();
    for change in &changes {
        let (kind, name) = change.object.split_once('/').unwrap_or(("", &change.object));
        writeln!(out, "{kind} \"{name}\" deleted")?;
    }
    if changes.is_empty() && missing.is_empty() {
        eprintln!("No resources found");
    }
    for sentence in &missing {
        complain(sentence);
    }
    Ok(ExitCode::from(u8::from(!missing.is_empty())))
}

/// Says that something is not there; the command goes on with what is.
fn complain(sentence: &str) {
    let _ = crate::output::Failure::new(sentence).report();
}

/// What was found, by kind, and how many names were not.
type Found = (Vec<(String, Vec<Shown>)>, u32);

/// Objects of each query; of those that are not there, the number.
fn look_up(client: &mut Client, queries: Vec<Query>) -> Result<Found> {
    let (mut found, mut missing) = (Vec::new(), 0);
    for query in queries {
        let kind = query.kind.clone();
        match client.call::<Vec<Shown>>(&Request::Get { query }) {
            Ok(list) => found.push((kind, list)),
            Err(ClientError::NotFound { message }) => {
                complain(&message);
                missing += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((found, missing))
}

/// Says that nothing was found, and whether the namespace is there at all.
fn nothing_found(client: &mut Client, namespace: Option<&str>) -> Result<()> {
    let Some(namespace) = namespace else {
        eprintln!("No resources found");
        return Ok(());
    };
    let query = Query { kind: "Namespace".to_owned(), namespace: None, name: None, selector: None };
    let list: Vec<Shown> = client.call(&Request::Get { query })?;
    let name = |s: &Shown| Some(s.object.pointer("/metadata/name")?.as_str()?.to_owned());
    let names: Vec<String> = list.iter().filter_map(name).collect();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let hint = match podwall_manifest::nearest(namespace, &known) {
        _ if known.contains(&namespace) => String::new(),
        Some(near) => format!(" There is no such namespace; did you mean {near}?"),
        None => format!(" There is no such namespace; there are {}.", known.join(", ")),
    };
    eprintln!("No resources found in {namespace} namespace.{hint}");
    Ok(())
}

fn get(client: &mut Client, args: &Get) -> Result<ExitCode> {
    let namespace = args.listed.namespace();
    let queries = kinds::queries(&args.what, namespace, args.listed.selector.as_deref())?;
    let one = queries.len() == 1 && queries.first().is_some_and(|q| q.name.is_some());
    let mut groups: Vec<(&'static kinds::Kind, Vec<Shown>)> = Vec::new();
    let (found, missing) = look_up(client, queries)?;
    for (kind, shown) in found {
        let kind = kinds::kind(&kind)?;
        match groups.iter_mut().find(|(known, _)| known.kind == kind.kind) {
            Some((_, list)) => list.extend(shown),
            None => groups.push((kind, shown)),
        }
    }
    let mut out = anstream::stdout().lock();
    let objects = || groups.iter().flat_map(|(_, list)| list.iter().map(|s| s.object.clone()));
    match args.output {
        GetOutput::Json | GetOutput::Yaml => {
            let value = match objects().next() {
                Some(object) if one => object,
                _ => serde_json::json!({"apiVersion": "v1", "kind": "List",
                    "items": objects().collect::<Vec<Value>>()}),
            };
            if args.output == GetOutput::Json {
                serde_json::to_writer_pretty(&mut out, &value)?;
                writeln!(out)?;
            } else {
                write!(out, "{}", yaml::to_yaml(&value)?)?;
            }
        }
        GetOutput::Name => {
            for (kind, list) in &groups {
                for shown in list {
                    let name = shown.object.pointer("/metadata/name").and_then(Value::as_str);
                    writeln!(out, "{}/{}", kind.resource, name.unwrap_or_default())?;
                }
            }
        }
        GetOutput::Table | GetOutput::Wide => {
            let several = groups.iter().filter(|(_, list)| !list.is_empty()).count() > 1;
            let show = table::Show {
                wide: args.output == GetOutput::Wide,
                namespace: args.listed.all_namespaces,
                labels: args.show_labels,
                no_headers: args.no_headers,
                prefix: several,
            };
            let mut first = true;
            for (kind, list) in groups.iter().filter(|(_, list)| !list.is_empty()) {
                if !first {
                    writeln!(out)?;
                }
                first = false;
                write!(out, "{}", table::table(kind, list, show, podwall_lab::store::now()))?;
            }
            if first && missing == 0 {
                let namespaced = groups.iter().any(|(kind, _)| kind.namespaced);
                nothing_found(client, namespace.filter(|_| namespaced))?;
            }
        }
    }
    Ok(ExitCode::from(u8::from(missing > 0)))
}

fn describe(client: &mut Client, args: &Describe) -> Result<ExitCode> {
    let namespace = args.listed.namespace();
    let queries = kinds::queries(&args.what, namespace, args.listed.selector.as_deref())?;
    let cluster = podwall_lab::snapshot::cluster(client)?;
    let mut out = anstream::stdout().lock();
    let mut first = true;
    let (found, missing) = look_up(client, queries)?;
    for (kind, list) in found {
        let kind = kinds::kind(&kind)?;
        for shown in list {
            if !first {
                writeln!(out, "\n")?;
            }
            first = false;
            write!(out, "{}", describe::describe(kind, &shown.object, &cluster))?;
        }
    }
    if first && missing == 0 {
        nothing_found(client, namespace)?;
    }
    Ok(ExitCode::from(u8::from(missing > 0)))
}

fn label(client: &mut Client, args: &Label) -> Result<ExitCode> {
    let is_change = |word: &&String| {
        word.contains('=') || (word.ends_with('-') && !word.contains('/') && word.len() > 1)
    };
    let (changes, objects): (Vec<&String>, Vec<&String>) = args.what.iter().partition(is_change);
    if changes.is_empty() {
        bail!("say what to change: KEY=VALUE sets a label, KEY- removes it");
    }
    let mut labels = Vec::new();
    for word in changes {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word.trim_end_matches('-'), None),
        };
        labels.push((key.to_owned(), value.map(ToOwned::to_owned)));
    }
    let words: Vec<String> = objects.into_iter().cloned().collect();
    let queries = chosen(&words, &args.chosen)?;
    let (mut missing, mut changed) = (0, 0);
    for query in queries {
        let request = Request::Label { query, labels: labels.clone(), overwrite: args.overwrite };
        match client.call::<Vec<Change>>(&request) {
            Ok(changes) => {
                changed += changes.len();
                print_changes(&changes)?;
            }
            Err(ClientError::NotFound { message }) => {
                complain(&message);
                missing += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if changed == 0 && missing == 0 {
        nothing_found(client, Some(&args.chosen.namespace))?;
    }
    Ok(ExitCode::from(u8::from(missing > 0)))
}

fn run_pod(client: &mut Client, args: &Run) -> Result<ExitCode> {
    let mut labels = serde_json::Map::new();
    match &args.labels {
        Some(list) => {
            for pair in list.split(',').filter(|p| !p.is_empty()) {
                let (key, value) =
                    pair.split_once('=').with_context(|| format!("{pair:?} is not KEY=VALUE"))?;
                labels.insert(key.to_owned(), Value::from(value));
            }
        }
        None => drop(labels.insert("run".to_owned(), Value::from(args.name.as_str()))),
    }
    let ports: Vec<Value> =
        args.port.iter().map(|p| serde_json::json!({"containerPort": p})).collect();
    let mut pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": args.name, "namespace": args.namespace, "labels": labels},
        "spec": {"containers": [{"name": args.name, "image": args.image}]}});
    if !ports.is_empty() {
        pod["spec"]["containers"][0]["ports"] = Value::from(ports);
    }
    if let Some(node) = &args.node {
        pod["spec"]["nodeName"] = Value::from(node.as_str());
    }
    let get = Query {
        kind: "Pod".to_owned(),
        namespace: Some(args.namespace.clone()),
        name: Some(args.name.clone()),
        selector: None,
    };
    if client.call::<Vec<Shown>>(&Request::Get { query: get }).is_ok() {
        bail!(
            "pod \"{}\" exists already in namespace {}; `podwall lab delete pod {0}` removes it",
            args.name,
            args.namespace
        );
    }
    let objects = vec![Manifest { raw: pod, places: Value::Null }];
    let changes: Vec<Change> = client.call(&Request::Apply { objects })?;
    print_changes(&changes)?;
    Ok(ExitCode::SUCCESS)
}

fn tables(client: &mut Client, args: &Tables) -> Result<ExitCode> {
    if args.verify {
        let drift: Vec<String> = client.call(&Request::Verify)?;
        for found in &drift {
            line(found)?;
        }
        if drift.is_empty() {
            line("every node's kernel agrees with the model")?;
            return Ok(ExitCode::SUCCESS);
        }
        line("repaired")?;
        return Ok(ExitCode::from(1));
    }
    let nodes: Vec<String> = match &args.node {
        Some(node) => vec![node.clone()],
        None => {
            let query =
                Query { kind: "Node".to_owned(), namespace: None, name: None, selector: None };
            let list: Vec<Shown> = client.call(&Request::Get { query })?;
            let name =
                |s: &Shown| s.object.pointer("/metadata/name")?.as_str().map(ToOwned::to_owned);
            list.iter().filter_map(name).collect()
        }
    };
    for node in nodes {
        let text: String = client.call(&Request::Tables { node })?;
        write!(anstream::stdout(), "{text}")?;
    }
    Ok(ExitCode::SUCCESS)
}
