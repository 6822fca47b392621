//! `pgstencil list`

use std::cmp::Reverse;
use std::path::Path;

use crate::names::Fingerprint;
use crate::stencil::{
    CloneListing, CloneState, LeaseKind, Listing, ShownState, TemplateListing, TemplateState,
};
use crate::wire::ListAnswer;
use crate::{Error, Result};

use super::prune;
use crate::cli::App;
use crate::cli::escape;
use crate::cli::output::{CYAN, GREEN, RED, YELLOW};
use crate::cli::table::{Cell, Column, Look, table};
use crate::fingerprint::migrations;
use crate::quantity::{age, remaining, size};
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

/// `--state` of templates.
pub(crate) const TEMPLATE_STATES: [&str; 3] = ["building", "ready", "broken"];
/// `--state` of clones.
pub(crate) const CLONE_STATES: [&str; 5] = ["creating", "warm", "leased", "released", "orphaned"];

/// Show templates and clones
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pgstencil list\n  pgstencil list --sizes --sort size    with the sizes of clones, largest first\n  pgstencil list -v --clones            each warm clone in a line of its own\n  pgstencil list --json --state ready"
)]
pub(crate) struct List {
    /// Show only definitions of this name
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// Show only this project, of those that share the registry
    #[arg(long, value_name = "NAME")]
    pub(crate) project: Option<String>,
    /// Show only this state (templates: building, ready, broken; clones: the others)
    #[arg(long, value_name = "STATE", value_parser = PossibleValuesParser::new(
        TEMPLATE_STATES.into_iter().chain(CLONE_STATES)
    ))]
    pub(crate) state: Option<String>,
    /// Show only templates
    #[arg(long, conflicts_with = "clones")]
    pub(crate) templates: bool,
    /// Show only clones
    #[arg(long)]
    pub(crate) clones: bool,
    /// Also show the sizes of clones; the server reads the directory of each
    #[arg(long)]
    pub(crate) sizes: bool,
    /// Sort by KEY; clones by name, age or size only (`size` implies --sizes) [default: name, for clones age]
    #[arg(long, value_name = "KEY")]
    pub(crate) sort: Option<Sort>,
}

/// `--sort`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// Project, definition, fingerprint
    Name,
    /// Youngest first
    Age,
    /// Last used first
    Used,
    /// Largest first
    Size,
    /// Most hits first
    Hits,
}

pub(crate) async fn list(app: &App, args: List) -> Result<u8> {
    refuse_nonsense(&args)?;
    let Some(stencil) = app.stencil_for_reading().await? else {
        if app.printer.json() {
            app.printer.object(&ListAnswer::from(&Listing::default()))?;
        }
        return Ok(0);
    };
    let mut listing = stencil.list(args.sizes || args.sort == Some(Sort::Size), &app.deadline).await?;
    let empty = listing.templates.is_empty() && listing.clones.is_empty();
    select(&mut listing, &args);
    sort(&mut listing, args.sort);
    if app.printer.json() {
        app.printer.object(&ListAnswer::from(&listing))?;
    } else if empty {
        app.printer.say("no templates and no clones yet");
    } else if listing.templates.is_empty() && listing.clones.is_empty() {
        app.printer.say("no matching templates or clones");
    } else {
        let each = app.shared.verbose > 0;
        let look = app.printer.look();
        app.printer.table(&tables(&listing, each, background_off(app)?, look))?;
    }
    prune::look(app, &stencil).await;
    Ok(0)
}

/// What can only come out empty, or in no order at all, is not what was meant.
fn refuse_nonsense(args: &List) -> Result<()> {
    let state = args.state.as_deref().unwrap_or_default();
    let of_clones = CLONE_STATES.contains(&state);
    for (only, what, others, states) in [
        (args.templates, "template", of_clones, &TEMPLATE_STATES[..]),
        (args.clones, "clone", TEMPLATE_STATES.contains(&state), &CLONE_STATES),
    ] {
        if only && others {
            return Err(Error::usage(format!("`{state}` is not a state of {what}s"))
                .hint(format!("use a state of {what}s: {}", states.join(", "))));
        }
    }
    let by = match args.sort {
        Some(Sort::Used) => "used",
        Some(Sort::Hits) => "hits",
        _ => return Ok(()),
    };
    if args.clones || of_clones {
        return Err(Error::usage(format!("clones cannot be sorted by `{by}`"))
            .hint("clones can be sorted by name, age or size"));
    }
    Ok(())
}

/// Leaves what was asked for.
fn select(listing: &mut Listing, args: &List) {
    let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
    listing.templates.retain(|t| {
        !args.clones
            && fits(&args.template, &t.row.definition)
            && fits(&args.project, &t.row.project)
            && fits(&args.state, t.row.state.as_str())
    });
    listing.clones.retain(|c| {
        !args.templates
            && fits(&args.template, &c.row.definition)
            && fits(&args.project, &c.row.project)
            && fits(&args.state, c.row.shown_state(c.locked).as_str())
    });
}

