//! Apple GPUs through sysinfo, which asks the I/O registry; no privileges are needed.

use sysinfo::Gpus;

use super::{GpuReading, Mean, Probe};

#[derive(Debug)]
pub(super) struct Apple {
    gpus: Gpus,
    name: String,
    #[cfg(feature = "apple-power")]
    power: super::apple_power::PowerMeter,
}

impl Apple {
    /// Absent where there is no GPU to ask.
    pub(super) fn open() -> Option<Self> {
        let gpus = Gpus::new_with_refreshed_list().ok()?;
        let names: Vec<_> =
            gpus.iter().map(|gpu| gpu.model().unwrap_or("Apple GPU").to_owned()).collect();
        (!names.is_empty()).then(|| Self {
            gpus,
            name: names.join(", "),
            #[cfg(feature = "apple-power")]
            power: super::apple_power::PowerMeter::start(),
        })
    }
}

impl Probe for Apple {
    fn name(&self) -> &str {
        &self.name
    }

    /// Memory is the system's own here and shows in the process.
    fn read(&mut self) -> GpuReading {
        self.gpus.refresh(false);
        let mut utilization = Mean::default();
        self.gpus.iter().for_each(|gpu| utilization.add(gpu.usage().map(f64::from)));
        let reading =
            GpuReading { utilization_percent: utilization.value(), ..GpuReading::default() };
        #[cfg(feature = "apple-power")]
        let reading = {
            let power = self.power.read();
            GpuReading { watts: power.watts, meter_joules: power.joules, ..reading }
        };
        reading
    }
}
