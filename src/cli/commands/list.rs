//! `pgstencil list`

use std::cmp::Reverse;

use pgstencil::stencil::{CloneListing, Listing, TemplateListing};
use pgstencil::wire::{ListAnswer, clone_state};
use pgstencil::{Error, Result};

use super::prune;
use crate::cli::Session;
use crate::cli::args::{CLONE_STATES, List, Sort, TEMPLATE_STATES};
use crate::cli::escape;
use crate::cli::output::{age, size};

pub(crate) async fn list(session: &Session, args: List) -> Result<u8> {
    refuse_nonsense(&args)?;
    let Some(stencil) = session.stencil_for_reading().await? else {
        if session.printer.json() {
            session
                .printer
                .object(&ListAnswer::from(&Listing::default()))?;
        }
        return Ok(0);
    };
    let mut listing = stencil.list(&session.limit).await?;
    let empty = listing.templates.is_empty() && listing.clones.is_empty();
    select(&mut listing, &args);
    sort(&mut listing, args.sort);
    if session.printer.json() {
        session.printer.object(&ListAnswer::from(&listing))?;
    } else if empty {
        session.printer.say("no templates and no clones yet");
    } else if listing.templates.is_empty() && listing.clones.is_empty() {
        session.printer.say("no template and no clone like that");
    } else {
        session.printer.data(&table(&listing))?;
    }
    prune::look(session, &stencil).await;
    Ok(0)
}

/// What can only come out empty, or in no order at all, is not what was meant.
fn refuse_nonsense(args: &List) -> Result<()> {
    let state = args.state.as_deref().unwrap_or_default();
    let of_clones = CLONE_STATES.contains(&state);
    for (only, what, others, states) in [
        (args.templates, "template", of_clones, &TEMPLATE_STATES[..]),
        (
            args.clones,
            "clone",
            TEMPLATE_STATES.contains(&state),
            &CLONE_STATES,
        ),
    ] {
        if only && others {
            return Err(Error::usage(format!("no {what} is ever `{state}`"))
                .hint(format!("the states of {what}s: {}", states.join(", "))));
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
            && fits(&args.state, &t.row.state)
    });
    listing.clones.retain(|c| {
        !args.templates
            && fits(&args.template, &c.row.definition)
            && fits(&args.project, &c.row.project)
            && fits(&args.state, clone_state(&c.row, c.locked))
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
                    (
                        row.project.clone(),
                        row.definition.clone(),
                        row.fingerprint.clone(),
                    )
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

fn table(listing: &Listing) -> String {
    let mut text = String::new();
    if !listing.templates.is_empty() {
        let head = [
            "TEMPLATE", "OF", "STATE", "SIZE", "AGE", "IDLE", "HITS", "BASE",
        ];
        let rows: Vec<_> = listing.templates.iter().map(template_cells).collect();
        columns(&mut text, &head, &rows);
    }
    for TemplateListing { row, .. } in &listing.templates {
        if let Some(reason) = &row.reason {
            text += &format!(
                "{} is {}: {}\n",
                &row.fingerprint[..12],
                row.state,
                escape::line(reason)
            );
        }
        if let Some(failure) = &row.settle_failure {
            let first = failure.lines().next().unwrap_or_default();
            text += &format!(
                "{} stays provisional: the build from nothing failed: {}\n",
                &row.fingerprint[..12],
                escape::line(first)
            );
        }
    }
    if !listing.clones.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        let head = [
            "CLONE", "TEMPLATE", "OF", "STATE", "SIZE", "AGE", "HOLDER", "ENDS",
        ];
        let rows: Vec<_> = listing.clones.iter().map(clone_cells).collect();
        columns(&mut text, &head, &rows);
    }
    text
}

fn template_cells(template: &TemplateListing) -> Vec<String> {
    let row = &template.row;
    let mut state = row.state.clone();
    if row.provisional {
        state += ", provisional";
    }
    if row.pinned {
        state += ", pinned";
    }
    vec![
        row.fingerprint[..12].to_owned(),
        format!("{}/{}", row.project, row.definition),
        state,
        size(template.bytes),
        age(row.age_s),
        age(row.idle_s),
        row.hits.to_string(),
        row.base_fingerprint.as_ref().map_or_else(
            || "-".to_owned(),
            |base| format!("{} + {}", &base[..12], row.added.0.len()),
        ),
    ]
}

fn clone_cells(clone: &CloneListing) -> Vec<String> {
    let row = &clone.row;
    vec![
        row.name.clone(),
        row.fingerprint[..12].to_owned(),
        format!("{}/{}", row.project, row.definition),
        clone_state(row, clone.locked).to_owned(),
        clone.bytes.map_or_else(|| "-".to_owned(), size),
        age(row.age_s),
        match row.lease.as_str() {
            _ if row.state == "warm" => "nobody yet".into(),
            "session" => format!(
                "pid {}, {}",
                row.holder.0.pid,
                row.owner.describe(&row.holder.0)
            ),
            _ => row.owner.describe(&row.holder.0),
        },
        row.expires_at
            .clone()
            .unwrap_or_else(|| match row.lease.as_str() {
                _ if row.state == "warm" => "-".into(),
                "session" => "with its command".into(),
                _ => "never".into(),
            }),
    ]
}

/// Adds a table, each column as wide as its widest cell. A cell stays in its line, whatever it holds.
pub(super) fn columns(text: &mut String, head: &[&str], rows: &[Vec<String>]) {
    let rows: Vec<Vec<_>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| escape::line(cell)).collect())
        .collect();
    let width = |i: usize| {
        rows.iter()
            .map(|row| row[i].chars().count())
            .chain([head[i].len()])
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut line = |cells: &[&str]| {
        let mut out = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            out += &format!("{cell:width$}  ");
        }
        *text += out.trim_end();
        text.push('\n');
    };
    line(head);
    for row in &rows {
        line(&row.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    }
}