fn sort(listing: &mut Listing, by: Option<Sort>) {
    let (templates, clones) = (&mut listing.templates, &mut listing.clones);
    match by {
        None => {}
        Some(Sort::Name) => {
            templates.sort_by(|a, b| {
                let name = |t: &TemplateListing| {
                    let row = &t.row;
                    (row.project.clone(), row.definition.clone(), row.fingerprint)
                };
                name(a).cmp(&name(b))
            });
            clones.sort_by(|a, b| a.row.name.cmp(&b.row.name));
        }
        Some(Sort::Age) => {
            templates.sort_by(|a, b| a.row.age_s.total_cmp(&b.row.age_s));
            clones.sort_by(|a, b| a.row.age_s.total_cmp(&b.row.age_s));
        }
        Some(Sort::Used) => templates.sort_by(|a, b| a.row.idle_s.total_cmp(&b.row.idle_s)),
        Some(Sort::Size) => {
            templates.sort_by_key(|t| Reverse(t.bytes));
            clones.sort_by_key(|c| Reverse(c.bytes));
        }
        Some(Sort::Hits) => templates.sort_by_key(|t| Reverse(t.row.hits)),
    }
}

const TEMPLATES: [Column; 8] = [
    Column::whole("TEMPLATE"),
    Column::broken("OF", 8),
    Column::broken("STATE", 12),
    Column::whole("SIZE"),
    Column::whole("AGE").spare(3),
    Column::whole("IDLE").spare(1),
    Column::whole("HITS").spare(2),
    Column::broken("BASE", 12).spare(4),
];

const CLONES: [Column; 8] = [
    Column::broken("CLONE", 14),
    Column::whole("TEMPLATE").spare(3),
    Column::broken("OF", 7).spare(1),
    Column::whole("STATE"),
    Column::whole("SIZE").spare(4),
    Column::whole("AGE").spare(2),
    Column::broken("HOLDER", 10),
    Column::broken("ENDS", 8),
];

/// Leaves out the column of sizes, which are read only if asked for.
fn without_size<T>([name, template, of, state, _, age, holder, ends]: [T; 8]) -> [T; 7] {
    [name, template, of, state, age, holder, ends]
}

/// Returns whether no command starts work in the background, as far as a config says.
pub(super) fn background_off(app: &App) -> Result<bool> {
    match app.config() {
        Ok(config) => Ok(app.background_off_by(&config)?.is_some()),
        Err(_) => Ok(false),
    }
}

/// Says of a template since when it is provisional and when it is rebuilt, or why it is accepted.
pub(super) fn outlook(template: &TemplateListing, background_off: bool) -> Option<String> {
    let outlook = template.outlook.as_ref()?;
    Some(format!("{}: {}\n", template.row.fingerprint.short(), outlook.words(background_off)))
}

fn tables(listing: &Listing, each: bool, background_off: bool, look: Look) -> String {
    let mut text = String::new();
    if !listing.templates.is_empty() {
        let rows: Vec<_> = listing.templates.iter().map(template_cells).collect();
        text += &table(&TEMPLATES, &rows, look);
    }
    let mut remarks = String::new();
    for template in &listing.templates {
        let row = &template.row;
        if let Some(reason) = &row.reason {
            remarks += &format!("{} is {}: {}\n", row.fingerprint.short(), row.state, escape::line(reason));
        }
        if let Some(failure) = &row.rebuild_failure {
            let first = failure.lines().next().unwrap_or_default();
            remarks += &format!(
                "{} is still provisional, since its full build failed: {}\n",
                row.fingerprint.short(),
                escape::line(first)
            );
        }
        remarks.extend(outlook(template, background_off));
    }
    text += &look.wrap(&remarks);
    if !listing.clones.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        let brief = look.width.is_some_and(|width| width < ROOMY);
        let rows: Vec<_> = match each {
            true => listing.clones.iter().map(|clone| clone_cells(clone, brief)).collect(),
            false => folded(&listing.clones, brief),
        };
        text += &match listing.clones.iter().any(|clone| clone.bytes.is_some()) {
            true => table(&CLONES, &rows, look),
            false => {
                let rows: Vec<_> = rows.into_iter().map(without_size).collect();
                table(&without_size(CLONES), &rows, look)
            }
        };
    }
    text
}

/// Below this width holders are named in few words.
const ROOMY: usize = 120;

