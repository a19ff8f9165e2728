//! Two images on two threads beside two images on one, in turns, by the wall clock.

use std::time::Instant;

use vision_preproc::{ImageProcessor, Input, PixelBudget, Workspace, probe};

use crate::Result;
use crate::ours;
use crate::python::SOURCES;

/// Where the photographs are that come with the sources.
const PHOTOS: &str = "../../testdata/preproc/photos";
const NAMES: [&str; 2] = ["retina_12_megapixels.jpg", "china.jpg"];
const MAX_PIXELS: [u64; 2] = [1_003_520, 12_845_056];

/// Prints how much sooner two threads are done, for each image and each number of pixels.
pub(crate) fn compare(mut arguments: &[&str]) -> Result<()> {
    let mut rounds = 200;
    if let ["--rounds", number, ref rest @ ..] = arguments[..] {
        (rounds, arguments) = (number.parse()?, rest);
    }
    let photos = NAMES.map(|name| format!("{SOURCES}/{PHOTOS}/{name}"));
    let photos = photos.iter().map(String::as_str);
    let images: Vec<&str> =
        if arguments.is_empty() { photos.collect() } else { arguments.to_vec() };
    let processor = ours::processor()?;
    println!(
        "| image, most pixels | one thread, ms | two threads, ms | times sooner |\n|---|--:|--:|--:|"
    );
    for image in images {
        let bytes = std::fs::read(image)?;
        let name = image.rsplit('/').next().unwrap_or(image);
        for max_pixels in MAX_PIXELS {
            let [one, two] = rounds_of(&processor, &bytes, max_pixels, rounds)?;
            let ratios = one.iter().zip(&two).map(|(one, two)| one / two).collect::<Vec<_>>();
            let times = [&one, &two].map(|times| (quantile(times, 0.5), quantile(times, 0.0)));
            println!(
                "| {name}, {max_pixels} | {:.1} ({:.1}) | {:.1} ({:.1}) | {:.2} ({:.2}), quarters {:.2} and {:.2} |",
                times[0].0,
                times[0].1,
                times[1].0,
                times[1].1,
                quantile(&ratios, 0.5),
                times[0].1 / times[1].1,
                quantile(&ratios, 0.25),
                quantile(&ratios, 0.75),
            );
        }
    }
    println!("\nMedians, and minima in parentheses, of {rounds} pairs of runs.");
    Ok(())
}

/// Milliseconds for two images on one thread and on two.
fn rounds_of(
    processor: &ImageProcessor,
    bytes: &[u8],
    max_pixels: u64,
    rounds: usize,
) -> Result<[Vec<f64>; 2]> {
    let inputs = [Input::Encoded(bytes), Input::Encoded(bytes)];
    let budget = PixelBudget { max_pixels: Some(max_pixels), ..PixelBudget::default() };
    let mut workspaces = [Workspace::new(), Workspace::new()];
    let values = processor.plan(probe(bytes)?.size(), &budget)?.patches * processor.row_values();
    let (mut first, mut second) = (vec![0.0_f32; values], vec![0.0_f32; values]);
    let mut outputs = [&mut first[..], &mut second[..]];
    let mut times = [Vec::new(), Vec::new()];
    // The first round warms up.
    for round in 0..=rounds {
        for threads in [1, 2] {
            let started = Instant::now();
            let workspaces = &mut workspaces[..threads];
            let results = processor.process_batch_into(&inputs, &budget, workspaces, &mut outputs);
            let elapsed = started.elapsed().as_secs_f64() * 1e3;
            for result in results {
                result?;
            }
            if round > 0 {
                times[threads - 1].push(elapsed);
            }
        }
    }
    Ok(times)
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}
