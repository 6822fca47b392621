//! `pgstencil explain`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::config::Order;
use crate::events::Extending;
use crate::fingerprint::{
    Difference, FileCache, FileChanges, FileInput, Group, Inputs, RelPath, groups, migrations,
};
use crate::names::EMPTY_DATABASE;
use crate::remote::Shown;
use crate::stencil::{Explanation, NoWaypoints, Now, OnServer, explain_files};
use crate::wire::{ExplainAllAnswer, ExplainAnswer};
use crate::{Kind, Result};

use super::prune;
use crate::cli::App;
use crate::cli::escape;
use crate::cli::output::by;
use crate::quantity::{count, seconds, size};
use clap::Args;

/// Explain the fingerprint and the next build
///
/// Prints what decides the fingerprint, what changed since the nearest template, and what a command would do now,
/// at what cost. Changes nothing.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pgstencil explain                  why the next command builds, and what it costs\n  pgstencil explain -v -t app        with all files\n  pgstencil explain --against be81   compared with one template"
)]
pub(crate) struct Explain {
    /// Explain only `[template.NAME]` [default: all of the file]
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// Compare with this template, by the first digits of its fingerprint [default: the nearest one]
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) against: Option<String>,
}

pub(crate) async fn explain(app: &App, args: Explain) -> Result<u8> {
    // Without a config there is nothing to explain.
    let config = app.config()?;
    let name = args.template.as_deref();
    let stencil = app.stencil_for_reading().await?;
    // A named template belongs to one definition.
    let names: Vec<&str> = match (name, &args.against) {
        (Some(name), _) => vec![name],
        (None, None) => config.definitions.iter().map(|d| d.name.as_str()).collect(),
        (None, Some(_)) => vec![&config.definition(None)?.name],
    };
    let mut answers = Vec::new();
    let mut failure = None;
    for name in &names {
        let explained = match &stencil {
            Some(stencil) => {
                let against = args.against.as_deref();
                stencil.explain(Some(name), against, &app.deadline).await
            }
            // Without the server its templates are not known.
            None => config
                .definition(Some(name))
                .and_then(|found| explain_files(&config, found, &app.variable(), &FileCache::off())),
        };
        let explanation = match explained {
            Ok(explanation) => explanation,
            // An error in one definition says nothing about the others.
            Err(error) if names.len() > 1 && error.kind() == Kind::Config => {
                app.printer.error(&error);
                failure.get_or_insert(error.kind());
                continue;
            }
            Err(error) => return Err(error),
        };
        app.printer.finish();
        if app.printer.json() {
            answers.push(ExplainAnswer::from(&explanation));
            continue;
        }
        let all = app.shared.verbose > 0;
        let background_off = app.background_off_by(&config)?.is_some();
        let mut text = in_words(&explanation, all, background_off);
        if names.len() > 1 {
            let gap = if *name == names[0] { "" } else { "\n" };
            text = format!("{gap}[template.{name}]\n{text}");
        }
        app.printer.text(&text)?;
    }
    match answers.as_slice() {
        [] => {}
        [one] if names.len() == 1 => app.printer.object(one)?,
        _ => app.printer.object(&ExplainAllAnswer::from(answers))?,
    }
    if let Some(stencil) = &stencil {
        prune::look(app, stencil).await;
    }
    Ok(failure.map_or(0, Kind::exit_code))
}

fn in_words(explanation: &Explanation, all: bool, background_off: bool) -> String {
    let mut text = String::new();
    if let Some(server) = &explanation.server {
        text += &verdict(server, background_off, all);
        text.push('\n');
    }
    text += &format!("template {}", explanation.definition);
    if let Some(server) = &explanation.server {
        text += &format!(", fingerprint {}", server.recipe.fingerprint().short());
    }
    text.push('\n');
    list_inputs(&mut text, &explanation.inputs, all);
    if let Some(server) = &explanation.server {
        let s = &server.recipe.server;
        let locale = s.locale.as_deref().unwrap_or_default();
        line(
            &mut text,
            "server",
            format!(
                "PostgreSQL {}, {}, {} {} {} {locale}",
                s.major, s.encoding, s.provider, s.collate, s.ctype
            )
            .trim_end(),
        );
    }
    match explanation.ignored.len() {
        0 => {}
        n => {
            let hint = if all { "" } else { " (`-v` lists them)" };
            let text = &mut text;
            line(text, "ignored", &format!("{}, matched but hidden by .gitignore{hint}", count(n, "file")));
            if all {
                for path in &explanation.ignored {
                    let _ = writeln!(text, "    {path}");
                }
            }
        }
    }
    if let Some(nearest) = explanation.server.as_ref().and_then(|s| s.nearest.as_ref()) {
        let _ = writeln!(
            text,
            "\nagainst template {}, last used {}",
            nearest.fingerprint.short(),
            nearest.last_used_at
        );
        list_difference(&mut text, &nearest.difference, all);
    }
    text
}

