//! The `pgstencil` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgstencil::cli::main()
}
