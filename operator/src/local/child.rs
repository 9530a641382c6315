//! One runner process: started, told, listened to, and ended without fail.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::Sender,
    thread,
};

use lem_crds::{RunnerSpec, RunnerStatus};

/// What a child says.
#[derive(Debug)]
pub enum Message {
    /// Its whole record.
    Status(Box<RunnerStatus>),
    /// A line that is no record.
    Malformed(String),
    /// Its output ended.
    Ended,
}

/// A message with its sender.
#[derive(Debug)]
pub struct Event {
    /// Index of the process.
    pub process: u32,
    /// Which child of that process, counted over restarts: a late word of a dead child is not its successor's.
    pub generation: u32,
    /// The message.
    pub message: Message,
}

/// Why a runner could not be started or told.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The program is not there.
    #[error("lem-runner was not found beside lem at {}: build it, or name it with LEM_RUNNER", .0.display())]
    NotFound(PathBuf),
    /// The program could not be started.
    #[error("failed to start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The runner's program: `LEM_RUNNER`, else `lem-runner` beside this one.
///
/// # Errors
/// It is not there.
pub fn program() -> Result<PathBuf, ChildError> {
    if let Some(path) = std::env::var_os("LEM_RUNNER") {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(ChildError::NotFound(path))
        };
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned))
        .unwrap_or_default();
    // Test executables lie one folder below the binaries.
    [beside.join("lem-runner"), beside.join("../lem-runner")]
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| ChildError::NotFound(beside.join("lem-runner")))
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub struct Runner {
    child: Child,
    input: ChildStdin,
    /// Which child of its process this is.
    pub generation: u32,
}

impl Runner {
    /// Starts a child in a process group of its own, so that Ctrl-C reaches `lem` alone.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn start(
        program: &Path,
        process: u32,
        generation: u32,
        environment: &[(&str, String)],
        events: Sender<Event>,
    ) -> Result<Self, ChildError> {
        let failed = |source| ChildError::Start {
            program: program.to_owned(),
            source,
        };
        let mut child = Command::new(program)
            .arg("run")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // candle keeps a backtrace in its errors where the user asks for those of panics.
            .env("RUST_LIB_BACKTRACE", "0")
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let missing = || failed(std::io::Error::other("no pipe"));
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        let listen = move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let message = match serde_json::from_str(&line) {
                    Ok(status) => Message::Status(Box::new(status)),
                    Err(_) => Message::Malformed(line),
                };
                if events
                    .send(Event {
                        process,
                        generation,
                        message,
                    })
                    .is_err()
                {
                    return;
                }
            }
            // The receiver may be gone already, then nobody waits for this.
            drop(events.send(Event {
                process,
                generation,
                message: Message::Ended,
            }));
        };
        thread::Builder::new()
            .name(format!("runner-{process}"))
            .spawn(listen)
            .map_err(failed)?;
        Ok(Self {
            child,
            input,
            generation,
        })
    }

    /// Writes the mailbox. A child that is gone shows in its output's end, so a failed write is no error here.
    pub fn tell(&mut self, spec: &RunnerSpec) {
        if let Ok(mut line) = serde_json::to_vec(spec) {
            line.push(b'\n');
            drop(self.input.write_all(&line).and_then(|()| self.input.flush()));
        }
    }

    /// How the child ended, in words.
    pub fn outcome(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Fails only for a child that has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
