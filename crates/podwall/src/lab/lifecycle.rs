//! How does a lab come, go, and let people in?

use std::fs;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use podwall_kubelet::Settings;
use podwall_lab::client::{self, Client, Found};
use podwall_lab::exec;
use podwall_lab::holder::{Holder, StartOptions};
use podwall_lab::plan::Families;
use podwall_lab::rpc::{
    Change, DataPlaneInForce, ExecPlace, Hello, LabConfig, NetworkMode, Query, Request, Shown,
};
use podwall_lab::worker::CONFIG_FILE;
use podwall_manifest::Object;

use super::args::{Exec, IpFamily, Network, Up};
use super::{kinds, line, manifests, nodes, print_changes, read};

/// Makes a lab, or applies manifests to one that runs.
pub(crate) fn up(name: &str, args: &Up) -> Result<ExitCode> {
    // Manifests first: a typo must not leave half a lab.
    let objects = read(&args.files, &args.namespace)?;
    let dir = client::lab_dir(name)?;
    let found = client::find_or_clear(&dir)?;
    let made = !matches!(found, Found::Lab(_));
    let holder = match found {
        Found::Lab(holder) => {
            nodes::check_same(&dir, args)?;
            if dir.join(CONFIG_FILE).exists() {
                eprintln!("lab {name} is up already; its nodes and network stay as they are");
            } else {
                eprintln!("lab {name} was cut off while it was made; it is finished now");
                let mut config = config(name, &objects, args);
                let settings = nodes::plan(&mut config, args)?;
                settings.as_ref().map_or(Ok(()), Settings::write)?;
                configure(&holder, &config)?;
            }
            holder
        }
        Found::Rests | Found::Nothing => {
            let mut config = config(name, &objects, args);
            let settings = nodes::plan(&mut config, args)?;
            let holder = Holder::start(&dir, StartOptions::default())?;
            // Before the other one: a lab with that is complete.
            settings.as_ref().map_or(Ok(()), Settings::write)?;
            configure(&holder, &config)?;
            holder
        }
    };
    let (mut client, kubelet) = match nodes::connect_ready(name, &holder) {
        // A lab that cannot work (no nft, say) is not left behind by the command that made it.
        Err(error) if made => {
            let _ = podwall_kubelet::stop(&holder);
            let log = fs::read_to_string(holder.dir().join("worker.log")).unwrap_or_default();
            holder.stop()?;
            let reason = log.lines().rev().find_map(|line| line.strip_prefix("worker ends: "));
            match reason {
                Some(reason) => bail!("lab {name} cannot be made, and was removed again: {reason}"),
                None => return Err(error),
            }
        }
        connected => connected?,
    };
    if !objects.is_empty() {
        let request = Request::Apply { objects: manifests(objects) };
        let changes: Vec<Change> = client.call(&request)?;
        print_changes(&changes)?;
    }
    let hello: Hello = client.call(&Request::Hello)?;
    let pods: Vec<Shown> = client.call(&Request::Get {
        query: Query { kind: "Pod".to_owned(), namespace: None, name: None, selector: None },
    })?;
    let enforced = match (&kubelet, hello.config.enforce) {
        (Some(reply), _) if !reply.agents.is_empty() => "agents enforce policies",
        (_, true) => "policies are enforced",
        (_, false) => "firewall off",
    };
    line(&format!(
        "lab {name} is up: {} nodes, {} pods, {enforced}",
        hello.config.nodes.len(),
        pods.len()
    ))?;
    for words in dataplanes(&hello.dataplanes) {
        line(&words)?;
    }
    kubelet.iter().try_for_each(nodes::tell)?;
    Ok(ExitCode::SUCCESS)
}

/// One line for all nodes, unless they differ.
fn dataplanes(in_force: &[DataPlaneInForce]) -> Vec<String> {
    let mut words: Vec<(String, Vec<&str>)> = Vec::new();
    for DataPlaneInForce { node, dataplane, instead } in in_force {
        let why = instead.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        let text = format!("data plane: {dataplane}{why}");
        match words.iter_mut().find(|(known, _)| *known == text) {
            Some((_, nodes)) => nodes.push(node),
            None => words.push((text, vec![node])),
        }
    }
    let differ = words.len() > 1;
    let line = |(text, nodes): (String, Vec<&str>)| {
        if differ { format!("{text} on {}", nodes.join(", ")) } else { text }
    };
    words.into_iter().map(line).collect()
}

fn config(name: &str, objects: &[Object], args: &Up) -> LabConfig {
    LabConfig {
        name: name.to_owned(),
        nodes: node_names(objects, args),
        network: match args.network {
            Network::Ptp => NetworkMode::Ptp,
            Network::Bridge => NetworkMode::Bridge,
        },
        families: families(args.ip_family),
        externals: args.external.clone(),
        enforce: !args.no_enforce,
        dataplane: args.dataplane.to_string(),
        limits: args.limits.to_string(),
        mirrors: None,
    }
}

/// Starts the holder of a lab and leaves its configuration for the worker.
pub(crate) fn start(name: &str, config: &LabConfig, options: StartOptions) -> Result<Holder> {
    let dir = client::lab_dir(name)?;
    let holder = Holder::start(&dir, options)?;
    configure(&holder, config)?;
    Ok(holder)
}

