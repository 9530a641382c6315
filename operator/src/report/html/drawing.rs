//! SVG as text. All text that comes in is escaped here and nowhere else.

use std::fmt::Write as _;

/// Width of every drawing in its own pixels; the page scales it.
pub(super) const WIDTH: f64 = 480.0;
/// Average width of a character of the drawings' font, in the drawings' pixels, on the safe side.
const CHARACTER: f64 = 6.9;

/// Where a text is anchored.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

/// A drawing with a title and a description for those who do not see it.
pub(super) struct Drawing {
    height: f64,
    title: String,
    description: String,
    body: String,
}

impl Drawing {
    pub(super) fn new(title: &str, description: &str, height: f64) -> Self {
        Self {
            height,
            title: escaped(title),
            description: escaped(description),
            body: String::new(),
        }
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = write!(
            self.body,
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        );
    }

    pub(super) fn polyline(&mut self, class: &str, points: impl Iterator<Item = (f64, f64)>) {
        let _ = write!(self.body, r#"<polyline class="{class}" points=""#);
        for (x, y) in points {
            let _ = write!(self.body, "{x:.1},{y:.1} ");
        }
        self.body.push_str("\"/>");
    }

    pub(super) fn circle(&mut self, class: &str, (x, y): (f64, f64), radius: f64, title: &str) {
        let title = escaped(title);
        let _ = write!(
            self.body,
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius}"><title>{title}</title></circle>"#
        );
    }

    pub(super) fn square(&mut self, class: &str, (x, y): (f64, f64), side: f64, title: &str) {
        let title = escaped(title);
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{side:.1}" height="{side:.1}"><title>{title}</title></rect>"#
        );
    }

    pub(super) fn text(&mut self, class: &str, anchor: Anchor, (x, y): (f64, f64), text: &str) {
        let (anchor, text) = (anchor.name(), escaped(text));
        let _ = write!(
            self.body,
            r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{text}</text>"#
        );
    }

    /// Text cut to a width in pixels, whole in its tooltip.
    pub(super) fn cut_text(&mut self, class: &str, (x, y): (f64, f64), width: f64, text: &str) {
        let (short, whole) = (escaped(&cut(text, width)), escaped(text));
        let _ = write!(
            self.body,
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{short}<title>{whole}</title></text>"#
        );
    }

    /// The SVG element; `number` makes its identifiers unique on the page.
    pub(super) fn finish(self, number: usize) -> String {
        let Self {
            height,
            title,
            description,
            body,
        } = self;
        format!(
            "<svg role=\"img\" viewBox=\"0 0 {WIDTH} {height:.0}\" aria-labelledby=\"plot-{number}-title plot-{number}-text\">\
             <title id=\"plot-{number}-title\">{title}</title><desc id=\"plot-{number}-text\">{description}</desc>\
             {body}</svg>"
        )
    }
}

/// Pixels that a text takes.
pub(super) fn width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER
}

/// The text, cut with an ellipsis to fit a width.
fn cut(text: &str, width: f64) -> String {
    let room = (width / CHARACTER).floor().max(1.0) as usize;
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(room - 1).collect();
    short.push('…');
    short
}

/// Text as XML shows it.
fn escaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '"' => result.push_str("&quot;"),
            '\'' => result.push_str("&#39;"),
            c if c.is_control() => result.push('\u{fffd}'),
            c => result.push(c),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_drawing_becomes_an_element() {
        let hostile = "</title><script>alert(1)</script>\"'&\u{0}";
        let mut drawing = Drawing::new(hostile, hostile, 10.0);
        drawing.text("a", Anchor::Start, (0.0, 0.0), hostile);
        drawing.cut_text("a", (0.0, 0.0), 100.0, hostile);
        drawing.circle("a", (0.0, 0.0), 1.0, hostile);
        let svg = drawing.finish(0);
        assert!(!svg.contains("<script") && !svg.contains('\u{0}'), "{svg}");
    }

    #[test]
    fn a_long_label_is_cut_and_whole_in_its_tooltip() {
        let mut drawing = Drawing::new("t", "d", 10.0);
        drawing.cut_text("a", (0.0, 0.0), 69.0, "abcdefghijklmnop");
        assert!(drawing.finish(0).contains(">abcdefghi…<title>abcdefghijklmnop</title>"));
    }
}
