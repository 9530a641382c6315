//! The record that a process of a node writes: as large and as detailed as a real one. Pure.

use jiff::{SignedDuration, Timestamp};
use lem_crds::{
    RunnerSpec,
    plan::TrialIdentity,
    runner::{
        ClockQuality, ComputePrecision, CounterIdentity, CounterReading, CpuEnvironment, DeviceObservation, Domain,
        EnergyReading, Environment, FlopCount, FlopMethod, GpuEnvironment, IdleBaseline, IdleState, MeanOfSamples,
        ModelEnvironment, PowerSample, Source, WarmupRecord, WindowRecord,
    },
    samples::{Samples, SamplesError},
};

use crate::behaviour::{Behaviour, Class, Fault};

const REQUESTS: u64 = 64;
const INPUT_TOKENS_OF_REQUEST: u64 = 128;
const OUTPUT_TOKENS_OF_REQUEST: u64 = 64;
/// Share of the load's power that an idle device draws.
const IDLE_SHARE: f64 = 0.2;
/// Samples of power that a record holds at most.
const POWER_SAMPLES: u32 = 60;
const WEIGHT_BYTES: u64 = 16 << 30;
const PARAMETERS: u64 = 8_000_000_000;
/// What a wrong clock is wrong by.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// A node as its records show it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures<'a> {
    pub(crate) behaviour: Behaviour<'a>,
    pub(crate) class: Class,
}

impl Figures<'_> {
    fn node(&self) -> String {
        self.behaviour.node.to_owned()
    }

    fn gpu(&self) -> String {
        format!("GPU-{}", self.behaviour.node)
    }

    fn counter(&self) -> CounterIdentity {
        CounterIdentity {
            domain: Domain::Gpu,
            node: self.node(),
            id: self.gpu(),
        }
    }

    /// The node's own clock.
    pub(crate) fn clock(&self, now: Timestamp) -> Timestamp {
        match self.behaviour.fault() {
            Some(Fault::WrongClock) => now.saturating_add(AHEAD).unwrap_or(now),
            _ => now,
        }
    }

    /// What was measured on, and with.
    pub(crate) fn environment(&self, spec: &RunnerSpec) -> Environment {
        Environment {
            gpu_sharing: None,
            node: self.node(),
            kernel: Some("6.8.0-45-generic".to_owned()),
            runner_version: env!("CARGO_PKG_VERSION").to_owned(),
            runner_commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            image_digest: Some(format!("sha256:{}", "0".repeat(64))),
            engine: spec.load.engine.name().to_owned(),
            device: "cuda:0".to_owned(),
            dtype: "bf16".to_owned(),
            threads: 16,
            model: ModelEnvironment {
                name: spec.load.model.name.clone(),
                revision: None,
                weights_digest: "synthetic:simulated:0".to_owned(),
                architecture: "llama".to_owned(),
                parameters: PARAMETERS,
                weight_bytes: WEIGHT_BYTES,
                quantisation: None,
                context_length: 8192,
            },
            memory_limit_bytes: Some(64 << 30),
            driver: Some("580.95.05".to_owned()),
            cuda: Some("13.0".to_owned()),
            gpus: vec![GpuEnvironment {
                uuid: self.gpu(),
                product: Some(self.class.product.to_owned()),
                vbios: Some("96.00.61.00.01".to_owned()),
                memory_bytes: Some(self.class.memory_bytes),
                power_limit_watts: Some(self.class.power_limit_watts),
                power_limit_default_watts: Some(self.class.power_limit_watts),
                application_clock_megahertz: Some(1410),
                ecc: Some(true),
                persistence: Some(true),
                mig: Some(false),
                ..GpuEnvironment::default()
            }],
            cpu: CpuEnvironment {
                model: Some("AMD EPYC 9354 32-Core Processor".to_owned()),
                sockets: Some(2),
                logical: Some(128),
                limit: Some(16.0),
                governor: Some("performance".to_owned()),
                thermal_design_power: None,
            },
            counters: vec!["gpu nvml_counter".to_owned()],
        }
    }

    /// Idle power over some seconds.
    pub(crate) fn baseline(&self, state: IdleState, ended: Timestamp, seconds: f64) -> IdleBaseline {
        let watts = self.class.watts * IDLE_SHARE;
        IdleBaseline {
            state,
            readings: vec![self.energy(watts, ended, seconds)],
        }
    }

    fn energy(&self, watts: f64, ended: Timestamp, seconds: f64) -> EnergyReading {
        let joules = watts * seconds;
        let started = ended.saturating_sub(length(seconds)).unwrap_or(ended);
        let at = |at: Timestamp, joules| CounterReading {
            at: self.clock(at),
            joules,
        };
        // Any origin will do as long as it is the counter's own.
        let origin = ended.as_second() as f64 % 1e6;
        EnergyReading {
            counter: self.counter(),
            source: Source::NvmlCounter,
            joules: Some(joules),
            unavailable: None,
            message: String::new(),
            uncertainty_joules: watts * 0.02,
            duration_seconds: seconds,
            start: Some(at(started, origin)),
            end: Some(at(ended, origin + joules)),
            range_joules: None,
            update_period_seconds: Some(0.02),
            integral_joules: Some(joules * 1.001),
            power_is_averaged: false,
            power: (0..POWER_SAMPLES)
                .map(|index| PowerSample {
                    offset_seconds: seconds * f64::from(index) / f64::from(POWER_SAMPLES),
                    watts: watts + f64::from(index % 7),
                })
                .collect(),
            steady_state: None,
            prefill: None,
            decode: None,
        }
    }

    /// A finished window.
    ///
    /// # Errors
    /// Latency samples that cannot be packed.
    pub(crate) fn window(
        &self,
        trial: &TrialIdentity,
        ended: Timestamp,
        seconds: f64,
    ) -> Result<WindowRecord, SamplesError> {
        let number = u64::from(trial.cycle) + 100 * u64::from(trial.point);
        let watts = self.class.watts * self.behaviour.factor(number);
        let latency = |index: u64| {
            let ideal = OUTPUT_TOKENS_OF_REQUEST as f64 / self.class.tokens_per_second;
            ideal * (1.0 + (index * 37 % 64) as f64 / 200.0)
        };
        let end_to_end: Vec<f64> = (0..REQUESTS).map(latency).collect();
        let first: Vec<f64> = end_to_end.iter().map(|seconds| seconds * 0.1).collect();
        let gaps: Vec<f64> = (0..REQUESTS * (OUTPUT_TOKENS_OF_REQUEST - 1))
            .map(|index| latency(index) / OUTPUT_TOKENS_OF_REQUEST as f64)
            .collect();
        let tokens = REQUESTS * (INPUT_TOKENS_OF_REQUEST + OUTPUT_TOKENS_OF_REQUEST);
        Ok(WindowRecord {
            trial: trial.clone(),
            node: self.node(),
            start_at: None,
            started_at: self.clock(ended.saturating_sub(length(seconds)).unwrap_or(ended)),
            ended_at: self.clock(ended),
            duration_seconds: seconds,
            clock: ClockQuality {
                synchronised: Some(self.behaviour.fault() != Some(Fault::WrongClock)),
                maximum_error_microseconds: Some(1500),
                api_server_offset_seconds: Some(self.clock(ended).duration_since(ended).as_secs_f64()),
            },
            warmup: WarmupRecord {
                iterations: 3,
                converged: Some(true),
                coefficient_of_variation: Some(0.01),
                seconds: 0.5,
                shortened: false,
            },
            input_tokens: REQUESTS * INPUT_TOKENS_OF_REQUEST,
            output_tokens: REQUESTS * OUTPUT_TOKENS_OF_REQUEST,
            requests_completed: REQUESTS,
            requests_failed: 0,
            streaming: true,
            end_to_end: Samples::pack(&end_to_end)?,
            end_to_end_from_send: Samples::pack(&[])?,
            time_to_first_token: Samples::pack(&first)?,
            inter_token: Samples::pack(&gaps)?,
            prefill_seconds: Some(seconds * 0.2),
            decode_seconds: Some(seconds * 0.8),
            steady_state: None,
            bytes_moved: None,
            flops: Some(FlopCount {
                total: 2.0 * PARAMETERS as f64 * tokens as f64,
                method: FlopMethod::Counted,
                architecture_total: Some(2.0 * PARAMETERS as f64 * tokens as f64),
            }),
            compute_precision: ComputePrecision::Bf16,
            weight_bytes: WEIGHT_BYTES,
            static_batch: None,
            kv_cache: None,
            energy: vec![self.energy(watts, ended, seconds)],
            absent_domains: Vec::new(),
            devices: vec![self.device(seconds)],
            resident_peak_bytes: Some(2 << 30),
        })
    }

    fn device(&self, seconds: f64) -> DeviceObservation {
        let mean = |value: f64| {
            Some(MeanOfSamples {
                sum: value * 50.0,
                count: 50,
            })
        };
        let throttled = self.class.throttled;
        DeviceObservation {
            uuid: self.gpu(),
            sm_utilisation: mean(97.0),
            memory_utilisation: mean(60.0),
            memory_peak_bytes: Some(self.class.memory_bytes * 9 / 10),
            memory_total_bytes: Some(self.class.memory_bytes),
            temperature_start_celsius: Some(45.0),
            temperature_maximum_celsius: Some(if throttled { 84.0 } else { 62.0 }),
            sm_clock_megahertz: mean(if throttled { 900.0 } else { 1410.0 }),
            throttle_reasons: Some(if throttled {
                vec!["SwPowerCap".to_owned()]
            } else {
                Vec::new()
            }),
            power_violation_seconds: Some(if throttled { seconds * 0.5 } else { 0.0 }),
            thermal_violation_seconds: Some(0.0),
            power_limit_watts: Some(self.class.power_limit_watts),
            power_limit_default_watts: Some(self.class.power_limit_watts),
            mig_enabled: Some(false),
            foreign_processes: Some(0),
            ..DeviceObservation::default()
        }
    }
}

