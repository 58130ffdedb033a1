//! How do objects look in a list? As `kubectl get` prints them.

use podwall_lab::rpc::Shown;
use serde_json::Value;

use super::kinds::Kind;

/// Columns of one kind: headings, and whether the column is for `-o wide` alone.
fn columns(kind: &str) -> &'static [(&'static str, bool)] {
    match kind {
        "Pod" => &[
            ("READY", false),
            ("STATUS", false),
            ("RESTARTS", false),
            ("AGE", false),
            ("IP", true),
            ("NODE", true),
        ],
        "Service" => &[
            ("TYPE", false),
            ("CLUSTER-IP", false),
            ("EXTERNAL-IP", false),
            ("PORT(S)", false),
            ("AGE", false),
            ("SELECTOR", true),
        ],
        "NetworkPolicy" => &[("POD-SELECTOR", false), ("AGE", false)],
        "Namespace" => &[("STATUS", false), ("AGE", false)],
        "Node" => &[("STATUS", false), ("INTERNAL-IP", true), ("POD-CIDR", true)],
        "DaemonSet" => &[("AGE", false), ("SELECTOR", true)],
        _ => &[("READY", false), ("AGE", false), ("SELECTOR", true)],
    }
}

/// What to show besides the kind's own columns.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Show {
    /// `-o wide`.
    pub wide: bool,
    /// A first column with the namespace.
    pub namespace: bool,
    /// A last column with the labels.
    pub labels: bool,
    /// No headings.
    pub no_headers: bool,
    /// `KIND/NAME` in the name column.
    pub prefix: bool,
}

/// The table of objects of one kind. `now` is seconds since 1970.
pub(crate) fn table(kind: &Kind, objects: &[Shown], show: Show, now: u64) -> String {
    let columns: Vec<(&str, bool)> =
        columns(kind.kind).iter().copied().filter(|(_, wide)| show.wide || !wide).collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    if !show.no_headers {
        let mut heads = Vec::new();
        if show.namespace && kind.namespaced {
            heads.push("NAMESPACE".to_owned());
        }
        heads.push("NAME".to_owned());
        heads.extend(columns.iter().map(|(head, _)| (*head).to_owned()));
        if show.labels {
            heads.push("LABELS".to_owned());
        }
        rows.push(heads);
    }
    for Shown { object, created } in objects {
        let age = age(now.saturating_sub(*created));
        let mut row = Vec::new();
        if show.namespace && kind.namespaced {
            row.push(text(object, "/metadata/namespace"));
        }
        let name = text(object, "/metadata/name");
        row.push(if show.prefix { format!("{}/{name}", kind.resource) } else { name });
        row.extend(columns.iter().map(|(head, _)| cell(kind.kind, head, object, &age)));
        if show.labels {
            row.push(pairs(object.pointer("/metadata/labels")));
        }
        rows.push(row);
    }
    align(&rows)
}

