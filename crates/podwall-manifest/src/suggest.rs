//! Which known word did the author mean?
//!
//! ```text
//!   ingres → ingress      podselector → podSelector      matchLabel → matchLabels
//! ```

/// The nearest of the known words, if one is near enough to be meant.
pub fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    if let Some(same) = known.iter().find(|k| k.eq_ignore_ascii_case(word)) {
        return Some(same);
    }
    // Of a long word a third may be wrong; of a short one hardly anything.
    let limit = match word.chars().count() {
        3..=5 => 1,
        6..=8 => 2,
        9..=40 => 3,
        _ => return None,
    };
    let lower = |word: &str| word.chars().flat_map(char::to_lowercase).collect::<Vec<char>>();
    let word = lower(word);
    known
        .iter()
        // A character more or less is a step; most words differ by more than is looked for.
        .filter(|k| k.chars().count().abs_diff(word.len()) <= limit)
        .map(|k| (distance(&word, &lower(k)), *k))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// A key of the mapping that was probably meant to be `wanted`.
pub(crate) fn nearest_key<'n>(map: &'n crate::node::Map<'_>, wanted: &str) -> Option<&'n str> {
    map.entries.iter().map(|e| &*e.key).find(|key| nearest(key, &[wanted]).is_some())
}

/// Insertions, deletions, replacements, and swaps of neighbours that lead from one to the other
/// (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut rows = vec![0; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            let at = |i: usize, j: usize| i * width + j;
            rows[at(i, j)] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[at(i - 1, j - 1)] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[at(i - 1, j)] + 1).min(rows[at(i, j - 1)] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[at(i - 2, j - 2)] + 1);
                }
                best
            };
        }
    }
    rows.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_found_and_a_far_one_is_not() {
        let known = ["ingress", "egress", "podSelector", "policyTypes", "to", "port", "ports"];
        for (word, wanted) in [
            ("ingres", Some("ingress")),
            ("ingerss", Some("ingress")),
            ("egres", Some("egress")),
            ("podselector", Some("podSelector")),
            ("podSelectors", Some("podSelector")),
            ("policyType", Some("policyTypes")),
            ("TO", Some("to")),
            ("prot", Some("port")),
            ("from", None),
            ("x", None),
            ("matchLabels", None),
        ] {
            assert_eq!(nearest(word, &known), wanted, "{word}");
        }
    }
}
