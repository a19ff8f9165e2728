//! The tracker against allocations of known size. Alone in its process: memory is measured process-wide.

use std::time::Duration;

use perf_monitor::{MemoryPressure, MemoryThreshold, MemoryTracker};

#[test]
fn sees_an_allocation_and_keeps_to_its_interval() {
    let slow = MemoryTracker::new(MemoryThreshold::Bytes(u64::MAX), Duration::from_secs(3600));
    let first = slow.reading();
    assert!(
        first.resident > 0 && first.available > 0 && first.limit >= first.available,
        "{first:?}"
    );

    let block = vec![1u8; 64 << 20];
    std::hint::black_box(&block);
    assert_eq!(slow.reading(), first, "the interval has not passed");

    let eager =
        MemoryTracker::new(MemoryThreshold::Bytes(first.resident + (32 << 20)), Duration::ZERO);
    let grown = eager.reading().resident - first.resident;
    assert!((63 << 20..72 << 20).contains(&grown), "grew by {grown}");
    assert!(eager.check() >= MemoryPressure::High);
    drop(block);
    assert_eq!(eager.check(), MemoryPressure::Normal);
}