/// What the remote store has, and what a pull costs.
fn store(shown: &Shown) -> String {
    let time = |time: Duration| format!("about {}", seconds(time));
    let entry = match (&shown.exact, &shown.base) {
        (Some(entry), _) => format!("it has this template ({})", &entry.fingerprint[..12]),
        (None, Some(entry)) => format!(
            "it has a base ({}) that lacks {}",
            &entry.fingerprint[..12],
            count(migrations(&entry.added).len(), "migration")
        ),
        (None, None) => "it has neither this template nor a base".to_owned(),
    };
    let mut text = format!("remote store {}: {entry}", shown.place);
    if let Some(entry) = shown.exact.as_ref().or(shown.base.as_ref()) {
        text += &format!(
            ", {}; a restore: {}, a build there: {}",
            size(i64::try_from(entry.bytes).unwrap_or(i64::MAX)),
            time(entry.restore),
            time(entry.build)
        );
        if entry.provisional {
            text += "; it is provisional";
        }
    }
    text += &match &shown.why {
        None => "\na command now would pull it".to_owned(),
        Some(why) => format!("\na command now would pull nothing: {}", escape::line(why)),
    };
    if let Some(why) = &shown.why_no_push {
        text += &format!("\na command now would push nothing: {}", escape::line(why));
    }
    text
}

fn verdict(server: &OnServer, background_off: bool, all: bool) -> String {
    let about = |time: Option<Duration>| {
        time.map_or_else(|| "not known yet".to_owned(), |t| format!("about {}", seconds(t)))
    };
    let costs = &server.costs;
    let mut text = match &server.now {
        Now::Hit { provisional, outlook, cosmetic, .. } => {
            let mut text = format!(
                "a command now would use the existing template: {}",
                match costs.hit {
                    Some(_) => about(costs.hit),
                    None => "duration not known yet".to_owned(),
                }
            );
            if *provisional {
                text += "\nit was built incrementally, and is provisional until a full build replaces it (`pgstencil ensure --rebuild`)";
                if background_off {
                    text += "; no command starts that full build, since background work is off";
                }
            }
            // What the next command would start, none does where background work is off.
            if let Some(outlook) = outlook
                && !(background_off && outlook.next.is_some())
            {
                text += &format!("\n{}", outlook.words(background_off));
            }
            match cosmetic.as_slice() {
                [] => {}
                files => {
                    let differ = if files.len() == 1 { "differs" } else { "differ" };
                    let count = count(files.len(), "file");
                    text += &format!("\n{count} {differ} only in bytes from what it was built with:\n");
                    list_cosmetic(&mut text, files, all);
                    text.truncate(text.trim_end().len());
                }
            }
            text
        }
        Now::Wait { builder, serial: true, elapsed, .. } => format!(
            "a command now would wait for {}, which has been running for {} (`serial_builds`)",
            escape::line(builder),
            seconds(*elapsed)
        ),
        Now::Wait { builder, elapsed, .. } => format!(
            "a command now would wait for {}, which has been building it for {}",
            escape::line(builder),
            seconds(*elapsed)
        ),
        Now::Extend { base, added, rerun_inputs, companions } => format!(
            "a command now would extend template {}{}: {} (a full build: {})",
            base.short(),
            by(&Extending { base: "", migrations: migrations(added).len(), rerun_inputs, companions }),
            about(costs.extension),
            about(costs.full)
        ),
        Now::Build { why, waypoint, no_waypoints, .. } => {
            let mut text = format!(
                "a command now would run a full build: {}\nno incremental build is possible: {}",
                about(costs.full),
                escape::line(why)
            );
            if let Some(waypoint) = waypoint {
                text += &format!(
                    "\nit would run in two steps, and keep the first one as a base: {} of {} ({})",
                    waypoint.prefix.migrations,
                    count(waypoint.of, "migration"),
                    waypoint.place()
                );
            }
            match no_waypoints {
                Some(NoWaypoints::Failed(why)) => {
                    text += &format!(
                        "\nno waypoint is built until `build`, `build_until` or `waypoints` changes: {}",
                        escape::line(why)
                    );
                }
                Some(NoWaypoints::Tree(why)) => {
                    text += &format!("\nno waypoint is built: {}", escape::line(why));
                }
                None => {}
            }
            text
        }
    };
    match &server.now {
        Now::Hit { failure: Some(failure), .. } => {
            text += &format!("\nthe last full build failed: {}", escape::block(failure));
        }
        Now::Build { hint: Some(hint), .. } => text += &format!("\nhint: {hint}"),
        Now::Wait { tail, .. } if !tail.is_empty() => {
            text += &escape::block(&format!("\n{tail}"));
        }
        _ => {}
    }
    if let Some(why) = &server.unusable {
        text += &format!(
            "\nthere is a template of these files, but it cannot be used: {}",
            escape::line(&why.to_string())
        );
    }
    if let Some(shown) = &server.remote {
        text += &format!("\n{}", store(shown));
    }
    text + "\n"
}

