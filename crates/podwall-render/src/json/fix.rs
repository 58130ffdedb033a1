//! The part of `podwall can --fix` that says how to turn the answer round, as JSON.

use podwall_analysis::difference::Exposure;
use podwall_analysis::fix::patch::{Texts, patches};
use podwall_analysis::fix::{Effect, Fix, Fixes};
use podwall_policy::cluster::Cluster;
use schemars::JsonSchema;
use serde::Serialize;

use super::{PortsJson, VerdictJson};
use crate::patch::unified;

/// How to turn the answer round.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FixesJson {
    /// What the answer would be; absent where it is not known what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<VerdictJson>,
    /// Ways to get there, each checked by the engine; those that do least besides first.
    pub fixes: Vec<FixJson>,
    /// Why there is none.
    pub obstacles: Vec<String>,
}

/// One way.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FixJson {
    /// Changes that belong together.
    pub changes: Vec<ChangeJson>,
    /// All of them as a unified diff of the files; absent where an object stands in no file, or is
    /// written in a way that cannot be edited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
    /// Whether nothing but the asked connection changes.
    pub exact: bool,
    /// How many pods the changed policies select besides the asked ones: nothing changes for them
    /// today, but what was added speaks for them too.
    pub bystanders: usize,
    /// Everything else that changes, new exposure first.
    pub besides: Vec<EffectJson>,
}

/// One change.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeJson {
    /// In words.
    pub what: String,
    /// What makes it in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// What the command reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
}

/// A connection that changes besides.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectJson {
    /// From whom: a workload, or CIDRs.
    pub src: String,
    /// To whom.
    pub dst: String,
    /// What newly passes.
    pub opened: PortsJson,
    /// What no longer passes.
    pub closed: PortsJson,
    /// What differs if missing facts say so.
    pub perhaps: PortsJson,
    /// Whether it is so for some of the pods only.
    pub partly: bool,
    /// Whom it newly exposes: `fromOutside`, `fromOtherNamespace`, `toOutside`, `sameNamespace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposure: Option<String>,
}

/// As JSON structures.
pub fn fixes(cluster: &Cluster, texts: &Texts, fixes: &Fixes) -> FixesJson {
    FixesJson {
        wanted: fixes.wanted.map(VerdictJson::from),
        fixes: fixes.fixes.iter().map(|fix| one(cluster, texts, fix)).collect(),
        obstacles: fixes.obstacles.clone(),
    }
}

fn one(cluster: &Cluster, texts: &Texts, fix: &Fix) -> FixJson {
    let change = |change: &podwall_analysis::fix::Change| {
        let command = change.command(cluster);
        ChangeJson {
            what: change.to_string(),
            command: command.as_ref().map(|command| command.line.clone()),
            stdin: command.and_then(|command| command.stdin),
        }
    };
    FixJson {
        changes: fix.changes.iter().map(change).collect(),
        patch: patches(texts, cluster, &fix.changes).map(|patches| unified(&patches)),
        exact: fix.is_exact(),
        bystanders: fix.bystanders,
        besides: fix.besides.iter().map(effect).collect(),
    }
}

fn effect(effect: &Effect) -> EffectJson {
    EffectJson {
        src: effect.src.clone(),
        dst: effect.dst.clone(),
        opened: (&effect.opened).into(),
        closed: (&effect.closed).into(),
        perhaps: (&effect.perhaps).into(),
        partly: effect.partly,
        exposure: effect.exposure.map(|exposure| {
            match exposure {
                Exposure::FromOutside => "fromOutside",
                Exposure::FromOtherNamespace => "fromOtherNamespace",
                Exposure::ToOutside => "toOutside",
                Exposure::SameNamespace => "sameNamespace",
            }
            .to_owned()
        }),
    }
}
