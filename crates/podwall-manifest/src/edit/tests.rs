use podwall_policy::source::Step;

use super::*;

const TEXT: &str = "\
# who may talk to the shop
kind: NetworkPolicy
spec:
    podSelector: {matchLabels: {app: 'ngnix'}}   # typo
    policyTypes: [Ingress]
    ingress:
      - from:
          - namespaceSelector:
              matchLabels: {name: x}
          - podSelector:
              matchLabels:
                app: web

        # the metrics
        ports:
          - port: 80
          - {port: quic}
    egress:
    - {}
";

fn edited(edit: Edit) -> Option<String> {
    edited_in(TEXT, (2, 1), edit)
}

fn edited_in(text: &str, object: (u32, u32), edit: Edit) -> Option<String> {
    let splice = splices(text, object, &[edit]).remove(0)?;
    let new = apply(text, &[splice])?;
    // What a test shows is the lines that differ.
    let old: Vec<&str> = text.lines().collect();
    let changed = new.lines().filter(|line| !old.contains(line));
    Some(changed.collect::<Vec<_>>().join("\n"))
}

fn path(path: &str) -> FieldPath {
    let steps = path.split('.').map(|step| match step.parse() {
        Ok(index) => Step::Item(index),
        Err(_) => Step::Key(step.into()),
    });
    FieldPath(steps.collect())
}

#[test]
fn a_value_keeps_its_quotes_and_the_rest_of_its_line() {
    let app = path("spec.podSelector.matchLabels.app");
    assert_eq!(
        edited(Edit::Value(app.clone(), "nginx".into())).as_deref(),
        Some("    podSelector: {matchLabels: {app: 'nginx'}}   # typo")
    );
    let port = path("spec.ingress.0.ports.0.port");
    assert_eq!(edited(Edit::Value(port, "8080".into())).as_deref(), Some("          - port: 8080"));
    let web = path("spec.ingress.0.from.1.podSelector.matchLabels.app");
    assert_eq!(edited(Edit::Value(web, "1".into())).as_deref(), Some("                app: \"1\""));
    assert_eq!(edited(Edit::Value(path("spec.nothing"), "x".into())), None);
    assert_eq!(edited(Edit::Value(path("spec"), "x".into())), None);
}

#[test]
fn a_key_is_written_anew() {
    let name = path("spec.ingress.0.from.0.namespaceSelector.matchLabels.name");
    assert_eq!(
        edited(Edit::Key(name, "kubernetes.io/metadata.name".into())).as_deref(),
        Some("              matchLabels: {kubernetes.io/metadata.name: x}")
    );
}

#[test]
fn two_items_become_one_by_one_byte() {
    let second = path("spec.ingress.0.from.1");
    assert_eq!(edited(Edit::Join(second)).as_deref(), Some("            podSelector:"));
    assert_eq!(edited(Edit::Join(path("spec.ingress.0.from.0"))), None);
    assert_eq!(edited(Edit::Join(path("spec.ingress.0.ports.1"))), None, "one has braces");
}

#[test]
fn an_item_is_added_at_the_end_of_a_list_in_the_lists_own_style() {
    let types = path("spec.policyTypes");
    assert_eq!(
        edited(Edit::Append(types, vec!["Egress".into()])).as_deref(),
        Some("    policyTypes: [Ingress, Egress]")
    );
    let rule = vec!["ports:".into(), "- port: 53".into()];
    let splice =
        splices(TEXT, (2, 1), &[Edit::Append(path("spec.ingress"), rule)]).remove(0).unwrap();
    let new = apply(TEXT, &[splice]).unwrap();
    assert!(
        new.contains("          - {port: quic}\n      - ports:\n        - port: 53\n    egress:"),
        "{new}"
    );
}

#[test]
fn an_empty_list_becomes_a_block_and_a_block_an_empty_list() {
    let text = "kind: A\nspec:\n  ingress: []   # nobody\n  egress:\n  - to: x\n";
    let rule = || vec!["from:".to_owned(), "- a".to_owned()];
    let edit = |edit| {
        let splice = splices(text, (1, 1), &[edit]).remove(0)?;
        apply(text, &[splice])
    };
    assert_eq!(
        edit(Edit::Append(path("spec.ingress"), rule())).as_deref(),
        Some("kind: A\nspec:\n  ingress:   # nobody\n  - from:\n    - a\n  egress:\n  - to: x\n")
    );
    assert_eq!(
        edit(Edit::Remove(path("spec.egress.0"))).as_deref(),
        Some("kind: A\nspec:\n  ingress: []   # nobody\n  egress: []\n")
    );
    assert_eq!(
        edit(Edit::Field(path("spec"), vec!["a:".into(), "  b: c".into()])).as_deref(),
        Some("kind: A\nspec:\n  ingress: []   # nobody\n  egress:\n  - to: x\n  a:\n    b: c\n")
    );
    assert_eq!(edit(Edit::Field(path(""), vec!["a: b".into()])), None);
}