fn length(seconds: f64) -> SignedDuration {
    SignedDuration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::CLASSES;

    fn trial() -> TrialIdentity {
        TrialIdentity {
            plan_sha256: "0".repeat(64),
            point: 0,
            cycle: 1,
            attempt: 0,
        }
    }

    #[test]
    fn a_window_is_as_large_as_a_real_one_and_no_larger_than_the_contract_allows() {
        let behaviour = Behaviour { seed: 1, node: "a" };
        let figures = Figures {
            behaviour,
            class: CLASSES[0],
        };
        let window = figures.window(&trial(), Timestamp::UNIX_EPOCH, 2.0).unwrap();
        let length = serde_json::to_string(&window).unwrap().len();
        assert!((5_000..16_000).contains(&length), "{length} bytes");
    }

    #[test]
    fn only_the_node_with_a_wrong_clock_says_so() {
        let names: Vec<String> = (0..2000).map(|index| format!("node-{index}")).collect();
        for node in &names {
            let behaviour = Behaviour { seed: 1, node };
            let figures = Figures {
                behaviour,
                class: CLASSES[0],
            };
            let window = figures.window(&trial(), Timestamp::UNIX_EPOCH, 2.0).unwrap();
            let wrong = behaviour.fault() == Some(Fault::WrongClock);
            assert_eq!(
                window.clock.api_server_offset_seconds,
                Some(if wrong { 3600.0 } else { 0.0 })
            );
        }
    }
}
