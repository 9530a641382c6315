//! From the configuration to a meter.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Meter, MeterError,
    agent::{AgentMeter, socket_from_environment},
    combined::CombinedMeter,
    estimate::{EstimateMeter, EstimateOptions},
    nvml::{DeviceProvenance, LIBRARY_VARIABLE, NvmlMeter, NvmlOptions, OwnProcesses},
    rapl::{RaplMeter, root_from_environment},
    reading::{Absent, CounterDomain, Unavailable, UnavailableReason},
};

/// Whether GPUs are metered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GpuMetering {
    /// If there are any.
    #[default]
    Auto,
    /// No result without them.
    Required,
    /// Not at all.
    Off,
}

/// How CPUs are metered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuMetering {
    /// RAPL if it is readable, else the estimate.
    #[default]
    Auto,
    /// RAPL, or null with a reason.
    Rapl,
    /// The estimate, even if there is RAPL.
    Estimate,
    /// Not at all.
    Off,
}

/// Which meters to open. The paths are fields, so that tests need no environment.
#[derive(Debug, Clone, PartialEq)]
pub struct MeterConfig {
    /// GPUs.
    pub gpu: GpuMetering,
    /// CPUs and their memory.
    pub cpu: CpuMetering,
    /// Time between two background samples.
    pub sample_interval: Duration,
    /// Thermal design power of all sockets together for the estimate, W.
    pub cpu_tdp_watts: Option<f64>,
    /// UUIDs of the GPUs to meter; else those that `CUDA_VISIBLE_DEVICES` names; else all.
    pub gpu_devices: Option<Vec<String>>,
    /// Node name, part of every counter's identity.
    pub node: String,
    /// Content of `CUDA_VISIBLE_DEVICES`.
    pub cuda_visible_devices: Option<String>,
    /// NVML to load; `LEM_NVML_LIBRARY`.
    pub nvml_library: Option<PathBuf>,
    /// Powercap tree; `LEM_POWERCAP_ROOT`.
    pub powercap_root: PathBuf,
    /// Socket of the node's energy agent, which is asked before the powercap tree; `LEM_ENERGY_SOCKET`.
    pub energy_socket: Option<PathBuf>,
    /// `/proc`.
    pub proc_root: PathBuf,
}

impl MeterConfig {
    /// Everything automatic, 100 ms, paths from the environment.
    pub fn from_environment(node: impl Into<String>) -> Self {
        Self {
            gpu: GpuMetering::Auto,
            cpu: CpuMetering::Auto,
            sample_interval: Duration::from_millis(100),
            cpu_tdp_watts: None,
            gpu_devices: None,
            node: node.into(),
            cuda_visible_devices: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
            nvml_library: std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from),
            powercap_root: root_from_environment(),
            energy_socket: socket_from_environment(),
            proc_root: PathBuf::from("/proc"),
        }
    }
}

/// A meter for this node with what identifies its GPUs.
pub struct OpenedMeter {
    /// All meters as one.
    pub meter: CombinedMeter,
    /// One per GPU.
    pub devices: Vec<DeviceProvenance>,
}

/// Opens what the configuration asks for and this node has. CPU meters start first, GPUs closest to the work.
pub fn open(config: &MeterConfig) -> Result<OpenedMeter, MeterError> {
    let mut meter = CombinedMeter::new();
    open_cpu(config, &mut meter);
    let devices = open_gpu(config, &mut meter)?;
    Ok(OpenedMeter { meter, devices })
}

fn open_gpu(config: &MeterConfig, meter: &mut CombinedMeter) -> Result<Vec<DeviceProvenance>, MeterError> {
    if config.gpu == GpuMetering::Off {
        meter.add_absent(off(CounterDomain::Gpu, "gpu: Disabled"));
        return Ok(Vec::new());
    }
    let options = NvmlOptions {
        library: config.nvml_library.clone(),
        devices: config.gpu_devices.clone(),
        cuda_visible_devices: config.cuda_visible_devices.clone(),
        sample_interval: config.sample_interval,
        node: config.node.clone(),
        own_processes: OwnProcesses::detect(),
    };
    match NvmlMeter::open(options) {
        Ok(gpu) => {
            let devices = gpu.provenance();
            meter.add(gpu);
            Ok(devices)
        }
        Err(error) if config.gpu == GpuMetering::Auto => {
            let domain = CounterDomain::Gpu;
            meter.add_absent(Absent {
                domain,
                unavailable: error.unavailable(),
            });
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

fn open_cpu(config: &MeterConfig, meter: &mut CombinedMeter) {
    let estimate = || {
        EstimateMeter::open(EstimateOptions {
            tdp_watts: config.cpu_tdp_watts,
            sample_interval: config.sample_interval,
            proc_root: config.proc_root.clone(),
            node: config.node.clone(),
        })
    };
    let without = |domain: CounterDomain, why: &Unavailable| Absent {
        domain,
        unavailable: why.clone(),
    };
    match config.cpu {
        CpuMetering::Off => {
            meter.add_absent(off(CounterDomain::Cpu, "cpu: Disabled"));
            meter.add_absent(off(CounterDomain::Dram, "cpu: Disabled"));
        }
        CpuMetering::Estimate => {
            meter.add_absent(off(CounterDomain::Dram, "cpu: Estimate covers no memory"));
            meter.add(estimate());
        }
        CpuMetering::Rapl => {
            if let Err(why) = open_rapl(config, meter, false) {
                meter.add_absent(without(CounterDomain::Cpu, &why));
                meter.add_absent(without(CounterDomain::Dram, &why));
            }
        }
        CpuMetering::Auto => {
            if let Err(why) = open_rapl(config, meter, true) {
                meter.add_absent(without(CounterDomain::Dram, &why));
                meter.add(estimate());
            }
        }
    }
}

/// Adds RAPL: through the node's energy agent where there is one, else from the powercap tree itself. `readable` asks for
/// counters that can be read now; else one that cannot is reported as such, window by window.
fn open_rapl(config: &MeterConfig, meter: &mut CombinedMeter, readable: bool) -> Result<(), Unavailable> {
    let agent = config
        .energy_socket
        .as_deref()
        .map(|socket| AgentMeter::open(socket, &config.node));
    let silent = match agent {
        Some(Ok(agent)) => {
            add_rapl(&agent.domains(), agent, meter);
            return Ok(());
        }
        Some(Err(why)) => Some(why),
        None => None,
    };
    let direct = RaplMeter::open(&config.powercap_root, config.sample_interval, &config.node)
        .map_err(|error| error.unavailable())
        .and_then(|rapl| {
            if readable || silent.is_some() {
                rapl.check_readable()?;
            }
            Ok(rapl)
        });
    match direct {
        Ok(rapl) => {
            add_rapl(&rapl.domains(), rapl, meter);
            Ok(())
        }
        // What a process with an agent is to know is why the agent has nothing.
        Err(why) => Err(silent.unwrap_or(why)),
    }
}

fn add_rapl(domains: &[CounterDomain], rapl: impl Meter + 'static, meter: &mut CombinedMeter) {
    if !domains.contains(&CounterDomain::Dram) {
        meter.add_absent(Absent {
            domain: CounterDomain::Dram,
            unavailable: Unavailable::new(UnavailableReason::NotSupported, "this processor has no dram zone"),
        });
    }
    meter.add(rapl);
}

fn off(domain: CounterDomain, message: &str) -> Absent {
    Absent {
        domain,
        unavailable: Unavailable::new(UnavailableReason::Off, message),
    }
}
