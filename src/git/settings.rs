//! Reads the one setting of a repository's `config` that matters here.

use std::fs;
use std::path::Path;

/// Reads `core.worktree`: the path of the main worktree if it is not next to `.git`, relative to the
/// repository. Submodules have it.
pub(super) fn worktree(common: &Path) -> Option<String> {
    // With `extensions.worktreeConfig` the setting is in `config.worktree`.
    ["config.worktree", "config"].iter().find_map(|file| {
        let text = fs::read_to_string(common.join(file)).ok()?;
        core_worktree(&text)
    })
}

/// Parses the syntax of <https://git-scm.com/docs/git-config#_syntax>; the last value counts.
fn core_worktree(text: &str) -> Option<String> {
    let (mut in_core, mut found) = (false, None);
    for line in text.lines().map(str::trim) {
        let mut setting = line;
        if let Some(rest) = line.strip_prefix('[') {
            let (section, rest) = rest.split_once(']')?;
            in_core = section.trim().eq_ignore_ascii_case("core");
            setting = rest.trim();
        }
        if in_core
            && let Some((key, value)) = setting.split_once('=')
            && key.trim().eq_ignore_ascii_case("worktree")
        {
            found = Some(plain(value.trim()));
        }
    }
    found.filter(|value| !value.is_empty())
}

/// Returns a value without quotes, escapes and comment.
fn plain(value: &str) -> String {
    let (mut text, mut quoted, mut kept) = (String::new(), false, 0);
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '#' | ';' if !quoted => break,
            '\\' => text.extend(chars.next()),
            _ => text.push(c),
        }
        if quoted || !c.is_whitespace() {
            kept = text.len();
        }
    }
    text.truncate(kept);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_worktree_is_read_as_git_writes_it() {
        for (text, found) in [
            ("[core]\n\tworktree = ../../../sub\n", Some("../../../sub")),
            ("[Core] WorkTree = \"a b\\\\c\" ; where\n", Some("a b\\c")),
            ("[core]\nworktree=a # b\n", Some("a")),
            ("[core \"x\"]\nworktree = a\n[user]\nworktree = b\n", None),
            ("[core]\nworktree = a\nworktree = b", Some("b")),
            ("[core]\nbare = true\n", None),
            ("", None),
        ] {
            assert_eq!(core_worktree(text).as_deref(), found, "{text}");
        }
    }
}