fn line(text: &mut String, label: &str, value: &str) {
    let _ = writeln!(text, "  {label:<13} {}", escape::block(value));
}

fn list_inputs(text: &mut String, inputs: &Inputs, all: bool) {
    for (label, list) in [
        ("migrations", &inputs.migrations),
        ("companions", &inputs.companions),
        ("rerun_inputs", &inputs.rerun_inputs),
        ("inputs", &inputs.inputs),
    ] {
        if list.is_empty() {
            continue;
        }
        let bytes: u64 = list.iter().map(|f| f.bytes).sum();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        line(text, label, &format!("{}, {}", count(list.len(), "file"), size(bytes)));
        if all {
            list.iter().for_each(|file| list_file(text, file));
        }
        if label == "migrations" {
            list_groups(text, inputs, all);
        }
    }
    let files = [&inputs.migrations, &inputs.companions, &inputs.rerun_inputs, &inputs.inputs];
    let normal: BTreeMap<&RelPath, &str> = files
        .into_iter()
        .flatten()
        .filter_map(|file| Some((&file.path, file.normal.as_ref()?.form.as_str())))
        .collect();
    if let Some(form) = normal.values().next() {
        let count = count(normal.len(), "file");
        let hint = if all { "" } else { " (`-v` marks them)" };
        line(text, "normalize", &format!("{count} as {form}: edits without effect do not count{hint}"));
    }
    for path in &inputs.named {
        line(text, "build_inputs", &format!("{path}, named by `build`"));
    }
    for lines in &inputs.lines {
        let found = count(usize::try_from(lines.count).unwrap_or(usize::MAX), "line");
        line(text, "input_lines", &format!("{} /{}/: {found}", lines.file, lines.matching));
        for piece in lines.text.iter().take(if all { NAMED } else { 3 }) {
            let _ = writeln!(text, "    {}", escape::line(piece));
        }
    }
    for variable in &inputs.env {
        let set = if variable.hash.is_some() { "set" } else { "not set" };
        line(text, "env_inputs", &format!("{} ({set})", variable.name));
    }
    if !inputs.mapping.is_empty() {
        let names: Vec<&str> = inputs.mapping.iter().map(|v| v.name.as_str()).collect();
        line(text, "env", &names.join(", "));
    }
    if !inputs.build_env.is_empty() {
        let names: Vec<&str> = inputs.build_env.iter().map(|v| v.name.as_str()).collect();
        line(text, "build_env", &names.join(", "));
    }
    line(text, "build", &inputs.build);
    line(text, "databases", &inputs.databases.join(", "));
    if inputs.from != EMPTY_DATABASE {
        line(text, "from", &inputs.from);
    }
}

/// How the order of the migrations was understood.
fn list_groups(text: &mut String, inputs: &Inputs, all: bool) {
    let groups = groups(&inputs.migrations, inputs.order);
    let count = match groups.len() {
        1 => "one group".to_owned(),
        n => format!("{n} groups"),
    };
    line(text, "order", &format!("{}: {count}", inputs.order.as_str()));
    let shown = if all { groups.len() } else { NAMED };
    for group in groups.iter().take(shown) {
        // In name order a group has no directory, and its files have several.
        let folder = match (inputs.order, group.directory.as_bytes()) {
            (Order::Name, _) => "all directories".to_owned(),
            (Order::Directory, b"") => ".".to_owned(),
            (Order::Directory, _) => group.directory.to_string(),
        };
        let mut parts = match group.ordered.as_slice() {
            [] => Vec::new(),
            [only] => vec![below(group, only)],
            [first, .., last] => vec![format!(
                "{} to {} ({} files)",
                below(group, first),
                below(group, last),
                group.ordered.len()
            )],
        };
        match group.unordered.as_slice() {
            [] => {}
            [only] => parts.push(format!("without order: {}", below(group, only))),
            several => parts.push(format!("without order: {} files", several.len())),
        }
        let _ = writeln!(text, "    {folder}: {}", parts.join("; "));
        if all {
            for path in &group.ordered {
                let _ = writeln!(text, "      {}", below(group, path));
            }
        }
    }
    if groups.len() > shown {
        let more = groups.len() - shown;
        let _ = writeln!(text, "    {more} more (`-v` lists them)");
    }
}

