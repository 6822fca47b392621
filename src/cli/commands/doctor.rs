//! `pgstencil doctor`

use std::time::Duration;

use crate::Result;
use crate::doctor::private_server;
use crate::quantity::count;
use crate::wire::{CheckAnswer, DoctorAnswer};

use super::{owed, prune};
use crate::cli::App;
use crate::cli::escape;
use crate::cli::output::{GREEN, RED, YELLOW};
use crate::cli::table::Look;
use clap::Args;

/// Check the server, role, disk and registry
///
/// Prints problems with hints. The exit code is 1 if there is a problem.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  pgstencil doctor\n  pgstencil doctor --fix")]
pub(crate) struct Doctor {
    /// Apply the safe fixes: clean up, discard templates that cannot be copied or were opened, and restore
    /// IS_TEMPLATE where it is missing
    #[arg(long)]
    pub(crate) fix: bool,
}

/// Patience with a private server that does not answer, when `--wait` sets none.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn doctor(app: &App, args: Doctor) -> Result<u8> {
    let config = app.config_or_defaults()?;
    let mut checks = Vec::new();
    // The fault of a server that cannot be started is more useful than the fact that it is not running.
    let mut startable = true;
    if app.uses_private_server(&config) {
        let server = app.private_server(&config.server)?;
        match server.postgres().await {
            Ok(version) => checks.push(private_server::postgres(&version)),
            Err(error) => {
                startable = false;
                checks.push(private_server::no_postgres(&error));
            }
        }
        let patience = app.deadline.left().unwrap_or(PATIENCE);
        checks.extend(private_server::clusters(&server.clusters(patience).await?));
    }
    let stencil = match startable {
        true => app.stencil_for_reading().await?,
        false => None,
    };
    if let Some(stencil) = &stencil {
        checks.extend(stencil.doctor(args.fix, &app.deadline).await?);
    }
    let answer = DoctorAnswer::from(checks.as_slice());
    if app.printer.json() {
        app.printer.object(&answer)?;
    } else {
        let quiet = app.printer.is_quiet();
        let shown = answer.checks.iter().filter(|c| !quiet || c.status != "ok");
        let look = app.printer.look();
        app.printer.table(&shown.map(|check| lines(check, look)).collect::<String>())?;
        if !answer.checks.is_empty() {
            app.printer.say(&summary(&answer));
        }
    }
    if let Some(stencil) = &stencil {
        if args.fix {
            owed::run(app, stencil).await;
        }
        prune::look(app, stencil).await;
    }
    Ok(u8::from(answer.problems > 0))
}

fn lines(check: &CheckAnswer, look: Look) -> String {
    let words = escape::line(&check.words);
    let mut text = format!("{:<9}{}: {words}\n", check.status, check.name);
    match (&check.fixed, &check.hint) {
        (Some(fixed), _) => text += &format!("         fixed: {}\n", escape::line(fixed)),
        (None, Some(hint)) => text += &format!("         hint: {}\n", escape::line(hint)),
        (None, None) => {}
    }
    let mut text = look.wrap(&text);
    // To be copied, so they are not broken.
    for statement in &check.statements {
        text += &format!("           {}\n", escape::line(statement));
    }
    let style = match check.status {
        "ok" => GREEN,
        "warning" => YELLOW,
        _ => RED,
    };
    match text.strip_prefix(check.status) {
        Some(rest) if look.color => format!("{style}{}{style:#}{rest}", check.status),
        _ => text,
    }
}

fn summary(answer: &DoctorAnswer) -> String {
    format!("{}, {}", count(answer.problems, "problem"), count(answer.warnings, "warning"))
}
