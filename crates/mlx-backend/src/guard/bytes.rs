//! Sizes of memory as people write and read them.

use std::{fmt, str::FromStr};

/// A number of bytes; reads `4GiB`, `1.5 GB` or `800000000`, and prints as `4.3 GB`.
///
/// ```
/// use mlx_backend::ByteSize;
///
/// let limit: ByteSize = "4GiB".parse().unwrap();
/// assert_eq!(limit, ByteSize(4 << 30));
/// assert_eq!(limit.to_string(), "4.3 GB");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

impl FromStr for ByteSize {
    type Err = String;

    /// Reads a number with a unit of a thousand (kB, MB, GB, TB) or of 1024 (KiB, MiB, GiB, TiB);
    /// without one it counts bytes.
    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("expected a size such as 4GiB, 1.5GB or 800000000, found `{text}`");
        let lower = text.trim().to_ascii_lowercase();
        let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
        let (number, unit) = lower.split_at(end);
        let factor = match unit.trim() {
            "" => 1,
            unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(fail)?.1,
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(Self).ok_or_else(fail);
        }
        let bytes = number.parse::<f64>().map_err(|_| fail())? * factor as f64;
        // Above 2^53 the fraction is lost, and nobody has that much memory.
        (0.0..9e15).contains(&bytes).then_some(Self(bytes as u64)).ok_or_else(fail)
    }
}

impl fmt::Display for ByteSize {
    /// Prints the largest unit of a thousand that leaves a whole number before the point.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
        if self.0 < 1000 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1000.0;
        let mut unit = 0;
        // Not 1000: 999.96 kB would print as 1000.0 kB.
        while value >= 999.95 && unit + 1 < UNITS.len() {
            value /= 1000.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_kinds_of_units() {
        for (text, bytes) in [
            ("0", 0),
            ("800000000", 800_000_000),
            ("4GiB", 4 << 30),
            ("4 gib", 4 << 30),
            ("1.5GB", 1_500_000_000),
            (" 512 MiB ", 512 << 20),
            ("7b", 7),
            ("0.5KiB", 512),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "GiB", "4 gigs", "-1", "1e9", "1.2.3MB", "99999999999999999999", "4G B"] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert_eq!(
                error,
                format!("expected a size such as 4GiB, 1.5GB or 800000000, found `{text}`")
            );
        }
        assert!("18446744073709551615TB".parse::<ByteSize>().is_err(), "an overflow");
    }

    #[test]
    fn units_change_where_the_number_would_get_long() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (123_834_728_448, "123.8 GB"),
            (u64::MAX, "18446744.1 TB"),
        ] {
            assert_eq!(ByteSize(count).to_string(), text);
        }
    }
}
