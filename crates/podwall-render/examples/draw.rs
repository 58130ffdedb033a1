fn main() {
    let a: Vec<String> = std::env::args().collect();
    let inputs: Vec<_> = a[3..].iter().map(|p| podwall_manifest::Input::Path(p.into())).collect();
    let c = podwall_manifest::read(&inputs, &Default::default()).cluster();
    let p = podwall_analysis::picture::picture(&c, None, podwall_analysis::matrix::By::Workload).unwrap();
    use podwall_analysis::picture::scene::*;
    let v = match a[1].as_str() { "all" => View::everything(&p), "ns" => View::overview(&p), x => View::namespace(&p, x.parse().unwrap()) };
    let s = Scene::of(&p, &v);
    std::fs::write(&a[2], podwall_render::draw::svg(&p, &s, "Who can reach whom")).unwrap();
}
