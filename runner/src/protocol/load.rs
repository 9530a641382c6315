//! From a load plan to a resident model: meters, the baseline without a model, weights, provenance, the second baseline.

use std::{
    path::{Component, Path, PathBuf},
    time::Instant,
};

use lem_crds::{
    RunnerSpec,
    experiment::{self, CpuEnergy, DType, Device, GpuEnergy, ModelSource as Source},
    plan::LoadPlan,
    runner::{IdleState, MODEL_DIRECTORY, RunnerPhase},
};

use super::{Loaded, Process, ProtocolError, facts};
use crate::{
    energy::{self, CpuMetering, GpuMetering, Meter as _, MeterConfig, OpenedMeter},
    engine::{
        self, DeviceChoice, LoadRequest, WeightType,
        architecture::{Architecture, Family},
        source::{HubModel, ModelSource, SyntheticShape},
    },
    environment,
};

impl Process<'_> {
    /// Takes the process from nothing to a resident model with both baselines and its provenance on record.
    pub(super) fn load(&mut self, spec: &RunnerSpec) -> Result<Loaded, ProtocolError> {
        let plan = &spec.load;
        self.enter(RunnerPhase::Loading)?;
        let node = environment::node_name();
        let OpenedMeter { mut meter, devices } =
            energy::open(&meter_config(plan, &node)).map_err(ProtocolError::Meter)?;
        meter.show(&self.metrics.power);
        self.metrics.name_devices(&devices);
        self.baseline(&mut meter, plan.baseline.duration, IdleState::NoContext)?;

        let loading = Instant::now();
        let engine = engine::load(&load_request(plan)?).map_err(|source| ProtocolError::Load {
            origin: origin(&plan.model.source),
            source: Box::new(source),
        })?;
        let seconds = loading.elapsed().as_secs_f64();
        self.status.load_seconds = Some(seconds);
        self.status.held.load += seconds;

        let revision = match &plan.model.source {
            Source::HuggingFace(hub) => Some(hub.revision.as_str()),
            _ => None,
        };
        let mut environment = environment::capture(&plan.model.name, revision, engine.as_ref());
        facts::add_devices(&mut environment, &meter, devices);
        self.status.environment = Some(environment);
        self.baseline(&mut meter, plan.baseline.duration, IdleState::ModelResident)?;
        Ok(Loaded {
            engine,
            meter: Box::new(meter),
            node,
            previous_plan: None,
        })
    }
}

fn meter_config(plan: &LoadPlan, node: &str) -> MeterConfig {
    MeterConfig {
        gpu: if plan.gpus_per_process == 0 {
            GpuMetering::Off
        } else {
            match plan.energy.gpu {
                GpuEnergy::Auto => GpuMetering::Auto,
                GpuEnergy::Required => GpuMetering::Required,
                GpuEnergy::Disabled => GpuMetering::Off,
            }
        },
        cpu: match plan.energy.cpu {
            CpuEnergy::Auto => CpuMetering::Auto,
            CpuEnergy::Rapl => CpuMetering::Rapl,
            CpuEnergy::Estimate => CpuMetering::Estimate,
            CpuEnergy::Disabled => CpuMetering::Off,
        },
        sample_interval: plan.energy.sample_interval.get(),
        cpu_tdp_watts: plan.energy.cpu_thermal_design_power_watts.map(f64::from),
        gpu_devices: plan.gpus.clone(),
        ..MeterConfig::from_environment(node)
    }
}

fn load_request(plan: &LoadPlan) -> Result<LoadRequest, ProtocolError> {
    let experiment::Engine::Candle(candle) = &plan.engine;
    Ok(LoadRequest {
        source: source(plan)?,
        device: match candle.device {
            Device::Auto => DeviceChoice::Auto,
            Device::Cuda => DeviceChoice::Cuda(0),
            Device::Cpu => DeviceChoice::Cpu,
        },
        implementation: candle.implementation,
        dtype: match candle.dtype {
            DType::Auto => None,
            DType::F32 => Some(WeightType::F32),
            DType::F16 => Some(WeightType::F16),
            DType::Bf16 => Some(WeightType::Bf16),
            DType::Q8_0 => Some(WeightType::Q8_0),
            DType::Q4_0 => Some(WeightType::Q4_0),
        },
    })
}

