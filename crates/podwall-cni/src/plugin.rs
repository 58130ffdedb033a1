//! What does the plugin do for each verb?
//!
//! ```text
//!   ADD      prevResult ──▶ attach ──▶ the same result        the agent is waited for
//!   DEL      detach, or a note for the agent                  never fails for want of an agent
//!   CHECK    is what was attached in force?                   the agent is waited for
//!   STATUS   ready?                                           asked once
//!   GC       these and no others                              asked once
//!   VERSION  which are spoken
//! ```
//!
//! CNI specification 1.1.0, section 2. [`run`] is the whole program but for its input and output.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use podwall_local::{Attached, Attachment, ClientError, Notes, Otherwise, Request, Sandbox};
use serde::{Deserialize, Serialize};

use crate::ask::{Absent, ask};
use crate::call::{Call, Interface, Pod};
use crate::config::{Config, Settings};
use crate::error::PluginError;
use crate::link::host_link;
use crate::previous::Previous;
use crate::version::{SUPPORTED, Version};

/// How long an agent may take for what is not waited for: a runtime removes many pods at once, and
/// asks for the status often.
const SHORT: Duration = Duration::from_secs(2);

/// A network configuration is a page; this bounds what a broken runtime can make us hold, in bytes.
const LONGEST_INPUT: u64 = 16 << 20;

/// What a runtime gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output: a result, an error, or nothing.
    pub output: String,
    /// For standard error: what an operator may want to know.
    pub notes: Vec<String>,
    /// Whether it went well, which is the program's status.
    pub ok: bool,
}

/// Answers a runtime: `get` reads its environment, `input` its configuration.
pub fn run(get: impl Fn(&str) -> Option<String>, input: impl Read) -> Outcome {
    let mut notes = Vec::new();
    let mut version = Version::NEWEST.to_string();
    match answer(get, input, &mut version, &mut notes) {
        Ok(output) => Outcome { output, notes, ok: true },
        Err(error) => Outcome { output: error.to_json(&version), notes, ok: false },
    }
}

fn answer(
    get: impl Fn(&str) -> Option<String>,
    mut input: impl Read,
    version: &mut String,
    notes: &mut Vec<String>,
) -> Result<String, PluginError> {
    let call = Call::read(get)?;
    let mut text = String::new();
    let read = input.by_ref().take(LONGEST_INPUT).read_to_string(&mut text);
    read.map_err(|source| PluginError::Io { doing: "read the network configuration", source })?;
    if call == Call::Version {
        return versions(&text);
    }
    let config = Config::read(&text)?;
    version.clone_from(&config.version_text);
    let needs = match call {
        Call::Check(_) => Version::CHECK,
        Call::Status | Call::Gc => Version::NEWEST,
        _ => Version::CHAINS,
    };
    if config.version < needs {
        let version = config.version_text;
        return Err(PluginError::VerbVersion { verb: call.verb(), version });
    }
    match call {
        Call::Add(interface) => add(&interface, &config, notes),
        Call::Del(sandbox) => {
            del(&sandbox, &config.settings, notes);
            Ok(String::new())
        }
        Call::Check(interface) => check(&interface, &config, notes),
        Call::Status => status(&config.settings),
        Call::Gc => gc(config),
        Call::Version => versions(&text),
    }
}

/// What was asked with, and what is spoken.
fn versions(text: &str) -> Result<String, PluginError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Asked {
        #[serde(default)]
        cni_version: Option<String>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Spoken {
        cni_version: String,
        supported_versions: [&'static str; SUPPORTED.len()],
    }
    // Some ask without a configuration.
    let asked = match text.trim() {
        "" => None,
        text => serde_json::from_str::<Asked>(text).map_err(PluginError::Decode)?.cni_version,
    };
    let cni_version = asked.unwrap_or_else(|| Version::NEWEST.to_string());
    serde_json::to_string(&Spoken { cni_version, supported_versions: SUPPORTED })
        .map_err(PluginError::Decode)
}

/// The pod that an interface was made for, and its addresses.
fn attachment<'a>(
    interface: &Interface,
    config: &Config<'a>,
    notes: &mut Vec<String>,
) -> Result<(Previous<'a>, Option<Attachment>), PluginError> {
    let raw = config.previous.ok_or(PluginError::NoPrevious)?;
    let Interface { sandbox, netns, pod } = interface;
    let previous = Previous::read(raw, &sandbox.interface)?;
    let Some(Pod { namespace, name, uid }) = pod else {
        notes.push(format!(
            "container {} is no Kubernetes pod (CNI_ARGS has no K8S_POD_NAME): it is passed on as it is",
            sandbox.container
        ));
        return Ok((previous, None));
    };
    if previous.addresses.is_empty() {
        notes.push(format!(
            "pod {namespace}/{name} has no address on {}: there is nothing to enforce",
            sandbox.interface
        ));
        return Ok((previous, None));
    }
    let link = if config.settings.guard {
        let file = File::open(netns)
            .map_err(|source| PluginError::Namespace { path: netns.clone(), source })?;
        let failed = |source| PluginError::Link { interface: sandbox.interface.clone(), source };
        let link = host_link(&file, &sandbox.interface).map_err(failed)?;
        if link.is_none() {
            notes.push(format!(
                "{} of pod {namespace}/{name} has no side on the host: its source addresses are not guarded",
                sandbox.interface
            ));
        }
        link
    } else {
        None
    };
    let attachment = Attachment {
        sandbox: sandbox.clone(),
        network: config.network.clone(),
        namespace: namespace.clone(),
        pod: name.clone(),
        uid: uid.clone(),
        addresses: previous.addresses.clone(),
        link,
    };
    Ok((previous, Some(attachment)))
}

