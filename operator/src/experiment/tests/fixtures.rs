//! A plain experiment and its records, which each test changes in one respect.

use jiff::{SignedDuration, Timestamp};
use lem_crds::{
    EfficiencyExperimentSpec, SCHEMA_VERSION,
    plan::{Point, TrialIdentity},
    runner::{
        ClockQuality, ComputePrecision, CounterIdentity, CounterReading, DeviceObservation, Domain, EnergyReading,
        Environment, FlopCount, FlopMethod, GpuEnvironment, HeldSeconds, IdleBaseline, IdleState, KvCacheRecord,
        MeanOfSamples, PartEnergy, RunnerError, Source, StaticBatchRecord, SteadyStateRecord, WarmupRecord,
        WindowRecord,
    },
    samples::Samples,
    status::{Doubt, TrialResult, VerdictReason},
};

use crate::experiment::{ProcessInput, TrialInput, evaluate_trial, plan};

pub(super) const GIBIBYTE: u64 = 1 << 30;

/// A moment, in seconds after the start of the trial.
pub(super) fn at(seconds: f64) -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap() + SignedDuration::try_from_secs_f64(seconds).unwrap()
}

pub(crate) fn spec(json: &serde_json::Value) -> EfficiencyExperimentSpec {
    let mut spec = serde_json::json!({
        "model": {"name": "tiny", "source": {"synthetic": {"preset": "tiny-test"}}},
    });
    for (key, value) in json.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

/// A process and everything that is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) index: u32,
    pub(crate) environment: Environment,
    pub(crate) baselines: Vec<IdleBaseline>,
    pub(crate) held: HeldSeconds,
    pub(crate) window: Option<WindowRecord>,
    pub(crate) schema_version: u32,
    pub(crate) failure: Option<RunnerError>,
}

impl Process {
    pub(super) fn window(&mut self) -> &mut WindowRecord {
        self.window.as_mut().unwrap()
    }
}

/// A trial that tests change.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub(super) spec: EfficiencyExperimentSpec,
    pub(super) point: Point,
    pub(super) identity: TrialIdentity,
    pub(super) processes: Vec<Process>,
}

impl Trial {
    pub(super) fn evaluate(&self) -> TrialResult {
        evaluate_trial(&TrialInput {
            point: &self.point,
            spec: &self.spec,
            trial: &self.identity,
            processes: self
                .processes
                .iter()
                .map(|process| ProcessInput {
                    index: process.index,
                    environment: Some(&process.environment),
                    baselines: &process.baselines,
                    held: &process.held,
                    window: process.window.as_ref(),
                    schema_version: process.schema_version,
                    failure: process.failure.as_ref(),
                })
                .collect(),
        })
    }

    /// The reasons of one doubt.
    pub(super) fn reasons(&self, doubt: Doubt) -> Vec<VerdictReason> {
        self.evaluate()
            .reasons
            .into_iter()
            .filter(|reason| reason.doubt == doubt)
            .collect()
    }
}

pub(super) fn counter(domain: Domain, node: &str, id: &str) -> CounterIdentity {
    CounterIdentity {
        domain,
        node: node.to_owned(),
        id: id.to_owned(),
    }
}

/// A reading from `start` to `end` seconds whose counter stood at `from` joules at its start.
pub(super) fn reading(counter: CounterIdentity, start: f64, end: f64, from: f64, joules: f64) -> EnergyReading {
    let source = if counter.domain == Domain::Gpu {
        Source::NvmlCounter
    } else {
        Source::Rapl
    };
    EnergyReading {
        counter,
        source,
        joules: Some(joules),
        unavailable: None,
        message: String::new(),
        uncertainty_joules: 0.5,
        duration_seconds: end - start,
        start: Some(CounterReading {
            at: at(start),
            joules: from,
        }),
        end: Some(CounterReading {
            at: at(end),
            joules: from + joules,
        }),
        range_joules: None,
        update_period_seconds: Some(0.02),
        integral_joules: None,
        power_is_averaged: false,
        power: Vec::new(),
        steady_state: None,
        prefill: None,
        decode: None,
    }
}

pub(super) fn baseline(state: IdleState, readings: &[(CounterIdentity, f64)]) -> IdleBaseline {
    let five_seconds = |(counter, watts): &(CounterIdentity, f64)| EnergyReading {
        start: None,
        end: None,
        ..reading(counter.clone(), 0.0, 5.0, 0.0, watts * 5.0)
    };
    IdleBaseline {
        state,
        readings: readings.iter().map(five_seconds).collect(),
    }
}

pub(super) fn gpu(process: u32) -> String {
    format!("GPU-{process}")
}

