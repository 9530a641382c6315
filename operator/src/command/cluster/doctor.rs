//! `lem cluster doctor`: can this cluster run experiments? [`examine`] asks (client), [`judge`] says what the answers mean
//! (pure).

mod examine;
mod judge;
mod nodes;
mod operators;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::{connection::Connection, status::Form, table::one_line};
use crate::command::{End, color, print};

/// Options of `lem cluster doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Level {
    /// As it should be.
    Ok,
    /// Experiments run, but not all of them, or with less to show.
    Warn,
    /// No experiment runs.
    Fail,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// What one check came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// What was looked at, in a word.
    check: &'static str,
    /// What was found.
    found: String,
    /// The command that cures it; nothing where there is nothing to cure.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            check,
            found: found.into(),
            fix: None,
        }
    }

    fn warn(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            check,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }

    fn fail(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            ..Self::warn(check, found, fix)
        }
    }
}

pub(super) async fn run(arguments: &Arguments, connection: &Connection) -> anyhow::Result<End> {
    let facts = examine::examine(connection).await?;
    let findings = judge::judge(&facts);
    let text = match arguments.output {
        Form::Table => text(&findings, color()),
        Form::Json => serde_json::to_string_pretty(&findings)? + "\n",
    };
    print(&text)?;
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    Ok(if failed { End::Failed } else { End::Valid })
}

/// One line per finding, and one for its cure. Pure.
fn text(findings: &[Finding], color: bool) -> String {
    use std::fmt::Write;
    let wide = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding {
        level,
        check,
        found,
        fix,
    } in findings
    {
        let shown = format!("{:<5}", level.name());
        let shown = if color { painted(&shown, *level) } else { shown };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{shown} {check:<wide$}  {}", one_line(found));
        if let Some(fix) = fix {
            let _ = writeln!(text, "      {:<wide$}  → {}", "", one_line(fix));
        }
    }
    text
}

fn painted(text: &str, level: Level) -> String {
    let color = match level {
        Level::Ok => AnsiColor::Green,
        Level::Warn => AnsiColor::Yellow,
        Level::Fail => AnsiColor::Red,
    };
    let style = Style::new().fg_color(Some(color.into()));
    format!("{style}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("API server", "v1.37.2"),
            Finding::fail("definitions", "missing", "lem crd | kubectl apply --server-side -f -"),
        ]
    }

    #[test]
    fn each_finding_is_a_line_and_each_cure_stands_below_it() {
        assert_eq!(
            text(&findings(), false),
            "OK    API server   v1.37.2\nFAIL  definitions  missing\n                   → lem crd | kubectl apply --server-side -f -\n"
        );
        assert!(text(&findings(), true).contains("\u{1b}["));
    }

    #[test]
    fn programs_get_level_check_finding_and_cure() {
        let json = serde_json::to_value(findings()).unwrap();
        assert_eq!(json[1]["level"], "FAIL");
        assert_eq!(json[1]["check"], "definitions");
        assert!(json[0].get("fix").is_none());
    }
}