fn source(plan: &LoadPlan) -> Result<ModelSource, ProtocolError> {
    let unsupported = |field, message: &str| {
        Err(ProtocolError::Unsupported {
            field,
            message: message.to_owned(),
        })
    };
    match &plan.model.source {
        Source::Directory(directory) => Ok(ModelSource::Directory {
            path: PathBuf::from(&directory.path),
        }),
        Source::HuggingFace(hub) => Ok(ModelSource::HuggingFace(HubModel {
            repository: plan.model.name.clone(),
            revision: hub.revision.clone(),
            file: hub.file.clone(),
            token: None,
            cache_directory: None,
            endpoint: None,
        })),
        Source::Synthetic(synthetic) => {
            let shape = match (&synthetic.preset, &synthetic.architecture) {
                (Some(preset), _) => SyntheticShape::Preset(preset.clone()),
                (None, Some(shape)) => SyntheticShape::Explicit(Box::new(architecture(shape))),
                (None, None) => return unsupported("spec.model.source.synthetic", "give a preset or an architecture"),
            };
            Ok(ModelSource::Synthetic {
                shape,
                seed: u64::from(synthetic.seed),
            })
        }
        Source::PersistentVolumeClaim(claim) => mounted("spec.model.source.persistentVolumeClaim.path", &claim.path),
        Source::Image(image) => mounted("spec.model.source.image.path", &image.path),
    }
}

/// What a user corrects when the model cannot be loaded.
fn origin(source: &Source) -> &'static str {
    match source {
        Source::Directory(_) => "spec.model.source.directory",
        Source::HuggingFace(_) => "spec.model.source.huggingFace",
        Source::Synthetic(_) => "spec.model.source.synthetic",
        Source::PersistentVolumeClaim(_) => "spec.model.source.persistentVolumeClaim, mounted at /lem/model",
        Source::Image(_) => "spec.model.source.image, mounted at /lem/model",
    }
}

/// The model in the volume that the pod has mounted.
fn mounted(field: &'static str, path: &str) -> Result<ModelSource, ProtocolError> {
    let inside = Path::new(path.trim_start_matches('/'));
    if inside.components().all(|part| matches!(part, Component::Normal(_))) {
        let path = Path::new(MODEL_DIRECTORY).join(inside);
        return Ok(ModelSource::Directory { path });
    }
    Err(ProtocolError::Unsupported {
        field,
        message: format!("{path:?} must be a path inside the volume, without . and .."),
    })
}

/// The shape as the engine takes it; what the contract does not ask for is the family's own default.
fn architecture(shape: &experiment::Architecture) -> Architecture {
    Architecture {
        family: match shape.family {
            experiment::ArchitectureFamily::Llama => Family::Llama,
            experiment::ArchitectureFamily::Mistral => Family::Mistral,
            experiment::ArchitectureFamily::Qwen2 => Family::Qwen2,
            experiment::ArchitectureFamily::Qwen3 => Family::Qwen3,
        },
        hidden_size: shape.hidden_size as usize,
        intermediate_size: shape.intermediate_size as usize,
        layers: shape.layers as usize,
        attention_heads: shape.attention_heads as usize,
        key_value_heads: shape.key_value_heads as usize,
        head_dimension: shape
            .head_dimension
            .unwrap_or(shape.hidden_size / shape.attention_heads.max(1)) as usize,
        vocabulary_size: shape.vocabulary_size as usize,
        context_length: shape.context_length as usize,
        rope_theta: 10_000.0,
        tied_embeddings: shape.tied_embeddings,
        sliding_window: None,
        norm_epsilon: 1e-5,
        attention_bias: false,
        rope_scaling: None,
        gemma: None,
    }
}
