//! How does a finding look on a terminal?
//!
//! As a compiler prints it: message, place, the line with a caret, remarks, help. Plain text by
//! default; colours on request.

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::diagnostic::{Diagnostic, Note, Place, Severity};

/// Renders one finding, without a newline at its end.
pub fn render(diagnostic: &Diagnostic, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(&*diagnostic.message).id(diagnostic.code.as_str());
    let mut group = Group::with_title(title);
    if let Some(place) = &diagnostic.place {
        group = add_place(group, place, AnnotationKind::Primary, diagnostic.label.as_deref());
    }
    let in_object = match (&diagnostic.place, &diagnostic.object) {
        (Some(Place { text: None, .. }) | None, Some(object)) => Some(format!("in {object}")),
        _ => None,
    };
    if let Some(text) = &in_object {
        group = group.element(Level::NOTE.message(&**text));
    }
    let without_place = diagnostic.notes.iter().filter(|note| note.place.is_none());
    for note in without_place {
        group = group.element(Level::NOTE.message(&*note.message));
    }
    let with_place: Vec<(&Note, &Place)> =
        diagnostic.notes.iter().filter_map(|n| n.place.as_ref().map(|p| (n, p))).collect();
    if let (Some(help), true) = (&diagnostic.help, with_place.is_empty()) {
        group = group.element(Level::HELP.message(&**help));
    }
    let mut report = vec![group];
    for (note, place) in &with_place {
        let group = Group::with_title(Level::NOTE.secondary_title(&*note.message));
        report.push(add_place(group, place, AnnotationKind::Context, None));
    }
    if let (Some(help), false) = (&diagnostic.help, with_place.is_empty()) {
        report.push(Group::with_title(Level::HELP.secondary_title(&**help)));
    }
    renderer.render(&report)
}

fn add_place<'a>(
    group: Group<'a>,
    place: &'a Place,
    kind: AnnotationKind,
    label: Option<&'a str>,
) -> Group<'a> {
    let source = &place.source;
    match &place.text {
        Some(text) => group.element(
            Snippet::source(&**text)
                .line_start(source.line as usize)
                .path(&*source.file)
                .annotation(annotation(text, place, kind, label)),
        ),
        None => {
            let origin = Origin::path(&*source.file);
            group.element(if source.line > 0 {
                origin.line(source.line as usize).char_column(source.column as usize)
            } else {
                origin
            })
        }
    }
}

fn annotation<'a>(
    text: &str,
    place: &Place,
    kind: AnnotationKind,
    label: Option<&'a str>,
) -> Annotation<'a> {
    let byte = |chars: usize| text.char_indices().nth(chars).map_or(text.len(), |(i, _)| i);
    let first = place.source.column.saturating_sub(1) as usize;
    let range = byte(first)..byte(first + place.length as usize);
    kind.span(range).label(label)
}

/// Renders all findings with an empty line between them, and a line of totals at the end; the empty
/// text if there is none.
pub fn render_all(diagnostics: &[Diagnostic], colour: bool) -> String {
    if diagnostics.is_empty() {
        return String::new();
    }
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&render(diagnostic, colour));
        out.push_str("\n\n");
    }
    let errors = diagnostics.iter().filter(|d| d.is_error()).count();
    let warnings = diagnostics.len() - errors;
    let count = |n: usize, what: &str| match n {
        0 => None,
        1 => Some(format!("1 {what}")),
        n => Some(format!("{n} {what}s")),
    };
    let totals: Vec<String> =
        [count(errors, "error"), count(warnings, "warning")].into_iter().flatten().collect();
    out.push_str(&totals.join(", "));
    out.push('\n');
    out
}
