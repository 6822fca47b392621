//! A plan that is carried out: its templates are locked before they are judged.

use std::time::{Duration, Instant};

use super::{Grip, Sight};
use crate::context::Context;
use crate::error::Result;
use crate::events::{Event, Warning};
use crate::fingerprint::Recipe;
use crate::pg::sql;
use crate::process;
use crate::registry::template::Hold;
use crate::registry::{Registry, TemplateRow, TemplateState};
use crate::template::look_up::{self, Claim, let_go};
use crate::template::permit::{Asked, BuildPermit};
use crate::template::waiting::POLL;
use crate::template::{Template, Unsealed, Unusable, finding, from, unsealed, unusable};

/// Locks the template to use, or takes the right to build it and locks its base.
#[derive(Default)]
pub(in crate::template) struct Taking {
    /// Number of the last build that was waited for: its result is good enough, even if it was not sealed.
    pub(in crate::template) waited: Option<i64>,
}

/// The part that may have changed while it was read.
pub(in crate::template) enum Change {
    /// Anything else: check again.
    Again,
    /// The build that was waited for has ended, and was not sealed.
    Unsealed(Box<Template>, Unsealed),
}

impl Grip for Taking {
    type Template = Template;
    type Permit = BuildPermit;
    type Change = Change;

    async fn ready(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> Result<Sight<Template, Change>> {
        let (project, definition) = (context.project, context.definition.name.as_str());
        let fingerprint = recipe.fingerprint();
        let (hold, findings) = registry.look_up_ready(project, definition, &fingerprint).await?;
        finding::tell(context, &findings);
        let held = match hold {
            None => return Ok(Sight::Nothing),
            Some(Hold::Changed) => return Ok(Sight::Changed(Change::Again)),
            Some(Hold::Held(held)) => held,
        };
        let why = match Unusable::by_definition(&held.row, context.definition) {
            None => match Template::of(registry, &held).await? {
                Ok(template) => return Ok(Sight::Ready(Box::new(template))),
                Err(why) => why,
            },
            Some(why) => why,
        };
        let_go(registry, held.row.id).await?;
        unusable::discard(registry, context, held.row.id, &fingerprint, &why).await?;
        Ok(Sight::Nothing)
    }

    async fn permit(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> Result<std::result::Result<Asked<BuildPermit>, Change>> {
        let asked = BuildPermit::ask(registry, context, recipe).await?;
        if let Some(id) = self.waited
            && !matches!(&asked, Some(Asked::Busy(row)) if row.id == id)
            && let Some((template, unsealed)) = unsealed::take(registry, context, id).await?
        {
            if let Some(Asked::Granted(permit)) = asked {
                permit.release(registry).await;
            }
            return Ok(Err(Change::Unsealed(Box::new(template), unsealed)));
        }
        Ok(asked.ok_or(Change::Again))
    }

    async fn prepare(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> Result<()> {
        wait_for_former(registry, context, recipe).await?;
        tell_of_another_role(registry, context, recipe).await?;
        from::look(registry, context).await
    }

    async fn candidates(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> Result<Vec<(TemplateRow, Recipe)>> {
        registry.ready_templates(context.project, &context.definition.name, recipe).await
    }

    async fn base(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        row: &TemplateRow,
    ) -> Result<Sight<Template, Change>> {
        let why = match look_up::claim(registry, row).await? {
            Claim::Ready(template) => return Ok(Sight::Ready(template)),
            Claim::Changed => return Ok(Sight::Changed(Change::Again)),
            Claim::Unusable(why) => why,
        };
        unusable::discard(registry, context, row.id, &row.fingerprint, &why).await?;
        Ok(Sight::Nothing)
    }

    async fn release(&mut self, registry: &mut Registry, permit: BuildPermit) {
        permit.release(registry).await;
    }
}

/// Waits for a former builder. If it lost its session, it lost the right to build with it, and ends its command
/// as soon as it notices. Where its process is visible, it is waited for, so that two commands do not run at
/// the same time.
async fn wait_for_former(registry: &mut Registry, context: &Context<'_>, recipe: &Recipe) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let (project, name) = (context.project, context.definition.name.as_str());
    let fingerprint = recipe.fingerprint();
    let former = registry.find_template(project, name, &fingerprint, TemplateState::Building).await?;
    let Some(former) = former else {
        return Ok(());
    };
    let (builder, ours) = (&former.builder.0, context.holder);
    let here = !ours.machine.is_empty() && builder.machine == ours.machine && builder.pid != ours.pid;
    let started = Instant::now();
    while here && process::is_alive(builder.pid) && started.elapsed() < PATIENCE {
        let who = format!("{} to end its build, since its session was lost", builder.describe());
        context.deadline.pause(POLL, &who).await?;
    }
    Ok(())
}

/// Reports that a template is built although one of another Postgres role exists, if that is so.
async fn tell_of_another_role(registry: &mut Registry, context: &Context<'_>, recipe: &Recipe) -> Result<()> {
    let (project, definition) = (context.project, context.definition.name.as_str());
    let fingerprint = recipe.fingerprint();
    let Some(builder) = registry.builder_of(project, definition, &fingerprint).await? else {
        return Ok(());
    };
    let (role, owner) = (&registry.facts().began_as, &registry.facts().role);
    context.tell(Event::Warning(
        &Warning::new(format!(
            "building a second template {} of `{definition}`, for role `{role}`",
            fingerprint.short()
        ))
        .detail(format!(
            "the existing template belongs to role `{builder}`, and role `{role}` does not inherit from that role"
        ))
        .hint(format!(
            "to share templates, let every member's sessions act as one role: ALTER ROLE {} SET role = {};",
            sql::quote_ident(role),
            sql::quote_ident(owner)
        )),
    ));
    Ok(())
}
