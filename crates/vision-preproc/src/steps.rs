//! How long the steps of a stream of rows take: each asks the step before it for rows, some at a time, so a clock at
//! every border tells a step from those before it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::Size;
use crate::decode::rows::{Reason, RowSource};

/// How long each step took for one image. The steps take turns, some rows each, and these are their sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// From the file to rows of RGB; for pixels, their copying.
    pub decode: Duration,
    /// Both passes of the resize; next to nothing if the size stays.
    pub resize: Duration,
    /// Normalising, and writing patches.
    pub patchify: Duration,
}

/// Measures one image, if it is to be measured at all.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Option<Instant>,
    opened: Cell<Duration>,
    decoding: Cell<Duration>,
    resizing: Cell<Duration>,
}

impl Clock {
    pub(crate) fn start(measures: bool) -> Self {
        let zero = || Cell::new(Duration::ZERO);
        Self {
            start: measures.then(Instant::now),
            opened: zero(),
            decoding: zero(),
            resizing: zero(),
        }
    }

    /// Notes that the decoder is open: some decode the whole image then.
    pub(crate) fn opened(&self) {
        self.opened.set(self.start.map_or(Duration::ZERO, |start| start.elapsed()));
    }

    /// The rows of the decoder, by the clock.
    pub(crate) fn decoding<'a>(&'a self, source: &'a mut dyn RowSource) -> Timed<'a> {
        Timed { source, spent: self.start.map(|_| &self.decoding) }
    }

    /// The rows of the resize, by the clock.
    pub(crate) fn resizing<'a>(&'a self, source: &'a mut dyn RowSource) -> Timed<'a> {
        Timed { source, spent: self.start.map(|_| &self.resizing) }
    }

    /// The times, if they were measured.
    pub(crate) fn stop(self) -> Option<StepTimes> {
        let total = self.start?.elapsed();
        let (opened, decoding, resizing) =
            (self.opened.get(), self.decoding.get(), self.resizing.get());
        Some(StepTimes {
            decode: opened + decoding,
            resize: resizing.saturating_sub(decoding),
            patchify: total.saturating_sub(opened + resizing),
        })
    }
}

/// Rows, and the time that the source takes for them with all that is before it.
pub(crate) struct Timed<'a> {
    source: &'a mut dyn RowSource,
    /// Absent if nothing is measured: then no clock is read.
    spent: Option<&'a Cell<Duration>>,
}

impl RowSource for Timed<'_> {
    fn size(&self) -> Size {
        self.source.size()
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize, Reason> {
        let Some(spent) = self.spent else { return self.source.read(out) };
        let start = Instant::now();
        let rows = self.source.read(out);
        spent.set(spent.get() + start.elapsed());
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    /// Four rows of one pixel, each of which takes its time.
    struct Slow<'a>(Option<&'a mut dyn RowSource>, u32, Duration);

    impl RowSource for Slow<'_> {
        fn size(&self) -> Size {
            Size { width: 1, height: 4 }
        }

        fn read(&mut self, out: &mut [u8]) -> Result<usize, Reason> {
            if let Some(before) = &mut self.0 {
                before.read(out)?;
            }
            sleep(self.2);
            self.1 += 1;
            Ok(usize::from(self.1 <= 4))
        }
    }

    #[test]
    fn each_step_has_its_own_time() {
        let ms = Duration::from_millis;
        let clock = Clock::start(true);
        sleep(ms(30));
        clock.opened();
        let mut decoder = Slow(None, 0, ms(5));
        let mut decoded = clock.decoding(&mut decoder);
        let mut resize = Slow(Some(&mut decoded), 0, ms(10));
        let mut resized = clock.resizing(&mut resize);
        while resized.read(&mut [0; 3]).unwrap() > 0 {
            sleep(ms(20));
        }
        let times = clock.stop().unwrap();
        // A sleep may take longer, and never less: 30 + 5 * 5, 5 * 10, 4 * 20.
        assert!(times.decode >= ms(55) && times.resize >= ms(50) && times.patchify >= ms(80));
        // Had a step the time of another as well, it would be longer than the others together.
        assert!(times.patchify < times.decode + times.resize, "{times:?}");
    }

    #[test]
    fn nothing_is_measured_unasked() {
        let clock = Clock::start(false);
        clock.opened();
        assert_eq!(
            clock.decoding(&mut Slow(None, 0, Duration::ZERO)).read(&mut [0; 3]).unwrap(),
            1
        );
        assert_eq!((clock.decoding.get(), clock.opened.get()), (Duration::ZERO, Duration::ZERO));
        assert_eq!(clock.stop(), None);
    }
}
