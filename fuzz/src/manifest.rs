//! What must hold of every reading, whatever was read?

use podwall_manifest::{
    Input, Object, Options, Reading, Typed, object_from_json, read, render_all,
};

/// Reads the bytes as a YAML file, and as a JSON file too where they look like one. Bytes that are
/// no text stand for the replacement character.
pub(crate) fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    check_as("fuzz.yaml", &text);
    if text.trim_start().starts_with(['{', '[']) {
        check_as("fuzz.json", &text);
    }
}

fn check_as(name: &str, text: &str) {
    let options = Options::default();
    let reading = read(&[Input::Text { name: name.to_owned(), text: text.to_owned() }], &options);
    let words = render_all(&reading.diagnostics, false);
    assert_eq!(words.is_empty(), reading.diagnostics.is_empty(), "a finding without words");
    assert!(!words.chars().any(|c| c.is_control() && c != '\n'), "{words:?} moves the cursor");
    assert!(reading.left_out.is_empty() || reading.has_errors(), "{:?}", reading.left_out);
    places_are_inside(&reading, text);
    for object in &reading.objects {
        reads_again(object, &options);
    }
    let cluster = reading.cluster();
    let pods = reading.objects.iter().filter(|o| matches!(o.typed, Typed::Pod(_))).count();
    assert!(cluster.pods.len() >= pods, "a pod got lost: {:?}", cluster.pods.keys());
}

/// Every place that a finding names exists.
fn places_are_inside(reading: &Reading, text: &str) {
    let lines = text.split(['\n', '\r']).count();
    for finding in &reading.diagnostics {
        let Some(place) = &finding.place else { continue };
        let line = usize::try_from(place.source.line).unwrap_or(usize::MAX);
        assert!(line <= lines + 1, "{finding} of {lines} lines");
    }
}

/// What was accepted reads again from its own JSON as the same object, so that a lab that kept it
/// can go on with it.
fn reads_again(object: &Object, options: &Options) {
    let again = object_from_json(&object.raw, "again", options);
    let again = match again {
        Ok(again) => again,
        Err(findings) => {
            let words = render_all(&findings, false);
            assert!(words.is_empty(), "{} was taken, and now: {words}", object.key);
            return;
        }
    };
    assert_eq!(again.key, object.key);
    assert_eq!(again.raw, object.raw);
    assert_eq!(without_places(&again.typed), without_places(&object.typed));
    let mut placed = again;
    placed.set_places(&object.places());
    assert_eq!(placed.places(), object.places());
}

/// The object without the lines that it stands on.
fn without_places(typed: &Typed) -> Typed {
    let mut typed = typed.clone();
    match &mut typed {
        // Not among what is read here.
        Typed::Entrance(_) => {}
        Typed::Namespace(namespace) => namespace.source = None,
        Typed::Node(node) => node.source = None,
        Typed::Pod(pod) => pod.source = None,
        Typed::Service(service) => service.source = None,
        Typed::Workload(workload) => {
            workload.source = None;
            workload.template.source = None;
        }
        Typed::Policy(policy) => {
            policy.source = None;
            for rules in [&mut policy.ingress, &mut policy.egress] {
                rules.iter_mut().flatten().for_each(|rule| rule.source = None);
            }
        }
    }
    typed
}
