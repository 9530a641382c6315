//! `lem cluster run`: apply, follow, print. Client.

use std::path::PathBuf;

use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::{GroupVersionKind, TypeMeta},
    discovery::{self, Scope},
};
use lem_crds::EfficiencyExperiment;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    connection::{Connection, Options},
    documents::{self, Document},
    error::{ClusterError, Request},
    experiments,
    follow::{self, Followed},
};
use crate::{
    command::{End, Output, run as local},
    local::progress::Progress,
};

/// Who wrote the fields that are applied here.
pub(super) const FIELD_MANAGER: &str = "kubectl-lem";

/// Options of `lem cluster run`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Files with experiments; other objects in them are applied first.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Set a field of the experiments before applying them, such as `workload.requests=4`.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    settings: Vec<String>,
    /// Apply only, and do not follow.
    #[arg(short, long)]
    detach: bool,
    /// What to print at the end.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) async fn run(arguments: &Arguments, options: &Options, program: &'static str) -> anyhow::Result<End> {
    let documents = match documents::read(&arguments.files, &arguments.settings) {
        Ok(documents) => documents,
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::new(error));
            return Ok(End::Invalid);
        }
    };
    let connection = options.connect(program).await?;
    let mut applied = Vec::new();
    for document in documents.beside.iter().chain(&documents.experiments) {
        match apply(&connection, document).await {
            Ok(namespace) => {
                let place = namespace
                    .as_deref()
                    .map_or(String::new(), |name| format!(" in namespace {name}"));
                eprintln!("{} {} applied{place}", document.kind, document.name);
                applied.push((document, namespace.unwrap_or_default()));
            }
            Err(error @ ClusterError::Refused { .. }) => {
                eprintln!("error: {error}");
                return Ok(End::Invalid);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let experiments = applied.split_off(documents.beside.len());
    let mut end = End::Valid;
    for (document, namespace) in experiments {
        if arguments.detach {
            let status = connection.command(&format!("status {}", document.name), &namespace);
            eprintln!("see how far it is: {status}");
            continue;
        }
        match one(&connection, &namespace, &document.name, arguments).await? {
            Some(this) => end = end.worst(this),
            None => return Ok(end.worst(End::Partial)),
        }
    }
    Ok(end)
}

/// Follows one experiment and prints its result; nothing if the user has enough.
async fn one(
    connection: &Connection,
    namespace: &str,
    name: &str,
    arguments: &Arguments,
) -> anyhow::Result<Option<End>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let progress = Progress::new(0, arguments.quiet);
    let followed = tokio::select! {
        followed = follow::follow(connection, namespace, name, progress) => followed?,
        ended = tokio::signal::ctrl_c() => { ended?; Followed::Left }
        _ = terminate.recv() => Followed::Left,
    };
    let experiment = match followed {
        Followed::Over(experiment) => *experiment,
        Followed::Refused(message) => {
            eprintln!("error: {name}: {message}");
            return Ok(Some(End::Invalid));
        }
        Followed::Left => {
            eprintln!(
                "left: {name} goes on in the cluster; the same command follows it again, `{}` says how far it is, `{}` ends it",
                connection.command(&format!("status {name}"), namespace),
                connection.command(&format!("cancel {name}"), namespace),
            );
            return Ok(None);
        }
    };
    print_result(connection, &experiment, arguments.output).await.map(Some)
}

async fn print_result(
    connection: &Connection,
    experiment: &EfficiencyExperiment,
    output: Output,
) -> anyhow::Result<End> {
    let runners = experiments::runners(connection, experiment).await?;
    let (summary, records) = experiments::results(experiment, &runners)?;
    local::show(experiment, &summary, &records, output)?;
    let failed = summary
        .status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Failed" && condition.status == "True");
    if let Some(failed) = failed {
        eprintln!("failed: {}", failed.message);
    }
    Ok(End::of(&summary.status))
}

/// Applies one document; gives its namespace if its kind has one.
async fn apply(connection: &Connection, document: &Document) -> Result<Option<String>, ClusterError> {
    let object = format!("{} {}", document.kind, document.name);
    let refused = |message: String| ClusterError::Refused {
        object: object.clone(),
        message,
    };
    let types = TypeMeta {
        api_version: document.api_version.clone(),
        kind: document.kind.clone(),
    };
    let kind = GroupVersionKind::try_from(&types).map_err(|error| refused(error.to_string()))?;
    let (resource, capabilities) = match discovery::pinned_kind(&connection.client, &kind).await {
        Ok(found) => found,
        Err(kube::Error::Discovery(_)) => return Err(unknown(document)),
        Err(kube::Error::Api(status)) if status.code == 404 => return Err(unknown(document)),
        Err(error) => return Err(connection.explain(Request::everywhere("discover", &document.kind), error)),
    };
    let namespace = (capabilities.scope == Scope::Namespaced).then(|| {
        let own = document.namespace.clone();
        own.unwrap_or_else(|| connection.namespace.clone())
    });
    if let (Some(named), Some(chosen)) = (&namespace, connection.chosen_namespace())
        && named != chosen
    {
        return Err(refused(format!(
            "metadata.namespace is {named}, and --namespace is {chosen}: leave one of the two out"
        )));
    }
    let api: Api<DynamicObject> = match &namespace {
        Some(namespace) => Api::namespaced_with(connection.client.clone(), namespace, &resource),
        None => Api::all_with(connection.client.clone(), &resource),
    };
    let parameters = PatchParams {
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::apply(FIELD_MANAGER)
    };
    let written = api
        .patch(&document.name, &parameters, &Patch::Apply(&document.body))
        .await;
    match written {
        Ok(_) => Ok(namespace),
        Err(kube::Error::Api(status)) if status.code == 409 => Err(refused(conflict(&status.message))),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => Err(refused(status.message)),
        Err(kube::Error::Api(status)) if status.code == 404 && namespace.is_some() => Err(refused(format!(
            "{}: create the namespace with `kubectl create namespace {}`",
            status.message,
            namespace.unwrap_or_default()
        ))),
        Err(error) => {
            let group = resource.group.as_str();
            let name = if group.is_empty() {
                resource.plural.clone()
            } else {
                format!("{}.{group}", resource.plural)
            };
            let request = Request {
                verb: "patch",
                resource: &name,
                namespace: namespace.as_deref(),
            };
            Err(connection.explain(request, error))
        }
    }
}

/// A field that somebody else has set to another value. Pure.
fn conflict(words: &str) -> String {
    let next = if words.contains(".spec.cancel") {
        "a cancelled experiment stays cancelled: create another one"
    } else {
        "change the field where it was written, or create the object under another name"
    };
    format!("{words}: {next}")
}

fn unknown(document: &Document) -> ClusterError {
    let resource = format!("{} of {}", document.kind, document.api_version);
    if document.api_version.starts_with(lem_crds::GROUP) {
        return ClusterError::NoDefinition {
            resource: experiments::EXPERIMENTS.to_owned(),
        };
    }
    ClusterError::Refused {
        object: format!("{} {}", document.kind, document.name),
        message: format!("it does not know {resource}: install what defines it, or correct apiVersion and kind"),
    }
}
