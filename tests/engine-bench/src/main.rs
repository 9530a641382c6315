//! Compares the engines that compute tokens on this processor: lem-engine, candle and llama.cpp, on the same files.
//!
//! Each cell of the matrix (a file, a batch, a prompt, an engine) is measured in a process of its own ([`measure`]);
//! [`run`] starts them one after the other and keeps what they print; [`document`] makes the tables. [`golden`] and
//! [`check`] compare what the engines compute instead of how fast.

mod bandwidth;
mod batching;
mod check;
mod contender;
mod document;
mod files;
mod golden;
mod measure;
mod run;
mod system;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Compares lem-engine with candle and llama.cpp on the same files.
#[derive(Debug, Parser)]
#[command(version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the weight files that are measured; those that exist already are left alone
    Files(files::Arguments),
    /// Measure one cell in this process and print it as one line of JSON
    Measure(measure::Arguments),
    /// Measure the read bandwidth of the memory
    Bandwidth(bandwidth::Arguments),
    /// Measure the matrix; goes on where an earlier run was interrupted
    Run(run::Arguments),
    /// Compare continuous batching with static batches
    Batching(batching::Arguments),
    /// Make a Markdown document of the results
    Document(document::Arguments),
    /// Record llama.cpp's logits
    Golden(golden::Arguments),
    /// Compare lem-engine's logits with the recorded ones; exit code 1 if they are too far apart
    Check(check::Arguments),
}

fn main() -> Result<ExitCode> {
    match CommandLine::parse().command {
        Command::Files(arguments) => files::files(&arguments),
        Command::Measure(arguments) => measure::measure(&arguments),
        Command::Bandwidth(arguments) => bandwidth::bandwidth(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Batching(arguments) => batching::batching(&arguments),
        Command::Document(arguments) => document::document(&arguments),
        Command::Golden(arguments) => golden::golden(&arguments),
        Command::Check(arguments) => return check::check(&arguments),
    }?;
    Ok(ExitCode::SUCCESS)
}
