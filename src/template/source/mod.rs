//! What fills the databases of a build: the definition's build command.

pub(super) mod command;
pub(super) mod overtaken;
pub(super) mod progress;
