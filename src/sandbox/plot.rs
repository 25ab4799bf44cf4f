//! Figures drawn: in text for a terminal, as SVG for a document.

use std::fmt::Write as _;

use super::report::Row;

/// One character for each value, from the lowest to the highest of them.
pub fn sparkline(values: &[f64]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let level = |value: f64| match high > low {
        true => ((value - low) / (high - low) * 7.0).round() as usize,
        false => 3,
    };
    values.iter().map(|&value| LEVELS[level(value).min(7)]).collect()
}

/// A bar of up to `width` characters, in eighths of a character.
pub fn bar(value: f64, most: f64, width: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if most <= 0.0 || value <= 0.0 {
        return String::new();
    }
    let eighths = ((value / most).min(1.0) * width as f64 * 8.0).round() as usize;
    "█".repeat(eighths / 8) + PARTS[eighths % 8]
}

const LINE: usize = 26;
const LEFT: usize = 330;
const SPAN: f64 = 360.0;
const WIDTH: usize = 860;

/// The rows as an SVG picture: a bar for each, its confidence interval, its goal; each metric has a
/// scale of its own from zero.
pub fn svg(title: &str, rows: &[Row]) -> String {
    let height = LINE * (rows.len() + 2);
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
        escape(title)
    );
    for (index, row) in rows.iter().enumerate() {
        picture += &svg_row(row, scale(row, rows), LINE * (index + 1) + 10);
    }
    picture + "</svg>\n"
}

/// Units of the picture for one unit of the metric.
fn scale(row: &Row, rows: &[Row]) -> f64 {
    let same = rows.iter().filter(|other| other.metric == row.metric && other.unit == row.unit);
    let most = same.flat_map(|r| [r.value, r.ci95[1], r.goal.unwrap_or(0.0)]).fold(0.0, f64::max);
    if most > 0.0 { SPAN / most } else { 0.0 }
}

fn svg_row(row: &Row, scale: f64, top: usize) -> String {
    let (middle, baseline) = (top + LINE / 2 - 4, top + LINE / 2);
    let colour = match row.meets_goal() {
        Some(false) => "#c0392b",
        Some(true) => "#2e8b57",
        None => "#4a78a8",
    };
    let x = |value: f64| LEFT as f64 + value.max(0.0) * scale;
    let mut text = format!(
        "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{} · {}</text>\n\
         <rect x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"14\" fill=\"{colour}\"/>\n\
         <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"black\"/>\n",
        LEFT - 8,
        escape(&row.metric),
        escape(&row.case),
        middle - 7,
        x(row.value) - LEFT as f64,
        x(row.ci95[0]),
        x(row.ci95[1]),
    );
    if let Some(goal) = row.goal {
        let _ = writeln!(
            text,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1}\" y2=\"{2}\" stroke=\"black\" stroke-dasharray=\"2,2\"/>",
            x(goal),
            middle - 10,
            middle + 10
        );
    }
    let label = escape(&format!("{} {}", super::report::figure(row.value), row.unit));
    let _ = writeln!(text, "<text x=\"{}\" y=\"{baseline}\">{label}</text>", LEFT + SPAN as usize + 12);
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_goes_from_lowest_to_highest() {
        assert_eq!(sparkline(&[1.0, 2.0, 8.0]), "▁▂█");
        assert_eq!(sparkline(&[5.0, 5.0]), "▄▄");
        assert_eq!(sparkline(&[]), "");
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        assert_eq!(bar(1.0, 2.0, 4), "██");
        assert_eq!(bar(3.0, 2.0, 2), "██");
        assert_eq!(bar(0.0, 2.0, 2), "");
        assert_eq!(bar(1.0, 16.0, 2), "▏");
    }

    #[test]
    fn a_picture_has_a_bar_for_each_row_and_no_raw_markup() {
        let row = Row::single("services=10 <x>", "connect_close_ratio", 0.99, "ratio").goal(0.98);
        let picture = svg("a & b", &[row.clone(), row]);
        assert_eq!(picture.matches("<rect x=").count(), 2);
        assert!(picture.contains("services=10 &lt;x&gt;") && picture.contains("a &amp; b"));
    }
}
