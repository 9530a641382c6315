//! `lem cluster status`: all experiments, or all about one. Client; what is made of the answers is in the files below.

mod list;
mod one;
mod waiting;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, ResourceExt, api::ListParams};
use lem_crds::EfficiencyExperiment;

use self::one::Observed;
pub(super) use self::waiting::waiting;
use super::{
    connection::Connection,
    error::{ClusterError, Request},
    experiments::{self, EXPERIMENTS},
};
use crate::command::{End, print, width};

/// Options of `lem cluster status`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Name of an experiment; all of them without.
    name: Option<String>,
    /// Experiments of all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["name", "namespace"])]
    all_namespaces: bool,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// Forms of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// A table for people.
    Table,
    /// JSON.
    Json,
}

pub(super) async fn run(arguments: &Arguments, connection: &Connection) -> anyhow::Result<End> {
    let now = Timestamp::now();
    let text = if let Some(name) = &arguments.name {
        let observed = observe(connection, name).await?;
        let shown = one::Shown::of(&observed);
        match arguments.output {
            Form::Table => one::text::text(&shown, now, width()),
            Form::Json => serde_json::to_string_pretty(&shown)? + "\n",
        }
    } else {
        let found = all(connection, arguments.all_namespaces).await?;
        let rows: Vec<list::Row> = found.iter().map(list::Row::of).collect();
        match arguments.output {
            Form::Json => serde_json::to_string_pretty(&rows)? + "\n",
            Form::Table if rows.is_empty() && arguments.all_namespaces => {
                "No experiments in any namespace.\n".to_owned()
            }
            Form::Table if rows.is_empty() => format!("No experiments in namespace {}.\n", connection.namespace),
            Form::Table => list::text(&rows, arguments.all_namespaces, now, width()),
        }
    };
    print(&text)?;
    Ok(End::Valid)
}

async fn all(connection: &Connection, everywhere: bool) -> Result<Vec<EfficiencyExperiment>, ClusterError> {
    let (api, request) = if everywhere {
        (
            Api::all(connection.client.clone()),
            Request::everywhere("list", EXPERIMENTS),
        )
    } else {
        let namespace = &connection.namespace;
        (connection.api(namespace), Request::new("list", EXPERIMENTS, namespace))
    };
    let found = api.list(&ListParams::default()).await;
    Ok(found.map_err(|error| connection.explain(request, error))?.items)
}

/// Everything about one experiment. What the user may not see is left out, and that is said.
async fn observe(connection: &Connection, name: &str) -> Result<Observed, ClusterError> {
    let experiment = experiments::get(connection, &connection.namespace, name).await?;
    let mut hidden = Vec::new();
    let of_fleet = experiment.status.as_ref().is_some_and(|status| status.fleet.is_some());
    let (pods, runners) = if of_fleet {
        let pods = visible(experiments::living_pods(connection, &experiment).await, &mut hidden)?;
        let runners = experiments::runners_of(connection, &experiment, &pods, one::MOST_OF_FLEET).await;
        (pods, visible(runners, &mut hidden)?)
    } else {
        let runners = visible(experiments::runners(connection, &experiment).await, &mut hidden)?;
        (
            visible(experiments::pods(connection, &experiment).await, &mut hidden)?,
            runners,
        )
    };
    let events = visible(events(connection, &experiment, &pods).await, &mut hidden)?;
    Ok(Observed {
        experiment,
        runners,
        pods,
        events,
        hidden,
    })
}

/// What the user may see; nothing where it is hidden, which is noted.
fn visible<T>(answer: Result<Vec<T>, ClusterError>, hidden: &mut Vec<String>) -> Result<Vec<T>, ClusterError> {
    match answer {
        Err(error @ ClusterError::Forbidden { .. }) => {
            hidden.push(error.to_string());
            Ok(Vec::new())
        }
        other => other,
    }
}

/// Events about the experiment, and warnings about its Jobs and pods.
async fn events(
    connection: &Connection,
    experiment: &EfficiencyExperiment,
    pods: &[Pod],
) -> Result<Vec<Event>, ClusterError> {
    let namespace = experiment.namespace().unwrap_or_default();
    let api = connection.api::<Event>(&namespace);
    let own = ListParams::default().fields(&format!(
        "involvedObject.kind=EfficiencyExperiment,involvedObject.name={}",
        experiment.name_any()
    ));
    let warnings = ListParams::default().fields("type=Warning");
    let explain = |error| connection.explain(Request::new("list", "events", &namespace), error);
    let mut events = api.list(&own).await.map_err(explain)?.items;
    let uid = experiment.uid();
    events.retain(|event| event.involved_object.uid == uid);
    let jobs: Vec<&str> = pods.iter().filter_map(one::job).collect();
    let about_children = |event: &Event| {
        let (kind, name) = (&event.involved_object.kind, &event.involved_object.name);
        let name = name.as_deref().unwrap_or_default();
        match kind.as_deref() {
            Some("Pod") => pods.iter().any(|pod| pod.name_any() == name),
            Some("Job") => jobs.contains(&name),
            _ => false,
        }
    };
    let found = api.list(&warnings).await.map_err(explain)?;
    events.extend(found.items.into_iter().filter(about_children));
    Ok(events)
}
