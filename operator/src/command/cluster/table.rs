//! Columns as kubectl shows them. Pure.

use comfy_table::{ContentArrangement, Table, presets};

use crate::report::printable;

/// Rows under their headings, the last column wrapped to the width of the terminal if there is one.
pub(super) fn columns(headings: &[&str], rows: &[Vec<String>], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).force_no_tty();
    match width {
        Some(width) => table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table.set_header(headings);
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    text.lines()
        .fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// Words of the cluster in one line that drives no terminal.
pub(super) fn one_line(text: &str) -> String {
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A length of time as kubectl shows it: two units at most.
pub(super) fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{minutes}m{}s", seconds % 60),
        600..10_800 => format!("{minutes}m"),
        10_800..172_800 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_leave_no_blanks_at_the_end() {
        let rows = [
            vec!["a".to_owned(), "x".to_owned()],
            vec!["long".to_owned(), String::new()],
        ];
        assert_eq!(columns(&["NAME", "B"], &rows, None), "NAME  B\na     x\nlong\n");
    }

    #[test]
    fn words_of_the_cluster_neither_break_a_line_nor_drive_the_terminal() {
        assert_eq!(one_line("two\n  lines \u{1b}[2J"), "two lines \u{fffd}[2J");
    }

    #[test]
    fn an_age_has_two_units_at_most() {
        let ages: Vec<String> = [-3, 59, 119, 125, 3599, 10_801, 172_801].into_iter().map(age).collect();
        assert_eq!(ages, ["0s", "59s", "119s", "2m5s", "59m", "3h0m", "2d0h"]);
    }
}
