//! What the API server says of itself. Client; reading its text is pure.

use std::collections::BTreeMap;

use anyhow::Context as _;
use kube::Client;

/// Bytes of the events of watches, by the kind that is watched.
const WATCH_BYTES: &str = "apiserver_watch_events_sizes_sum";
/// Bytes of the store.
const STORE_BYTES: &str = "apiserver_storage_size_bytes";
/// Labels that name what is watched, in different versions of Kubernetes.
const KINDS: [&str; 2] = ["kind", "resource"];

/// Counters of the API server at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counters {
    /// Bytes of events sent to watchers, by kind.
    pub(crate) watch_bytes: BTreeMap<String, f64>,
    /// Size of the store in bytes.
    pub(crate) store_bytes: f64,
}

impl Counters {
    /// Asks for them.
    ///
    /// # Errors
    /// The API server does not answer.
    pub(crate) async fn read(client: &Client) -> anyhow::Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = client.request_text(request).await;
        Ok(Self::parse(&text.context("failed to read the API server's metrics")?))
    }

    fn parse(text: &str) -> Self {
        let mut counters = Self::default();
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Ok(value) = value.parse::<f64>() else { continue };
            let name = series.split('{').next().unwrap_or_default();
            match name {
                STORE_BYTES => counters.store_bytes += value,
                WATCH_BYTES => {
                    let kind = KINDS
                        .iter()
                        .find_map(|label| label_value(series, label))
                        .unwrap_or("other");
                    *counters.watch_bytes.entry(kind.to_owned()).or_default() += value;
                }
                _ => {}
            }
        }
        counters
    }

    /// What has come since.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let earlier = |kind: &String| before.watch_bytes.get(kind).copied().unwrap_or_default();
        let grown = self
            .watch_bytes
            .iter()
            .map(|(kind, bytes)| (kind.clone(), bytes - earlier(kind)));
        Self {
            watch_bytes: grown.filter(|(_, bytes)| *bytes > 0.0).collect(),
            store_bytes: self.store_bytes - before.store_bytes,
        }
    }
}

fn label_value<'a>(series: &'a str, label: &str) -> Option<&'a str> {
    let start = series.find(&format!("{label}=\""))? + label.len() + 2;
    series[start..].split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_told_apart_and_what_came_before_is_taken_away() {
        let before = Counters::parse("apiserver_watch_events_sizes_sum{group=\"\",kind=\"Pod\",version=\"v1\"} 100\n");
        let text = "# HELP apiserver_storage_size_bytes size\n\
            apiserver_storage_size_bytes{storage_cluster_id=\"etcd-0\"} 2.5e+06\n\
            apiserver_watch_events_sizes_sum{group=\"\",kind=\"Pod\",version=\"v1\"} 150\n\
            apiserver_watch_events_sizes_sum{group=\"lem.dev\",kind=\"Runner\",version=\"v1alpha1\"} 7\n";
        let grown = Counters::parse(text).since(&before);
        assert!((grown.store_bytes - 2.5e6).abs() < 1.0, "{grown:?}");
        let of = |kind: &str, bytes| (kind.to_owned(), bytes);
        assert_eq!(grown.watch_bytes, BTreeMap::from([of("Pod", 50.0), of("Runner", 7.0)]));
    }
}
