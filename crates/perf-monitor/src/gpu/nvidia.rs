//! NVIDIA GPUs through NVML, which comes with the driver and is loaded when first needed.

use nvml_wrapper::{Nvml, enums::device::UsedGpuMemory};

use super::{GpuReading, Probe};

#[derive(Debug)]
pub(super) struct Nvidia {
    nvml: Nvml,
    devices: u32,
    name: String,
}

impl Nvidia {
    /// Absent without a driver or a device; that is no error.
    pub(super) fn open() -> Option<Self> {
        // Without development files there is only the versioned name.
        let versioned = || Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init();
        let nvml = Nvml::init().or_else(|_| versioned()).ok()?;
        let devices = nvml.device_count().ok().filter(|&count| count > 0)?;
        let names = (0..devices)
            .filter_map(|index| nvml.device_by_index(index).and_then(|device| device.name()).ok());
        let name = names.collect::<Vec<_>>().join(", ");
        Some(Self { nvml, devices, name })
    }
}

impl Probe for Nvidia {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self) -> GpuReading {
        let mut reading = GpuReading::default();
        let mut utilization = super::Mean::default();
        let own = std::process::id();
        for device in (0..self.devices).filter_map(|index| self.nvml.device_by_index(index).ok()) {
            utilization.add(device.utilization_rates().ok().map(|rates| f64::from(rates.gpu)));
            add(&mut reading.memory, device.memory_info().ok().map(|memory| memory.used));
            add(
                &mut reading.watts,
                device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
            );
            let joules =
                device.total_energy_consumption().ok().map(|millijoules| millijoules as f64 / 1e3);
            add(&mut reading.meter_joules, joules);
            for process in device.running_compute_processes().unwrap_or_default() {
                if let (true, UsedGpuMemory::Used(bytes)) =
                    (process.pid == own, process.used_gpu_memory)
                {
                    add(&mut reading.process_memory, Some(bytes));
                }
            }
        }
        reading.utilization_percent = utilization.value();
        reading
    }
}

/// Adds what is known to a sum; a sum of nothing known stays unknown.
fn add<T: std::ops::Add<Output = T> + Copy + Default>(sum: &mut Option<T>, value: Option<T>) {
    if let Some(value) = value {
        *sum = Some(sum.unwrap_or_default() + value);
    }
}
