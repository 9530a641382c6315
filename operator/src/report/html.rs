//! The result as one self-contained page.
use super::{Report, ReportError};
/// One page.
pub fn html(report: &Report<'_>) -> Result<String, ReportError> {
    minijinja::Environment::new()
        .render_str("{{ name }}", minijinja::context! { name => report.experiment_name })
        .map_err(ReportError::Html)
}
