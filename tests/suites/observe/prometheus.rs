//! A real Prometheus in the network of the cluster's control plane, from where pods can be reached.

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Stdio},
};

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, config::Kubeconfig};
use lem_test_cluster::Cluster;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{helm::program, monitor::scrape_configuration, world::LIMIT};

const ADDRESS: &str = "127.0.0.1:9090";

/// Ends with the process, whose network the cluster's guard takes away.
pub(crate) struct Prometheus {
    cluster: &'static Cluster,
    process: Child,
    _folder: tempfile::TempDir,
}

/// One series of an answer.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Series {
    pub(crate) metric: BTreeMap<String, String>,
    #[serde(default)]
    value: Option<(f64, String)>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

impl Series {
    /// Its times, in seconds, and values.
    pub(crate) fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        let all = self.value.iter().chain(&self.values);
        all.filter_map(|(at, value)| Some((*at, value.parse().ok()?)))
    }

    /// Its value, of several the last.
    pub(crate) fn value(&self) -> f64 {
        let last = self.value.as_ref().or(self.values.last());
        last.map_or(f64::NAN, |(_, value)| value.parse().unwrap_or(f64::NAN))
    }
}

impl Prometheus {
    /// Starts one that scrapes what the rendered monitors select, and evaluates the rendered rules.
    pub(crate) async fn start(cluster: &'static Cluster, rendered: &[Value]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
        fs::write(path("kubeconfig"), kubeconfig(cluster).await).unwrap();
        let monitors = rendered
            .iter()
            .filter(|object| matches!(object["kind"].as_str(), Some("ServiceMonitor" | "PodMonitor")));
        let configurations: Vec<Value> = monitors
            .map(|monitor| scrape_configuration(monitor, &path("kubeconfig")))
            .collect();
        assert_eq!(configurations.len(), 2, "one for the operator, one for runners");
        let rules: Vec<&Value> = rendered
            .iter()
            .filter(|object| object["kind"] == "PrometheusRule")
            .flat_map(|rule| rule["spec"]["groups"].as_array().into_iter().flatten())
            .collect();
        assert!(!rules.is_empty(), "the chart renders rules");
        fs::write(path("rules.yaml"), json!({"groups": rules}).to_string()).unwrap();
        let configuration = json!({
            "global": {"evaluation_interval": "1s"},
            "rule_files": [path("rules.yaml")],
            "scrape_configs": configurations,
        });
        fs::write(path("prometheus.yaml"), configuration.to_string()).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let mut command = cluster.inside(program("prometheus")).unwrap();
        command
            .arg(format!("--config.file={}", path("prometheus.yaml")))
            .arg(format!("--storage.tsdb.path={}", path("data")))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .stdout(Stdio::null())
            .stderr(log);
        let process = command.spawn().unwrap();
        let prometheus = Self {
            cluster,
            process,
            _folder: folder,
        };
        let up = || async {
            let found = prometheus.attempt(&["instant"], &[], "vector(1)")?;
            (!found.is_empty()).then_some(()).ok_or_else(|| "no answer".to_owned())
        };
        let waited = cluster.until("an answer of Prometheus", LIMIT, up).await;
        waited.unwrap_or_else(|error| panic!("{error}: {}", fs::read_to_string(path("log")).unwrap_or_default()));
        prometheus
    }

    /// The answer to a query now.
    pub(crate) fn query(&self, expression: &str) -> Vec<Series> {
        self.attempt(&["instant"], &[], expression)
            .unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// The answer at every second since a time.
    pub(crate) fn history(&self, expression: &str, since: Timestamp) -> Result<Vec<Series>, String> {
        let (start, end) = (since.as_second().to_string(), Timestamp::now().as_second().to_string());
        let range = ["--start", &start, "--end", &end, "--step", "1s"];
        self.attempt(&["range"], &range, expression)
    }

    /// The answer, once it is as wanted.
    pub(crate) async fn until(&self, expression: &str, wanted: impl Fn(&[Series]) -> bool) -> Vec<Series> {
        let wanted = &wanted;
        let look = || async move {
            let found = self.attempt(&["instant"], &[], expression)?;
            if wanted(&found) {
                Ok(found)
            } else {
                Err(format!("{found:?}"))
            }
        };
        let found = self.cluster.until(expression, LIMIT, look).await;
        found.unwrap_or_else(|error| panic!("{error}"))
    }

    fn attempt(&self, kind: &[&str], options: &[&str], expression: &str) -> Result<Vec<Series>, String> {
        let mut command = self.cluster.inside(program("promtool")).unwrap();
        command.arg("query").args(kind).args(["--format", "json"]).args(options);
        let output = command
            .arg(format!("http://{ADDRESS}"))
            .arg(expression)
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{error} in {}", String::from_utf8_lossy(&output.stdout)))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The administrator's kubeconfig with the address that the API server has inside the cluster.
async fn kubeconfig(cluster: &Cluster) -> String {
    let slices = Api::<EndpointSlice>::namespaced(cluster.client().await.unwrap(), "default");
    let slice = slices.get("kubernetes").await.unwrap();
    let address = &slice.endpoints[0].addresses[0];
    let port = slice.ports.unwrap_or_default()[0].port.unwrap();
    let mut kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    for named in &mut kubeconfig.clusters {
        if let Some(of) = &mut named.cluster {
            of.server = Some(format!("https://{address}:{port}"));
        }
    }
    serde_yaml::to_string(&kubeconfig).unwrap()
}
