//! GPUs, where an enabled feature can read them without privileges.

#[cfg(all(feature = "apple", target_os = "macos"))]
mod apple;
#[cfg(all(feature = "apple-power", target_os = "macos"))]
mod apple_power;
#[cfg(feature = "nvidia")]
mod nvidia;

use crate::{MonitorOptions, report::GpuMetrics};

/// One look at all GPUs: sums over them, and the mean for utilisation.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct GpuReading {
    pub(crate) utilization_percent: Option<f64>,
    pub(crate) memory: Option<u64>,
    pub(crate) process_memory: Option<u64>,
    pub(crate) watts: Option<f64>,
    /// A meter that only grows; its zero is arbitrary.
    pub(crate) meter_joules: Option<f64>,
}

/// A way of reading GPUs.
pub(crate) trait Probe: Send + std::fmt::Debug {
    /// Names of the GPUs, joined by commas.
    fn name(&self) -> &str;
    /// Reads them now.
    fn read(&mut self) -> GpuReading;
}

/// The first probe that works here, if any.
pub(crate) fn detect(options: &MonitorOptions) -> Option<Box<dyn Probe>> {
    if !options.gpu {
        return None;
    }
    #[cfg(feature = "nvidia")]
    if let Some(probe) = nvidia::Nvidia::open() {
        return Some(Box::new(probe));
    }
    #[cfg(all(feature = "apple", target_os = "macos"))]
    if let Some(probe) = apple::Apple::open() {
        return Some(Box::new(probe));
    }
    None
}

/// Readings gathered over one operation.
#[derive(Debug, Clone, Default)]
pub(crate) struct GpuTotals {
    samples: u64,
    utilization: Mean,
    watts: Mean,
    memory_peak: Option<u64>,
    process_memory_peak: Option<u64>,
    meter: Option<(f64, f64)>,
}

/// A mean of the values that were there.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mean {
    sum: f64,
    count: u64,
}

impl GpuTotals {
    pub(crate) fn add(&mut self, reading: &GpuReading) {
        self.samples += 1;
        self.utilization.add(reading.utilization_percent);
        self.watts.add(reading.watts);
        self.memory_peak = self.memory_peak.max(reading.memory);
        self.process_memory_peak = self.process_memory_peak.max(reading.process_memory);
        if let Some(now) = reading.meter_joules {
            let first = self.meter.map_or(now, |(first, _)| first);
            self.meter = Some((first, now));
        }
    }

    /// What the readings say about an operation that took `seconds`; absent without readings.
    pub(crate) fn metrics(&self, name: &str, seconds: f64) -> Option<GpuMetrics> {
        let power_watts = self.watts.value();
        // A meter that has not moved says nothing: the operation was shorter than the meter's step.
        let metered = self.meter.map(|(first, last)| last - first).filter(|&joules| joules > 0.0);
        (self.samples > 0).then(|| GpuMetrics {
            name: name.to_owned(),
            samples: self.samples,
            utilization_percent: self.utilization.value(),
            memory_peak: self.memory_peak,
            process_memory_peak: self.process_memory_peak,
            power_watts,
            energy_joules: metered.or(power_watts.map(|watts| watts * seconds)),
        })
    }
}

impl Mean {
    pub(crate) fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum += value;
            self.count += 1;
        }
    }

    pub(crate) fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meter_wins_over_mean_power() {
        let mut totals = GpuTotals::default();
        assert_eq!(totals.metrics("none", 1.0), None);
        let reading = GpuReading { watts: Some(100.0), memory: Some(5), ..GpuReading::default() };
        totals.add(&reading);
        totals.add(&GpuReading { watts: Some(300.0), memory: Some(3), ..reading });
        let estimated = totals.metrics("gpu", 2.0).unwrap();
        assert_eq!(
            (estimated.energy_joules, estimated.memory_peak, estimated.samples),
            (Some(400.0), Some(5), 2)
        );
        totals.add(&GpuReading { meter_joules: Some(1000.0), ..reading });
        let unmoved = totals.metrics("gpu", 3.0).unwrap();
        assert_eq!((unmoved.power_watts, unmoved.energy_joules), (Some(500.0 / 3.0), Some(500.0)));
        totals.add(&GpuReading { meter_joules: Some(1010.5), ..reading });
        assert_eq!(totals.metrics("gpu", 2.0).unwrap().energy_joules, Some(10.5));
    }
}