/// Columns as wide as their longest cell, three spaces between, none at a line's end.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let pad = width(i).unwrap_or(0);
            line.push_str(&format!("{cell:<pad$}   "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn cell(kind: &str, head: &str, object: &Value, age: &str) -> String {
    match (kind, head) {
        (_, "AGE") => age.to_owned(),
        ("Pod", "READY") => {
            let ready = usize::from(text(object, "/status/phase") == "Running");
            format!("{ready}/1")
        }
        ("Pod" | "Namespace", "STATUS") => text(object, "/status/phase"),
        ("Pod", "RESTARTS") => "0".to_owned(),
        ("Pod", "IP") => joined(object, "/status/podIPs", "ip"),
        ("Pod", "NODE") => or_none(text(object, "/spec/nodeName")),
        ("Node", "STATUS") => "Ready".to_owned(),
        ("Node", "INTERNAL-IP") => joined(object, "/status/addresses", "address"),
        ("Node", "POD-CIDR") => strings(object.pointer("/spec/podCIDRs")),
        ("Service", "TYPE") => {
            let kind = text(object, "/spec/type");
            if kind.is_empty() { "ClusterIP".to_owned() } else { kind }
        }
        ("Service", "CLUSTER-IP") => or_none(text(object, "/spec/clusterIP")),
        ("Service", "EXTERNAL-IP") => "<none>".to_owned(),
        ("Service", "PORT(S)") => service_ports(object),
        ("Service", "SELECTOR") => pairs(object.pointer("/spec/selector")),
        ("NetworkPolicy", _) => selector(object.pointer("/spec/podSelector")),
        (_, "SELECTOR") => selector(object.pointer("/spec/selector")),
        (_, "READY") => {
            let wanted = ["/spec/replicas", "/spec/parallelism"]
                .iter()
                .find_map(|field| object.pointer(field)?.as_u64())
                .unwrap_or(1);
            format!("{wanted}/{wanted}")
        }
        _ => String::new(),
    }
}

fn service_ports(object: &Value) -> String {
    let Some(ports) = object.pointer("/spec/ports").and_then(Value::as_array) else {
        return "<none>".to_owned();
    };
    let list: Vec<String> = ports
        .iter()
        .map(|port| {
            let protocol = match text(port, "/protocol") {
                empty if empty.is_empty() => "TCP".to_owned(),
                protocol => protocol,
            };
            let node = port.pointer("/nodePort").map(|n| format!(":{n}")).unwrap_or_default();
            format!("{}{node}/{protocol}", port.pointer("/port").unwrap_or(&Value::Null))
        })
        .collect();
    list.join(",")
}

/// `app=web,env in (a,b)`, `<none>` where it selects everything, as kubectl has it.
fn selector(value: Option<&Value>) -> String {
    let Some(value) = value else { return "<none>".to_owned() };
    if value.get("matchLabels").is_none() && value.get("matchExpressions").is_none() {
        return pairs(Some(value)); // ReplicationController
    }
    let mut parts = Vec::new();
    if let Some(Value::Object(labels)) = value.get("matchLabels") {
        parts.extend(labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())));
    }
    for wanted in value.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let (key, values) = (text(wanted, "/key"), strings(wanted.get("values")));
        parts.push(match text(wanted, "/operator").as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key,
            _ => format!("!{key}"),
        });
    }
    or_none(parts.join(","))
}

fn pairs(value: Option<&Value>) -> String {
    let Some(Value::Object(map)) = value else { return "<none>".to_owned() };
    let list: Vec<String> =
        map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    or_none(list.join(","))
}

fn strings(value: Option<&Value>) -> String {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

fn joined(object: &Value, list: &str, field: &str) -> String {
    let items = object.pointer(list).and_then(Value::as_array).into_iter().flatten();
    let texts: Vec<&str> = items.filter_map(|i| i.get(field).and_then(Value::as_str)).collect();
    or_none(texts.join(","))
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Seconds as kubectl prints ages: `42s`, `5m3s`, `3h12m`, `4d`.
pub(crate) fn age(seconds: u64) -> String {
    let two = |big: u64, b: &str, small: u64, s: &str| match small {
        0 => format!("{big}{b}"),
        _ => format!("{big}{b}{small}{s}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / 60, "m", seconds % 60, "s"),
        600..10_800 => format!("{}m", seconds / 60),
        10_800..28_800 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        28_800..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds;
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_print_as_kubectl_prints_them() {
        let pod = json!({"metadata": {"name": "web-pod", "namespace": "default",
                "labels": {"app": "web"}},
            "spec": {"nodeName": "node-1"},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.244.1.2"}, {"ip": "fd00::2"}]}});
        let pod = Shown { object: pod, created: 100 };
        let pods = kinds::kind("po").unwrap();
        assert_eq!(
            table(pods, std::slice::from_ref(&pod), Show::default(), 163),
            "NAME      READY   STATUS    RESTARTS   AGE\n\
             web-pod   1/1     Running   0          63s\n"
        );
        let show = Show { wide: true, labels: true, no_headers: true, ..Show::default() };
        assert_eq!(
            table(pods, &[pod], show, 100 + 7 * 60 + 5),
            "web-pod   1/1   Running   0   7m5s   10.244.1.2,fd00::2   node-1   app=web\n"
        );
    }

    #[test]
    fn services_and_policies_show_what_people_look_for() {
        let service = json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "10.96.0.11",
            "type": "NodePort", "ports": [{"port": 3306, "nodePort": 30001}, {"port": 53, "protocol": "UDP"}]}});
        let service = Shown { object: service, created: 0 };
        let text = table(kinds::kind("svc").unwrap(), &[service], Show::default(), 0);
        assert!(
            text.contains("NodePort   10.96.0.11   <none>        3306:30001/TCP,53/UDP"),
            "{text}"
        );
        let policy = json!({"metadata": {"name": "p"}, "spec": {"podSelector": {
            "matchLabels": {"app": "db"}, "matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]}}});
        let policy = Shown { object: policy, created: 0 };
        let text = table(kinds::kind("netpol").unwrap(), &[policy], Show::default(), 0);
        assert!(text.contains("app=db,!old"), "{text}");
    }
}