/// A migration's path from its group's directory on.
fn below(group: &Group, path: &RelPath) -> String {
    let path = path.to_path();
    let below = path.strip_prefix(group.directory.to_path()).unwrap_or(&path);
    RelPath::new(below).to_string()
}

fn list_file(text: &mut String, file: &FileInput) {
    let form = file.normal.as_ref().map_or_else(String::new, |normal| format!(" (as {})", normal.form));
    let _ = writeln!(text, "    {} {:>8} {}{form}", &file.hash[..12], file.bytes, file.path);
}

/// Files whose edits count for nothing.
fn list_cosmetic(text: &mut String, paths: &[RelPath], all: bool) {
    let named = if all { paths.len() } else { NAMED };
    for path in paths.iter().take(named) {
        let _ = writeln!(text, "  equal by its normal form, other bytes: {path}");
    }
    if paths.len() > named {
        let more = paths.len() - named;
        let _ = writeln!(text, "  equal by their normal forms, other bytes: {more} more (`-v` lists them)");
    }
}

/// How many files of a kind are named without `-v`.
const NAMED: usize = 20;

fn list_difference(text: &mut String, difference: &Difference, all: bool) {
    if difference.is_empty() {
        text.push_str("  nothing differs\n");
    }
    for (label, changes) in [
        ("migration", &difference.migrations),
        ("companion", &difference.companions),
        ("rerun input", &difference.rerun_inputs),
        ("input", &difference.inputs),
    ] {
        let FileChanges { added, changed, removed, line_ends, cosmetic } = changes;
        for (what, paths) in [("added", added), ("changed", changed), ("removed", removed)] {
            let named = if all { paths.len() } else { NAMED };
            for path in paths.iter().take(named) {
                let how = match what == "changed" && line_ends.contains(path) {
                    true => " (line endings only)",
                    false => "",
                };
                let _ = writeln!(text, "  {label} {what}: {path}{how}");
            }
            if paths.len() > named {
                let more = paths.len() - named;
                let _ = writeln!(text, "  {label} {what}: {more} more (`-v` lists them)");
            }
        }
        list_cosmetic(text, cosmetic, all);
    }
    if difference.line_ends().next().is_some() {
        text.push_str(
            "  git wrote other line endings into this checkout\n  hint: put `* text=auto eol=lf` into .gitattributes, so that all checkouts are equal\n",
        );
    }
    for (lines, texts) in difference.lines.iter().zip(&difference.texts) {
        let _ = writeln!(text, "  input lines: {}", escape::line(lines));
        let quoted = |pieces: &[String]| {
            let quoted = pieces.iter().map(|piece| format!("`{}`", escape::line(piece)));
            quoted.collect::<Vec<_>>().join(", ")
        };
        let _ = match (texts.old.as_slice(), texts.new.as_slice()) {
            ([], []) => Ok(()),
            ([], new) => writeln!(text, "    now: {}", quoted(new)),
            (old, []) => writeln!(text, "    before: {}", quoted(old)),
            (old, new) => writeln!(text, "    {} -> {}", quoted(old), quoted(new)),
        };
    }
    for (label, names) in [
        ("variable", &difference.env),
        ("env mapping", &difference.mapping),
        ("build_env mapping", &difference.build_env),
    ] {
        for name in names {
            let _ = writeln!(text, "  {label} differs: {}", escape::line(name));
        }
    }
    if let Some((old, new)) = &difference.build {
        let _ = writeln!(text, "  build command: {} -> {}", escape::line(old), escape::line(new));
    }
    if let Some((old, new)) = &difference.key {
        let [old, new] = [old, new].map(|key| escape::line(key.as_deref().unwrap_or("none")));
        let _ = writeln!(text, "  key of the program that fills it: {old} -> {new}");
    }
    if let Some((old, new)) = &difference.databases {
        let _ = writeln!(
            text,
            "  databases: {} -> {}",
            escape::line(&old.join(", ")),
            escape::line(&new.join(", "))
        );
    }
    if let Some((old, new)) = &difference.order {
        let _ = writeln!(text, "  order: {} -> {}", old.as_str(), new.as_str());
    }
    if let Some((old, new)) = &difference.from {
        let _ = writeln!(text, "  from: {} -> {}", escape::line(old), escape::line(new));
    }
    for (property, old, new) in &difference.server {
        let _ = writeln!(text, "  server's {property}: {} -> {}", escape::line(old), escape::line(new));
    }
    if let Some((old, new)) = &difference.format {
        let _ = writeln!(text, "  format of the fingerprint: {old} -> {new}");
    }
}