/// One process on node `node-a` with its own GPU and the node's only package, measured from `start` to `end`.
///
/// 100 input and 50 output tokens; latencies of 1, 2, 3 and 4 s; GPU 300 W and package 100 W, idle 50 W and 20 W; half of the
/// window steady, at 330 W and 110 W; 500 J and 100 J for prefill.
#[expect(clippy::too_many_lines, reason = "one entry per field of the record")]
pub(crate) fn process(index: u32, identity: &TrialIdentity, start: f64, end: f64) -> Process {
    let length = end - start;
    let gpu_counter = counter(Domain::Gpu, "node-a", &gpu(index));
    let package = counter(Domain::Cpu, "node-a", "package-0");
    let part = |joules: f64| {
        Some(PartEnergy {
            joules,
            uncertainty_joules: 1.0,
        })
    };
    let window = WindowRecord {
        trial: identity.clone(),
        node: "node-a".to_owned(),
        start_at: None,
        started_at: at(start),
        ended_at: at(end),
        duration_seconds: length,
        clock: ClockQuality {
            synchronised: Some(true),
            maximum_error_microseconds: Some(100),
            api_server_offset_seconds: None,
        },
        warmup: WarmupRecord {
            iterations: 5,
            converged: Some(true),
            ..WarmupRecord::default()
        },
        input_tokens: 100,
        output_tokens: 50,
        requests_completed: 4,
        requests_failed: 0,
        streaming: true,
        end_to_end: Samples::pack(&[1.0, 2.0, 3.0, 4.0]).unwrap(),
        end_to_end_from_send: Samples::default(),
        time_to_first_token: Samples::pack(&[0.1, 0.2, 0.3, 0.4]).unwrap(),
        inter_token: Samples::pack(&[0.02; 46]).unwrap(),
        prefill_seconds: Some(1.0),
        decode_seconds: Some(length - 1.0),
        steady_state: Some(SteadyStateRecord {
            start_seconds: 0.5,
            duration_seconds: length / 2.0,
            tokens: 75,
        }),
        bytes_moved: Some(1e12),
        flops: Some(FlopCount {
            total: 1e12,
            method: FlopMethod::Counted,
            architecture_total: None,
        }),
        compute_precision: ComputePrecision::Bf16,
        weight_bytes: 8 * GIBIBYTE,
        static_batch: Some(StaticBatchRecord {
            configured: 4,
            steps: 10,
            rows: 30,
            padded_tokens: 200,
            real_tokens: 150,
        }),
        kv_cache: Some(KvCacheRecord {
            peak_bytes: Some(GIBIBYTE),
            ..KvCacheRecord::default()
        }),
        energy: vec![
            EnergyReading {
                steady_state: part(330.0 * length / 2.0),
                prefill: part(500.0),
                decode: part(300.0 * length - 500.0),
                ..reading(gpu_counter.clone(), start, end, 1000.0 + 300.0 * start, 300.0 * length)
            },
            EnergyReading {
                steady_state: part(110.0 * length / 2.0),
                prefill: part(100.0),
                decode: part(100.0 * length - 100.0),
                ..reading(package.clone(), start, end, 5000.0 + 100.0 * start, 100.0 * length)
            },
        ],
        absent_domains: Vec::new(),
        devices: vec![DeviceObservation {
            uuid: gpu(index),
            sm_utilisation: Some(MeanOfSamples { sum: 800.0, count: 10 }),
            memory_utilisation: Some(MeanOfSamples { sum: 400.0, count: 10 }),
            memory_peak_bytes: Some(20 * GIBIBYTE),
            memory_total_bytes: Some(80 * GIBIBYTE),
            mig_enabled: Some(false),
            foreign_processes: Some(0),
            power_limit_watts: Some(700.0),
            power_limit_default_watts: Some(700.0),
            ..DeviceObservation::default()
        }],
        resident_peak_bytes: None,
    };
    Process {
        index,
        environment: Environment {
            node: "node-a".to_owned(),
            driver: Some("550.54".to_owned()),
            gpus: vec![GpuEnvironment {
                uuid: gpu(index),
                product: Some("NVIDIA H100 80GB HBM3".to_owned()),
                memory_bytes: Some(80 * GIBIBYTE),
                mig: Some(false),
                ..GpuEnvironment::default()
            }],
            ..Environment::default()
        },
        baselines: vec![baseline(
            IdleState::ModelResident,
            &[(gpu_counter, 50.0), (package, 20.0)],
        )],
        held: HeldSeconds {
            measured: length,
            total: length * 2.0,
            ..HeldSeconds::default()
        },
        window: Some(window),
        schema_version: SCHEMA_VERSION,
        failure: None,
    }
}

/// A trial whose processes ran in the given windows.
pub(super) fn trial(windows: &[(f64, f64)]) -> Trial {
    let spec = spec(&serde_json::json!({
        "processes": {"count": windows.len()},
        "pricing": {"gridIntensityGramsPerKilowattHour": "400", "powerUsageEffectiveness": "1.5",
            "energyPricePerKilowattHour": "0.2"},
    }));
    let point = plan(&spec).unwrap().remove(0);
    let identity = TrialIdentity {
        plan_sha256: point.plan_sha256.clone(),
        point: 0,
        cycle: 0,
        attempt: 0,
    };
    let processes = (0..)
        .zip(windows)
        .map(|(index, (start, end))| process(index, &identity, *start, *end))
        .collect();
    Trial {
        spec,
        point,
        identity,
        processes,
    }
}

#[track_caller]
pub(super) fn near(found: Option<f64>, expected: f64) {
    let found = found.unwrap_or_else(|| panic!("null instead of {expected}"));
    assert!(
        (found - expected).abs() <= 1e-6 * expected.abs().max(1e-6),
        "{found} instead of {expected}"
    );
}
