//! `pgstencil list`

use pgstencil::Result;
use pgstencil::stencil::Listing;
use pgstencil::wire::{ListAnswer, clone_state};

use crate::cli::Session;
use crate::cli::output::size;

pub(crate) async fn list(session: &Session) -> Result<u8> {
    let Some(stencil) = session.stencil_for_reading().await? else {
        session
            .printer
            .say("the managed server does not run; `pgstencil server start` starts it");
        if session.printer.json() {
            session
                .printer
                .object(&ListAnswer::from(&Listing::default()))?;
        }
        return Ok(0);
    };
    let listing = stencil.list(&session.limit).await?;
    if session.printer.json() {
        session.printer.object(&ListAnswer::from(&listing))?;
    } else if listing.templates.is_empty() && listing.clones.is_empty() {
        session.printer.say("no templates and no clones yet");
    } else {
        session.printer.data(&table(&listing))?;
    }
    Ok(0)
}

fn table(listing: &Listing) -> String {
    let mut text = String::new();
    let templates: Vec<Vec<String>> = listing
        .templates
        .iter()
        .map(|(row, bytes)| {
            vec![
                row.fingerprint[..12].to_owned(),
                format!("{}/{}", row.project, row.definition),
                match row.provisional {
                    true => format!("{}, provisional", row.state),
                    false => row.state.clone(),
                },
                size(*bytes),
                row.created_at.clone(),
                row.last_used_at.clone(),
                row.hits.to_string(),
                row.base_fingerprint.as_ref().map_or_else(
                    || "-".to_owned(),
                    |base| format!("{} + {}", &base[..12], row.added.0.len()),
                ),
            ]
        })
        .collect();
    let head = [
        "TEMPLATE",
        "OF",
        "STATE",
        "SIZE",
        "CREATED",
        "LAST USED",
        "HITS",
        "BASE",
    ];
    columns(&mut text, &head, &templates);
    for (row, _) in &listing.templates {
        if let Some(reason) = &row.reason {
            text += &format!("{} is {}: {reason}\n", &row.fingerprint[..12], row.state);
        }
        if let Some(why) = &row.settle_failure {
            let first = why.lines().next().unwrap_or_default();
            text += &format!(
                "{} stays provisional: the build from nothing failed: {first}\n",
                &row.fingerprint[..12]
            );
        }
    }
    if !listing.clones.is_empty() {
        text.push('\n');
        let clones: Vec<Vec<String>> = listing
            .clones
            .iter()
            .map(|(row, _, locked)| {
                vec![
                    row.name.clone(),
                    row.fingerprint[..12].to_owned(),
                    format!("{}/{}", row.project, row.definition),
                    clone_state(row, *locked).to_owned(),
                    match row.lease.as_str() {
                        "session" => row.holder.0.describe(),
                        _ => row.holder.0.describe_checkout(),
                    },
                    row.expires_at
                        .clone()
                        .unwrap_or_else(|| match row.lease.as_str() {
                            "session" => "with its command".into(),
                            _ => "never".into(),
                        }),
                ]
            })
            .collect();
        columns(
            &mut text,
            &["CLONE", "TEMPLATE", "OF", "STATE", "HOLDER", "ENDS"],
            &clones,
        );
    }
    text
}

/// Adds a table, each column as wide as its widest cell.
pub(super) fn columns(text: &mut String, head: &[&str], rows: &[Vec<String>]) {
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
    for row in rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
