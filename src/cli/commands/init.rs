//! `pgstencil init`

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};

use crate::cli::{App, escape};
use crate::config::{Config, FILE_NAME};
use crate::presets::{self, Detected, Preset, Presets, Tree};
use crate::wire::{InitAnswer, InitCheckAnswer, PresetsAnswer};
use crate::{Error, Kind, Result};

/// Write pgstencil.toml for the migration tool found here
///
/// Looks at the files and manifests below the current directory, and writes a commented pgstencil.toml for the
/// migration tool that it finds. An existing file is never overwritten.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pgstencil init                  write pgstencil.toml\n  pgstencil init --print          print it instead\n  pgstencil init --preset alembic\n  pgstencil init --check          what could be better in an existing one"
)]
pub(crate) struct Init {
    /// Preset to use, instead of the one found; `--list` shows all
    #[arg(long, value_name = "NAME", conflicts_with_all = ["list", "check"])]
    #[arg(value_parser = PresetName, hide_possible_values = true)]
    pub(crate) preset: Option<String>,
    /// Print the config, and write no file
    #[arg(long, visible_alias = "dry-run", short = 'n', conflicts_with_all = ["list", "check"])]
    pub(crate) print: bool,
    /// Ask the presets about the existing config; exit 1 if they know better
    #[arg(long, conflicts_with = "list")]
    pub(crate) check: bool,
    /// List the presets, and where they were found
    #[arg(long)]
    pub(crate) list: bool,
}

/// Accepts any name, so that an unknown one gets the error that lists the presets. Shells complete the known ones.
#[derive(Clone)]
struct PresetName;

impl TypedValueParser for PresetName {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> std::result::Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(presets::names().map(PossibleValue::new)))
    }
}

pub(crate) fn init(app: &App, args: &Init) -> Result<u8> {
    let presets = Presets::load()?;
    if args.check {
        return check(app, &presets);
    }
    let file = app.config_file().unwrap_or_else(|| PathBuf::from(FILE_NAME));
    // Globs start from the directory of the config.
    let here = app.here()?;
    let here = here.join(file.parent().unwrap_or(Path::new("")));
    let tree = Tree::read(&here)?;
    let found = presets::detect(&presets, &tree);
    if args.list {
        return list(app, &PresetsAnswer::new(&presets, &found));
    }
    // Before anything is asked of the user.
    if !args.print && file.symlink_metadata().is_ok() {
        return Err(exists(&file));
    }
    let chosen = match &args.preset {
        None => Some(only(&found, &presets)?),
        Some(name) => {
            presets.get(name).ok_or_else(|| unknown(name, &presets))?;
            found.iter().find(|found| found.preset.name == *name)
        }
    };
    let site = match chosen {
        Some(found) => site(found)?,
        None => "",
    };
    let preset = match (chosen, &args.preset) {
        (Some(found), _) => found.preset,
        (None, name) => name.as_ref().and_then(|name| presets.get(name)).ok_or_else(|| nothing(&presets))?,
    };
    let written = presets::write(&presets, preset, &tree, site);
    let config = Config::parse(&written.text, &here.join(FILE_NAME)).map_err(|e| {
        Error::internal(format!("the preset {} wrote a config that does not load", preset.name)).caused_by(e)
    })?;
    if !args.print {
        create(&file, &written.text)?;
    }
    let answer = InitAnswer::new(preset, chosen, &file, !args.print, &written);
    if app.printer.json() {
        app.printer.object(&answer)?;
    } else if args.print {
        app.printer.data(&answer.config)?;
    }
    let because = match &answer.because {
        Some(because) => format!(", since {because} is here"),
        None => ", which was not found here: check the paths".to_owned(),
    };
    let done = if args.print { "would write" } else { "wrote" };
    let line = format!("{done} {} for {}{because}", file.display(), preset.title);
    app.printer.say(&escape::line(&line));
    for note in &answer.notes {
        app.printer.say(&format!("note: {}", escape::line(note)));
    }
    if let Err(e) = presets::inputs_match(&config) {
        app.printer.warn(&format!("{}: correct the globs", e.message()));
    }
    let elsewhere = crate::config::discover(here.parent().unwrap_or(&here)).ok().flatten();
    if let Some(above) = elsewhere.filter(|_| here.parent().is_some()) {
        app.printer.warn(&format!(
            "{} above is hidden by this one",
            escape::line(&above.path().display().to_string())
        ));
    }
    app.printer.say(&format!("next: {}", escape::line(&answer.next)));
    Ok(0)
}

