//! Measures the cost of copying a template on this server, for each strategy that the server supports.
//!
//! The largest database of the template is copied and dropped again, by all strategies in turn, so that other
//! load affects all of them equally; the first round is not counted, since its caches are cold. The drop is
//! part of the cost: a copy through the WAL leaves much of its work to the next checkpoint, and a drop forces
//! one. After a crash the remains are those of any interrupted clone, and the next cleanup finds them.

use std::time::{Duration, Instant};

use crate::config::Strategy;
use crate::context::Context;
use crate::database::create::{self, Copy};
use crate::database::drop;
use crate::database::strategy::Chooser;
use crate::error::{Error, Fault, Kind, Result};
use crate::events::Event;
use crate::lease;
use crate::names;
use crate::pg::lock::LockKey;
use crate::pg::session::OpenError;
use crate::pg::sql::CopyStrategy;
use crate::pg::{Doing as _, Session, cause, sql};
use crate::registry::Registry;
use crate::registry::database::Owner;
use crate::registry::measurement::Measurement;
use crate::template::{Template, TemplateDatabase};

/// Result of a measurement.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    /// Size of the database that was copied.
    pub(crate) bytes: i64,
    /// Approximate number of its files.
    pub(crate) files: i64,
    /// `server_version_num`
    pub(crate) version: u32,
    /// Whether the server has `fsync` on.
    pub(crate) fsync: bool,
    /// Number of rounds that were counted.
    pub(crate) rounds: usize,
    /// Costs by strategy.
    pub(crate) costs: Vec<Cost>,
    /// The value of `strategy` in the config.
    pub(crate) wanted: Strategy,
    /// The strategy that the config led to before.
    pub(crate) before: CopyStrategy,
    /// The strategy that `auto` uses from now on for databases of about this size.
    pub(crate) best: CopyStrategy,
}

/// The costs of one strategy: medians.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    /// The strategy.
    pub(crate) strategy: CopyStrategy,
    /// Time of `CREATE DATABASE`.
    pub(crate) create: Duration,
    /// Time of the first connection to the copy.
    pub(crate) connect: Duration,
    /// Time of its drop, with the checks before it.
    pub(crate) drop: Duration,
    /// The reason why the server does not support it; the times are zero then.
    pub(crate) refused: Option<String>,
}

/// Measures the costs and records them in the registry, where `auto` finds them. The caller holds the
/// template's lock.
///
/// # Errors
/// [`Kind::Interrupted`] and [`Kind::Timeout`] between two copies; errors of the driver.
pub(crate) async fn bench(
    registry: &mut Registry,
    context: &Context<'_>,
    template: &Template,
    rounds: usize,
) -> Result<Bench> {
    let facts = registry.facts().clone();
    let largest = template.databases().iter().max_by_key(|d| d.bytes);
    let from = largest.ok_or_else(|| Error::internal("a template without databases"))?;
    let mut chooser = Chooser::read(registry, context, false).await?;
    let before = chooser.choose(from.bytes, from.files);
    let strategies: &[CopyStrategy] = match facts.major() {
        ..=14 => &[CopyStrategy::Only],
        15..=17 => &[CopyStrategy::WalLog, CopyStrategy::FileCopy],
        _ => &[CopyStrategy::WalLog, CopyStrategy::FileCopy, CopyStrategy::Reflink],
    };
    let mut seen: Vec<Samples> = strategies.iter().map(|s| Samples::of(*s)).collect();
    for round in 0..=rounds {
        context.tell(Event::Notice(&match round {
            0 => "a round to warm up".to_owned(),
            n => format!("round {n} of {rounds}"),
        }));
        for i in 0..seen.len() {
            // Each strategy has each place in the round, since a checkpoint caused by one helps the next one.
            let next = (i + round) % seen.len();
            let samples = &mut seen[next];
            if samples.refused.is_some() {
                continue;
            }
            context.deadline.check("the measurement")?;
            match sample(registry, context, template, from, samples.strategy).await {
                Ok(times) if round > 0 => samples.times.push(times),
                Ok(_) => {}
                Err(e) if e.has_fault(Fault::Unsupported) => {
                    samples.refused = Some(cause(&e));
                }
                Err(e) => return Err(e),
            }
        }
    }
    let costs: Vec<Cost> = seen.into_iter().map(Samples::cost).collect();
    for cost in costs.iter().filter(|c| c.strategy != CopyStrategy::Only) {
        let measurement = Measurement {
            strategy: cost.strategy,
            bytes: from.bytes,
            files: from.files,
            millis: match cost.refused {
                Some(_) => f64::INFINITY,
                None => cost.create.as_secs_f64() * 1e3,
            },
            samples: i64::try_from(rounds).unwrap_or(i64::MAX),
        };
        registry.note_measurement(&measurement).await?;
        chooser.learn(measurement);
    }
    Ok(Bench {
        bytes: from.bytes,
        files: from.files,
        version: facts.version,
        fsync: facts.fsync,
        rounds,
        costs,
        wanted: context.clone_settings.strategy,
        before,
        best: chooser.automatic().choose(from.bytes, from.files),
    })
}

