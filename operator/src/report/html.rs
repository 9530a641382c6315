//! The result as one self-contained page: no script, no request to anywhere.

mod axis;
mod drawing;
mod fleet;
mod intervals;
mod latency;
mod page;
mod power;
mod tables;
mod windows;

use minijinja::{AutoEscape, Environment, UndefinedBehavior};

use super::{Report, ReportError};

const TEMPLATE: &str = include_str!("html/page.html");
const STYLE: &str = include_str!("html/page.css");

/// One self-contained HTML page: headline, verdict, plots, every metric of every point, and provenance.
pub fn html(report: &Report<'_>) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment
        .add_template("page.html", TEMPLATE)
        .map_err(ReportError::Html)?;
    let template = environment.get_template("page.html").map_err(ReportError::Html)?;
    template
        .render(minijinja::context! { page => page::page(report), style => STYLE })
        .map_err(ReportError::Html)
}

#[cfg(test)]
mod tests;
