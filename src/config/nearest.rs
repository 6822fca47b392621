//! "Did you mean": the known word that is closest to a mistyped one.

/// The candidate that `word` was most probably meant to be, if any is close enough.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|c| {
            let lower = c.to_lowercase();
            let distance = strsim::damerau_levenshtein(&word, &lower);
            (distance, strsim::jaro_winkler(&word, &lower), c)
        })
        .filter(|(distance, likeness, c)| {
            // A third of a short word may be wrong; a longer one may also be a shortened form.
            *distance * 3 <= c.chars().count().min(9) || (*likeness >= 0.88 && *distance <= 6)
        })
        .min_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)))
        .map(|(_, _, c)| c)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn takes_typing_slips_and_leaves_other_words_alone() {
        let keys = ["migrations", "inputs", "input_lines", "build", "env", "ttl"];
        assert_eq!(nearest("migration", keys), Some("migrations"));
        assert_eq!(nearest("Migratoins", keys), Some("migrations"));
        assert_eq!(nearest("biuld", keys), Some("build"));
        assert_eq!(nearest("input", keys), Some("inputs"));
        assert_eq!(nearest("warm", keys), None);
        assert_eq!(nearest("extend", keys), None);
    }
}
