//! `pgstencil server fetch`, and the question whether to do that where there is no Postgres.

use std::cell::Cell;
use std::time::{Duration, Instant};

use clap::Args;

use crate::cli::App;
use crate::cli::confirm::{can_ask, confirmed};
use crate::error::Fault;
use crate::private_server::{Fetched, PrivateServer, RELEASES};
use crate::quantity::size;
use crate::wire::FetchAnswer;
use crate::{Error, Kind, Result};

/// The major version that is fetched by default.
const MAJOR: u32 = 18;

/// `server fetch`
#[derive(Args, Debug)]
pub(crate) struct ServerFetch {
    /// PostgreSQL version
    #[arg(long, value_name = "N", default_value_t = MAJOR, value_parser = clap::value_parser!(u32).range(13..=18))]
    pub(crate) major: u32,
    /// List of releases in GitHub's form, such as that of a mirror; https, or http on this machine
    #[arg(long, value_name = "URL", default_value = RELEASES, env = "PGSTENCIL_FETCH_URL")]
    pub(crate) from: String,
}

pub(super) async fn fetch(app: &App, server: &PrivateServer, args: &ServerFetch) -> Result<u8> {
    let fetched = fetched(app, server, args.major, &args.from).await?;
    let place = fetched.bindir.display();
    app.printer.say(&match fetched.known {
        true => format!("PostgreSQL {} is there already", fetched.version),
        false => format!("fetched PostgreSQL {}", fetched.version),
    });
    if app.printer.json() {
        app.printer.object(&FetchAnswer::from(&fetched))?;
    } else {
        app.printer.data(&format!("{place}\n"))?;
    }
    Ok(0)
}

async fn fetched(app: &App, server: &PrivateServer, major: u32, from: &str) -> Result<Fetched> {
    let printer = &app.printer;
    let (told, drawn) = (Cell::new(false), Cell::new(None::<Instant>));
    let progress = |version: &str, done: u64, total: Option<u64>| {
        let all = total.and_then(|total| Some(format!(" ({})", size(total.try_into().ok()?))));
        let all = all.unwrap_or_default();
        if !told.replace(true) {
            printer.begin_transfer(&format!("fetching PostgreSQL {version}{all}"));
        }
        if drawn.get().is_none_or(|at| at.elapsed() > Duration::from_millis(50)) || Some(done) == total {
            drawn.set(Some(Instant::now()));
            printer.transfer(&bar(done, total));
        }
    };
    let work = async {
        match app.deadline.left() {
            None => server.fetch(major, from, &progress).await,
            Some(left) => tokio::time::timeout(left, server.fetch(major, from, &progress))
                .await
                .unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "the fetch of Postgres takes too long"))),
        }
    };
    let done = tokio::select! {
        done = work => done,
        () = app.deadline.cancel.cancelled() => Err(Error::new(Kind::Interrupted, "interrupted")),
    };
    printer.finish();
    done
}

/// Width of a bar.
const WIDTH: u64 = 20;

/// `[#####---------------] 12 MB of 40 MB`
fn bar(done: u64, total: Option<u64>) -> String {
    let size = |bytes: u64| size(i64::try_from(bytes).unwrap_or(i64::MAX));
    match total.filter(|total| *total > 0) {
        None => size(done),
        Some(total) => {
            let full = (done.min(total) * WIDTH / total) as usize;
            format!(
                "[{}{}] {} of {}",
                "#".repeat(full),
                "-".repeat(WIDTH as usize - full),
                size(done),
                size(total)
            )
        }
    }
}

/// Asks on a terminal whether to fetch Postgres, if it is that what is missing. Returns whether it is there now.
///
/// # Errors
/// `error` itself, if nothing is fetched.
pub(crate) async fn instead_of(app: &App, server: &PrivateServer, error: Error) -> Result<()> {
    if !error.has_fault(Fault::NoPostgres) || !can_ask(app) || app.env.non_empty(crate::env::CI).is_some() {
        return Err(error);
    }
    let what = format!(
        "no Postgres found on this machine: fetch PostgreSQL {MAJOR} from github.com/theseus-rs/postgresql-binaries"
    );
    if !confirmed(app, &what)? {
        return Err(error);
    }
    let from = app.env.non_empty(crate::env::FETCH_URL).unwrap_or(RELEASES).to_owned();
    let fetched = fetched(app, server, MAJOR, &from).await?;
    app.printer.say(&format!("fetched PostgreSQL {}", fetched.version));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_grows_to_its_width() {
        assert_eq!(bar(0, Some(40_000_000)), "[--------------------] 0 bytes of 40.0 MB");
        assert_eq!(bar(20_000_000, Some(40_000_000)), "[##########----------] 20.0 MB of 40.0 MB");
        assert_eq!(bar(40_000_000, Some(40_000_000)), "[####################] 40.0 MB of 40.0 MB");
        assert_eq!(bar(5_000_000, Some(4_000_000)), "[####################] 5.0 MB of 4.0 MB");
        assert_eq!(bar(5_000_000, None), "5.0 MB");
    }
}
