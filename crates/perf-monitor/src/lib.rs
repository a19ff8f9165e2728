//! Measures operations: duration, memory, CPU and GPU, with reports
