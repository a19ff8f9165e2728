//! What README and docs show is compiled, and run where it can be, by the documentation tests.

#[doc = include_str!("../../../README.md")]
struct Readme;

#[doc = include_str!("../../../docs/caches.md")]
struct Caches;

#[doc = include_str!("../../../docs/performance-report.md")]
struct PerformanceReport;

#[doc = include_str!("../../../docs/preprocessing.md")]
struct Preprocessing;

#[doc = include_str!("../../../docs/settings.md")]
struct Settings;

#[doc = include_str!("../../../docs/structured-output.md")]
struct StructuredOutput;
