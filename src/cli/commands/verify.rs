//! `pgstencil verify`

use crate::template::Fate;
use crate::wire::VerifyAnswer;
use crate::{Error, Kind, Result};

use super::{owed, prune};
use crate::cli::Session;
use crate::cli::args::Verify;
use crate::cli::background::{Background, Task};

pub(crate) async fn verify(session: &Session, args: Verify) -> Result<u8> {
    let stencil = session.stencil().await?;
    let names: Vec<String> = match args.all {
        true => stencil.config().definitions.iter().map(|d| d.name.clone()).collect(),
        false => vec![stencil.definition(args.which.template.as_deref())?.name.clone()],
    };
    owed::run(session, &stencil).await;
    let printer = session.printer.clone();
    let mut answer = VerifyAnswer::default();
    let mut failure = None;
    for name in &names {
        let verdict = stencil
            .verify(
                Some(name),
                &session.deadline,
                &|event| printer.tell(&event),
                args.replace,
                args.rows,
                args.which.keep_failed_build,
            )
            .await;
        session.printer.finish();
        match verdict {
            Ok(verdict) => {
                if !session.printer.json() {
                    for (alias, diff) in &verdict.differences {
                        if stencil.definition(Some(name))?.databases.len() > 1 {
                            session.printer.data(&format!("database {alias}\n"))?;
                        }
                        session.printer.data(&diff.to_string())?;
                    }
                }
                for name in &verdict.unknown {
                    session.printer.warn(&format!(
                        "`verify_ignore` of `{}` names `{name}`, which is no column of its databases",
                        verdict.definition
                    ));
                }
                for line in &verdict.unread {
                    session.printer.warn(&format!("not compared: {line}"));
                }
                if !verdict.left_out.is_empty() {
                    session.printer.say(&format!(
                        "left out, since they hold the time of the build: {}",
                        verdict.left_out.join(", ")
                    ));
                }
                if verdict.fate == Fate::Kept && verdict.extends.is_some() && !verdict.is_equal() {
                    session.printer.say(
                        "the extended template is kept: ids, row contents and sequences may differ from a build from nothing",
                    );
                }
                if verdict.fate == Fate::Broken {
                    session.printer.say(
                        "the extended template is marked broken: the next command builds it from nothing",
                    );
                }
                answer.add(&verdict);
            }
            // With `--all`, a definition without a template says nothing against the others.
            Err(error) if args.all && error.kind() == Kind::NotFound => {
                session.printer.say(&format!("{error}: skipped"));
            }
            Err(error) if args.all && error.kind() == Kind::Build => {
                session.printer.error(&error);
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
        return Err(Error::new(Kind::NotFound, "no definition has a template for its present files")
            .hint("`pgstencil ensure -t NAME` builds it"));
    }
    if session.printer.json() {
        session.printer.object(&answer)?;
    }
    prune::look(session, &stencil).await;
    Ok(match failure {
        Some(kind) => kind.exit_code(),
        None => u8::from(!answer.is_equal()),
    })
}
