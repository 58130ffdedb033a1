//! How does an object look when somebody reads it back?
//!
//! As in a cluster: what was applied, with what the server, the scheduler and the network decided.

use podwall_policy::object::{Name, Phase, Pod};
use serde_json::{Value, json};

use super::workloads::MADE;
use super::{Key, Store, label_map};

impl Store {
    /// The object as `get -o yaml` shows it: with what the lab decided.
    pub fn shown(&self, key: &Key) -> Option<Value> {
        let stored = self.objects.get(key)?;
        let mut raw = stored.object.raw.clone();
        if self.mirrors() {
            return Some(raw);
        }
        let name = Name::new(key.namespace.as_str(), key.name.as_str());
        if raw.get("metadata").is_none_or(|m| !m.is_object()) {
            raw["metadata"] = json!({});
        }
        if !key.namespace.is_empty() {
            raw["metadata"]["namespace"] = json!(key.namespace);
        }
        raw["metadata"]["uid"] = json!(stored.uid);
        raw["metadata"]["creationTimestamp"] = json!(timestamp(stored.created));
        if let Some(annotations) =
            raw.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        {
            annotations.remove(MADE);
        }
        match key.kind.as_str() {
            "Namespace" => {
                raw["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(key.name);
                raw["status"] = json!({"phase": "Active"});
            }
            "Pod" => {
                if let Some(pod) = self.cluster.pods.get(&name) {
                    raw["status"] = pod_status(pod);
                    if let Some(node) = &pod.node {
                        raw["spec"]["nodeName"] = json!(&**node);
                    }
                }
            }
            "Service" => {
                if let Some(service) = self.cluster.services.get(&name) {
                    let ips: Vec<String> =
                        service.cluster_ips.iter().map(ToString::to_string).collect();
                    raw["spec"]["clusterIP"] = json!(if service.headless {
                        "None"
                    } else {
                        ips.first().map_or("", |s| s)
                    });
                    if !service.headless {
                        raw["spec"]["clusterIPs"] = json!(ips);
                    }
                    for (i, port) in service.ports.iter().enumerate() {
                        if let Some(number) = port.node_port {
                            raw["spec"]["ports"][i]["nodePort"] = json!(number);
                        }
                    }
                }
            }
            _ => {}
        }
        Some(raw)
    }

    /// Nodes as objects.
    pub fn shown_node(&self, name: &str) -> Option<Value> {
        let node = self.cluster.nodes.get(name)?;
        let addresses: Vec<Value> = node
            .addresses
            .iter()
            .map(|a| json!({"type": "InternalIP", "address": a.to_string()}))
            .collect();
        let cidrs: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
        Some(json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": label_map(&node.labels)},
            "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
            "status": {"addresses": addresses,
                "conditions": [{"type": "Ready", "status": "True"}]}}))
    }
}

fn pod_status(pod: &Pod) -> Value {
    let ips: Vec<Value> = pod.ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    let phase = match (pod.phase, &pod.node) {
        (Phase::Terminated, _) => "Succeeded",
        (Phase::Alive, Some(_)) => "Running",
        (Phase::Alive, None) => "Pending",
    };
    json!({"phase": phase, "podIP": ips.first().and_then(|ip| ip.get("ip")), "podIPs": ips})
}

/// RFC 3339 in UTC, as `metadata.creationTimestamp` has it.
pub fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date: eras of 400 years, counted from 1 March, so that the leap day is last.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) =
        (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest % 3_600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// What [`timestamp`] writes, back in seconds since 1970.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, by: char| -> Option<[u64; 3]> {
        let parts: Option<Vec<u64>> = text.split(by).map(|part| part.parse().ok()).collect();
        parts?.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    // Days of a civil date, the other way round.
    let year = if month > 2 { year } else { year.checked_sub(1)? };
    let month = (month + 9) % 12;
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * month + 2) / 5 + day.checked_sub(1)?;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some(days.checked_sub(719_468)? * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::{seconds, timestamp};

    #[test]
    fn timestamps_are_read_back() {
        for number in [0, 951_782_400, 951_868_800, 1_795_219_199] {
            assert_eq!(seconds(&timestamp(number)), Some(number));
        }
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(timestamp(1_795_219_199), "2026-11-20T23:59:59Z");
    }
}
