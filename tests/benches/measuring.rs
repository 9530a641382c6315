//! What measuring costs, and how fast this machine is: `make bench`.
//!
//! Every figure comes from whole runs of the real `lem` and `lem-runner`, with its 95 % interval over runs or cycles. Two
//! settings that are compared alternate (A B B A …), so that a machine that slows down hurts both. Figures and limits are
//! printed and written to `target/bench.json`; a missed limit is said, and ends the program with code 1.

#![expect(clippy::print_stdout, reason = "a report for people")]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use lem_crds::{EfficiencyExperimentStatus, RunnerStatus, metrics::Estimate};
use lem_fake_nvml::{Board, Machine, Waveform};
use lem_operator::experiment::estimate;
use lem_runner::environment::resident_peak_bytes;
use serde_json::{Value, json};

/// Runs of each setting in the comparison of metered with unmetered.
const PAIRS: usize = 6;
/// Throughput with metering over throughput without.
const METERING_LIMIT: f64 = 0.99;
/// Throughput of a process that is scraped every second over that of one that is not.
const SCRAPING_LIMIT: f64 = 0.995;
/// Where the scraped process serves its metrics.
const METRICS_ADDRESS: &str = "127.0.0.1:19464";

fn main() -> Result<()> {
    // cargo passes --bench, and a filter where the user gives one.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    let bench = Bench::new()?;
    let mut figures = Vec::new();
    println!(
        "{:<44} {:>12} {:>22} {:>3}  limit",
        "figure", "mean", "95 % interval", "n"
    );
    if wanted("metering") {
        bench.metering(&mut figures)?;
    }
    if wanted("scraping") {
        bench.scraping(&mut figures)?;
    }
    if wanted("speed") {
        bench.speed(&mut figures)?;
    }
    if wanted("quickstart") {
        bench.quickstart(&mut figures)?;
    }
    let file = bench.target.join("../bench.json");
    fs::write(&file, serde_json::to_vec_pretty(&figures)?)?;
    println!("written to {}", file.canonicalize()?.display());
    if figures.iter().any(|figure| figure["met"] == false) {
        bail!("a limit was missed");
    }
    Ok(())
}

struct Bench {
    /// Folder of the release binaries.
    target: PathBuf,
    root: PathBuf,
    folder: tempfile::TempDir,
}

/// One finished run.
struct Run {
    status: EfficiencyExperimentStatus,
    runners: Vec<RunnerStatus>,
    /// Peak resident memory of `lem` in bytes.
    lem_peak_bytes: f64,
}

impl Bench {
    fn new() -> Result<Self> {
        let executable = std::env::current_exe()?;
        let target = executable.ancestors().nth(2).context("no target folder")?.to_owned();
        Ok(Self {
            target,
            root: Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
            folder: tempfile::tempdir()?,
        })
    }

    /// One process on SmolLM2 with these parts of the spec.
    fn smollm2(&self, name: &str, spec: &Value) -> Value {
        let models = std::env::var("LEM_MODEL_DIRECTORY").map_or_else(|_| self.root.join("models"), PathBuf::from);
        let mut manifest = json!({
            "apiVersion": "lem.dev/v1alpha1", "kind": "EfficiencyExperiment", "metadata": {"name": name},
            "spec": {
                "model": {"name": "HuggingFaceTB/SmolLM2-135M-Instruct", "source": {"directory": {
                    "path": models.join("SmolLM2-135M-Instruct.Q4_1.gguf")}}},
                "engine": {"candle": {"device": "Cpu"}},
                "processes": {"count": 1, "gpusPerProcess": 0},
            },
        });
        for (key, value) in spec.as_object().into_iter().flatten() {
            manifest["spec"][key] = value.clone();
        }
        manifest
    }

    fn run(&self, manifest: &Path, environment: &[(&str, &Path)]) -> Result<Run> {
        let out = tempfile::tempdir_in(self.folder.path())?;
        let log = self.folder.path().join("lem.log");
        let mut child = Command::new(self.target.join("lem"))
            .args(["run", "--quiet", "--out"])
            .arg(out.path())
            .arg(manifest)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .context("lem is not built: use `make bench`")?;
        let mut lem_peak_bytes = 0.0_f64;
        let code = loop {
            let peak = resident_peak_bytes(&child.id().to_string());
            lem_peak_bytes = lem_peak_bytes.max(peak.unwrap_or_default() as f64);
            if let Some(status) = child.try_wait()? {
                break status.code();
            }
            thread::sleep(Duration::from_millis(50));
        };
        if !matches!(code, Some(0 | 3)) {
            bail!(
                "lem ended with {code:?} on {}: {}",
                manifest.display(),
                fs::read_to_string(&log)?
            );
        }
        let folder = fs::read_dir(out.path())?.next().context("no result")??.path();
        let status = serde_json::from_slice(&fs::read(folder.join("status.json"))?)?;
        let mut runners = Vec::new();
        for entry in fs::read_dir(folder.join("runners"))? {
            let record: Value = serde_json::from_slice(&fs::read(entry?.path())?)?;
            runners.push(serde_json::from_value(record["status"].clone())?);
        }
        Ok(Run {
            status,
            runners,
            lem_peak_bytes,
        })
    }

