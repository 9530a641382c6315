//! Provenance (METHODOLOGY §10), read once before anything is measured.

use std::{fs, path::Path};

use lem_crds::runner::{CpuEnvironment, Environment, GPU_SHARING_VARIABLE, ModelEnvironment};

use crate::engine::{Engine, threads};

/// Name of the node: `NODE_NAME` (set from the downward API on a cluster), else the host name.
pub fn node_name() -> String {
    std::env::var("NODE_NAME")
        .ok()
        .filter(|name| !name.is_empty())
        .or_else(|| read("/proc/sys/kernel/hostname"))
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Everything but the GPUs and the counters, which the meters know.
pub fn capture(model: &str, revision: Option<&str>, engine: &dyn Engine) -> Environment {
    let description = engine.description();
    Environment {
        node: node_name(),
        gpu_sharing: std::env::var(GPU_SHARING_VARIABLE).ok(),
        kernel: read("/proc/sys/kernel/osrelease"),
        runner_version: env!("CARGO_PKG_VERSION").to_owned(),
        runner_commit: option_env!("LEM_GIT_COMMIT").map(ToOwned::to_owned),
        image_digest: std::env::var("LEM_IMAGE_DIGEST").ok(),
        engine: format!("{} {}", description.name, description.version),
        device: description.device.clone(),
        dtype: description.dtype.clone(),
        threads: threads::engine_threads() as u32,
        model: ModelEnvironment {
            name: model.to_owned(),
            revision: revision.map(ToOwned::to_owned),
            weights_digest: description.weights_digest.clone(),
            architecture: description.architecture.family.name().to_owned(),
            parameters: description.parameters,
            weight_bytes: description.weight_bytes,
            quantisation: description.quantisation.clone(),
            context_length: description.context_length as u32,
        },
        memory_limit_bytes: memory_limit(),
        driver: None,
        cuda: None,
        gpus: Vec::new(),
        cpu: cpu(),
        counters: Vec::new(),
    }
}

fn cpu() -> CpuEnvironment {
    let information = read("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        information
            .lines()
            .filter(move |line| line.split(':').next().is_some_and(|key| key.trim() == name))
            .filter_map(|line| line.split_once(':').map(|(_, value)| value.trim().to_owned()))
            .collect::<Vec<_>>()
    };
    let mut sockets = field("physical id");
    sockets.sort();
    sockets.dedup();
    CpuEnvironment {
        model: field("model name").into_iter().next(),
        sockets: (!sockets.is_empty()).then_some(sockets.len() as u32),
        logical: Some(field("processor").len() as u32).filter(|count| *count > 0),
        limit: threads::control_group_limit(Path::new("/")),
        governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        thermal_design_power: None,
    }
}

/// The limit of the control group, version 2 or 1; a limit beyond an exabyte is none.
fn memory_limit() -> Option<u64> {
    [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .into_iter()
    .filter_map(read)
    .find_map(|text| text.parse::<u64>().ok())
    .filter(|limit| *limit < 1 << 60)
}

/// Peak resident memory in bytes of a process, given by its folder under `/proc`: its id, or `self`.
pub fn resident_peak_bytes(process: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kibibytes| kibibytes * 1024)
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
}