/// The only preset that was found.
fn only<'f, 'p>(found: &'f [Detected<'p>], presets: &Presets) -> Result<&'f Detected<'p>> {
    match found {
        [] => Err(nothing(presets)),
        [only] => Ok(only),
        several => {
            let error = Error::usage("several migration tools are here");
            let error = several.iter().fold(error, |error, found| {
                let title = &found.preset.title;
                error.detail(format!("{}: {title}, since {} is here", found.preset.name, found.because))
            });
            let names: Vec<&str> = several.iter().map(|found| found.preset.name.as_str()).collect();
            Err(error.hint(format!("choose one with `--preset NAME`: {}", names.join(", "))))
        }
    }
}

/// The directory of the project.
fn site<'f>(found: &'f Detected<'_>) -> Result<&'f str> {
    match &found.sites[..] {
        [only] => Ok(only),
        sites => {
            let error = Error::usage(format!("{} is used in several directories", found.preset.title));
            let error = sites.iter().fold(error, |error, site| error.detail(site.clone()));
            Err(error.hint("run `pgstencil init` in one of them: each has a config of its own"))
        }
    }
}

fn names(presets: &Presets) -> String {
    presets.all().iter().map(|preset| preset.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn nothing(presets: &Presets) -> Error {
    Error::config("no migration tool that pgstencil knows was found here")
        .detail(format!("presets: {}", names(presets)))
        .hint("run it in the directory of the project, or choose one with `pgstencil init --preset NAME`")
        .hint(format!("or put this into `{FILE_NAME}`, with your own command:\n{}", crate::config::MINIMAL))
}

fn unknown(name: &str, presets: &Presets) -> Error {
    let error = Error::usage(format!("no preset `{name}`")).detail(format!("presets: {}", names(presets)));
    match crate::config::nearest::nearest(name, presets.all().iter().map(|preset| preset.name.as_str())) {
        Some(meant) => error.hint(format!("did you mean `{meant}`?")),
        None => error,
    }
}

fn exists(file: &Path) -> Error {
    Error::new(Kind::Config, format!("`{}` exists, and is not overwritten", file.display()))
        .hint("what could be better in it: `pgstencil init --check`; what would be written: `pgstencil init --print`")
}

/// Creates the file. It is the project's, so its mode is that of any new file.
fn create(file: &Path, text: &str) -> Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).open(file);
    let mut open = opened.map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => exists(file),
        _ => Error::failed(format!("cannot write `{}`", file.display())).caused_by(e),
    })?;
    open.write_all(text.as_bytes()).map_err(|e| {
        let _ = std::fs::remove_file(file);
        Error::failed(format!("cannot write `{}`", file.display())).caused_by(e)
    })
}

fn list(app: &App, answer: &PresetsAnswer) -> Result<u8> {
    if app.printer.json() {
        app.printer.object(answer)?;
        return Ok(0);
    }
    let line = |preset: &crate::wire::PresetAnswer| {
        let found = match preset.found_in.is_empty() {
            true => String::new(),
            false => format!("   found in {}", preset.found_in.join(", ")),
        };
        format!("{:17} {}{}\n", preset.name, preset.title, escape::line(&found))
    };
    app.printer.text(&answer.presets.iter().map(line).collect::<String>())?;
    Ok(0)
}

fn check(app: &App, presets: &Presets) -> Result<u8> {
    let config = app.config()?;
    let tree = Tree::read(&config.root)?;
    let (advice, asked): (Vec<_>, Vec<&Preset>) = presets::check(presets, &config, &tree)?;
    let answer = InitCheckAnswer::new(&config.file, &asked, &advice);
    if app.printer.json() {
        app.printer.object(&answer)?;
        return Ok(u8::from(!advice.is_empty()));
    }
    let by = match answer.presets.is_empty() {
        true => "no preset fits this project".to_owned(),
        false => format!("asked the preset {}", answer.presets.join(", ")),
    };
    app.printer.say(&by);
    let text: String = advice
        .iter()
        .map(|advice| format!("{}: {}\n  hint: {}\n", advice.template, advice.message, advice.hint))
        .map(|text| text.lines().map(|line| escape::line(line).to_string() + "\n").collect::<String>())
        .collect();
    app.printer.text(&text)?;
    if advice.is_empty() {
        app.printer.say("nothing to improve");
    }
    Ok(u8::from(!advice.is_empty()))
}