    fn run_spec(&self, manifest: &Value, environment: &[(&str, &Path)]) -> Result<Run> {
        let file = self.folder.path().join("experiment.yaml");
        fs::write(&file, serde_json::to_vec(manifest)?)?;
        self.run(&file, environment)
    }

    /// The same windows with every meter on (fake NVML board, CPU estimate, samplers at their default rate) and with all off.
    fn metering(&self, figures: &mut Vec<Value>) -> Result<()> {
        let machine = Machine {
            devices: vec![Board::new(
                "GPU-00000000-0000-0000-0000-000000000000",
                20.0,
                Waveform::Constant { watts: 300.0 },
            )],
        };
        let boards = self.folder.path().join("nvml.json");
        fs::write(&boards, serde_json::to_vec(&machine)?)?;
        let library = lem_fake_nvml::environment::library().context("the fake NVML is not built")?;
        let environment = [
            ("LEM_NVML_LIBRARY", library.as_path()),
            ("LEM_FAKE_NVML", boards.as_path()),
        ];
        let spec = |energy: Value| {
            json!({
                "energy": energy,
                "processes": {"count": 1, "gpusPerProcess": 1},
                "workload": {"requests": 12, "maxInputTokens": 32, "maxOutputTokens": 96, "ignoreEos": true},
                "protocol": {"cycles": 1, "baseline": {"duration": "100ms"}, "cooldown": {"duration": "0s"},
                    "warmup": {"fixed": {"iterations": 1}}},
            })
        };
        let on = self.smollm2("metered", &spec(json!({"gpu": "Required", "cpu": "Estimate"})));
        let off = self.smollm2("unmetered", &spec(json!({"gpu": "Disabled", "cpu": "Disabled"})));
        let ratios = alternating(|with| self.run_spec(if with { &on } else { &off }, &environment))?;
        report(
            figures,
            "throughput metered ÷ unmetered",
            "",
            estimate(&ratios).as_ref(),
            Some(METERING_LIMIT),
        );
        Ok(())
    }

    /// The same windows with a scrape every second and with none.
    fn scraping(&self, figures: &mut Vec<Value>) -> Result<()> {
        let manifest = self.smollm2(
            "scraped",
            &json!({
                "energy": {"gpu": "Disabled", "cpu": "Estimate"},
                "workload": {"requests": 24, "maxInputTokens": 32, "maxOutputTokens": 96, "ignoreEos": true},
                "protocol": {"cycles": 1, "baseline": {"duration": "100ms"}, "cooldown": {"duration": "0s"},
                    "warmup": {"fixed": {"iterations": 1}}},
            }),
        );
        let environment = [("LEM_METRICS_ADDRESS", Path::new(METRICS_ADDRESS))];
        let mut answered = 0;
        let ratios = alternating(|with| {
            let scraper = with.then(Scraper::start);
            let run = self.run_spec(&manifest, &environment);
            answered += scraper.map_or(0, Scraper::stop);
            run
        })?;
        println!("  {answered} scrapes were answered:");
        report(
            figures,
            "throughput scraped every second ÷ not scraped",
            "",
            estimate(&ratios).as_ref(),
            Some(SCRAPING_LIMIT),
        );
        Ok(())
    }

    /// Prefill and decode on one process with all threads, and its memory.
    fn speed(&self, figures: &mut Vec<Value>) -> Result<()> {
        let run = self.run_spec(
            &self.smollm2(
                "speed",
                &json!({
                    "energy": {"gpu": "Disabled", "cpu": "Disabled"},
                    "workload": {"requests": 6, "maxInputTokens": 256, "maxOutputTokens": 128, "ignoreEos": true,
                        "streaming": false},
                    "protocol": {"cycles": 5, "baseline": {"duration": "100ms"}, "cooldown": {"duration": "0s"},
                        "warmup": {"fixed": {"iterations": 1}}},
                }),
            ),
            &[],
        )?;
        let mut prefill = Vec::new();
        let mut decode = Vec::new();
        for window in run.runners.iter().flat_map(|runner| &runner.windows) {
            // The first token of a request comes out of its prefill.
            let decoded = window.output_tokens - window.requests_completed;
            prefill.push(window.input_tokens as f64 / window.prefill_seconds.context("no prefill time")?);
            decode.push(decoded as f64 / window.decode_seconds.context("no decode time")?);
        }
        let threads = run
            .runners
            .first()
            .and_then(|runner| runner.environment.as_ref())
            .map(|found| found.threads);
        println!("  SmolLM2-135M Q4_1, prompt 256, output 128, threads {threads:?}:");
        report(figures, "prefill", "tok/s", estimate(&prefill).as_ref(), None);
        report(figures, "decode", "tok/s", estimate(&decode).as_ref(), None);
        Ok(())
    }

