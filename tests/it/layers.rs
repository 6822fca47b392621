//! Modules import downward only, and the library neither prints nor looks around.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Every module of `src`, from the ground up. A module may use those of lower levels, and its own
/// folder.
const LEVELS: &[&[&str]] = &[
    &["error"],
    &["names", "url", "events", "quantity"],
    &["git"],
    &["private_file", "env"],
    &["config", "fingerprint", "process", "private_server"],
    &["pg"],
    &["registry", "variables"],
    &["context"],
    &["database"],
    &["retention"],
    &["template"],
    &["lease"],
    &["bench", "doctor"],
    &["stencil"],
    &["wire"],
    &["cli", "main", "lib"],
];

/// What may be imported although it is not lower: (by, what).
const EXCEPTIONS: &[(&str, &str)] =
    &[("fingerprint", "config"), ("process", "config"), ("private_server", "config")];

/// What may not be imported although it is lower: (by, what, but allowed in these files).
const FORBIDDEN: &[(&str, &str, &[&str])] = &[
    ("cli", "pg", &[]),
    ("cli", "registry", &[]),
    ("cli", "process", &["cli/mod.rs", "cli/commands/run.rs", "cli/commands/demo.rs"]),
];

/// What `lib.rs` re-exports for everybody.
const RE_EXPORTS: &[&str] = &["Error", "Kind", "Result", "Stencil"];

/// Not in the library: (text, allowed in this file). `cli` and `main` may.
const NOT_IN_LIBRARY: &[(&str, &str)] = &[
    ("println!", ""),
    ("print!", ""),
    ("env::var", "env/mod.rs"),
    ("env::args", ""),
    ("env::current_dir", ""),
    ("env::home_dir", ""),
    ("env::temp_dir", ""),
    ("process::exit", ""),
];

/// What creates a file or directory, or opens one to write: only `private_file.rs` does, so that all are closed
/// to others from birth.
const CREATES: &[&str] = &[
    "fs::write",
    "fs::copy",
    "File::create",
    "File::options",
    "OpenOptions",
    "DirBuilder",
    "create_dir",
    "set_permissions",
];

/// Where that is allowed all the same: (file, text).
const CREATES_TOO: &[(&str, &str)] = &[
    // The runner's own files, which hold no secrets.
    ("cli/github.rs", "OpenOptions"),
    // Opened to read.
    ("config/trust.rs", "OpenOptions"),
    // A log that is there is cut.
    ("private_server/log.rs", "File::options"),
    // What Postgres made gets the mode that Postgres wants.
    ("private_server/cluster.rs", "set_permissions"),
];

#[test]
fn files_are_created_in_one_place() {
    let mut wrong = String::new();
    for (file, text) in sources() {
        for (number, line) in code_of(&text).lines().enumerate() {
            for what in CREATES {
                let allowed = file == "private_file.rs" || CREATES_TOO.contains(&(&*file, what));
                if line.contains(what) && !allowed {
                    writeln!(
                        wrong,
                        "{file}:{}: `{what}` belongs into src/private_file.rs: {}",
                        number + 1,
                        line.trim()
                    )
                    .unwrap();
                }
            }
        }
    }
    assert!(wrong.is_empty(), "see tests/it/layers.rs\n{wrong}");
}

