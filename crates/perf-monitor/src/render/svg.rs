//! The few shapes that the charts need.
//!
//! A chart holds shapes only and stretches to any width; its labels are HTML beside it, so that text keeps its size on
//! a phone.

use std::fmt::Write;

/// Width and height of every chart, in its own units.
pub(super) const WIDTH: f64 = 1000.0;

/// A filled line through `points`, each `(x, y)` from 0 to 1 with y upwards.
pub(super) fn area(points: &[(f64, f64)], height: f64, class: &str) -> String {
    let mut line = String::new();
    for &(x, y) in points {
        let _ = write!(line, "{:.1},{:.1} ", x * WIDTH, (1.0 - y) * height);
    }
    let (first, last) = (points.first().map_or(0.0, |p| p.0), points.last().map_or(0.0, |p| p.0));
    let shape = format!(
        "<polygon class=\"{class} fill\" points=\"{:.1},{height} {line}{:.1},{height}\"/><polyline class=\"{class}\" \
         points=\"{}\"/>",
        first * WIDTH,
        last * WIDTH,
        line.trim_end(),
    );
    frame(height, &shape)
}

/// Bars of equal width, each from 0 to 1 high.
pub(super) fn bars(heights: &[f64], height: f64) -> String {
    let step = WIDTH / heights.len().max(1) as f64;
    let mut shapes = String::new();
    for (n, share) in heights.iter().enumerate().filter(|(_, share)| **share > 0.0) {
        // A bucket with anything in it stays visible.
        let tall = (share * height).max(height * 0.02);
        let _ = write!(
            shapes,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\"/>",
            n as f64 * step,
            height - tall,
            step * 0.9,
        );
    }
    frame(height, &shapes)
}

/// Stretches on a line from 0 to 1; neighbours too close to tell apart become one.
pub(super) fn strip(stretches: &[(f64, f64)], height: f64) -> String {
    const LEAST: f64 = 0.001;
    let mut merged: Vec<(f64, f64)> = Vec::new();
    for &(start, end) in stretches {
        let end = end.max(start + LEAST);
        match merged.last_mut() {
            Some(last) if start <= last.1 + LEAST / 4.0 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    let mut shapes = String::new();
    for (start, end) in merged {
        let (x, width) = (start * WIDTH, (end - start) * WIDTH);
        let _ =
            write!(shapes, "<rect x=\"{x:.1}\" y=\"0\" width=\"{width:.1}\" height=\"{height}\"/>");
    }
    frame(height, &shapes)
}

fn frame(height: f64, shapes: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{shapes}</svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_stretches_merge_and_short_ones_stay_visible() {
        let svg = strip(&[(0.0, 0.1), (0.1, 0.2), (0.5, 0.5), (0.9, 1.0)], 10.0);
        assert_eq!(svg.matches("<rect").count(), 3, "{svg}");
        assert!(svg.contains("x=\"500.0\" y=\"0\" width=\"1.0\""), "{svg}");
    }

    #[test]
    fn empty_charts_are_well_formed() {
        for svg in [area(&[], 10.0, "a"), bars(&[], 10.0), strip(&[], 10.0)] {
            assert!(
                svg.starts_with("<svg") && svg.ends_with("</svg>") && !svg.contains("NaN"),
                "{svg}"
            );
        }
    }
}
