//! Numbers for people.

/// Three significant digits with the fitting unit, such as `12.3 ms`.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0} s"),
        v if v >= 0.9995 => format!("{} s", three_digits(v)),
        v if v >= 0.9995e-3 => format!("{} ms", three_digits(v * 1e3)),
        v if v >= 0.9995e-6 => format!("{} µs", three_digits(v * 1e6)),
        v if v > 0.0 => format!("{} ns", three_digits(v * 1e9)),
        _ => "0 s".to_owned(),
    }
}

/// Binary units, such as `1.50 GiB`.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(scaled), UNITS[unit])
}

/// A count or rate with a decimal prefix, such as `12.3 k`.
pub(crate) fn amount(value: f64) -> String {
    match value {
        v if v >= 999.5e6 => format!("{} G", three_digits(v * 1e-9)),
        v if v >= 999.5e3 => format!("{} M", three_digits(v * 1e-6)),
        v if v >= 9999.5 => format!("{} k", three_digits(v * 1e-3)),
        v if v.fract() == 0.0 => format!("{v:.0}"),
        v => three_digits(v),
    }
}

/// Whole percent, such as `150 %`.
pub(crate) fn percent(value: f64) -> String {
    format!("{value:.0} %")
}

fn three_digits(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_fits_the_number() {
        let cases = [
            (0.0, "0 s"),
            (1.5e-9, "1.50 ns"),
            (0.0123, "12.3 ms"),
            (0.9999, "1.00 s"),
            (61.04, "61.0 s"),
            (250.4, "250 s"),
        ];
        cases.into_iter().for_each(|(value, text)| assert_eq!(seconds(value), text));
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.50 KiB"),
            (1023 << 20, "1.00 GiB"),
            (u64::MAX, "16384 PiB"),
        ];
        cases.into_iter().for_each(|(value, text)| assert_eq!(bytes(value), text));
        let cases =
            [(3.0, "3"), (1234.0, "1234"), (12_345.0, "12.3 k"), (2.345, "2.35"), (5e9, "5.00 G")];
        cases.into_iter().for_each(|(value, text)| assert_eq!(amount(value), text));
    }
}