#[test]
fn an_item_is_taken_out_in_the_lists_own_style() {
    let without = |edit| {
        let splice = splices(TEXT, (2, 1), &[edit]).remove(0)?;
        apply(TEXT, &[splice])
    };
    let second = without(Edit::Remove(path("spec.ingress.0.from.1"))).unwrap();
    assert!(
        second.contains("matchLabels: {name: x}\n\n        # the metrics\n        ports:"),
        "{second}"
    );
    let first = without(Edit::Remove(path("spec.ingress.0.from.0"))).unwrap();
    assert!(first.contains("      - from:\n          - podSelector:\n"), "{first}");
    let flow = "kind: A\nports: [{port: 80}, {port: 443}, 5] # three\n";
    for (index, left) in
        [(0, "[{port: 443}, 5]"), (1, "[{port: 80}, 5]"), (2, "[{port: 80}, {port: 443}]")]
    {
        let edit = Edit::Remove(path(&format!("ports.{index}")));
        let splice = splices(flow, (1, 1), &[edit]).remove(0).unwrap();
        let left = format!("kind: A\nports: {left} # three\n");
        assert_eq!(apply(flow, &[splice]).unwrap(), left);
    }
}

#[test]
fn an_item_is_written_anew_in_the_lists_own_style() {
    let peer = || vec!["ipBlock:".to_owned(), "  cidr: 10.0.0.0/8".to_owned()];
    assert_eq!(
        edited(Edit::Replace(path("spec.ingress.0.from.1"), peer())).as_deref(),
        Some("          - ipBlock:\n              cidr: 10.0.0.0/8")
    );
    let types = path("spec.policyTypes.0");
    assert_eq!(
        edited(Edit::Replace(types, vec!["Egress".into()])).as_deref(),
        Some("    policyTypes: [Egress]")
    );
    let port = path("spec.ingress.0.ports.1");
    assert_eq!(
        edited(Edit::Replace(port, vec!["port: 443".into()])).as_deref(),
        Some("          - port: 443")
    );
}

#[test]
fn a_field_is_added_to_a_mapping_in_flow_style() {
    let labels = path("spec.podSelector.matchLabels");
    assert_eq!(
        edited(Edit::Field(labels, vec!["tier: web".into()])).as_deref(),
        Some("    podSelector: {matchLabels: {app: 'ngnix', tier: web}}   # typo")
    );
}

#[test]
fn a_field_is_added_before_another() {
    assert_eq!(
        edited(Edit::Insert(path("spec.egress"), "a: b".into())).as_deref(),
        Some("    a: b")
    );
    let quic = path("spec.ingress.0.ports.1.port");
    assert_eq!(
        edited(Edit::Insert(quic, "protocol: UDP".into())).as_deref(),
        Some("          - {protocol: UDP, port: quic}")
    );
    let first = path("spec.ingress.0.ports.0.port");
    assert_eq!(
        edited(Edit::Insert(first, "protocol: UDP".into())).as_deref(),
        Some("          - protocol: UDP\n            port: 80")
    );
}

#[test]
fn line_ends_stay_and_what_is_not_understood_is_refused() {
    let text = "kind: A\r\nlist:\r\n- a\r\n";
    let splice = splices(text, (1, 1), &[Edit::Append(path("list"), vec!["b".into()])]);
    let new = apply(text, &[splice[0].clone().unwrap()]).unwrap();
    assert_eq!(new, "kind: A\r\nlist:\r\n- a\r\n- b\r\n");
    let alias = "a: &x web\nb: *x\n";
    assert_eq!(edited_in(alias, (1, 1), Edit::Value(path("b"), "db".into())), None);
    let json = "{\"kind\": \"A\"}";
    assert_eq!(edited_in(json, (1, 1), Edit::Value(path("kind"), "B".into())), None);
}

#[test]
fn splices_that_touch_the_same_bytes_are_refused() {
    let splice = |range, text: &str| Splice { range, text: text.into() };
    assert_eq!(apply("abcd", &[splice(2..3, "X"), splice(0..1, "Y")]).as_deref(), Some("YbXd"));
    assert_eq!(apply("abcd", &[splice(0..3, "X"), splice(2..4, "Y")]), None);
}
