//! docs/metrics.md: every metric of a result, and every reason for which one is null. Pure.

use std::fmt::Write as _;

use lem_crds::metrics::{DEFINITIONS, Unavailable};
use schemars::schema_for;
use serde_json::Value;

const HEAD: &str = "\
<!-- Generated from crds/src/metrics.rs by `make generate`. Do not edit. -->

# Metrics of a result

Every point of an experiment has all of these fields: in `status.points[].metrics` on a cluster, in `lem report -o json`,
and as columns of `lem report -o csv` and `-o parquet` (under the first name). In a point each is the mean over cycles with its standard
deviation and exact Student-t 95 % interval ([`estimate`](api.md#effexpstatuspointsmetrics)).

A value that cannot be had is `null`, and `notAvailable` maps the field to one of the [reasons](#reasons-for-null). Zero is
always a measured zero. What Prometheus sees of them is in [prometheus.md](prometheus.md).

| CSV | JSON | unit | what it is |
|---|---|---|---|
";

const REASONS: &str = "
## Reasons for null

| reason | meaning |
|---|---|
";

/// The whole page.
///
/// # Errors
/// A schema that is no list of reasons, which a test excludes.
pub(super) fn page() -> Result<String, Box<dyn std::error::Error>> {
    let mut page = HEAD.to_owned();
    for definition in DEFINITIONS {
        writeln!(
            page,
            "| `{}` | `{}` | {} | {} |",
            definition.name,
            definition.key,
            definition.unit,
            definition.description.replace('|', "\\|")
        )?;
    }
    page.push_str(REASONS);
    let schema = serde_json::to_value(schema_for!(Unavailable))?;
    let reasons = schema["oneOf"].as_array().ok_or("no list of reasons")?;
    for reason in reasons {
        let text = |key: &str| reason.get(key).and_then(Value::as_str).unwrap_or_default();
        writeln!(page, "| `{}` | {} |", text("const"), text("description"))?;
    }
    Ok(page)
}
