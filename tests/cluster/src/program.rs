//! The command line.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{
    binaries::Binaries,
    cluster::{Cluster, Options},
    command,
    error::{Error, with_causes},
    failures,
    folder::Folder,
    forward,
    image::Image,
    node, teardown,
};

/// A real Kubernetes cluster on this machine, for tests and for trying things out. Needs root.
#[derive(Debug, Parser)]
#[command(name = "lem-test-cluster", version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build the cluster's programs into the cache, if they are not there.
    Build,
    /// Start a cluster with three nodes that stays up.
    Up {
        #[command(flatten)]
        cluster: Name,
        /// Image archives to give to the nodes.
        #[arg(long = "image", value_name = "FILE")]
        images: Vec<PathBuf>,
    },
    /// End a cluster, or with --all every one that no test is using, and remove what it left.
    Down {
        #[command(flatten)]
        cluster: Name,
        /// Every cluster that is up or was left behind.
        #[arg(long)]
        all: bool,
    },
    /// Show which clusters there are, and their nodes.
    Status,
    /// Print the path of a cluster's kubeconfig.
    Kubeconfig {
        #[command(flatten)]
        cluster: Name,
    },
    /// Collect logs, events, the audit log and all objects of lem.dev into a folder.
    Failures {
        #[command(flatten)]
        cluster: Name,
        /// The folder; what is in it is replaced.
        #[arg(long, value_name = "FOLDER")]
        output: Option<PathBuf>,
    },
    /// Make an image of a program and its shared libraries.
    Image {
        /// The program.
        program: PathBuf,
        /// Name of the image.
        #[arg(long)]
        name: String,
        /// The archive to write.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Give image archives to the nodes of a cluster.
    Load {
        #[command(flatten)]
        cluster: Name,
        /// The archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    #[command(hide = true)]
    Guard {
        #[command(flatten)]
        cluster: Name,
    },
    #[command(hide = true)]
    Forward {
        #[arg(long)]
        namespace: PathBuf,
        #[arg(long)]
        to: String,
        #[arg(long)]
        port_file: PathBuf,
    },
    #[command(hide = true)]
    NodeInit {
        #[arg(long)]
        name: String,
        #[arg(long)]
        folder: PathBuf,
    },
    #[command(hide = true)]
    DevicePlugin {
        #[arg(long)]
        name: String,
        #[arg(long)]
        folder: PathBuf,
        #[arg(long)]
        kubeconfig: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Name {
    /// Name of the cluster.
    #[arg(long, default_value = "default")]
    name: String,
}

/// Runs the command.
pub fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lem-test-cluster: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<(), Error> {
    match action {
        Action::Build => print(&Binaries::ensure()?.folder().display().to_string()),
        Action::Up { cluster, images } => up(&cluster.name, images)?,
        Action::Down { cluster, all } => down(&cluster.name, all)?,
        Action::Status => status()?,
        Action::Kubeconfig { cluster } => print(&running(&cluster.name)?.kubeconfig().display().to_string()),
        Action::Failures { cluster, output } => collect(&cluster.name, output)?,
        Action::Image { program, name, output } => image(&program, &name, &output)?,
        Action::Load { cluster, archives } => load(&cluster.name, &archives)?,
        Action::Guard { cluster } => teardown::guard(&cluster.name)?,
        Action::Forward {
            namespace,
            to,
            port_file,
        } => forward::serve(&namespace, &to, &port_file)?,
        Action::NodeInit { name, folder } => node::init::run(&name, &folder)?,
        Action::DevicePlugin {
            name,
            folder,
            kubeconfig,
        } => {
            tracing_subscriber::fmt().with_writer(std::io::stderr).init();
            block_on(node::device_plugin::run(&name, &folder, &kubeconfig))??;
        }
    }
    Ok(())
}

fn up(name: &str, images: Vec<PathBuf>) -> Result<(), Error> {
    let options = Options {
        images,
        ..Options::default()
    };
    let cluster = block_on(Cluster::start(name, options))??;
    let kubectl = cluster.kubectl().get_program().to_string_lossy().into_owned();
    let kubeconfig = cluster.kubeconfig().display().to_string();
    cluster.detach()?;
    print(&format!(
        "The cluster {name} is up. To use it:\n\n  export KUBECONFIG={kubeconfig}\n  alias kubectl={kubectl}\n  kubectl get nodes\n\n\
         Tests use it with LEM_TEST_KUBECONFIG=$KUBECONFIG. To end it: make cluster-down"
    ));
    Ok(())
}

fn down(name: &str, all: bool) -> Result<(), Error> {
    let folders = if all { Folder::all()? } else { vec![Folder::of(name)?] };
    for folder in folders {
        if !folder.path().exists() {
            print(&format!("{}: not there", folder.name()));
        } else if folder.is_free()? {
            let _lock = folder.lock()?;
            teardown::remove(&folder)?;
            print(&format!("{}: ended", folder.name()));
        } else if all {
            print(&format!("{}: left alone, a test is using it", folder.name()));
        } else {
            return Err(Error::InUse(name.to_owned()));
        }
    }
    Ok(())
}

fn status() -> Result<(), Error> {
    for folder in Folder::all()? {
        let state = match (folder.detached().exists(), folder.is_free()?) {
            (true, _) => "up",
            (false, false) => "used by a test",
            (false, true) => "left behind; remove it with `lem-test-cluster down --all`",
        };
        print(&format!("{}: {state}", folder.name()));
        if folder.kubeconfig().exists() {
            let mut kubectl = failures::kubectl(&folder.kubeconfig(), Some(&Binaries::ensure()?));
            let nodes = command::run(kubectl.args(["get", "nodes"])).unwrap_or_else(|error| with_causes(&error));
            print(nodes.trim_end());
        }
    }
    Ok(())
}

fn collect(name: &str, output: Option<PathBuf>) -> Result<(), Error> {
    let folder = running(name)?;
    let output = output.unwrap_or_else(|| failures::folder(name));
    let kubectl = failures::kubectl(&folder.kubeconfig(), Some(&Binaries::ensure()?));
    failures::collect(&kubectl, Some(&folder), &output)?;
    print(&output.display().to_string());
    Ok(())
}

fn image(program: &Path, name: &str, output: &Path) -> Result<(), Error> {
    if let Some(folder) = output.parent() {
        std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    }
    let size = Image::new(name, program)?.with_certificates()?.write(output)?;
    print(&format!(
        "{}: {name}, {:.1} MB",
        output.display(),
        size.content as f64 / 1e6
    ));
    Ok(())
}

fn load(name: &str, archives: &[PathBuf]) -> Result<(), Error> {
    let folder = running(name)?;
    let binaries = Binaries::ensure()?;
    archives
        .iter()
        .try_for_each(|archive| node::import_everywhere(&folder, &binaries, archive))
}

/// The folder of a cluster that is up.
fn running(name: &str) -> Result<Folder, Error> {
    let folder = Folder::of(name)?;
    if folder.kubeconfig().exists() {
        Ok(folder)
    } else {
        Err(Error::NotUp(name.to_owned()))
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = tokio::runtime::Runtime::new().map_err(|source| Error::Spawn {
        program: "the runtime".to_owned(),
        source,
    })?;
    Ok(runtime.block_on(future))
}

/// Standard output may be closed: then nobody wants to know.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
