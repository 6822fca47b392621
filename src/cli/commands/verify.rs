//! `pgstencil verify`

use crate::template::Fate;
use crate::wire::VerifyAnswer;
use crate::{Error, Kind, Result};

use super::{owed, prune};
use crate::cli::App;
use crate::cli::args::Which;
use crate::cli::background::{Background, Task};
use clap::Args;

/// Compare the template with a full build
///
/// Runs a full build next to the template and prints the differences. The exit code is 1 if there are any.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pgstencil verify              the template of the current files\n  pgstencil verify --all        those of all definitions, as a nightly job"
)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Verify the templates of all definitions
    #[arg(long, conflicts_with = "template")]
    pub(crate) all: bool,
    /// Also compare the contents of rows, and their ids
    #[arg(long)]
    pub(crate) rows: bool,
    /// Replace the template by the full build
    #[arg(long)]
    pub(crate) replace: bool,
}

pub(crate) async fn verify(app: &App, args: Verify) -> Result<u8> {
    let stencil = app.stencil().await?;
    let names: Vec<String> = match args.all {
        true => stencil.config().definitions.iter().map(|d| d.name.clone()).collect(),
        false => vec![stencil.definition(args.which.template.as_deref())?.name.clone()],
    };
    owed::run(app, &stencil).await;
    let printer = app.printer.clone();
    let mut answer = VerifyAnswer::default();
    let mut failure = None;
    for name in &names {
        let verdict = stencil
            .verify(
                Some(name),
                &app.deadline,
                &|event| printer.tell(&event),
                args.replace,
                args.rows,
                args.which.keep_failed_build,
            )
            .await;
        app.printer.finish();
        match verdict {
            Ok(verdict) => {
                if !app.printer.json() {
                    for (alias, diff) in &verdict.differences {
                        if stencil.definition(Some(name))?.databases.len() > 1 {
                            app.printer.data(&format!("database {alias}\n"))?;
                        }
                        app.printer.data(&diff.to_string())?;
                    }
                }
                for name in &verdict.unknown {
                    app.printer.warn(&format!(
                        "`verify_ignore` of `{}` names `{name}`, which is not a column of its databases",
                        verdict.definition
                    ));
                }
                for line in &verdict.unread {
                    app.printer.warn(&format!("not compared: {line}"));
                }
                if !verdict.left_out.is_empty() {
                    app.printer.say(&format!(
                        "ignored, since they contain the time of the build: {}",
                        verdict.left_out.join(", ")
                    ));
                }
                if verdict.fate == Fate::Kept && verdict.incremental && !verdict.is_equal() {
                    app.printer.say(
                        "the incrementally built template is kept: ids, row contents and sequences may differ from a full build",
                    );
                }
                if verdict.fate == Fate::Broken {
                    app.printer.say(
                        "the incrementally built template is marked broken, so the next command runs a full build",
                    );
                }
                answer.add(&verdict);
            }
            // With `--all`, a definition without a template says nothing against the others.
            Err(error) if args.all && error.kind() == Kind::NotFound => {
                app.printer.say(&format!("{error}: skipped"));
            }
            Err(error) if args.all && error.kind() == Kind::Build => {
                app.printer.error(&error);
                failure.get_or_insert(error.kind());
            }
            Err(error) => {
                Background::new(&stencil).finish(Task::CleanUp).await;
                return Err(error);
            }
        }
    }
    Background::new(&stencil).finish(Task::CleanUp).await;
    if answer.verified.is_empty() && failure.is_none() {
        return Err(Error::new(Kind::NotFound, "no definition has a template for its current files")
            .hint("build one: `pgstencil ensure -t NAME`"));
    }
    if app.printer.json() {
        app.printer.object(&answer)?;
    }
    prune::look(app, &stencil).await;
    Ok(match failure {
        Some(kind) => kind.exit_code(),
        None => u8::from(!answer.is_equal()),
    })
}
