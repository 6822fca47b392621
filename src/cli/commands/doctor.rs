//! `pgstencil doctor`

use pgstencil::Result;
use pgstencil::wire::{CheckAnswer, DoctorAnswer};

use crate::cli::Session;
use crate::cli::args::Doctor;
use crate::cli::escape;

pub(crate) async fn doctor(session: &Session, args: Doctor) -> Result<u8> {
    let checks = match session.stencil_for_reading().await? {
        Some(stencil) => stencil.doctor(args.fix, &session.limit).await?,
        None => {
            session
                .printer
                .say("the managed server does not run; `pgstencil server start` starts it");
            Vec::new()
        }
    };
    let answer = DoctorAnswer::from(checks.as_slice());
    if session.printer.json() {
        session.printer.object(&answer)?;
    } else {
        let quiet = session.printer.is_quiet();
        let shown = answer.checks.iter().filter(|c| !quiet || c.status != "ok");
        session
            .printer
            .data(&shown.map(lines).collect::<String>())?;
        if !answer.checks.is_empty() {
            session.printer.say(&summary(&answer));
        }
    }
    Ok(u8::from(answer.problems > 0))
}

fn lines(check: &CheckAnswer) -> String {
    let words = escape::line(&check.words);
    let mut text = format!("{:<9}{}: {words}\n", check.status, check.name);
    match (&check.fixed, &check.mend) {
        (Some(fixed), _) => text += &format!("         mended: {}\n", escape::line(fixed)),
        (None, Some(mend)) => text += &format!("         mend: {}\n", escape::line(mend)),
        (None, None) => {}
    }
    text
}

fn summary(answer: &DoctorAnswer) -> String {
    let count = |n: usize, one: &str| match n {
        0 => format!("no {one}"),
        1 => format!("one {one}"),
        n => format!("{n} {one}s"),
    };
    format!(
        "{}, {}",
        count(answer.problems, "problem"),
        count(answer.warnings, "warning")
    )
}