#[test]
fn modules_import_downward_only() {
    let mut wrong = String::new();
    for (file, text) in sources() {
        let by = module_of(&file);
        if level(by).is_none() {
            writeln!(wrong, "{file}: `{by}` is in no level; add it to LEVELS").unwrap();
            continue;
        }
        for (line, what) in imports(&code_of(&text)) {
            if let Some(why) = objection(&file, by, &what) {
                writeln!(wrong, "{file}:{line}: {why}").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "see tests/it/layers.rs\n{wrong}");
}

#[test]
fn the_library_is_silent() {
    let mut wrong = String::new();
    for (file, text) in sources() {
        if matches!(module_of(&file), "cli" | "main") {
            continue;
        }
        for (number, line) in code_of(&text).lines().enumerate() {
            for (bad, allowed) in NOT_IN_LIBRARY {
                if line.contains(bad) && file != *allowed {
                    writeln!(
                        wrong,
                        "{file}:{}: `{bad}` belongs into src/cli (invariant 10): {}",
                        number + 1,
                        line.trim()
                    )
                    .unwrap();
                }
            }
        }
    }
    assert!(wrong.is_empty(), "see tests/it/layers.rs\n{wrong}");
}

#[test]
fn the_reader_of_imports_sees_what_counts() {
    let text = r##"
//! crate::doc
use crate::{
    pg::{self, sql::quote},
    error::{Error, Result}, registry,
};
const URL: &str = "postgres://crate::text"; /* crate::comment /* nested */ crate::more */
const RAW: &str = r#"crate::raw " "#; const C: char = '"';
fn f<'a>(x: &'a str) -> crate::Result<()> { crate::process::run(x) }
pub(crate) use crate::config as c;
#[cfg(test)]
mod tests { use crate::stencil; }
"##;
    let found: Vec<_> =
        imports(&code_of(text)).into_iter().map(|(line, what)| format!("{line} {what}")).collect();
    assert_eq!(found, ["4 pg", "5 error", "5 registry", "9 Result", "9 process", "10 config"]);
    assert!(objection("url.rs", "url", "pg").is_some());
    assert!(objection("template/mod.rs", "template", "lease").is_some());
    assert!(objection("pg/sql.rs", "pg", "pg").is_none());
    assert!(objection("lease.rs", "lease", "Template").is_some());
    assert!(objection("cli/commands/list.rs", "cli", "process").is_some());
    assert!(objection("cli/commands/run.rs", "cli", "process").is_none());
}

fn objection(file: &str, by: &str, what: &str) -> Option<String> {
    if by == what || by == "lib" || RE_EXPORTS.contains(&what) {
        return None;
    }
    if what.starts_with(char::is_uppercase) {
        return Some(format!("`crate::{what}`: name the module that it comes from"));
    }
    let Some(theirs) = level(what) else {
        return Some(format!("`{what}` is in no level; add it to LEVELS in tests/it/layers.rs"));
    };
    if FORBIDDEN.iter().any(|(b, w, allowed)| (*b, *w) == (by, what) && !allowed.contains(&file)) {
        return Some(format!("`{by}` may not use `{what}`; go through `stencil` instead"));
    }
    let ours = level(by)?;
    let fine = theirs < ours || EXCEPTIONS.contains(&(by, what));
    (!fine).then(|| {
        format!("`{by}` (level {ours}) uses `{what}` (level {theirs}); only lower levels may be used")
    })
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

/// `pg/sql.rs` and `pg.rs` are `pg`.
fn module_of(file: &str) -> &str {
    let first = file.split('/').next().unwrap();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// All files of `src` by their path in it, sorted; without unit tests in files of their own.
fn sources() -> BTreeMap<String, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs")
                && !path.ends_with("tests.rs")
                // The build script is a program of its own.
                && !path.ends_with("src/build.rs")
            {
                let name = path.strip_prefix(&src).unwrap().to_str().unwrap();
                found.insert(name.to_owned(), fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(found.contains_key("lib.rs"));
    found
}

/// The first segment after each `crate::`, with its line; of a group, the first segment of each.
fn imports(code: &str) -> Vec<(usize, String)> {
    let ident = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, word) in code.match_indices("crate::") {
        if code[..at].ends_with(ident) {
            continue;
        }
        let start = at + word.len();
        let mut take = |from: usize| {
            let name: String = code[from..].chars().take_while(|c| ident(*c)).collect();
            if !name.is_empty() {
                found.push((code[..from].lines().count().max(1), name));
            }
        };
        if !code[start..].starts_with('{') {
            take(start);
            continue;
        }
        let (mut depth, mut fresh) = (0, false);
        for (i, c) in code[start..].char_indices() {
            match c {
                '{' => (depth, fresh) = (depth + 1, depth == 0),
                '}' => depth -= 1,
                ',' => fresh = depth == 1,
                c if fresh && !c.is_whitespace() => {
                    take(start + i);
                    fresh = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// The text without comments, without what stands in quotes, and without the unit tests at its
/// end. Lines stay where they are.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(end) = raw_string(&code, rest) {
            end
        } else if c == '"' {
            quoted(rest)
        } else if let Some(end) = character(rest) {
            end
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.extend(rest[..skip].chars().filter(|c| *c == '\n'));
        code.push(' ');
        rest = &rest[skip..];
    }
    match code.find("#[cfg(test)]\nmod tests {") {
        Some(end) => code[..end].to_owned(),
        None => code,
    }
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += rest.chars().next().unwrap().len_utf8();
        }
    }
    at
}

/// The length of `r"…"`, `r#"…"#` and so on.
fn raw_string(before: &str, text: &str) -> Option<usize> {
    if before.ends_with(|c: char| c.is_alphanumeric() && c != 'b' || c == '_') {
        return None;
    }
    let body = text.strip_prefix('r')?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let body = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end)? + end.len();
    Some(text.len() - body.len() + length)
}

/// The length of `"…"`.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `'x'` or `'\…'`; `'a` is a lifetime.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let first = body.chars().next()?;
    let inside = match body.strip_prefix('\\') {
        Some(escape) => 1 + escape.chars().next()?.len_utf8(),
        None => first.len_utf8(),
    };
    let end = body[inside..].find('\'')?;
    // `'\u{1f600}'` goes on, `'a, 'b` does not.
    (end == 0 || first == '\\').then_some(1 + inside + end + 1)
}
