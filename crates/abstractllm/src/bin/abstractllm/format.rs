//! Numbers for people.

use abstractllm::mlx::ByteSize;

/// Returns `bytes` in the largest unit of a thousand that leaves a whole number before the point.
pub(crate) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}
