//! The `lem` command line. Each command is a file; exit codes are said here once.

mod cluster;
mod compare;
mod complete;
mod report;
mod run;
mod validate;

use std::{
    ffi::OsStr,
    io::{IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use lem_crds::{
    EfficiencyExperimentStatus,
    status::{ExperimentPhase, Verdict},
};

/// Measures what a token costs: joules, watts, seconds and FLOPs of LLM inference, with uncertainty and doubts stated.
#[derive(Debug, Parser)]
#[command(name = "lem", version, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  complete and Valid
  1  error
  2  wrong usage or invalid experiment
  3  complete, but Suspect or Invalid
  4  partial: some trials have no result, or not yet";

/// The name under which kubectl finds `lem` as its plugin.
const PLUGIN: &str = "kubectl-lem";
/// The name under which kubectl asks for completions of the plugin's command line.
const COMPLETER: &str = "kubectl_complete-lem";

/// Measures on a Kubernetes cluster what a token costs: joules, watts, seconds and FLOPs of LLM inference.
#[derive(Debug, Parser)]
#[command(name = PLUGIN, bin_name = "kubectl lem", version, max_term_width = 110, after_help = EXIT_CODES)]
struct PluginArguments {
    #[command(flatten)]
    cluster: cluster::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure experiments on this machine; finished trials are never run twice.
    Run(run::Arguments),
    /// Check experiments by the rules of the cluster, without running anything.
    Validate(validate::Arguments),
    /// Show the results in a folder.
    Report(report::Arguments),
    /// Compare two results on their cycles: ratios with 95 % intervals.
    Compare(compare::Arguments),
    /// Work with experiments on a Kubernetes cluster; `kubectl lem` is the same.
    Cluster(cluster::Arguments),
    /// Print the custom resource definitions.
    Crd,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table for people.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// What a command came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Valid,
    Invalid,
    Doubtful,
    Partial,
    Failed,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Valid => 0,
            End::Failed => 1,
            End::Invalid => 2,
            End::Doubtful => 3,
            End::Partial => 4,
        })
    }
}

impl End {
    fn of(status: &EfficiencyExperimentStatus) -> Self {
        match status.phase {
            ExperimentPhase::Complete if status.points.iter().all(|point| point.verdict == Verdict::Valid) => {
                Self::Valid
            }
            ExperimentPhase::Complete => Self::Doubtful,
            _ => Self::Partial,
        }
    }

    fn worst(self, other: Self) -> Self {
        let rank = |end| match end {
            Self::Valid => 0,
            Self::Doubtful => 1,
            Self::Partial => 2,
            Self::Invalid => 3,
            Self::Failed => 4,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

/// Parses the command line, runs it, and says what went wrong.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("LEM_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .init();
    let program = std::env::args_os().next();
    let outcome = if is_called(program.as_deref(), PLUGIN) {
        cluster::run(&PluginArguments::parse().cluster, "kubectl lem")
    } else if is_called(program.as_deref(), COMPLETER) {
        let words: Vec<String> = std::env::args().skip(1).collect();
        print(&complete::kubectl(&PluginArguments::command(), &words, cluster::names)).map(|()| End::Valid)
    } else {
        run(Arguments::parse().command)
    };
    match outcome {
        Ok(end) => end.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// Whether the program was called by a name.
fn is_called(program: Option<&OsStr>, name: &str) -> bool {
    program.is_some_and(|program| Path::new(program).file_stem() == Some(OsStr::new(name)))
}

fn run(command: Command) -> anyhow::Result<End> {
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Cluster(arguments) => cluster::run(&arguments, "lem cluster"),
        Command::Crd => print_definitions(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "lem", &mut script);
            print(&String::from_utf8_lossy(&script)).map(|()| End::Valid)
        }
    }
}

fn print_definitions() -> anyhow::Result<End> {
    let documents: Vec<String> = lem_crds::custom_resource_definitions()?
        .into_iter()
        .map(|(_, yaml)| yaml)
        .collect();
    print(&documents.join("---\n"))?;
    Ok(End::Valid)
}

/// Writes to standard output; a reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Colour is for terminals whose user has not set `NO_COLOR`.
fn color() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// JSON as YAML.
fn yaml(json: &str) -> anyhow::Result<String> {
    Ok(serde_yaml::to_string(&serde_json::from_str::<serde_json::Value>(
        json,
    )?)?)
}

/// Width of the terminal, if standard output is one.
fn width() -> Option<u16> {
    let (terminal_size::Width(columns), _) = terminal_size::terminal_size_of(std::io::stdout())?;
    (columns > 0).then_some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_decides_whether_a_cluster_is_meant() {
        for plugin in ["kubectl-lem", "/usr/local/bin/kubectl-lem", "kubectl-lem.exe"] {
            assert!(is_called(Some(OsStr::new(plugin)), PLUGIN), "{plugin}");
        }
        for other in ["lem", "/opt/kubectl-lem/lem", "kubectl-lemon", COMPLETER] {
            assert!(!is_called(Some(OsStr::new(other)), PLUGIN), "{other}");
        }
        assert!(!is_called(None, PLUGIN));
    }

    #[test]
    fn both_command_lines_are_consistent_and_hold_the_same_sub_commands_of_a_cluster() {
        let (mut lem, mut plugin) = (Arguments::command(), PluginArguments::command());
        lem.build();
        plugin.build();
        let names = |command: &clap::Command| -> Vec<String> {
            command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect()
        };
        assert_eq!(names(lem.find_subcommand("cluster").unwrap()), names(&plugin));
        lem.debug_assert();
        plugin.debug_assert();
    }

    #[test]
    fn completions_know_the_sub_commands_of_a_cluster() {
        let mut script = Vec::new();
        clap_complete::generate(
            clap_complete::Shell::Bash,
            &mut Arguments::command(),
            "lem",
            &mut script,
        );
        let script = String::from_utf8(script).unwrap();
        for words in ["lem__subcmd__cluster__subcmd__doctor", "--kubeconfig"] {
            assert!(script.contains(words), "{words}");
        }
    }
}
