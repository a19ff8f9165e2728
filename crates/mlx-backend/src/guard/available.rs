//! How much memory there is for this process, and what sets the bound.

use serde::Serialize;

/// The bounds on the memory of this process, in bytes; what it holds already counts towards each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemoryBounds {
    /// What the user allows.
    pub user: Option<u64>,
    /// What the device recommends (Metal) or has left (CUDA).
    pub device: Option<u64>,
    /// What MLX allows itself.
    pub mlx: Option<u64>,
    /// What the machine, or the control group, has left and this process holds.
    pub physical: u64,
    /// Whether the device has its own memory, so that `physical` bounds only what is on the host.
    pub separate: bool,
}

impl MemoryBounds {
    /// Returns the smallest bound and its name.
    #[must_use]
    pub fn smallest(&self) -> (&'static str, u64) {
        let named = [
            ("the memory limit", self.user),
            ("the memory of the device", self.device),
            ("the memory limit of MLX", self.mlx),
            ("free memory", (!self.separate).then_some(self.physical)),
        ];
        let bounds = named.into_iter().filter_map(|(name, bytes)| Some((name, bytes?)));
        bounds.min_by_key(|(_, bytes)| *bytes).unwrap_or(("no bound", u64::MAX))
    }

    /// Returns whether `bytes`, of which `host_bytes` are on the host, are within all bounds.
    pub(crate) fn allow(&self, bytes: u64, host_bytes: u64) -> bool {
        bytes <= self.smallest().1 && host_bytes <= self.physical
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: MemoryBounds = MemoryBounds {
        user: Some(400),
        device: Some(500),
        mlx: Some(600),
        physical: 300,
        separate: false,
    };

    #[test]
    fn the_smallest_bound_counts() {
        assert_eq!(BOUNDS.smallest(), ("free memory", 300));
        assert!(BOUNDS.allow(300, 0) && !BOUNDS.allow(301, 0));
        let roomy = MemoryBounds { physical: 1000, ..BOUNDS };
        assert_eq!(roomy.smallest(), ("the memory limit", 400));
        assert_eq!(MemoryBounds { user: None, ..roomy }.smallest().1, 500);
        assert_eq!(MemoryBounds { user: None, device: None, ..roomy }.smallest().1, 600);
    }

    #[test]
    fn a_device_with_its_own_memory_is_not_bound_by_the_machine() {
        let card = MemoryBounds { separate: true, ..BOUNDS };
        assert_eq!(card.smallest(), ("the memory limit", 400));
        assert!(card.allow(400, 300));
        assert!(!card.allow(400, 301), "but what is on the host is");
    }
}