/// The warm clones of a template are one line.
fn folded(clones: &[CloneListing], brief: bool) -> Vec<[Cell; 8]> {
    let mut rows = Vec::new();
    let mut done = Vec::new();
    for clone in clones {
        let Some(key) = warm_of(clone) else {
            rows.push(clone_cells(clone, brief));
            continue;
        };
        if done.contains(&key) {
            continue;
        }
        let warm: Vec<_> = clones.iter().filter(|c| warm_of(c) == Some(key)).collect();
        done.push(key);
        rows.push(match warm.as_slice() {
            [one] => clone_cells(one, brief),
            several => warm_cells(several),
        });
    }
    rows
}

/// The template that a warm clone is of.
fn warm_of(clone: &CloneListing) -> Option<(&str, &str, Fingerprint)> {
    let row = &clone.row;
    (row.state == CloneState::Warm).then_some((&row.project, &row.definition, row.fingerprint))
}

fn state(state: &str, text: String) -> Cell {
    let style = match state {
        "ready" | "warm" => GREEN,
        "leased" | "building" | "creating" => CYAN,
        "broken" => RED,
        "orphaned" | "provisional" => YELLOW,
        _ => return text.into(),
    };
    Cell::painted(text, style)
}

fn template_cells(template: &TemplateListing) -> [Cell; 8] {
    let row = &template.row;
    let mut text = row.state.to_string();
    if row.waypoint {
        text += ", waypoint";
    }
    if row.provisional {
        text += ", provisional";
    }
    if row.accepted_at.is_some() {
        text += ", accepted";
    }
    if row.pinned {
        text += ", pinned";
    }
    let kind = match row.provisional && row.state == TemplateState::Ready {
        true => "provisional",
        false => row.state.as_str(),
    };
    [
        row.fingerprint.short().into(),
        format!("{}/{}", row.project, row.definition).into(),
        state(kind, text),
        size(template.bytes).into(),
        age(row.age_s.0).into(),
        age(row.idle_s.0).into(),
        row.hits.to_string().into(),
        row.base_fingerprint
            .as_ref()
            .map_or_else(
                || "-".to_owned(),
                |base| format!("{} + {}", base.short(), migrations(&row.added.0).len()),
            )
            .into(),
    ]
}

fn clone_cells(clone: &CloneListing, brief: bool) -> [Cell; 8] {
    let row = &clone.row;
    let is_warm = row.state == CloneState::Warm;
    let kind = row.shown_state(clone.locked);
    let who = match brief {
        true => in_few_words(clone),
        false => row.owner.describe(&row.holder.0),
    };
    let holder = match row.lease {
        _ if is_warm => "none yet".into(),
        LeaseKind::Session => format!("pid {}, {who}", row.holder.0.pid),
        LeaseKind::Expiry => who,
    };
    let ends = match (row.left_s, row.lease) {
        _ if is_warm => "-".into(),
        _ if kind == ShownState::Released => "being dropped".into(),
        (Some(left), _) => remaining(left.0),
        (None, LeaseKind::Session) => "with its command".into(),
        (None, LeaseKind::Expiry) => "never".into(),
    };
    [
        row.name.as_str().into(),
        row.fingerprint.short().into(),
        format!("{}/{}", row.project, row.definition).into(),
        state(kind.as_str(), kind.to_string()),
        clone.bytes.map_or_else(|| "-".to_owned(), size).into(),
        age(row.age_s.0).into(),
        holder.into(),
        ends.into(),
    ]
}

/// Who has it, and the directory where, without the way there.
fn in_few_words(clone: &CloneListing) -> String {
    let holder = &clone.row.holder.0;
    let folder = match clone.row.owner.name.as_str() {
        "" => Path::new(&holder.worktree).file_name(),
        name => return name.to_owned(),
    };
    let folder = folder.map_or_else(String::new, |name| format!(" {}", name.display()));
    format!("{}@{}{folder}", holder.user, holder.host)
}

/// Several warm clones of one template.
fn warm_cells(clones: &[&CloneListing]) -> [Cell; 8] {
    let row = &clones[0].row;
    let bytes: Vec<i64> = clones.iter().filter_map(|c| c.bytes).collect();
    let (mut youngest, mut oldest) = (f64::MAX, 0.0_f64);
    for clone in clones {
        youngest = youngest.min(clone.row.age_s.0);
        oldest = oldest.max(clone.row.age_s.0);
    }
    let ages = match (age(youngest), age(oldest)) {
        (young, old) if young == old => old,
        (young, old) => format!("{young}-{old}"),
    };
    [
        format!("{} warm", clones.len()).into(),
        row.fingerprint.short().into(),
        format!("{}/{}", row.project, row.definition).into(),
        state("warm", "warm".into()),
        match bytes.is_empty() {
            true => "-".to_owned(),
            false => size(bytes.iter().sum()),
        }
        .into(),
        ages.into(),
        "none yet".into(),
        "-".into(),
    ]
}
