//! The `lem` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    lem_operator::command::main()
}
