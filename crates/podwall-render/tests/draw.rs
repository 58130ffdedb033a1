//! Is a picture always the same, safe whatever names there are, and small?
//!
//! `PODWALL_DOCS=overwrite` writes the picture of docs/draw.md anew; look at the difference.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use podwall_analysis::matrix::By;
use podwall_analysis::picture::scene::{Scene, View};
use podwall_analysis::picture::{Picture, picture};
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_manifest::{Input, Options, read};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::{Owner, Pod};
use podwall_policy::policy::{NamespaceScope, Peer, PodScope, Policy, Rule};
use podwall_policy::port::{PortMatch, PortRange, PortSpec, Protocol};
use podwall_policy::selector::Selector;
use podwall_render::draw::{dot, html, mermaid, svg};

fn everything(picture: &Picture) -> Scene {
    Scene::of(picture, &View::everything(picture))
}

/// All formats.
fn drawn(picture: &Picture, scene: &Scene, title: &str) -> [String; 4] {
    [
        html(picture, scene, title).unwrap(),
        svg(picture, scene, title),
        dot(picture, scene, title),
        mermaid(picture, scene),
    ]
}

fn of_random(seed: u64) -> Picture {
    let dice = &mut Dice::seeded(seed);
    let mut cluster = random::cluster(dice);
    for _ in 0..dice.below(20) {
        cluster.put_pod(random::pod(dice));
    }
    let before = dice.chance(50).then(|| random::cluster(dice));
    picture(&cluster, before.as_ref(), By::Pod).unwrap()
}

/// So many namespaces of so many workloads; each lets another of its namespace in, and everybody
/// reaches the first of each.
fn large(spaces: usize, each: usize) -> Cluster {
    let mut cluster = Cluster::default();
    for space in 0..spaces {
        let namespace = format!("team-{space:02}");
        for at in 0..each {
            let app = format!("app-{at}");
            let labels = [("app", &*app), ("team", &*namespace)].into_iter().collect();
            let mut pod = Pod::new(namespace.clone(), format!("{app}-x"), labels);
            pod.owner = Some(Owner { kind: "Deployment".into(), name: app.clone().into() });
            cluster.put_pod(pod);
            let own = Selector::labels([("app", &*app)]);
            let mut policy = Policy::network_policy(namespace.clone(), format!("to-{app}"), own);
            let from = Selector::labels([("app", format!("app-{}", (at * 7 + space) % each))]);
            let namespaces = NamespaceScope::Own(namespace.clone().into());
            let port = PortRange::one(8000 + u16::try_from(at).unwrap());
            let ports = vec![PortSpec { protocol: Protocol::TCP, port: PortMatch::Range(port) }];
            let peer = Peer::Pods(PodScope { namespaces, pods: from });
            let peers = if at == 0 { Vec::new() } else { vec![peer] };
            policy.ingress = Some(vec![Rule::allow(peers, ports)]);
            cluster.put_policy(policy);
        }
    }
    cluster
}

#[test]
fn the_same_objects_are_the_same_bytes() {
    for seed in 0..30 {
        let (a, b) = (of_random(seed), of_random(seed));
        assert!(drawn(&a, &everything(&a), "x") == drawn(&b, &everything(&b), "x"), "seed {seed}");
    }
}

const HOSTILE: [&str; 6] = [
    "</script><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "]]>--><!--",
    "a\nb\r\tc\u{0}",
    "\u{202e}gnp.exe\u{2028}",
    "\\\"];evil[label=\"",
];

