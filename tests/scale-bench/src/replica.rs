//! The replicas of the operator: real processes with the rights of its account. Processes, `/proc`.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};

/// Name of the Lease by which the replicas choose.
const LEASE: &str = "lem-operator";
const MEBIBYTE: f64 = 1024.0;

/// What processes have used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Used {
    /// Processor time in seconds, of all of them together.
    pub(crate) cpu_seconds: f64,
    /// Highest resident memory of any of them, in MiB.
    pub(crate) peak_resident_mebibytes: f64,
}

impl Used {
    fn and(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            peak_resident_mebibytes: self.peak_resident_mebibytes.max(other.peak_resident_mebibytes),
        }
    }
}

/// What a process has used until now; nothing if it is gone.
pub(crate) fn used(process: u32) -> Used {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
    let status = read("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: f64 = peak
        .and_then(|words| words.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or_default();
    // The program's name is in parentheses and may hold anything; user and system time are the 12th and 13th after it.
    let stat = read("stat");
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|number| number.parse::<u64>().ok())
        .sum();
    Used {
        cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        peak_resident_mebibytes: kibibytes / MEBIBYTE,
    }
}

/// All replicas.
#[derive(Debug)]
pub(crate) struct Replicas {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: String,
    logs: PathBuf,
    running: Vec<(String, Child)>,
    /// Of those that were killed.
    before: Used,
    started: u32,
}

impl Replicas {
    /// Starts so many of them.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(crate) fn start(
        program: &Path,
        kubeconfig: &Path,
        namespace: &str,
        logs: &Path,
        count: u32,
    ) -> anyhow::Result<Self> {
        let mut replicas = Self {
            program: program.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            namespace: namespace.to_owned(),
            logs: logs.to_owned(),
            running: Vec::new(),
            before: Used::default(),
            started: 0,
        };
        for _ in 0..count {
            replicas.add()?;
        }
        Ok(replicas)
    }

    fn add(&mut self) -> anyhow::Result<()> {
        let name = format!("replica-{}", self.started);
        self.started += 1;
        let path = self.logs.join(format!("{name}.log"));
        let log = File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
        let child = Command::new(&self.program)
            .env("KUBECONFIG", &self.kubeconfig)
            .args([
                "--namespace",
                &self.namespace,
                "--name",
                &name,
                "--address",
                "127.0.0.1:0",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("failed to start {}", self.program.display()))?;
        self.running.push((name, child));
        Ok(())
    }

    /// Kills the replica that holds the Lease, without warning, and starts another in its place, as a Deployment does.
    /// Gives its name; none if nobody holds it.
    ///
    /// # Errors
    /// The Lease cannot be read, or no replica be started.
    pub(crate) async fn kill_leader(&mut self, client: &Client) -> anyhow::Result<Option<String>> {
        let leases: Api<Lease> = Api::namespaced(client.clone(), &self.namespace);
        let lease = leases.get(LEASE).await.context("failed to read the Lease")?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
        let Some(index) = self.running.iter().position(|(name, _)| *name == holder) else {
            return Ok(None);
        };
        let (name, mut child) = self.running.remove(index);
        self.before = self.before.and(used(child.id()));
        child.kill()?;
        child.wait()?;
        self.add()?;
        Ok(Some(name))
    }

    /// What all of them have used, also those that were killed.
    pub(crate) fn used(&self) -> Used {
        let running = self.running.iter().map(|(_, child)| used(child.id()));
        running.fold(self.before, Used::and)
    }

    /// Those that have ended by themselves, which none may.
    pub(crate) fn ended(&mut self) -> Vec<String> {
        let running = self.running.iter_mut();
        running
            .filter_map(|(name, child)| {
                child
                    .try_wait()
                    .ok()
                    .flatten()
                    .map(|status| format!("{name}: {status}"))
            })
            .collect()
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::used;

    #[test]
    fn this_process_uses_memory_and_one_that_is_not_there_nothing() {
        assert!(used(std::process::id()).peak_resident_mebibytes > 1.0);
        assert_eq!(used(u32::MAX), super::Used::default());
    }
}
