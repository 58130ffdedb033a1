//! Which object does `po/web` or `netpol allow-dns` mean?

use anyhow::{Result, bail};
use podwall_lab::rpc::Query;

/// A kind that the lab knows, and how people write it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// As in manifests.
    pub kind: &'static str,
    /// As kubectl prints it before a slash.
    pub resource: &'static str,
    /// Every other way of writing it, plural and short.
    aliases: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

/// The kinds, in the order in which `get all` lists them.
pub(crate) const KINDS: &[Kind] = &[
    Kind { kind: "Pod", resource: "pod", aliases: &["pods", "po"], namespaced: true },
    Kind {
        kind: "ReplicationController",
        resource: "replicationcontroller",
        aliases: &["replicationcontrollers", "rc"],
        namespaced: true,
    },
    Kind { kind: "Service", resource: "service", aliases: &["services", "svc"], namespaced: true },
    Kind {
        kind: "DaemonSet",
        resource: "daemonset.apps",
        aliases: &["daemonsets", "daemonset", "ds"],
        namespaced: true,
    },
    Kind {
        kind: "Deployment",
        resource: "deployment.apps",
        aliases: &["deployments", "deployment", "deploy"],
        namespaced: true,
    },
    Kind {
        kind: "ReplicaSet",
        resource: "replicaset.apps",
        aliases: &["replicasets", "replicaset", "rs"],
        namespaced: true,
    },
    Kind {
        kind: "StatefulSet",
        resource: "statefulset.apps",
        aliases: &["statefulsets", "statefulset", "sts"],
        namespaced: true,
    },
    Kind { kind: "Job", resource: "job.batch", aliases: &["jobs", "job"], namespaced: true },
    Kind {
        kind: "CronJob",
        resource: "cronjob.batch",
        aliases: &["cronjobs", "cronjob", "cj"],
        namespaced: true,
    },
    Kind {
        kind: "NetworkPolicy",
        resource: "networkpolicy.networking.k8s.io",
        aliases: &["networkpolicies", "networkpolicy", "netpol", "netpols"],
        namespaced: true,
    },
    Kind {
        kind: "Namespace",
        resource: "namespace",
        aliases: &["namespaces", "ns"],
        namespaced: false,
    },
    Kind { kind: "Node", resource: "node", aliases: &["nodes", "no"], namespaced: false },
];

/// How many of [`KINDS`] `get all` shows: kubectl leaves NetworkPolicies out, people who look at a
/// lab of policies want them.
const ALL: usize = 10;

/// The kind that a word means.
pub(crate) fn kind(word: &str) -> Result<&'static Kind> {
    let lower = word.to_ascii_lowercase();
    let found = KINDS.iter().find(|k| {
        k.resource == lower
            || k.kind.eq_ignore_ascii_case(&lower)
            || k.aliases.contains(&lower.as_str())
            || k.resource.split_once('.').is_some_and(|(name, group)| {
                lower == format!("{name}s.{group}") || lower == format!("{name}.{group}")
            })
    });
    match found {
        Some(kind) => Ok(kind),
        None => {
            let words = KINDS.iter().flat_map(|k| k.aliases.iter().copied().chain([k.resource]));
            if let Some(near) = podwall_manifest::nearest(&lower, &words.collect::<Vec<_>>()) {
                bail!("the lab has no kind {word:?}; did you mean {near}?");
            }
            let known: Vec<&str> = KINDS.iter().map(|k| k.resource).collect();
            bail!(
                "the lab has no kind {word:?}; it knows {}; an object is named KIND NAME or \
                 KIND/NAME, for example pod/{word}",
                known.join(", ")
            )
        }
    }
}

/// The queries that a command line's words mean: `pods`, `pod a b`, `pod/a svc/b`, `pods,svc`,
/// `all`. `namespace` is `None` for all namespaces.
pub(crate) fn queries(
    words: &[String],
    namespace: Option<&str>,
    selector: Option<&str>,
) -> Result<Vec<Query>> {
    let query = |kind: &Kind, name: Option<&str>| Query {
        kind: kind.kind.to_owned(),
        namespace: namespace.filter(|_| kind.namespaced).map(ToOwned::to_owned),
        name: name.map(ToOwned::to_owned),
        selector: selector.map(ToOwned::to_owned),
    };
    let Some((first, rest)) = words.split_first() else {
        bail!("say which kind of object, for example `pods` or `netpol`");
    };
    if first.contains('/') {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind_word, name)) => Ok(query(kind(kind_word)?, Some(name))),
                None => bail!("{word:?} stands among KIND/NAME words; write it as KIND/{word}"),
            })
            .collect();
    }
    let kinds: Vec<&Kind> = if first == "all" {
        KINDS.iter().take(ALL).collect()
    } else {
        first.split(',').map(kind).collect::<Result<_>>()?
    };
    Ok(kinds
        .into_iter()
        .flat_map(|kind| {
            if rest.is_empty() {
                vec![query(kind, None)]
            } else {
                rest.iter().map(|name| query(kind, Some(name))).collect()
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Vec<(String, Option<String>)> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let found = queries(&words, Some("demo"), None).unwrap();
        found.into_iter().map(|q| (q.kind, q.name)).collect()
    }

    #[test]
    fn words_are_read_as_kubectl_reads_them() {
        let pair = |k: &str, n: Option<&str>| (k.to_owned(), n.map(ToOwned::to_owned));
        assert_eq!(parse(&["po"]), [pair("Pod", None)]);
        assert_eq!(parse(&["pod", "a", "b"]), [pair("Pod", Some("a")), pair("Pod", Some("b"))]);
        assert_eq!(parse(&["po/a", "svc/b"]), [pair("Pod", Some("a")), pair("Service", Some("b"))]);
        assert_eq!(parse(&["netpol,ns"]), [pair("NetworkPolicy", None), pair("Namespace", None)]);
        assert_eq!(parse(&["deployments.apps"]), [pair("Deployment", None)]);
        assert_eq!(parse(&["all"]).len(), ALL);
        assert!(queries(&["gateway".to_owned()], None, None).is_err());
        assert!(queries(&["po/a".to_owned(), "b".to_owned()], None, None).is_err());
    }

    #[test]
    fn cluster_scoped_kinds_have_no_namespace() {
        let found = queries(&["ns".to_owned()], Some("demo"), None).unwrap();
        assert_eq!(found[0].namespace, None);
    }
}
