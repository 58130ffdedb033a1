//! Exposure for people.
//!
//! ```text
//!   2 of 3 workloads can be reached from the internet, …
//!
//!   shop/Deployment/web                                 and others with just the same ways
//!     who could come in
//!     - the internet (0.0.0.0/0) on TCP 80: rule 1 of web (shop/web.yaml:12:5)
//! ```

use podwall_analysis::exposure::{Breadth, Exposed, Exposure, Today, Way, Who, fact};
use podwall_analysis::outside;
use podwall_policy::policy::{Direction, NamespaceScope};
use podwall_policy::port::PortSet;

use crate::json::exposure::breadth;
use crate::page::{BAD, FAINT, Page, UNSURE, paint};
use crate::text::paths;
use crate::words;

/// How many workloads of one kind are named before they are counted.
const NAMED: usize = 6;

/// The answer as coloured text, under its summary.
pub fn exposure(exposure: &Exposure<'_>, summary: &str, directions: &[Direction]) -> String {
    let mut page = Page::default();
    page.raw(format_args!("{summary}"));
    // Workloads with the same ways stand together, where the first of them does.
    let mut groups: Vec<(String, Vec<&Exposed<'_>>)> = Vec::new();
    let mut index = std::collections::HashMap::new();
    for workload in &exposure.workloads {
        let mut body = Page::default();
        through(&mut body, workload);
        ways(&mut body, workload, directions);
        let body = body.into_text();
        let at = *index.entry(body.clone()).or_insert(groups.len());
        if at == groups.len() {
            groups.push((body, Vec::new()));
        }
        groups[at].1.push(workload);
    }
    for (body, workloads) in groups {
        if body.is_empty() {
            continue;
        }
        let names: Vec<&String> = workloads.iter().map(|workload| &workload.label).collect();
        page.heading(&words::some(&names, NAMED));
        page.raw(format_args!("{body}"));
    }
    paths::section(&mut page, "Paths from outside that lead to no pod", &exposure.loose);
    page.into_text()
}

/// How many workloads are open how far: of all, whatever is shown of them.
pub fn summary(exposure: &Exposure<'_>, directions: &[Direction]) -> String {
    let mut page = Page::default();
    if exposure.workloads.is_empty() {
        page.line("There are no running pods, so nobody is exposed.");
        return page.into_text();
    }
    let all = words::count(exposure.workloads.len(), "workload");
    let works = |its: &&Exposed<'_>| its.paths.iter().any(paths::works);
    let through = exposure.workloads.iter().filter(works).count();
    if through > 0 {
        let what = "can be reached from outside through a Service, an Ingress or a Gateway";
        page.para("", 2, &format!("Of {all} {through} {what}."));
    }
    for direction in directions {
        let mut parts = Vec::new();
        for (breadth, to) in [
            (Breadth::Internet, "the internet"),
            (Breadth::Cluster, "any pod of the cluster"),
            (Breadth::Labels, "pods of any namespace by their labels"),
            (Breadth::Namespaces, "namespaces by their labels"),
        ] {
            let open =
                |way: &Way| way.direction == *direction && way.breadth() == breadth && way.passes();
            let number = exposure.workloads.iter().filter(|its| its.ways.iter().any(open)).count();
            if number > 0 {
                parts.push(format!("{number} to {to}"));
            }
        }
        let what = match direction {
            Direction::Ingress => "In: of",
            Direction::Egress => "Out: of",
        };
        let parts = match parts.is_empty() {
            true => "none is open beyond named namespaces and addresses".to_owned(),
            false => format!("open are {}", parts.join(", ")),
        };
        page.para("", 2, &format!("{what} {all} {parts}."));
    }
    page.into_text()
}

fn through(page: &mut Page, workload: &Exposed<'_>) {
    if workload.paths.is_empty() {
        return;
    }
    page.line("  through what the outside comes");
    for path in &workload.paths {
        page.item(2, &paths::line(path));
    }
}

fn ways(page: &mut Page, workload: &Exposed<'_>, directions: &[Direction]) {
    if workload.host_network {
        page.item(
            2,
            "uses its node's network: no policy protects it, and it can be reached and reach \
             whatever the node can",
        );
        return;
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        if !directions.contains(&direction) {
            continue;
        }
        let own: Vec<&Way> =
            workload.ways.iter().filter(|way| way.direction == direction).collect();
        let (head, nobody) = match direction {
            Direction::Ingress => ("who could come in", "nobody could come in but its own node"),
            Direction::Egress => ("where it could go", "it could go nowhere"),
        };
        if own.is_empty() {
            page.line(&format!("  {nobody}"));
            continue;
        }
        page.line(&format!("  {head}"));
        if anybody(&own) {
            let beyond = "no policy isolates it";
            let whom = match direction {
                Direction::Ingress => "anybody: the internet, any pod of any namespace, any node",
                Direction::Egress => "anywhere: the internet, any pod of any namespace, any node",
            };
            page.item(2, &format!("{} on every port and protocol: {beyond}", paint(BAD, whom)));
            continue;
        }
        for way in own {
            page.item(2, &line(way));
        }
    }
}

/// Whether everything is open to everybody, because nothing isolates the workload.
fn anybody(ways: &[&Way]) -> bool {
    let open = |way: &&Way| {
        way.rules.is_empty() && way.ports.is_everything() && !way.partly && way.families.is_empty()
    };
    ways.iter().all(|way| open(way) && !matches!(way.breadth(), Breadth::Outside))
        && [Breadth::Internet, Breadth::Cluster, Breadth::Node]
            .iter()
            .all(|breadth| ways.iter().any(|way| way.breadth() == *breadth))
}

fn line(way: &Way) -> String {
    let who = match way.breadth() {
        Breadth::Internet | Breadth::Cluster if way.passes() => paint_words(BAD, &who(way)),
        _ => who(way),
    };
    let mut parts = Vec::new();
    if !way.ports.is_empty() {
        parts.push(format!("on {}", words::ports(&way.ports)));
    }
    for (family, set) in way.families.iter().filter(|(_, set)| *set != way.ports) {
        parts.push(format!("over {family} on {}", words::ports(set)));
    }
    for (name, protocol) in &way.names {
        parts.push(format!("on what they call {protocol} \"{name}\""));
    }
    if way.partly {
        parts.push("(some of its pods only)".to_owned());
    }
    if !way.open.is_empty() {
        let open = format!("perhaps on {}", words::ports(&way.open));
        parts.push(paint_words(UNSURE, &open));
    }
    let mut out = format!("{who} {}", parts.join(", "));
    let rules: Vec<String> = way
        .rules
        .iter()
        .take(3)
        .map(|rule| format!("{}{}", words::rule(rule), words::place(rule.source.as_ref())))
        .collect();
    if !rules.is_empty() {
        out += &format!(": {}", rules.join(", "));
        if way.rules.len() > rules.len() {
            out += &format!(" and {} more", way.rules.len() - rules.len());
        }
    } else if way.passes() {
        out += ": no policy isolates it";
    }
    if !way.missing.is_empty() {
        // Pods that nobody has made have no names: facts of several are the same words.
        let mut facts: Vec<String> = Vec::new();
        for fact in way.missing.iter().map(fact) {
            if !facts.contains(&fact) {
                facts.push(fact);
            }
        }
        out += &format!("; unknown is {}", words::some(&facts, 2));
    }
    if let Who::Pods(_) = &way.who
        && !matches!(way.breadth(), Breadth::Cluster)
    {
        out += &paint_words(FAINT, &today(way));
    }
    out
}

/// Each word by itself, so that a style never crosses the end of a line.
pub(crate) fn paint_words(style: anstyle::Style, words: &str) -> String {
    let lead = if words.starts_with(' ') { " " } else { "" };
    let words: Vec<String> = words.split_whitespace().map(|word| paint(style, word)).collect();
    format!("{lead}{}", words.join(" "))
}

/// Which such pods there are, and who can be one.
fn today(way: &Way) -> String {
    let Today { pods, perhaps, examples } = &way.today;
    let mut out = match (pods, perhaps) {
        (0, 0) => " (no such pod today".to_owned(),
        (0, _) => format!(" (perhaps {} today", words::count(*perhaps, "such pod")),
        (pods, _) => {
            let names: Vec<String> = examples.iter().map(ToString::to_string).collect();
            let more = pods - names.len().min(*pods);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!(" (now {}{more}", names.join(", "))
        }
    };
    out += match (way.direction, way.breadth()) {
        (Direction::Ingress, Breadth::Labels) => "; whoever may make a pod anywhere can be one",
        (Direction::Ingress, Breadth::Namespaces) => "; whoever may make such a namespace can",
        _ => "",
    };
    out + ")"
}

/// Who is at the other end, in words.
pub fn who(way: &Way) -> String {
    let crowd = match &way.who {
        Who::Node => return "another node".to_owned(),
        Who::Outside(addresses) => {
            let described = outside::describe(addresses);
            return match way.breadth() {
                Breadth::Internet => format!("the internet ({described})"),
                _ => format!("addresses outside ({described})"),
            };
        }
        Who::Pods(crowd) => crowd,
    };
    let pods = match crowd.scope.pods.is_everything() {
        true => "any pod".to_owned(),
        false => format!("pods {}", crowd.scope.pods),
    };
    let of = match (&crowd.scope.namespaces, crowd.namespace()) {
        (NamespaceScope::Own(name), _) => format!("namespace {name}"),
        (NamespaceScope::Matching(all), _) if all.is_everything() => "any namespace".to_owned(),
        (NamespaceScope::Matching(only), Some(name)) if only.requirements.len() == 1 => {
            format!("namespace {name}")
        }
        (NamespaceScope::Matching(selector), _) => format!("namespaces {selector}"),
    };
    let mut out = format!("{pods} of {of}");
    for scope in &crowd.also {
        out += &format!(" that is one of {scope}, too");
    }
    for scope in &crowd.except {
        out += &format!(", but not {scope}");
    }
    out
}

/// The answer as CSV (RFC 4180, but with line feeds): a line for each range of ports.
pub fn csv(exposure: &Exposure<'_>) -> String {
    let mut out = String::from("workload,direction,breadth,who,verdict,protocol,from,to,rule\n");
    for workload in &exposure.workloads {
        for way in &workload.ways {
            let rule = way.rules.first().map(|rule| match &rule.source {
                Some(source) => format!("{rule} ({source})"),
                None => rule.to_string(),
            });
            let lead = [
                quoted(&workload.label),
                way.direction.to_string(),
                breadth(way.breadth()).to_owned(),
                quoted(&who(way)),
            ]
            .join(",");
            let rule = quoted(&rule.unwrap_or_default());
            for (verdict, set) in [("allowed", &way.ports), ("unknown", &way.open)] {
                for ports in ranges(set) {
                    out += &format!("{lead},{verdict},{ports},{rule}\n");
                }
            }
            for (family, set) in way.families.iter().filter(|(_, set)| *set != way.ports) {
                for ports in ranges(&set.difference(&way.ports)) {
                    out += &format!("{lead},allowed over {family},{ports},{rule}\n");
                }
            }
        }
    }
    out
}

/// `PROTOCOL,FROM,TO` for each range.
fn ranges(set: &PortSet) -> Vec<String> {
    if set.is_everything() {
        return vec!["any,,".to_owned()];
    }
    let numbers = set
        .iter()
        .map(|(protocol, range)| format!("{protocol},{},{}", range.first.max(1), range.last));
    numbers.chain(set.has_other_protocols().then(|| "other,,".to_owned())).collect()
}

fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// The answer as a table in Markdown.
pub fn markdown(exposure: &Exposure<'_>) -> String {
    let mut out =
        String::from("| workload | direction | who | ports | rule |\n|---|---|---|---|---|\n");
    for workload in &exposure.workloads {
        for way in &workload.ways {
            let mut ports = Vec::new();
            if !way.ports.is_empty() {
                ports.push(words::ports(&way.ports));
            }
            for (family, set) in way.families.iter().filter(|(_, set)| *set != way.ports) {
                ports.push(format!("{family}: {}", words::ports(set)));
            }
            for (name, protocol) in &way.names {
                ports.push(format!("{protocol} \"{name}\""));
            }
            if !way.open.is_empty() {
                ports.push(format!("? {}", words::ports(&way.open)));
            }
            let rule = |rule: &podwall_policy::policy::RuleRef| match &rule.source {
                Some(source) => format!("{} ({source})", words::rule(rule)),
                None => words::rule(rule),
            };
            let rules: Vec<String> = way.rules.iter().map(rule).collect();
            let cells = [
                format!("**{}**", workload.label),
                way.direction.to_string(),
                who(way),
                ports.join("; "),
                rules.join(", "),
            ];
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            out += &format!("| {} |\n", cells.join(" | "));
        }
    }
    let all: Vec<(&str, &podwall_analysis::exposure::Path)> = exposure
        .workloads
        .iter()
        .flat_map(|its| its.paths.iter().map(|path| (its.label.as_str(), path)))
        .chain(exposure.loose.iter().map(|path| ("", path)))
        .collect();
    if !all.is_empty() {
        out += "\n| workload | path from outside | outcome |\n|---|---|---|\n";
    }
    for (label, path) in all {
        let cells = [label.to_owned(), paths::way(path), paths::outcome(path)];
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        out += &format!("| {} |\n", cells.join(" | "));
    }
    out
}
