//! What a user may have meant by a name that does not exist. Pure.

/// Names that are shown.
const SHOWN: usize = 5;
/// Similarity from which on a name is taken for a slip of another.
const NEAR: f64 = 0.8;

/// The end of a sentence that says that there is no such name: the names near it, or else those that there are.
pub(super) fn hint(wanted: &str, names: &[String]) -> String {
    if names.is_empty() {
        return ": there is none at all".to_owned();
    }
    let mut rated: Vec<(f64, &str)> = names
        .iter()
        .map(|name| (similarity(wanted, name), name.as_str()))
        .collect();
    rated.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(right.1)));
    let near: Vec<&str> = rated
        .iter()
        .filter(|(similarity, _)| *similarity >= NEAR)
        .map(|(_, name)| *name)
        .take(SHOWN)
        .collect();
    if !near.is_empty() {
        return format!(": did you mean {}?", near.join(" or "));
    }
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.sort_unstable();
    let more = if all.len() > SHOWN { ", …" } else { "" };
    all.truncate(SHOWN);
    format!(": there is {}{more}", all.join(", "))
}

fn similarity(wanted: &str, name: &str) -> f64 {
    if wanted.len() > 2 && (name.contains(wanted) || wanted.contains(name)) {
        return 1.0;
    }
    strsim::jaro_winkler(wanted, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_slip_is_answered_with_the_name_that_was_meant() {
        let there = names(&["smollm2", "synthetic", "llama-70b"]);
        assert_eq!(hint("smolm2", &there), ": did you mean smollm2?");
        assert_eq!(hint("llama", &there), ": did you mean llama-70b?");
    }

    #[test]
    fn without_a_near_name_those_that_there_are_stand_there() {
        assert_eq!(hint("zzz", &names(&["b", "a"])), ": there is a, b");
        let many = names(&["a", "b", "c", "d", "e", "f"]);
        assert_eq!(hint("zzz", &many), ": there is a, b, c, d, e, …");
        assert_eq!(hint("zzz", &[]), ": there is none at all");
    }
}
