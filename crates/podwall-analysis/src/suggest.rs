//! Which name was probably meant?

/// The candidate that is nearest to `wrong`, if one is near enough to be a slip of the fingers: a
/// third of the letters, at least one, may differ.
pub(crate) fn nearest<'a>(
    wrong: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let allowed = (wrong.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(wrong, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *candidate != wrong)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Whether one letter, or two that changed places, makes one word of the other.
pub(crate) fn is_one_slip(wrong: &str, meant: &str) -> bool {
    distance(wrong, meant) == 1
}

/// Whether a name is so near another that it cannot well be a name of its own: one letter of a longer
/// word. `team-b` beside `team-a`, `shop2` beside `shop1` are names of their own.
pub(crate) fn is_typo(wrong: &str, meant: &str) -> bool {
    fn words(name: &str) -> Vec<&str> {
        name.split(|c: char| !c.is_ascii_alphanumeric()).collect()
    }
    let long =
        |word: &str| word.chars().count() >= 5 && word.chars().all(|c| c.is_ascii_alphabetic());
    let (a, b) = (words(wrong), words(meant));
    let other: Vec<_> = a.iter().zip(&b).filter(|(a, b)| a != b).collect();
    is_one_slip(wrong, meant) && a.len() == b.len() && other.iter().all(|(a, b)| long(a) && long(b))
}

/// How many letters must be put in, taken out, changed, or swapped with their neighbour (optimal
/// string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_swapped_letters_are_one_slip() {
        assert_eq!(distance("web-pdo", "web-pod"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn names_in_a_row_are_no_typos_of_each_other() {
        for (wrong, meant) in
            [("kube-sytem", "kube-system"), ("monitornig", "monitoring"), ("shopp", "shops")]
        {
            assert!(is_typo(wrong, meant), "{wrong}");
        }
        for (name, other) in [
            ("team-a", "team-b"),
            ("shop1", "shop2"),
            ("tenant-9", "tenant-10"),
            ("dev", "dav"),
            ("kube-dns", "kube-system"),
            ("monitoring", "logging"),
        ] {
            assert!(!is_typo(name, other), "{name}");
        }
    }

    #[test]
    fn only_a_near_name_is_suggested() {
        let names = ["web-pod", "app-pod", "db-pod"];
        assert_eq!(nearest("web-pdo", names), Some("web-pod"));
        assert_eq!(nearest("dbpod", names), Some("db-pod"));
        assert_eq!(nearest("zookeeper", names), None);
    }
}
