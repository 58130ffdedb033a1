//! How is a node's agent started?
//!
//! ```text
//!   flags ─▶ log ─▶ data plane (Agent::start) ─▶ kubeconfig or the pod's own account ─▶ watch, metrics
//! ```

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};
use podwall_agent::check::{self, Finding};
use podwall_agent::{Agent, Config, Isolation, Socket, causes, removal, time};
use podwall_dataplane::{Choice, Limits, Namespace};
use podwall_local::Notes;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::output::{Failure, print};

/// Follow a cluster and enforce its policies on this node.
#[derive(Args, Debug)]
#[command(long_about = "\
Follow a cluster and enforce its policies on this node.

The agent watches Namespaces, Pods and NetworkPolicies, compiles what concerns the pods of its node, \
and writes it to the kernel of the network namespace that it is started in. It needs root, or \
CAP_NET_ADMIN and, for eBPF, CAP_BPF and CAP_PERFMON; of the API server it needs get, list and watch.

What is in the kernel stays in force when the agent ends, for whatever reason, and until the next \
one has read the cluster to the end.")]
pub(crate) struct AgentArgs {
    /// The node, as the API server names it.
    #[arg(
        long,
        env = "NODE_NAME",
        value_name = "NAME",
        required_unless_present_any = ["check", "remove"],
        default_value = "",
        hide_default_value = true
    )]
    node: String,
    /// The kubeconfig; else KUBECONFIG, ~/.kube/config, or the pod's own account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The network namespace to enforce in, where it is not the agent's own.
    #[arg(long, value_name = "FILE")]
    netns: Option<PathBuf>,
    /// What enforces: auto (eBPF where the kernel can), ebpf, nftables.
    #[arg(long, env = "PODWALL_DATAPLANE", default_value_t = Choice::Auto, value_name = "WHICH")]
    dataplane: Choice,
    /// Where eBPF programs are pinned, in a bpffs.
    #[arg(long, default_value = "/sys/fs/bpf/podwall", value_name = "DIR")]
    pins: PathBuf,
    /// How much the tables may hold: locals=N, peers=N, blocks=N, verdicts=N, with commas.
    #[arg(long, env = "PODWALL_LIMITS", default_value_t = Limits::default(), hide_default_value = true, value_name = "TABLE=N,…")]
    limits: Limits,
    /// Where `podwall status`, `podwall flows` and the CNI plugin ask; for root only.
    #[arg(long, default_value = podwall_local::SOCKET, value_name = "FILE")]
    socket: PathBuf,
    /// Where it is kept which pods the CNI plugin has attached, for the next agent.
    #[arg(long, default_value = "/run/podwall/attachments", value_name = "DIR")]
    keep: PathBuf,
    /// How long an address of this node's pod ranges is isolated that no pod is known to have: a
    /// time as 60s, forever, or off.
    #[arg(long, default_value = "60s", value_name = "TIME")]
    isolate_unknown: Isolation,
    /// Let pods send with source addresses that are not theirs.
    #[arg(long)]
    allow_forged: bool,
    /// How often the kernel is held against the model.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = time)]
    verify_every: Duration,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, default_value = "0.0.0.0:9760", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Say what this node and the API server offer and what is missing, and end.
    #[arg(long)]
    check: bool,
    /// Take what agents left out of this node's kernel and off its disk, and end: when none is to run
    /// here any more. Nothing is enforced afterwards.
    #[arg(long, conflicts_with = "check")]
    remove: bool,
    /// With --remove: stay afterwards until told to end, as the pods of a DaemonSet do.
    #[arg(long, requires = "remove")]
    stay: bool,
    /// How the log is written.
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    log: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Runs until it is told to end.
pub(crate) fn run(args: &AgentArgs) -> Result<ExitCode, Failure> {
    if args.check {
        return check(args);
    }
    if args.remove {
        return remove(args);
    }
    start_log(args.log);
    let socket = Socket::bind(&args.socket).with_context(|| {
        format!("cannot listen at {}; --socket names another", args.socket.display())
    })?;
    let config = Config {
        node: args.node.as_str().into(),
        netns: args.netns.clone(),
        choice: args.dataplane,
        pins: args.pins.clone(),
        limits: args.limits,
        kept: Some(args.keep.clone()),
        notes: Some(Notes::beside(&args.socket)),
        isolation: args.isolate_unknown,
        verify_every: args.verify_every,
        guard: !args.allow_forged,
    };
    let agent = Agent::start(config).map_err(anyhow::Error::from)?;
    let (dataplane, instead) = agent.dataplane();
    tracing::info!(node = args.node, dataplane, instead, "the agent starts");
    Ok(runtime()?.block_on(work(args, agent, socket))?)
}

fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("cannot start the asynchronous runtime")
}

/// Says what is there and what is missing; code 1 if an agent could not work.
fn check(args: &AgentArgs) -> Result<ExitCode, Failure> {
    let netns = args.netns.as_deref().map(Namespace::named).transpose();
    let netns = netns.map_err(anyhow::Error::from)?;
    let mut findings = check::node(args.dataplane, netns.as_ref());
    let enforces =
        findings.iter().find(|it| it.ok && it.what != "bridges").map(|it| it.what.clone());
    let asked = runtime()?.block_on(async {
        let client = kube::Client::try_from(cluster(args).await?)?;
        anyhow::Ok(check::server(&client).await)
    });
    match asked {
        Ok(answers) => findings.extend(answers),
        Err(error) => findings.push(Finding {
            what: "API server".to_owned(),
            ok: false,
            optional: false,
            words: causes(error.as_ref()),
        }),
    }
    show(&findings)?;
    let works = findings.iter().all(|finding| finding.ok || finding.optional);
    print(&match enforces {
        Some(with) if works => format!("an agent on this node would enforce with {with}\n"),
        _ => "an agent could not work here\n".to_owned(),
    })?;
    Ok(ExitCode::from(u8::from(!works)))
}

fn show(findings: &[Finding]) -> Result<(), Failure> {
    for Finding { what, ok, optional, words } in findings {
        let sign = match (ok, optional) {
            (true, _) => "ok",
            (false, true) => "--",
            (false, false) => "NO",
        };
        print(&format!("{sign}  {what:<15} {words}\n"))?;
    }
    Ok(())
}

/// Takes away what agents left; code 1 if something stays.
fn remove(args: &AgentArgs) -> Result<ExitCode, Failure> {
    if UnixStream::connect(&args.socket).is_ok() {
        let words = format!("an agent runs here: it listens at {}", args.socket.display());
        return Err(Failure::new(words).hint("end it first; it would write everything again"));
    }
    let netns = args.netns.as_deref().map(Namespace::named).transpose();
    let netns = netns.map_err(anyhow::Error::from)?;
    let notes = Notes::beside(&args.socket);
    let findings = removal::remove(netns.as_ref(), &args.pins, &args.keep, &notes);
    show(&findings)?;
    let gone = findings.iter().all(|finding| finding.ok || finding.optional);
    if gone && args.stay {
        runtime()?.block_on(told_to_end())?;
    }
    Ok(ExitCode::from(u8::from(!gone)))
}

async fn told_to_end() -> Result<()> {
    let mut ends = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupts = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    tokio::select! {
        _ = ends.recv() => {}
        _ = interrupts.recv() => {}
    }
    Ok(())
}

fn start_log(format: LogFormat) {
    let log = fmt::layer().with_writer(std::io::stderr).with_target(false);
    // What is wrong with a watch is said by the agent, once and with the kind.
    let wanted =
        Targets::new().with_default(Level::INFO).with_target("kube_client", LevelFilter::OFF);
    let all = tracing_subscriber::registry().with(wanted);
    match format {
        LogFormat::Text => all.with(log.with_ansi(false)).init(),
        LogFormat::Json => all.with(log.json().flatten_event(true)).init(),
    }
}

async fn work(args: &AgentArgs, agent: Agent, socket: Socket) -> Result<ExitCode> {
    let mut ends = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupts = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let client = kube::Client::try_from(cluster(args).await?)
        .context("cannot make a client for the API server")?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!("cannot serve metrics on {}; --listen takes another", args.listen)
    })?;
    tokio::select! {
        ended = agent.work(client, listener, socket) => Err(ended.into()),
        _ = ends.recv() => Ok(end()),
        _ = interrupts.recv() => Ok(end()),
    }
}

fn end() -> ExitCode {
    tracing::info!("the agent ends; what is in the kernel stays in force");
    ExitCode::SUCCESS
}

/// The API server, and who we are to it.
async fn cluster(args: &AgentArgs) -> Result<kube::Config> {
    let options =
        KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    match &args.kubeconfig {
        Some(file) => {
            let file = Kubeconfig::read_from(file)
                .with_context(|| format!("cannot read the kubeconfig {}", file.display()))?;
            kube::Config::from_custom_kubeconfig(file, &options)
                .await
                .context("the kubeconfig cannot be used")
        }
        None if args.context.is_some() => kube::Config::from_kubeconfig(&options)
            .await
            .context("no kubeconfig can be used; --kubeconfig names one"),
        None => kube::Config::infer().await.context(
            "no cluster: there is neither a kubeconfig (--kubeconfig, KUBECONFIG, ~/.kube/config) \
             nor a pod's own account",
        ),
    }
}
