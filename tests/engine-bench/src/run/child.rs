//! Processes of this program, one for each cell.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::results::{Key, Outcome};
use crate::bandwidth::Bandwidth;
use crate::measure::Cell;

/// Seconds for loading, beyond the limit that the process keeps itself, before it is ended.
const LOADING_SECONDS: f64 = 120.0;
/// Between two looks whether a process has ended. It wakes this process, so it is not short.
const POLL: Duration = Duration::from_millis(250);

/// How processes are started.
#[derive(Debug, Clone)]
pub(super) struct Children {
    /// Threads to compute with.
    pub(super) threads: usize,
    /// CPUs to run on.
    pub(super) cpus: Vec<usize>,
    /// Decode steps.
    pub(super) decode: usize,
    /// Seconds that a cell may take after loading.
    pub(super) time_limit: f64,
}

/// What a process left.
struct Ended {
    output: String,
    errors: String,
    /// `None` if it had to be ended.
    success: Option<bool>,
}

impl Children {
    /// Measures a cell.
    pub(super) fn measure(&self, key: &Key, path: &Path) -> Result<Outcome> {
        let mut command = self.command("measure")?;
        command.args(["--engine", key.engine.name(), "--batch", &key.batch.to_string()]);
        command.args([
            "--prompt",
            &key.prompt.to_string(),
            "--decode",
            &self.decode.to_string(),
        ]);
        command.args(["--time-limit", &self.time_limit.to_string()]);
        command.arg("--file").arg(path);
        // One decode step of a slow engine can begin at the limit.
        let ended = wait(command, self.time_limit * 1.5 + LOADING_SECONDS)?;
        let absent = |reason: String| Ok(Outcome::Absent { reason });
        match ended.success {
            Some(true) => {
                let cell: Cell = serde_json::from_str(ended.output.trim())
                    .with_context(|| format!("{key} printed no result: {}", ended.output))?;
                Ok(Outcome::Measured(Box::new(cell)))
            }
            Some(false) => absent(one_line(&ended.errors)),
            None => absent(format!(
                "it was ended after {:.0} s",
                self.time_limit * 1.5 + LOADING_SECONDS
            )),
        }
    }

    /// Measures the memory.
    pub(super) fn bandwidth(&self) -> Result<Bandwidth> {
        let ended = wait(self.command("bandwidth")?, LOADING_SECONDS)?;
        ensure!(
            ended.success == Some(true),
            "the bandwidth cannot be measured: {}",
            ended.errors
        );
        serde_json::from_str(ended.output.trim()).context("the bandwidth's process printed no result")
    }

    fn command(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("this program's path is unknown")?);
        let cpus: Vec<String> = self.cpus.iter().map(ToString::to_string).collect();
        let threads = self.threads.to_string();
        command.args([name, "--threads", &threads, "--cpus", &cpus.join(",")]);
        command
            .env("RAYON_NUM_THREADS", &threads)
            .env("CANDLE_NUM_THREADS", &threads)
            // candle would put its stack into its messages, which are reasons in the results.
            .env("RUST_BACKTRACE", "0");
        Ok(command)
    }
}

fn wait(mut command: Command, limit_seconds: f64) -> Result<Ended> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("a process cannot be started")?;
    let output = std::thread::spawn(reader(child.stdout.take()));
    let errors = std::thread::spawn(reader(child.stderr.take()));
    let begin = Instant::now();
    let success = loop {
        if let Some(status) = child.try_wait().context("a process cannot be waited for")? {
            break Some(status.success());
        }
        if begin.elapsed().as_secs_f64() > limit_seconds {
            child.kill().context("a process cannot be ended")?;
            child.wait().context("a process cannot be waited for")?;
            break None;
        }
        std::thread::sleep(POLL);
    };
    Ok(Ended {
        output: output.join().unwrap_or_default(),
        errors: errors.join().unwrap_or_default(),
        success,
    })
}

/// Reads all of a stream; what cannot be read counts as empty.
fn reader<R: Read>(stream: Option<R>) -> impl FnOnce() -> String {
    move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// An error with its causes, as `anyhow` prints it, on one line.
fn one_line(errors: &str) -> String {
    let lines = errors.lines().map(str::trim);
    let parts: Vec<&str> = lines.filter(|line| !line.is_empty() && *line != "Caused by:").collect();
    parts.join(": ").replace("Error: ", "")
}