    /// The example that `make demo` runs.
    fn quickstart(&self, figures: &mut Vec<Value>) -> Result<()> {
        let run = self.run(&self.root.join("examples/quickstart.yaml"), &[])?;
        let duty: Vec<f64> = run
            .runners
            .iter()
            .map(|runner| runner.held.measured / runner.held.total)
            .collect();
        report(
            figures,
            "quickstart: measured ÷ held seconds",
            "",
            estimate(&duty).as_ref(),
            None,
        );
        for (name, read) in [
            ("load", (|held| held.load) as fn(&lem_crds::runner::HeldSeconds) -> f64),
            ("baseline", |held| held.baseline),
            ("warm-up", |held| held.warmup),
            ("wait", |held| held.wait),
            ("cool-down", |held| held.cooldown),
        ] {
            let seconds: Vec<f64> = run.runners.iter().map(|runner| read(&runner.held)).collect();
            report(
                figures,
                &format!("quickstart: {name} of one process"),
                "s",
                estimate(&seconds).as_ref(),
                None,
            );
        }
        let mebibyte = f64::from(1_u32 << 20);
        let peaks: Vec<f64> = run
            .runners
            .iter()
            .filter_map(|runner| {
                runner
                    .windows
                    .iter()
                    .filter_map(|window| window.resident_peak_bytes)
                    .max()
            })
            .map(|bytes| bytes as f64 / mebibyte)
            .collect();
        report(
            figures,
            "quickstart: peak memory of a runner",
            "MiB",
            estimate(&peaks).as_ref(),
            None,
        );
        let lem = [run.lem_peak_bytes / mebibyte];
        report(
            figures,
            "quickstart: peak memory of lem",
            "MiB",
            estimate(&lem).as_ref(),
            None,
        );
        Ok(())
    }
}

/// Tokens per second with something over those without it, of alternating pairs.
fn alternating(mut run: impl FnMut(bool) -> Result<Run>) -> Result<Vec<f64>> {
    let mut ratios = Vec::new();
    for pair in 0..PAIRS {
        let order = if pair % 2 == 0 { [true, false] } else { [false, true] };
        let mut speeds = Vec::new();
        for with in order {
            speeds.push(metric(&run(with)?, "tokens_per_second")?.mean);
        }
        if pair % 2 == 1 {
            speeds.reverse();
        }
        ratios.push(speeds[0] / speeds[1]);
    }
    Ok(ratios)
}

/// Asks for the metrics every second, as Prometheus does.
struct Scraper {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<usize>,
}

impl Scraper {
    fn start() -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut answered = 0;
            while stopped.recv_timeout(Duration::from_secs(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
                answered += usize::from(scrape().is_ok_and(|text| text.ends_with("# EOF\n")));
            }
            answered
        });
        Self { stop, thread }
    }

    /// Gives the number of answers.
    fn stop(self) -> usize {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

fn scrape() -> std::io::Result<String> {
    let mut stream = TcpStream::connect(METRICS_ADDRESS)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: lem\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn metric(run: &Run, name: &str) -> Result<Estimate> {
    let point = run.status.points.first().context("no point")?;
    point
        .metrics
        .get(name)
        .cloned()
        .with_context(|| format!("{name} is null"))
}

fn report(figures: &mut Vec<Value>, name: &str, unit: &str, found: Option<&Estimate>, limit: Option<f64>) {
    let Some(found) = found else {
        println!("{name:<44} not available");
        return;
    };
    let interval = match (found.lower, found.upper) {
        (Some(lower), Some(upper)) => format!("{lower:.4} … {upper:.4}"),
        _ => "one value".to_owned(),
    };
    let met = limit.map(|limit| found.mean >= limit);
    let verdict = match (limit, met) {
        (Some(limit), Some(true)) => format!("≥ {limit}: met"),
        (Some(limit), _) => format!("≥ {limit}: missed"),
        _ => String::new(),
    };
    println!(
        "{name:<44} {:>12} {interval:>22} {:>3}  {verdict}",
        format!("{:.4} {unit}", found.mean).trim_end(),
        found.count
    );
    figures.push(json!({
        "name": name, "unit": unit, "mean": found.mean, "lower": found.lower, "upper": found.upper,
        "count": found.count, "limit": limit, "met": met,
    }));
}
