//! Numbers as they were written.

use serde_json::Value;

/// Returns 0.1 for 0.1, not what `f32` makes of it in `f64`: services show it, and some compare.
pub(crate) fn decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_written() {
        assert_eq!(decimal(0.1).to_string(), "0.1");
        assert_eq!(decimal(-100.0).to_string(), "-100.0");
    }
}
