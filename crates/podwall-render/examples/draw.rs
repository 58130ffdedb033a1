fn main() {
    let a: Vec<String> = std::env::args().collect();
    let inputs: Vec<_> = a[3..].iter().filter(|p| !p.starts_with("--")).map(|p| podwall_manifest::Input::Path(p.into())).collect();
    let old: Vec<_> = a[3..].iter().filter_map(|p| p.strip_prefix("--old=")).map(|p| podwall_manifest::Input::Path(p.into())).collect();
    let c = podwall_manifest::read(&inputs, &Default::default()).cluster();
    let o = podwall_manifest::read(&old, &Default::default()).cluster();
    let p = podwall_analysis::picture::picture(&c, (!old.is_empty()).then_some(&o), podwall_analysis::matrix::By::Workload).unwrap();
    use podwall_analysis::picture::scene::*;
    let v = match a[1].as_str() { "all" => View::everything(&p), "ns" => View::overview(&p), x => View::namespace(&p, x.parse().unwrap()) };
    let s = Scene::of(&p, &v);
    let out = if a[2].ends_with("html") { podwall_render::draw::html(&p, &s, "Who can reach whom").unwrap() } else { podwall_render::draw::svg(&p, &s, "Who can reach whom") };
    std::fs::write(&a[2], out).unwrap();
}