/// Times of CREATE, first connection, DROP.
type Times = [Duration; 3];

struct Samples {
    strategy: CopyStrategy,
    times: Vec<Times>,
    refused: Option<String>,
}

impl Samples {
    fn of(strategy: CopyStrategy) -> Self {
        Samples { strategy, times: Vec::new(), refused: None }
    }

    fn cost(self) -> Cost {
        let median = |which: usize| {
            let mut times: Vec<Duration> = self.times.iter().map(|t| t[which]).collect();
            times.sort();
            times.get(times.len() / 2).copied().unwrap_or_default()
        };
        Cost {
            strategy: self.strategy,
            create: median(0),
            connect: median(1),
            drop: median(2),
            refused: self.refused,
        }
    }
}

/// Copies once, as a clone that never becomes ready, and drops the copy.
async fn sample(
    registry: &mut Registry,
    context: &Context<'_>,
    template: &Template,
    from: &TemplateDatabase,
    strategy: CopyStrategy,
) -> Result<Times> {
    let id = names::clone_id();
    let made = make(registry, context, template, from, strategy, &id).await;
    registry.set_released(&id).await?;
    let started = Instant::now();
    let left = drop::drop_databases_of(registry, &Owner::Clone(id.clone())).await?;
    let dropped = started.elapsed();
    registry.forget_clone(&id).await?;
    registry.session().unlock(LockKey::clone(&id)).await.doing(|| "unlock a copy".into())?;
    let (create, connect) = made?;
    match left.first() {
        None => Ok([create, connect, dropped]),
        Some(why) => Err(Error::new(Kind::Failed, "a copy could not be dropped")
            .detail(why)
            .detail("the next cleanup tries again")),
    }
}

async fn make(
    registry: &mut Registry,
    context: &Context<'_>,
    template: &Template,
    from: &TemplateDatabase,
    strategy: CopyStrategy,
    id: &str,
) -> Result<(Duration, Duration)> {
    let only = std::slice::from_ref(from);
    let mut rows = lease::register_unnamed(registry, context, template, only, id).await?;
    let name = rows.first().map_or_else(String::new, |row| row.name.clone());
    let copy = Copy {
        target: name.clone(),
        source: from.name.clone(),
        source_oid: Some(from.oid),
        strategy,
        open: false,
    };
    let started = Instant::now();
    create::create(registry.session(), &copy, context).await?;
    let create = started.elapsed();
    for row in &mut rows {
        let words = format!("pgstencil bench: {} of {}", context.definition.name, context.project);
        registry.mark_created(row, &words, None).await?;
    }
    registry
        .session()
        .run(sql::allow_connections(&name, true))
        .await
        .doing(|| format!("open database `{name}`"))?;
    let started = Instant::now();
    let connect = match Session::open(context.endpoint, &name, context.deadline).await {
        Ok(session) => {
            let took = started.elapsed();
            session.close().await;
            took
        }
        // The measurement does not depend on it.
        Err(OpenError::Missing | OpenError::Other(_)) => Duration::ZERO,
    };
    Ok((create, connect))
}
