//! The command line: the only code that uses a terminal, the process and its environment.

mod args;
mod background;
mod background_log;
mod commands;
mod confirm;
mod escape;
mod github;
mod hand_out;
mod live;
mod output;
mod pushing;
mod refusal;
mod resident;
mod screen;
mod table;
mod target;

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::time::Duration;

use crate::env::{self, Environment};
use crate::process::Signals;
use crate::stencil::Deadline;
use crate::{Error, Kind, Result};
use tokio_util::sync::CancellationToken;

use self::args::Arguments;
use self::commands::Command;
use self::output::Printer;

/// What every command gets.
struct App {
    shared: args::Shared,
    env: Environment,
    printer: Printer,
    deadline: Deadline,
    /// Whether the command names a database by `{branch}`.
    names_branch: bool,
}

/// Parses, runs, and turns the result into an exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::parse_words(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = match error.use_stderr() {
                true => Kind::Usage.exit_code(),
                false => 0,
            };
            output::print_usage(error);
            return ExitCode::from(code);
        }
    };
    // The driver reads it in every session of pgstencil, and a process that has threads cannot remove it from
    // its environment.
    if std::env::var_os(env::PGOPTIONS).is_some() {
        start_over_without(env::PGOPTIONS);
    }
    // Before anything is opened: this process outlives the one that started it.
    if matches!(arguments.command, Command::Background) && !background::leave() {
        return ExitCode::SUCCESS;
    }
    let env = Environment::from_process();
    let printer = Printer::new(&arguments.shared, &env);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(arguments, env, printer.clone()));
            // A blocking task may still read files; neither it nor the end of the threads is waited for.
            std::mem::forget(runtime);
            result
        }
        Err(e) => Err(Error::internal("cannot start the runtime").caused_by(e)),
    };
    printer.finish();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            printer.error(&error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

async fn run(arguments: Arguments, env: Environment, printer: Printer) -> Result<u8> {
    let mut signals = Signals::subscribe()?;
    let cancel = CancellationToken::new();
    let app = App {
        deadline: Deadline::new(arguments.shared.wait, cancel.clone()),
        names_branch: arguments.command.names_branch(),
        shared: arguments.shared,
        env,
        printer,
    };
    arguments.command.execute(&app, &mut signals).await
}

/// Becomes the same program with the same arguments, without a variable. Returns only if that fails: then the
/// variable has its effect, which is no reason not to work.
fn start_over_without(variable: &str) {
    if let Ok(program) = std::env::current_exe() {
        let mut again = std::process::Command::new(program);
        let _ = again.args(std::env::args_os().skip(1)).env_remove(variable).exec();
    }
}

/// Drives `work`; the first signal cancels it in an orderly way (a running build command is ended,
/// what it built is dropped), the second one, or ten seconds, ends the wait. Whatever is left then
/// is found by the next cleanup.
async fn interruptible<T>(
    app: &App,
    signals: &mut Signals,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        _ = signals.next() => app.deadline.cancel.cancel(),
    }
    app.printer.finish();
    app.printer.say("interrupted: cleaning up");
    tokio::select! {
        result = &mut work => result,
        _ = signals.next() => Err(Error::new(Kind::Interrupted, "interrupted")),
        () = tokio::time::sleep(Duration::from_secs(10)) => {
            Err(Error::new(Kind::Interrupted, "interrupted; the next command cleans up what is left"))
        }
    }
}
