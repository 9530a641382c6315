//! Programs that run to their end.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use crate::error::Error;

/// As much of a program's output as an error message shows.
const SHOWN: usize = 2000;

/// Runs a program and returns its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String, Error> {
    run_with_input(command, "")
}

/// Runs a program on some standard input and returns its standard output.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> Result<String, Error> {
    let program = command_program(command);
    let failed = |source| Error::Spawn {
        program: program.clone(),
        source,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(&failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that ends without reading its input says why in its output.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(&failed)?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        return Err(Error::Command {
            command: shown(command),
            status: output.status,
            output: tail(text.trim(), SHOWN).to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command that runs in the network namespace of this file.
pub(crate) fn in_network(namespace: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", namespace.display()))
        .arg("--")
        .arg(program);
    command
}

fn command_program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn shown(command: &Command) -> String {
    let mut text = command_program(command);
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// The last `length` bytes, from a character boundary on.
pub(crate) fn tail(text: &str, length: usize) -> &str {
    let mut start = text.len().saturating_sub(length);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}