#[test]
fn no_name_gets_out_of_its_place() {
    let mut cluster = Cluster::default();
    let long = "x".repeat(253);
    for (at, name) in HOSTILE.into_iter().chain([&*long]).enumerate() {
        let labels = [("app", name), ("n", ["a", "b"][at % 2])].into_iter().collect();
        let mut pod = Pod::new(name, name, labels);
        pod.owner = Some(Owner { kind: name.into(), name: name.into() });
        cluster.put_pod(pod);
        let mut policy = Policy::network_policy(name, name, Selector::everything());
        let namespaces = NamespaceScope::Matching(Selector::everything());
        let pods = Selector::labels([("n", "a")]);
        let peer = Peer::Pods(PodScope { namespaces, pods });
        policy.ingress = Some(vec![Rule::allow(vec![peer], Vec::new())]);
        cluster.put_policy(policy);
    }
    let picture = picture(&cluster, None, By::Workload).unwrap();
    let scene = everything(&picture);
    assert!(!scene.blocks.is_empty());
    let [page, alone, graph, chart] = drawn(&picture, &scene, HOSTILE[0]);
    assert_eq!(page.matches("<script").count(), 2, "data and script");
    assert_eq!(page.matches("</script").count(), 2);
    assert!(!page.contains("<img") && !page.contains("<!--"));
    for text in [&page, &alone] {
        assert!(!text.contains(['\u{202e}', '\u{0}']), "nothing turns the text's direction");
        let body = &text[text.find("<g ").unwrap()..];
        let body = body.split("</svg>").next().unwrap();
        assert!(balanced(body), "every tag is closed by its own");
    }
    assert!(graph.lines().all(dot_line), "{graph}");
    assert!(chart.lines().all(|line| line.matches('"').count() % 2 == 0), "{chart}");
    assert!(!chart.contains("<script") && !chart.contains("]]>"));
}

/// Whether elements are nested rightly.
fn balanced(markup: &str) -> bool {
    let mut open: Vec<&str> = Vec::new();
    for part in markup.split('<').skip(1) {
        let Some((tag, text)) = part.split_once('>') else { return false };
        if text.contains('>') || tag.matches('"').count() % 2 != 0 {
            return false;
        }
        match tag.strip_prefix('/') {
            Some(name) if open.pop() != Some(name) => return false,
            None if !tag.ends_with('/') => open.push(tag.split(' ').next().unwrap_or_default()),
            _ => {}
        }
    }
    open.is_empty()
}

/// Whether a line of DOT has its quotes closed, escaped ones aside.
fn dot_line(line: &str) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for c in line.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => inside = !inside,
            _ => {}
        }
    }
    !inside
}

#[test]
fn text_formats_name_only_nodes_that_they_declare() {
    for seed in 0..60 {
        let picture = of_random(seed);
        let [_, _, graph, chart] = drawn(&picture, &everything(&picture), "x");
        for line in graph.lines().filter(|line| line.contains(" -> ")) {
            let (from, rest) = line.trim().split_once(" -> ").unwrap();
            for end in [from, rest.split(' ').next().unwrap()] {
                assert!(graph.contains(&format!(" {end} [")), "seed {seed}: {end}");
            }
        }
        let opened = chart.lines().filter(|line| line.trim().starts_with("subgraph ")).count();
        assert_eq!(opened, chart.lines().filter(|line| line.trim() == "end").count());
        let links = chart.lines().filter(|line| line.contains("linkStyle")).count();
        assert_eq!(links, graph.matches(" -> ").count(), "both have the same edges");
    }
}

#[test]
fn a_page_refers_to_nothing_outside_and_forbids_it() {
    let picture = of_random(3);
    let page = html(&picture, &everything(&picture), "x").unwrap();
    assert!(page.contains("default-src 'none'; script-src 'sha256-"));
    for reference in ["src=\"", "href=", "url(", "@import", "fetch(", "innerHTML", " style=\""] {
        assert!(!page.contains(reference), "{reference}");
    }
}

#[test]
fn a_page_stays_small() {
    let few = picture(&large(2, 5), None, By::Workload).unwrap();
    let page = html(&few, &everything(&few), "x").unwrap();
    assert!(page.len() < 150_000, "{}", page.len());
    let many = picture(&large(50, 20), None, By::Workload).unwrap();
    let scene = Scene::of(&many, &View::overview(&many));
    let page = html(&many, &scene, "x").unwrap();
    assert!(page.len() < 3_000_000, "{}", page.len());
    assert!(scene.blocks.len() < 60, "what all namespaces do alike is one line");
}

#[test]
fn the_picture_of_the_docs_is_what_would_be_drawn() {
    let reading = read(&[Input::Path("../../examples/three-tier".into())], &Options::default());
    let picture = picture(&reading.cluster(), None, By::Workload).unwrap();
    let fresh = svg(&picture, &everything(&picture), "Who can reach whom").replace("../../", "");
    let path = Path::new("../../docs/draw-three-tier.svg");
    if std::env::var_os("PODWALL_DOCS").is_some_and(|value| value == "overwrite") {
        std::fs::write(path, &fresh).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    assert!(kept == fresh, "docs/draw-three-tier.svg is not what PODWALL_DOCS=overwrite writes");
    assert!(fresh.contains("TCP 5000") && fresh.contains(".yaml:"));
}
