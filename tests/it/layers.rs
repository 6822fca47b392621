//! Modules import downward only, and the library neither prints nor looks around.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;

/// Every module of `src`, from the ground up. A module may use those of lower levels, and its own
/// directory.
const LEVELS: &[&[&str]] = &[
    &["error"],
    &["names", "url", "events", "quantity"],
    &["git"],
    &["private_file", "env"],
    &["cache_file"],
    &["config", "fingerprint", "process", "private_server"],
    &["presets"],
    &["pg"],
    &["remote"],
    &["registry", "variables"],
    &["context"],
    &["database"],
    &["retention"],
    &["template"],
    &["lease"],
    &["bench", "doctor"],
    &["stencil"],
    &["wire"],
    &["test"],
    &["cli", "internals", "main", "lib"],
];

/// What may be imported although it is not lower: (by, what).
const EXCEPTIONS: &[(&str, &str)] =
    &[("fingerprint", "config"), ("process", "config"), ("private_server", "config")];

/// What may not be imported although it is lower: (by, what, but allowed in these files).
const FORBIDDEN: &[(&str, &str, &[&str])] = &[
    ("cli", "pg", &[]),
    ("cli", "registry", &[]),
    (
        "cli",
        "process",
        &[
            "cli/mod.rs",
            "cli/commands/mod.rs",
            "cli/commands/run.rs",
            "cli/commands/demo.rs",
            // These end in order at a signal, too.
            "cli/commands/serve.rs",
            "cli/background/worker.rs",
        ],
    ),
];

/// What `lib.rs` re-exports for everybody.
const RE_EXPORTS: &[&str] = &["Error", "Kind", "Result", "Stencil"];

/// Not in the library: (text, allowed in this file). `cli` and `main` may, and `test` in these files.
const NOT_IN_LIBRARY: &[(&str, &str)] = &[
    ("println!", "test/report.rs"),
    ("print!", ""),
    ("env::var", "env/mod.rs"),
    ("env::args", "test/report.rs"),
    ("env::current_dir", "test/project.rs"),
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
    // The config belongs to the project.
    ("cli/commands/init.rs", "OpenOptions"),
    // All accounts may read a man page.
    ("cli/commands/man.rs", "fs::write"),
    ("cli/commands/man.rs", "create_dir"),
    // The runner's own files, which hold no secrets.
    ("cli/github.rs", "OpenOptions"),
    // Opened to read.
    ("config/trust.rs", "OpenOptions"),
    ("fingerprint/file_cache.rs", "OpenOptions"),
    ("remote/folder.rs", "OpenOptions"),
    ("remote/folder.rs", "File::options"),
    // A log that is there is cut.
    ("private_server/log.rs", "File::options"),
    // What Postgres made gets the mode that Postgres wants.
    ("private_server/cluster.rs", "set_permissions"),
    // The account that runs the server must be able to read the programs that were fetched.
    ("private_server/fetch.rs", "set_permissions"),
];

#[test]
fn files_are_created_in_one_place() {
    let mut wrong = String::new();
    for (file, text) in sources() {
        for (line, name) in names(&text) {
            for what in CREATES {
                let allowed = file == "private_file.rs"
                    || name.starts_with("private_file::")
                    || CREATES_TOO.contains(&(&*file, what));
                if name.contains(what) && !allowed {
                    writeln!(wrong, "{file}:{line}: `{what}` belongs into src/private_file.rs: {name}")
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
        for (line, what) in imports(&text) {
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
        for (line, name) in names(&text) {
            for (bad, allowed) in NOT_IN_LIBRARY {
                if name.contains(bad) && file != *allowed {
                    writeln!(wrong, "{file}:{line}: `{bad}` belongs into src/cli (invariant 10): {name}")
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
    let found: Vec<_> = imports(&syn::parse_file(text).unwrap())
        .into_iter()
        .map(|(line, what)| format!("{line} {what}"))
        .collect();
    assert_eq!(found, ["4 pg", "5 error", "5 registry", "9 Result", "9 process", "10 config"]);
    let names: Vec<_> =
        names(&syn::parse_file("fn f() { std::fs::write(a, \"env::var\"); eprintln!(\"x\") }").unwrap());
    assert_eq!(names, ["fn", "f", "std::fs::write", "a", "eprintln!"].map(|name| (1, name.to_owned())));
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
fn sources() -> BTreeMap<String, syn::File> {
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
                let text = fs::read_to_string(&path).unwrap();
                let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
                found.insert(name.to_owned(), parsed);
            }
        }
    }
    assert!(found.contains_key("lib.rs"));
    found
}

/// The first segment after each `crate::`, with its line; of a group, the first segment of each. Without unit tests.
fn imports(file: &syn::File) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for item in items(file) {
        collect_imports(item.to_token_stream(), &mut found);
    }
    found
}

fn collect_imports(tokens: TokenStream, found: &mut Vec<(usize, String)>) {
    let mut take = |token: Option<&TokenTree>| {
        if let Some(TokenTree::Ident(ident)) = token {
            found.push((ident.span().start().line, ident.to_string()));
        }
    };
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |token: &TokenTree, mark: char| matches!(token, TokenTree::Punct(p) if p.as_char() == mark);
    for at in 0..tokens.len() {
        let [TokenTree::Ident(first), a, b, next, ..] = &tokens[at..] else {
            continue;
        };
        if first != "crate" || !is(a, ':') || !is(b, ':') {
            continue;
        }
        match next {
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                inner.split(|token| is(token, ',')).for_each(|path| take(path.first()));
            }
            next => take(Some(next)),
        }
    }
    for token in tokens {
        if let TokenTree::Group(group) = token {
            collect_imports(group.stream(), found);
        }
    }
}

fn items(file: &syn::File) -> impl Iterator<Item = &syn::Item> {
    file.items.iter().filter(|item| match item {
        syn::Item::Mod(module) => !is_test(&module.attrs),
        _ => true,
    })
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    let test = |list: &syn::MetaList| list.path.is_ident("cfg") && list.tokens.to_string() == "test";
    attributes.iter().any(|attribute| attribute.meta.require_list().is_ok_and(test))
}

/// The paths and macros that the code names, each with its line: `std::fs::write`, `println!`. Without unit tests,
/// comments and what stands in quotes.
fn names(file: &syn::File) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for item in items(file) {
        collect(item.to_token_stream(), &mut found);
    }
    found
}

/// Joins `a :: b` to `a::b`, and the name of a macro to its `!`.
fn collect(tokens: TokenStream, found: &mut Vec<(usize, String)>) {
    let mut open = false;
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => {
                collect(group.stream(), found);
                open = false;
            }
            TokenTree::Ident(ident) => {
                match found.last_mut() {
                    Some((_, name)) if open && name.ends_with("::") => name.push_str(&ident.to_string()),
                    _ => found.push((ident.span().start().line, ident.to_string())),
                }
                open = true;
            }
            TokenTree::Punct(mark) if open => {
                let calls = mark.as_char() == '!' && matches!(tokens.peek(), Some(TokenTree::Group(_)));
                match found.last_mut() {
                    Some((_, name)) if calls || mark.as_char() == ':' => name.push(mark.as_char()),
                    _ => open = false,
                }
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => open = false,
        }
    }
}
