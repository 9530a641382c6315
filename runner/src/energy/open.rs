//! From the configuration to a meter.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    MeterError,
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
    /// RAPL or nothing.
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
    open_cpu(config, &mut meter)?;
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

fn open_cpu(config: &MeterConfig, meter: &mut CombinedMeter) -> Result<(), MeterError> {
    let rapl = || RaplMeter::open(&config.powercap_root, config.sample_interval, &config.node);
    let estimate = || {
        EstimateMeter::open(EstimateOptions {
            tdp_watts: config.cpu_tdp_watts,
            sample_interval: config.sample_interval,
            proc_root: config.proc_root.clone(),
            node: config.node.clone(),
        })
    };
    let without_memory = |why: Unavailable| Absent {
        domain: CounterDomain::Dram,
        unavailable: why,
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
            let rapl = rapl()?;
            add_rapl(rapl, meter);
        }
        CpuMetering::Auto => {
            let readable = rapl().map_err(|error| error.unavailable()).and_then(|rapl| {
                rapl.check_readable()?;
                Ok(rapl)
            });
            match readable {
                Ok(rapl) => add_rapl(rapl, meter),
                Err(why) => {
                    meter.add_absent(without_memory(why));
                    meter.add(estimate());
                }
            }
        }
    }
    Ok(())
}

fn add_rapl(rapl: RaplMeter, meter: &mut CombinedMeter) {
    if !rapl.domains().contains(&CounterDomain::Dram) {
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