fn add(
    interface: &Interface,
    config: &Config<'_>,
    notes: &mut Vec<String>,
) -> Result<String, PluginError> {
    let (previous, attachment) = attachment(interface, config, notes)?;
    if let Some(attachment) = attachment {
        let Settings { socket, timeout, on_timeout: otherwise, .. } = &config.settings;
        // The name may have been another interface's, which went while no agent listened.
        withdraw(&Notes::beside(socket), &interface.sandbox, notes);
        let (otherwise, what) = (*otherwise, attachment.clone());
        let attached: Attached = ask(socket, *timeout, Absent::Wait, move |patience| {
            let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            Request::Attach { attachment: what.clone(), patience, otherwise }
        })?;
        if !attached.known && otherwise == Otherwise::Isolate {
            let Attachment { namespace, pod, .. } = attachment;
            notes.push(format!(
                "pod {namespace}/{pod} is not known to the agent yet: it is isolated until it is"
            ));
        }
    }
    Ok(previous.passed_on(&config.version_text))
}

/// Never fails: a pod that could not be removed would be tried for ever.
fn del(sandbox: &Sandbox, settings: &Settings, notes: &mut Vec<String>) {
    let request = sandbox.clone();
    let detach = || {
        let request = request.clone();
        ask::<()>(&settings.socket, SHORT.min(settings.timeout), Absent::Say, move |_| {
            Request::Detach { sandbox: request.clone() }
        })
    };
    let Err(first) = detach() else { return };
    // See podwall_local::Notes for why it is asked twice.
    let left = Notes::beside(&settings.socket);
    match left.leave(sandbox) {
        Ok(false) => return, // nobody remembers anything
        Ok(true) => {}
        Err(error) => notes.push(format!(
            "cannot leave a note for the agent that {} of container {} is gone: {error}",
            sandbox.interface, sandbox.container
        )),
    }
    let absent = matches!(
        first,
        PluginError::Agent { source: ClientError::NoAgent { .. } | ClientError::Broken(_), .. }
    );
    if absent && detach().is_ok() {
        withdraw(&left, sandbox, notes);
    } else {
        notes.push(format!("{first}; the agent will read in a note that the pod is gone"));
    }
}

fn withdraw(left: &Notes, sandbox: &Sandbox, notes: &mut Vec<String>) {
    if let Err(error) = left.withdraw(sandbox) {
        notes.push(format!("cannot remove an old note in {}: {error}", left.directory().display()));
    }
}

fn check(
    interface: &Interface,
    config: &Config<'_>,
    notes: &mut Vec<String>,
) -> Result<String, PluginError> {
    if let (_, Some(attachment)) = attachment(interface, config, notes)? {
        let Settings { socket, timeout, .. } = &config.settings;
        ask::<()>(socket, *timeout, Absent::Wait, move |_| Request::Check {
            attachment: attachment.clone(),
        })?;
    }
    Ok(String::new())
}

fn status(settings: &Settings) -> Result<String, PluginError> {
    let time = SHORT.min(settings.timeout);
    match ask::<()>(&settings.socket, time, Absent::Say, |_| Request::Ready) {
        Ok(()) => Ok(String::new()),
        Err(PluginError::Agent { source, waited, .. }) => {
            Err(PluginError::Agent { source, waited, status: true })
        }
        Err(error) => Err(error),
    }
}

fn gc(config: Config<'_>) -> Result<String, PluginError> {
    // Taking none for "there are none" would drop all.
    let valid = config.valid.ok_or_else(|| {
        PluginError::Config("there is no cni.dev/valid-attachments to keep".to_owned())
    })?;
    let (network, settings) = (config.network, config.settings);
    ask::<u64>(&settings.socket, settings.timeout, Absent::Say, move |_| Request::Keep {
        network: network.clone(),
        valid: valid.clone(),
    })?;
    Ok(String::new())
}
