//! `lem run`: measure, report, and say how to go on.

mod plan;

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Context;
use kube::ResourceExt;
use lem_crds::EfficiencyExperiment;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{End, Output, color, print, report::render, report::write_all, width, yaml};
use crate::{
    experiment::{Record, summary::Summary},
    local::{
        manifest::{self, ManifestError},
        run as local,
    },
    report,
};

/// Options of `lem run`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Experiment files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Set a field before running, such as `workload.requests=4`.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    settings: Vec<String>,
    /// Folder that holds one folder of results per experiment.
    #[arg(long, value_name = "DIR", default_value = "results")]
    out: PathBuf,
    /// What to print at the end, or of the plan.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Show the plan and what it will cost, and run nothing; also of an experiment for a cluster.
    #[arg(long)]
    dry_run: bool,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<End> {
    let experiments = match read(arguments) {
        Ok(experiments) => experiments,
        Err(errors) => {
            for error in errors {
                eprintln!("error: {:#}", anyhow::Error::new(error));
            }
            return Ok(End::Invalid);
        }
    };
    if arguments.dry_run {
        for experiment in &experiments {
            print(&plan::show(experiment, arguments.output)?)?;
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

/// Every experiment of the files, or everything that is wrong with them.
fn read(arguments: &Arguments) -> Result<Vec<EfficiencyExperiment>, Vec<ManifestError>> {
    let settings = manifest::settings(&arguments.settings).map_err(|error| vec![error])?;
    let (mut experiments, mut errors) = (Vec::new(), Vec::new());
    for file in &arguments.files {
        match manifest::read(file, &settings) {
            Ok(read) => experiments.extend(read),
            Err(found) => errors.extend(found),
        }
    }
    // Results are kept by name, in whatever namespace the experiment is on a cluster.
    let names = experiments.iter().map(|(place, one)| (place, one.name_any()));
    errors.extend(manifest::unique(names).err());
    let mut localised = Vec::new();
    for (place, experiment) in experiments {
        if arguments.dry_run && manifest::is_for_a_cluster(&experiment.spec) {
            localised.push(experiment);
            continue;
        }
        let ready = manifest::localise(experiment, &place).and_then(|experiment| {
            match manifest::check_models(&experiment, &place) {
                // A plan can be shown for models that are yet to be fetched.
                Err(error) if arguments.dry_run => eprintln!("warning: {error}"),
                checked => checked?,
            }
            Ok(experiment)
        });
        match ready {
            Ok(experiment) => localised.push(experiment),
            Err(error) => errors.push(error.attributed(&settings)),
        }
    }
    if errors.is_empty() { Ok(localised) } else { Err(errors) }
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
