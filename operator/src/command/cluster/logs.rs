//! `lem cluster logs`: what the processes of an experiment write. Client, but for which pods are meant.

use std::{io::Write, pin::pin};

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt, future, stream};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::{Api, ResourceExt, api::LogParams, runtime::wait};
use lem_crds::runner::CONTAINER;

use super::{
    connection::Connection,
    error::{ClusterError, Request},
    experiments,
};
use crate::{command::End, controller::build::PROCESS_LABEL};

/// Options of `lem cluster logs`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Name of the experiment.
    name: String,
    /// Only this process; each line of all of them starts with its number.
    #[arg(long, value_name = "N")]
    process: Option<u32>,
    /// Print what is written from now on too, until the pods have ended.
    #[arg(short, long)]
    follow: bool,
    /// The pods before the present ones: a process that was lost has a new pod.
    #[arg(long)]
    previous: bool,
    /// So many lines of each process at most.
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,
}

pub(super) async fn run(arguments: &Arguments, connection: &Connection) -> anyhow::Result<End> {
    let namespace = &connection.namespace;
    let experiment = experiments::get(connection, namespace, &arguments.name).await?;
    let pods = experiments::pods(connection, &experiment).await?;
    let chosen = choose(&pods, arguments.process, arguments.previous);
    if chosen.is_empty() {
        anyhow::bail!(
            "{}; what the processes have reported: `{}`",
            absent(arguments, &pods),
            connection.command(&format!("report {}", arguments.name), namespace)
        );
    }
    let prefix = arguments.process.is_none();
    let api = connection.api::<Pod>(namespace);
    let logs = chosen.into_iter().map(|(process, pod)| {
        let prefix = if prefix { format!("[{process}] ") } else { String::new() };
        one(connection, api.clone(), pod.clone(), arguments, prefix)
    });
    let printed = if arguments.follow {
        let all = future::join_all(logs);
        tokio::select! {
            printed = all => printed,
            ended = tokio::signal::ctrl_c() => { ended?; Vec::new() }
        }
    } else {
        // One after the other, so that lines of one process stay together.
        stream::iter(logs).then(|log| log).collect().await
    };
    let mut last = None;
    for failed in printed.into_iter().filter_map(Result::err) {
        eprintln!("error: {failed:#}");
        last = Some(failed);
    }
    last.map_or(Ok(End::Valid), |_| Ok(End::Failed))
}

/// Prints the log of one pod.
async fn one(
    connection: &Connection,
    api: Api<Pod>,
    pod: Pod,
    arguments: &Arguments,
    prefix: String,
) -> anyhow::Result<()> {
    let name = pod.name_any();
    if arguments.follow {
        wait::await_condition(api.clone(), &name, has_started).await?;
    } else if !has_started(Some(&pod)) {
        anyhow::bail!(
            "{prefix}pod {name} has not started yet: add --follow to wait for it, or see why with `{}`",
            connection.command(&format!("status {}", arguments.name), &connection.namespace)
        );
    }
    let parameters = LogParams {
        container: Some(CONTAINER.to_owned()),
        follow: arguments.follow,
        tail_lines: arguments.tail,
        ..LogParams::default()
    };
    let explain =
        |error| -> ClusterError { connection.explain(Request::new("get", "pods/log", &connection.namespace), error) };
    let log = api.log_stream(&name, &parameters).await.map_err(explain)?;
    let mut lines = pin!(log.lines());
    while let Some(line) = lines.try_next().await? {
        let mut output = std::io::stdout().lock();
        if let Err(error) = writeln!(output, "{prefix}{line}") {
            // A reader that has seen enough (`| head`) is no error.
            return if error.kind() == std::io::ErrorKind::BrokenPipe {
                Ok(())
            } else {
                Err(error.into())
            };
        }
    }
    Ok(())
}

/// The pod of each process that is meant: the newest, or the one before it. Pure.
fn choose(pods: &[Pod], process: Option<u32>, previous: bool) -> Vec<(u32, &Pod)> {
    let mut numbered: Vec<(u32, &Pod)> = pods
        .iter()
        .filter_map(|pod| Some((pod.labels().get(PROCESS_LABEL)?.parse().ok()?, pod)))
        .filter(|(number, _)| process.is_none_or(|wanted| wanted == *number))
        .collect();
    // Newest first within a process.
    numbered.sort_by_key(|(number, pod)| {
        let made = pod.creation_timestamp().map(|time| time.0);
        (*number, std::cmp::Reverse(made))
    });
    numbered
        .chunk_by(|left, right| left.0 == right.0)
        .filter_map(|pods| pods.get(usize::from(previous)).copied())
        .collect()
}

/// Why there is no log. Pure.
fn absent(arguments: &Arguments, pods: &[Pod]) -> String {
    let name = &arguments.name;
    match (arguments.process, arguments.previous) {
        _ if pods.is_empty() => {
            format!("{name} has no pods: not yet, or no more (finished Jobs go after spec.ttlSecondsAfterFinished)")
        }
        (_, true) => format!("{name} has no pods before the present ones"),
        (Some(process), _) => {
            let all: Vec<String> = choose(pods, None, false)
                .iter()
                .map(|(number, _)| number.to_string())
                .collect();
            format!(
                "{name} has no pod of process {process}; there are those of {}",
                all.join(", ")
            )
        }
        (None, false) => format!("{name} has no pods of processes"),
    }
}

/// Whether the container runs or has run. Pure.
fn has_started(pod: Option<&Pod>) -> bool {
    let Some(pod) = pod else {
        // Gone while it was waited for: asking for its log says so.
        return true;
    };
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let container = containers
        .into_iter()
        .flatten()
        .find(|container| container.name == CONTAINER);
    let state: Option<&ContainerState> = container.and_then(|container| container.state.as_ref());
    state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, process: u32, created: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": created,
            "labels": {PROCESS_LABEL: process.to_string()}}}))
        .unwrap()
    }

    fn pods() -> Vec<Pod> {
        vec![
            pod("b-old", 1, "2026-01-01T00:00:00Z"),
            pod("a", 0, "2026-01-01T00:00:00Z"),
            pod("b-new", 1, "2026-01-01T00:01:00Z"),
        ]
    }

    fn names(chosen: &[(u32, &Pod)]) -> Vec<String> {
        chosen
            .iter()
            .map(|(number, pod)| format!("{number} {}", pod.name_any()))
            .collect()
    }

    #[test]
    fn the_newest_pod_of_each_process_is_meant_and_previous_is_the_one_before() {
        let pods = pods();
        assert_eq!(names(&choose(&pods, None, false)), ["0 a", "1 b-new"]);
        assert_eq!(names(&choose(&pods, Some(1), false)), ["1 b-new"]);
        assert_eq!(names(&choose(&pods, None, true)), ["1 b-old"]);
        assert!(choose(&pods, Some(7), false).is_empty());
    }

    #[test]
    fn a_container_that_waits_has_no_log_yet() {
        let mut pod = pod("a", 0, "2026-01-01T00:00:00Z");
        assert!(!has_started(Some(&pod)));
        let status = |state: serde_json::Value| {
            serde_json::from_value(
                json!({"containerStatuses": [{"name": "runner", "image": "", "imageID": "",
                "ready": false, "restartCount": 0, "state": state}]}),
            )
            .unwrap()
        };
        pod.status = status(json!({"waiting": {"reason": "ContainerCreating"}}));
        assert!(!has_started(Some(&pod)));
        pod.status = status(json!({"terminated": {"exitCode": 0}}));
        assert!(has_started(Some(&pod)));
    }
}
