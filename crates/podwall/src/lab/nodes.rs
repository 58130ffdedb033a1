//! How does a lab become the nodes of a cluster, and how does it leave it?
//!
//! ```text
//!   up --kubeconfig ─▶ ask the server: families, names free? ─▶ lab ─▶ worker, kubelet, agents ready
//!   down            ─▶ pods, nodes out of the cluster        ─▶ the end of the lab
//! ```

use std::path::{Path, PathBuf, absolute};

use anyhow::{Context as _, Result, bail};
use podwall_kubelet::{Agents, Cni, Reply, Server, Settings};
use podwall_lab::client::{self, Client, ClientError};
use podwall_lab::holder::Holder;
use podwall_lab::rpc::LabConfig;

use super::args::Up;
use super::line;

/// What a lab that is a cluster's nodes is made with, besides its own configuration.
pub(crate) fn plan(config: &mut LabConfig, args: &Up) -> Result<Option<Settings>> {
    let of = &args.cluster;
    let Some(kubeconfig) = &of.kubeconfig else { return Ok(None) };
    let found = |path: &PathBuf| {
        absolute(path)
            .and_then(|path| path.metadata().map(|_| path))
            .with_context(|| format!("cannot find {}", path.display()))
    };
    let server = Server { kubeconfig: found(kubeconfig)?, context: of.context.clone() };
    let asked = podwall_kubelet::ask(&server, &config.name, &config.nodes, config.families);
    let (families, url) = asked.map_err(anyhow::Error::msg)?;
    if families != config.families {
        eprintln!("note: the API server gives pods one family; the lab speaks IPv4 alone");
    }
    let agents = Agents {
        server: match &of.agent_kubeconfig {
            Some(path) => Server { kubeconfig: found(path)?, context: None },
            None => server.clone(),
        },
        dataplane: config.dataplane.clone(),
        limits: config.limits.clone(),
        arguments: of.agent_arg.clone(),
    };
    let settings = Settings {
        lab: config.name.clone(),
        dir: client::lab_dir(&config.name)?,
        nodes: config.nodes.clone(),
        families,
        server,
        cni: Cni {
            network: config.network,
            config: of.cni_conf.as_ref().map(found).transpose()?,
            bin: of.cni_bin.clone(),
        },
        agents: (!of.no_agents).then_some(agents),
        controllers: !of.no_controllers,
    };
    config.families = families;
    config.mirrors = Some(url);
    config.enforce = false;
    Ok(Some(settings))
}

/// Refuses to make a lab that runs another cluster's, or none.
pub(crate) fn check_same(dir: &Path, args: &Up) -> Result<()> {
    let Some(kubeconfig) = &args.cluster.kubeconfig else { return Ok(()) };
    match Settings::read(dir)? {
        Some(known) if known.server.kubeconfig == absolute(kubeconfig)? => Ok(()),
        Some(known) => bail!(
            "the lab is the nodes of another cluster, that of {}; `podwall lab down` removes it",
            known.server.kubeconfig.display()
        ),
        None => bail!("the lab has its own objects; `podwall lab down` removes it"),
    }
}

/// A connection to a lab whose kubelet, if it is a cluster's, is not gone for good.
pub(crate) fn connect(name: &str) -> Result<Client, ClientError> {
    let client = Client::connect(name)?;
    if let Some(holder) = Holder::find(&client::lab_dir(name)?)
        && let Err(error) = podwall_kubelet::revive(&holder)
    {
        eprintln!("{error}");
    }
    Ok(client)
}

/// A connection to a lab that can be used: its kubelet and agents are ready, if it is a cluster's.
pub(crate) fn connect_ready(name: &str, holder: &Holder) -> Result<(Client, Option<Reply>)> {
    let client = Client::connect_or_start(name, holder)?;
    Ok((client, podwall_kubelet::ensure(holder)?))
}

/// Says where the agents are.
pub(crate) fn tell(reply: &Reply) -> Result<()> {
    for agent in &reply.agents {
        let log = agent.log.display();
        line(&format!("agent of {}: http://{}/metrics, log {log}", agent.node, agent.listens))?;
    }
    if !reply.agents.is_empty() && !reply.chained {
        eprintln!(
            "note: there is no podwall-cni among the CNI plugins (--cni-bin): a pod is open until \
             its agent has heard of it"
        );
    }
    Ok(())
}

/// Takes the lab's nodes and pods out of their cluster.
pub(crate) fn leave(name: &str, holder: &Holder) {
    if matches!(Settings::read(holder.dir()), Ok(Some(_))) && !podwall_kubelet::stop(holder) {
        eprintln!(
            "note: the cluster could not be told that lab {name} goes; its nodes and their pods are \
             still there: kubectl delete node -l lab.podwall.dev/name={name}"
        );
    }
}
