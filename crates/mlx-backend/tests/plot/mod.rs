//! Lines over time as an SVG image.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
/// Room for numbers at the left and below, and for names above.
const LEFT: f64 = 60.0;
const BELOW: f64 = 40.0;
const ABOVE: f64 = 40.0;
const COLORS: [&str; 2] = ["#1f6feb", "#d1242f"];

/// Draws `lines`, each with its name, over `x_unit`, from zero on both axes.
pub(crate) fn svg(x_unit: &str, y_unit: &str, lines: &[(&str, Vec<(f64, f64)>)]) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points);
    // As long as it took, and no longer.
    let x_end = points().map(|p| p.0).fold(1e-9, f64::max);
    let x_step = scale(x_end).1;
    let (y_end, y_step) = scale(points().map(|p| p.1).fold(0.0, f64::max));
    let x = |value: f64| LEFT + value / x_end * (WIDTH - LEFT - 20.0);
    let y = |value: f64| HEIGHT - BELOW - value / y_end * (HEIGHT - BELOW - ABOVE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    for tick in ticks(y_end, y_step) {
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {0:.1}H{1}\" stroke=\"#d8dee4\"/><text x=\"{2}\" y=\"{3:.1}\" \
             text-anchor=\"end\">{tick}</text>",
            y(tick),
            WIDTH - 20.0,
            LEFT - 6.0,
            y(tick) + 4.0,
        );
    }
    for tick in ticks(x_end, x_step) {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
            x(tick),
            HEIGHT - BELOW + 18.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"16\" text-anchor=\"end\">{y_unit}</text>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{x_unit}</text>",
        WIDTH - 20.0,
        HEIGHT - 6.0
    );
    for (i, (name, points)) in lines.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        let path: Vec<String> =
            points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{color}\" points=\"{}\"/>\n\
             <text x=\"{}\" y=\"16\" fill=\"{color}\">{name}</text>",
            path.join(" "),
            LEFT + 20.0 + 260.0 * i as f64,
        );
    }
    out + "</svg>\n"
}

/// Returns the end of an axis that holds `most`, and the distance of its ticks: 1, 2 or 5 times a power of ten.
fn scale(most: f64) -> (f64, f64) {
    let most = most.max(1e-9);
    let power = 10f64.powf((most / 6.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| most / s <= 6.0);
    let step = step.unwrap_or(10.0 * power);
    ((most / step).ceil() * step, step)
}

fn ticks(end: f64, step: f64) -> impl Iterator<Item = f64> {
    (0..=(end / step + 1e-9).floor() as u32).map(move |i| f64::from(i) * step)
}
