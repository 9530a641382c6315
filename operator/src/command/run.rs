//! `lem run`: measure, report, and say how to go on.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Context;
use lem_crds::{EfficiencyExperiment, plan::Point};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{End, Output, color, print, report::render, report::write_all, width, yaml};
use crate::{
    experiment::{self, Record, summary::Summary},
    local::{manifest, run as local},
    report::{self, number::counted},
};

/// Options of `lem run`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Experiment files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Set a field before running, such as `workload.requests=4`.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
    /// Folder that holds one folder of results per experiment.
    #[arg(long, value_name = "DIR", default_value = "results")]
    out: PathBuf,
    /// What to print at the end.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Show the plan and what it will cost, and run nothing.
    #[arg(long)]
    dry_run: bool,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<End> {
    let mut experiments = Vec::new();
    for file in &arguments.files {
        let read = manifest::read(file, &arguments.settings).and_then(|all| {
            all.into_iter()
                .map(|one| manifest::localise(one, file))
                .collect::<Result<Vec<_>, _>>()
        });
        match read {
            Ok(read) => experiments.extend(read),
            Err(error) => {
                eprintln!("error: {:#}", anyhow::Error::new(error));
                return Ok(End::Invalid);
            }
        }
    }
    if arguments.dry_run {
        for experiment in &experiments {
            print(&plan(experiment)?)?;
        }
        return Ok(End::Valid);
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // A second Ctrl-C ends lem at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let mut end = End::Valid;
    for experiment in &experiments {
        end = end.worst(one(experiment, arguments, &interrupted)?);
        if interrupted.load(std::sync::atomic::Ordering::Relaxed) {
            break;
        }
    }
    Ok(end)
}

fn one(experiment: &EfficiencyExperiment, arguments: &Arguments, interrupted: &Arc<AtomicBool>) -> anyhow::Result<End> {
    let name = experiment.metadata.name.as_deref().unwrap_or_default();
    let folder = arguments.out.join(name);
    let outcome = match local::run(experiment, &folder, interrupted, arguments.quiet) {
        Ok(outcome) => outcome,
        Err(error @ (local::RunError::Plan(_) | local::RunError::Machine { .. })) => {
            eprintln!("error: {name}: {:#}", anyhow::Error::new(error));
            return Ok(End::Invalid);
        }
        Err(error) => return Err(anyhow::Error::new(error).context(name.to_owned())),
    };
    let local::Outcome {
        summary,
        records,
        interrupted,
        results,
    } = outcome;
    write_all(&results, experiment, &summary, &records).context("failed to write the report")?;
    show(experiment, &summary, &records, arguments.output)?;
    eprintln!("report: {}", folder.join("report.html").display());
    if interrupted {
        eprintln!("interrupted: what was measured is kept; the same command goes on where this one stopped");
        return Ok(End::Partial);
    }
    Ok(End::of(&summary.status))
}

/// Prints what a run came to, wherever it was measured.
pub(super) fn show(
    experiment: &EfficiencyExperiment,
    summary: &Summary,
    records: &[Record],
    output: Output,
) -> anyhow::Result<()> {
    let text = render(experiment, summary, records, |report| {
        Ok(match output {
            Output::Table => report::terminal(report, color(), width()),
            Output::Json => report::json(report)?,
            Output::Yaml => yaml(&report::json(report)?)?,
        })
    })?;
    print(&text)
}

fn plan(experiment: &EfficiencyExperiment) -> anyhow::Result<String> {
    let spec = &experiment.spec;
    let points = experiment::plan(spec)?;
    let order = experiment::order_trials(&points, spec.protocol.cycles, &spec.protocol.order);
    let cohorts = experiment::group_cohorts(&points, &order, spec.processes.restart)?;
    let work = experiment::work(spec, &points, cohorts.len());
    let mut lines = vec![format!(
        "{}: {} × {} = {}, {} in {}, model loaded {}",
        experiment.metadata.name.as_deref().unwrap_or_default(),
        counted(work.points, "point", "points"),
        counted(spec.protocol.cycles as usize, "cycle", "cycles"),
        counted(work.trials, "trial", "trials"),
        counted(work.windows, "window", "windows"),
        counted(spec.processes.count as usize, "process", "processes"),
        if work.loads == 1 {
            "once".to_owned()
        } else {
            format!("{} times", work.loads)
        }
    )];
    let point = |point: &Point| {
        format!(
            "  {:>3}  {}  plan {:.12}",
            point.index,
            point.label(),
            point.plan_sha256
        )
    };
    lines.extend(points.iter().map(point));
    lines.push(format!(
        "each process: {} measured tokens, at least {} requests with warm-up; baselines and cool-downs {:.1} min",
        work.tokens_per_process,
        work.requests_per_process,
        work.fixed_seconds / 60.0
    ));
    lines.push(match model_bytes(spec) {
        Some(bytes) => {
            let tokens = work.decoded_tokens_per_process * u64::from(spec.processes.count);
            let decode = tokens as f64 * bytes as f64 / ASSUMED_BYTES_PER_SECOND;
            let minutes = (work.fixed_seconds + decode) / 60.0;
            format!("about {minutes:.0} min on a small CPU (weights read at 4 GB/s by all processes together); a GPU is far faster")
        }
        None => "the time in windows depends on the model's size, which is not known before it is loaded".to_owned(),
    });
    Ok(lines.join("\n") + "\n")
}

/// Weight bytes per second that the engines of a two-core machine stream in decode together; for the forecast only.
const ASSUMED_BYTES_PER_SECOND: f64 = 4e9;

fn model_bytes(spec: &lem_crds::EfficiencyExperimentSpec) -> Option<u64> {
    let lem_crds::experiment::ModelSource::Directory(directory) = &spec.model.source else {
        return None;
    };
    let path = Path::new(&directory.path);
    if path.is_file() {
        return path.metadata().ok().map(|metadata| metadata.len());
    }
    let files = path.read_dir().ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let weights = files.filter(|file| file.extension().is_some_and(|e| e == "safetensors" || e == "gguf"));
    Some(
        weights
            .filter_map(|file| file.metadata().ok())
            .map(|metadata| metadata.len())
            .sum(),
    )
}
