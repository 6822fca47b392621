//! States of the objects in the registry.

use super::column::words;

words! {
    /// The state of a template: building → ready, or broken.
    pub(crate) enum TemplateState {
        /// Its build is running, or its builder has died.
        Building = "building",
        /// It is sealed and can be cloned.
        Ready = "ready",
        /// It is never cloned again; the cleanup drops it.
        Broken = "broken",
    }
}

words! {
    /// The state of a clone: creating → leased → released. A clone that is created ahead of time is warm in
    /// between: creating → warm → creating → leased.
    pub(crate) enum CloneState {
        /// Its databases are being created, or get their names.
        Creating = "creating",
        /// It is finished, and has no holder.
        Warm = "warm",
        /// It has a holder.
        Leased = "leased",
        /// The cleanup drops it.
        Released = "released",
    }
}

words! {
    /// The event that ends the lease of a clone.
    pub(crate) enum LeaseKind {
        /// The end of the session that holds the clone's lock.
        Session = "session",
        /// The server's clock.
        Expiry = "expiry",
    }
}

words! {
    /// The state of a clone as users see it.
    pub(crate) enum ShownState {
        /// Its databases are being created.
        Creating = "creating",
        /// It is finished, and has no holder.
        Warm = "warm",
        /// It has a holder.
        Leased = "leased",
        /// Its holder is gone, or its time is over.
        Orphaned = "orphaned",
        /// The cleanup drops it.
        Released = "released",
    }
}

words! {
    /// The state of one physical database.
    pub(crate) enum DatabaseState {
        /// Its CREATE is about to be sent, or was.
        Creating = "creating",
        /// It has its name, oid and ownership tag.
        Present = "present",
        /// Its DROP is about to be sent, or was.
        Dropping = "dropping",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::registry::Happened;

    /// Returns the words that statements compare these columns with.
    fn compared(columns: &str, text: &str) -> Vec<String> {
        let pattern = format!(r"\b(?:{columns})\s*(?:=|<>|IS DISTINCT FROM|IN)\s*(\([^()]*\)|'[^']*')");
        let found = regex::Regex::new(&pattern).unwrap();
        let quoted = regex::Regex::new("'([^']*)'").unwrap();
        let parts = found.captures_iter(text).map(|part| part.get(1).unwrap().as_str());
        parts.flat_map(|part| quoted.captures_iter(part).map(|word| word[1].to_owned())).collect()
    }

    #[test]
    fn statements_compare_with_known_words_only() {
        let state = |word: &str| {
            TemplateState::from_word(word).is_some()
                || CloneState::from_word(word).is_some()
                || DatabaseState::from_word(word).is_some()
        };
        let lease = |word: &str| LeaseKind::from_word(word).is_some();
        let outcome = |word: &str| Happened::from_word(word).is_some();
        type Known<'a> = &'a dyn Fn(&str) -> bool;
        let columns: [(&str, Known<'_>); 3] = [("state", &state), ("lease", &lease), ("outcome", &outcome)];
        let mut seen = [0; 3];
        for folder in ["", "queries"] {
            let folder = format!("{}/src/registry/{folder}", env!("CARGO_MANIFEST_DIR"));
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let Ok(text) = std::fs::read_to_string(&path) else {
                    continue;
                };
                for ((column, known), seen) in columns.iter().zip(&mut seen) {
                    for word in compared(column, &text) {
                        *seen += 1;
                        assert!(known(&word), "{}: {column} `{word}`", path.display());
                    }
                }
            }
        }
        assert!(seen[0] > 30 && seen[1] > 3 && seen[2] > 10, "{seen:?}");
    }
}
