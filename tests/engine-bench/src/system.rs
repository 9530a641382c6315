//! What the kernel says about this process and this machine.

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Resident memory of this process in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResidentMemory {
    /// Now.
    pub(crate) now: u64,
    /// The most so far.
    pub(crate) peak: u64,
}

/// Reads `/proc/self/status`. Pages of a mapped file that were read are resident too.
pub(crate) fn resident_memory() -> Result<ResidentMemory> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status cannot be read")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kibibytes
            .map(|kibibytes| kibibytes * 1024)
            .with_context(|| format!("/proc/self/status has no field {name}"))
    };
    Ok(ResidentMemory {
        now: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    })
}

/// CPU seconds of all threads of this process so far.
pub(crate) fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Confines the process to these CPUs; threads that start later inherit it.
pub(crate) fn pin(cpus: &[usize]) -> Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for cpu in cpus {
        ensure!(*cpu < CpuSet::MAX_CPU, "there is no CPU {cpu}");
        set.set(*cpu);
    }
    sched_setaffinity(None, &set).with_context(|| format!("the CPUs {cpus:?} cannot be used"))
}

/// The first CPUs that this process may use.
pub(crate) fn first_cpus(count: usize) -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("the CPUs of this process cannot be read")?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .take(count)
        .collect();
    ensure!(
        cpus.len() == count,
        "{count} threads need as many CPUs, and this process may use {}",
        cpus.len()
    );
    Ok(cpus)
}

/// Name of the processor.
pub(crate) fn processor() -> String {
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let mut fields = information.lines().filter_map(|line| line.split_once(':'));
        fields
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let name = field("model name").unwrap_or_else(|| "unknown".to_owned());
    let flags = field("flags").unwrap_or_default();
    let wide = [
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "avx_vnni",
        "amx_int8",
    ];
    let present: Vec<&str> = wide
        .into_iter()
        .filter(|flag| flags.split(' ').any(|present| present == *flag))
        .collect();
    match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model}; {})", present.join(", ")),
        _ => format!("{name} ({})", present.join(", ")),
    }
}