/// Leaves the configuration: whole or not at all, since another command may look for it.
fn configure(holder: &Holder, config: &LabConfig) -> Result<()> {
    let path = holder.dir().join(CONFIG_FILE);
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec(config)?)
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The nodes that manifests state, else `node-1` and on.
fn node_names(objects: &[Object], args: &Up) -> Vec<String> {
    let nodes = objects.iter().filter(|o| &*o.key.kind == "Node");
    let stated: Vec<String> = nodes.map(|o| o.key.name.to_string()).collect();
    if stated.is_empty() { (1..=args.nodes).map(|n| format!("node-{n}")).collect() } else { stated }
}

/// The lab's families of a command line's word.
pub(crate) fn families(word: IpFamily) -> Families {
    match word {
        IpFamily::Dual => Families::Dual,
        IpFamily::V4 => Families::V4,
        IpFamily::V6 => Families::V6,
    }
}

/// Removes a lab, or all of them. One that is not there is fine.
pub(crate) fn down(name: &str, all: bool) -> Result<ExitCode> {
    let names = if all { client::labs() } else { vec![name.to_owned()] };
    for name in &names {
        let dir = client::lab_dir(name)?;
        match client::find_or_clear(&dir)? {
            Found::Lab(holder) => {
                nodes::leave(name, &holder);
                holder.stop()?;
                line(&format!("lab {name} removed"))?;
            }
            Found::Rests => {
                line(&format!("lab {name} had ended; its rests are removed"))?;
            }
            Found::Nothing => line(&format!("there is no lab {name}"))?,
        }
    }
    if all && names.is_empty() {
        line("there are no labs")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the labs that run.
pub(crate) fn list() -> Result<ExitCode> {
    let mut rows = vec![
        ["NAME", "NODES", "PODS", "NETWORK", "FAMILIES", "ENFORCED"]
            .map(ToOwned::to_owned)
            .to_vec(),
    ];
    for name in client::labs() {
        let row = match Client::connect(&name).and_then(|mut client| {
            let hello: Hello = client.call(&Request::Hello)?;
            let pods: Vec<Shown> = client.call(&Request::Get {
                query: Query {
                    kind: "Pod".to_owned(),
                    namespace: None,
                    name: None,
                    selector: None,
                },
            })?;
            Ok((hello.config, pods.len()))
        }) {
            Ok((config, pods)) => vec![
                name,
                config.nodes.len().to_string(),
                pods.to_string(),
                format!("{:?}", config.network).to_lowercase(),
                format!("{:?}", config.families).to_lowercase(),
                if config.enforce { "yes" } else { "no" }.to_owned(),
            ],
            Err(error) => vec![name, format!("({error})")],
        };
        rows.push(row);
    }
    if rows.len() == 1 {
        eprintln!("there are no labs; make one with `podwall lab up`");
        return Ok(ExitCode::SUCCESS);
    }
    write!(anstream::stdout(), "{}", super::table::align(&rows))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a program in a pod; its exit code is ours.
pub(crate) fn exec(lab: &str, args: &Exec) -> Result<ExitCode> {
    let dir = client::lab_dir(lab)?;
    let mut client = nodes::connect(lab)?;
    let (namespace, pod) = pod_of(&mut client, &args.pod, &args.namespace)?;
    let place: ExecPlace = client.call(&Request::Exec { namespace, pod })?;
    // Hung up before anything forks.
    drop(client);
    let Some(holder) = Holder::find(&dir) else { bail!("lab {lab} has just ended") };
    let status = exec::run(&holder, &place, &args.command)?;
    Ok(exec::exit_code(status))
}

/// The pod that a word means: `POD`, `pod/POD`, `NAMESPACE/POD`, or, as kubectl has it, a workload
/// or Service (`deploy/NAME`, `svc/NAME`) for the first of its pods.
fn pod_of(client: &mut Client, word: &str, namespace: &str) -> Result<(String, String)> {
    let Some((before, name)) = word.split_once('/') else {
        return Ok((namespace.to_owned(), word.to_owned()));
    };
    let Ok(kind) = kinds::kind(before) else { return Ok((before.to_owned(), name.to_owned())) };
    if kind.kind == "Pod" {
        return Ok((namespace.to_owned(), name.to_owned()));
    }
    let query = |kind: &str, name: Option<&str>, selector: Option<String>| Request::Get {
        query: Query {
            kind: kind.to_owned(),
            namespace: Some(namespace.to_owned()),
            name: name.map(ToOwned::to_owned),
            selector,
        },
    };
    if !kind.namespaced {
        bail!("no program runs in {word}: say which pod");
    }
    let found: Vec<Shown> = client.call(&query(kind.kind, Some(name), None))?;
    let spec = found.first().and_then(|shown| shown.object.get("spec"));
    let selector = spec.and_then(|spec| spec.get("selector"));
    let labels = selector.and_then(|it| it.get("matchLabels").or(Some(it))?.as_object());
    let pairs: Vec<String> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    if pairs.is_empty() {
        bail!("{word} selects no pods by label: say which pod");
    }
    let pods: Vec<Shown> = client.call(&query("Pod", None, Some(pairs.join(","))))?;
    let first = pods.first().and_then(|pod| pod.object.pointer("/metadata/name")?.as_str());
    match first {
        Some(pod) => Ok((namespace.to_owned(), pod.to_owned())),
        None => bail!("{word} has no pods"),
    }
}
