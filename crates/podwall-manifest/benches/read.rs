//! How long does reading take?
//!
//! 5,000 small policies in one file, and a hundred Deployments that use most of a PodSpec.

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use podwall_manifest::{Input, Options, read};

const EVERYTHING: &str = include_str!("../tests/good/deployment-with-everything.yaml");

fn policies(count: usize) -> String {
    let mut text = String::new();
    for i in 0..count {
        let _ = write!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p{i}\n\
             spec:\n  podSelector:\n    matchLabels:\n      app: web\n  policyTypes:\n  - Ingress\n  \
             ingress:\n  - from:\n    - podSelector:\n        matchLabels:\n          app: front\n"
        );
    }
    text
}

fn deployments(count: usize) -> String {
    let numbered = |i| EVERYTHING.replace("name: everything\n", &format!("name: e{i}\n"));
    (0..count).map(|i| format!("---\n{}", numbered(i))).collect()
}

fn bench(criterion: &mut Criterion) {
    for (name, text) in [
        ("read 5,000 policies", policies(5_000)),
        ("read 100 policies", policies(100)),
        ("read 100 full Deployments", deployments(100)),
    ] {
        let input = [Input::Text { name: "bench.yaml".into(), text }];
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| black_box(read(&input, &Options::default()).objects.len()));
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
