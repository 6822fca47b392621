//! The remote store, for callers: templates that are pushed and pulled, and the examination.

use super::{Deadline, Registry, Stencil};
use crate::error::{Error, Kind, Result};
use crate::events::Observe;
use crate::names::Fingerprint;
use crate::registry::TemplateState;
use crate::remote::{Finding, Level, Remote};
use crate::template::{self, push};

pub(crate) use crate::template::NotPulled;
pub(crate) use crate::template::push::{NotPushed, Pushed};

impl Stencil {
    /// Returns the store, if the config has one.
    pub(crate) fn remote(&self) -> Option<&Remote> {
        self.remote.as_deref()
    }

    fn the_store(&self) -> Result<&Remote> {
        self.remote().ok_or_else(|| {
            Error::config("no remote store is set")
                .hint("set `url` in `[remote]`, such as `url = \"file:///mnt/templates\"`")
        })
    }

    /// Pushes a ready template of a definition: that of the current inputs, or the one whose fingerprint begins with
    /// `digits`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such template; `Config` without a store; errors of the driver and of `pg_dump`.
    pub(crate) async fn push(
        &self,
        definition: Option<&str>,
        digits: Option<&str>,
        deadline: &Deadline,
        observe: Observe<'_>,
    ) -> Result<(Fingerprint, Pushed)> {
        let remote = self.the_store()?;
        self.refuse_untrusted("pushed")?;
        let definition = self.definition(definition)?;
        let context = self.context(definition, deadline, observe, false);
        let (mut registry, recipe, _) = self.open_reading(&context).await?;
        let (project, name) = (context.project, &definition.name);
        let mut recipe = recipe?;
        if let Some(digits) = digits {
            let ready = registry.ready_templates(project, name, &recipe).await?;
            let digits = digits.to_ascii_lowercase();
            let found = ready.into_iter().find(|(row, _)| row.fingerprint.to_string().starts_with(&digits));
            let Some((row, kept)) = found else {
                return Err(unknown(name, &digits));
            };
            if kept.fingerprint() != row.fingerprint {
                let why = "its variables have other values now, so its inputs are not known completely";
                return Ok((row.fingerprint, Pushed::Not(why.to_owned().into())));
            }
            recipe = kept;
        }
        let fingerprint = recipe.fingerprint();
        let row = registry.find_template(project, name, &fingerprint, TemplateState::Ready).await?;
        let Some(row) = row else {
            return Err(unknown(name, &fingerprint.short()));
        };
        let pushed = push::push(&mut registry, &context, remote, &recipe).await?;
        if matches!(pushed, Pushed::Done(_) | Pushed::There) {
            registry.set_pushed(row.id).await?;
        }
        registry.close().await;
        Ok((fingerprint, pushed))
    }

    /// Pulls a template of a definition: that of the current inputs, or the one whose fingerprint begins with `digits`.
    /// Returns its fingerprint, and whether it was pulled now; the inner error is the reason why nothing was pulled.
    ///
    /// # Errors
    /// `Config` without a store; the driver's.
    pub(crate) async fn pull(
        &self,
        definition: Option<&str>,
        digits: Option<&str>,
        deadline: &Deadline,
        observe: Observe<'_>,
    ) -> Result<std::result::Result<(Fingerprint, bool), NotPulled>> {
        let remote = self.the_store()?;
        self.refuse_untrusted("pulled")?;
        let definition = self.definition(definition)?;
        let context = self.context(definition, deadline, observe, false);
        let (mut registry, recipe, _) = self.open_reading(&context).await?;
        let digits = digits.map(str::to_ascii_lowercase);
        let pulled = template::pull_now(&mut registry, &context, remote, &recipe?, digits.as_deref()).await?;
        registry.close().await;
        Ok(pulled)
    }

    /// Returns the fingerprints of the project's pinned templates on this server.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn pinned(&self, deadline: &Deadline) -> Result<Vec<String>> {
        let registry = &self.config.server.registry;
        let Some(mut registry) = Registry::open_existing(&self.endpoint, registry, deadline).await? else {
            return Ok(Vec::new());
        };
        let rows = registry.templates().await?;
        registry.close().await;
        let own = rows.into_iter().filter(|row| row.pinned && row.project == self.config.project);
        Ok(own.map(|row| row.fingerprint.to_string()).collect())
    }

    /// Examines the store, and whether this machine can dump and restore. `major`: the server's major version, if it
    /// is known.
    pub(crate) async fn examine_store(
        &self,
        remote: &Remote,
        major: Option<u32>,
        superuser: bool,
        probe: bool,
    ) -> Vec<Finding> {
        let mut findings = remote.examine(probe).await;
        if let Some(major) = major {
            findings.push(match self.tools.find(major).await {
                Ok(tools) => Finding::new(
                    "programs",
                    Level::Ok,
                    format!("pg_dump and pg_restore {} in {}", tools.major, tools.place()),
                ),
                Err(error) => Finding::new("programs", Level::Problem, error.message().to_owned())
                    .hint(error.hints().first().cloned().unwrap_or_default()),
            });
        }
        if superuser {
            findings.push(
                Finding::new(
                    "role",
                    Level::Warning,
                    "templates are restored as a superuser, so a template can run any program on the server",
                )
                .hint("connect as a role with CREATEDB that is not a superuser, or trust few keys"),
            );
        }
        findings
    }

    /// Returns the server's major version, and whether the role is a superuser, if the server can be reached.
    pub(crate) async fn server_for_store(&self, deadline: &Deadline) -> (Option<u32>, bool) {
        let name = &self.config.server.registry;
        for database in self.endpoint.maintenance().iter().filter(|d| **d != **name) {
            if let Ok(mut session) = crate::pg::Session::open(&self.endpoint, database, deadline).await {
                let major = session.facts().major();
                let superuser = crate::pg::catalog::is_superuser(&mut session).await.unwrap_or(false);
                session.close().await;
                return (Some(major), superuser);
            }
        }
        (None, false)
    }
}

fn unknown(definition: &str, digits: &str) -> Error {
    Error::new(
        Kind::NotFound,
        format!("there is no ready template {digits} of `{definition}` on this server"),
    )
    .hint("build it: `pgstencil ensure`")
    .hint("list the templates: `pgstencil list`")
}
