//! The stages of a letterbox by themselves, each over data in the cache, beside the whole job.

use std::time::{Duration, Instant};

use vision_preproc::stages::stages;
use vision_preproc::{Filter, Letterbox, LetterboxOptions, Size, Workspace, probe};

use crate::Result;

const SIDE: u32 = 448;

/// For each stage: runs for this long.
const EACH: Duration = Duration::from_millis(500);

/// Prints milliseconds for the image `path`, a 4:2:0 JPEG file that is wider than high.
pub(crate) fn print(path: &str) -> Result<()> {
    let file = std::fs::read(path)?;
    let from = probe(&file)?.size();
    let height = (f64::from(from.height) * f64::from(SIDE) / f64::from(from.width)).round();
    let to = Size { width: SIDE, height: height as u32 };
    let options = LetterboxOptions { filter: Filter::Lanczos, ..LetterboxOptions::default() };
    let letterbox = Letterbox::new(Size { width: SIDE, height: SIDE }, options)?;
    let (mut workspace, mut values) = (Workspace::new(), vec![0.0_f32; letterbox.value_count()]);
    println!("| stage, by itself | ms |\n|---|--:|");
    let mut sum = 0.0;
    for mut stage in stages(&file, to)? {
        let ms = time(&mut stage.work) * stage.times;
        sum += ms;
        println!("| {} | {ms:.2} |", stage.name);
    }
    println!("| sum | {sum:.2} |");
    let mut failed = None;
    let whole = time(&mut || {
        failed = letterbox.process_into(&file[..], &mut workspace, &mut values).err();
    });
    failed.map_or(Ok(()), Err)?;
    println!("| the whole letterbox | {whole:.2} |");
    Ok(())
}

/// The median of runs in [`EACH`], in milliseconds.
fn time(work: &mut dyn FnMut()) -> f64 {
    work();
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < EACH {
        let start = Instant::now();
        work();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    benches::median(&times)
}
