//! This workspace's own side, through the public API alone.

use vision_preproc::{
    Filter, ImageProcessor, Letterbox, LetterboxOptions, Limits, PixelBudget, Size, decode,
};

use crate::Result;
use crate::job::Job;
use crate::worker::Peer;

/// `Letterbox`, or `decode` and `ImageProcessor`, as a caller with one image writes it.
#[derive(Default)]
pub(crate) struct Ours {
    values: Vec<f32>,
}

impl Peer for Ours {
    fn run(&mut self, job: Job, image: &[u8]) -> Result<&[f32]> {
        self.values = match job {
            Job::Letterbox { side } => {
                let letterbox = letterbox(side)?;
                let mut values = vec![0.0; letterbox.value_count()];
                letterbox.decode_into(image, &Limits::default(), &mut values)?;
                values
            }
            Job::Qwen { max_pixels } => {
                let image = decode(image, &Limits::default())?;
                let budget = PixelBudget { max_pixels: Some(max_pixels), ..PixelBudget::default() };
                processor()?.process(image.as_view(), &budget)?.values
            }
        };
        Ok(&self.values)
    }

    fn forget(&mut self) {
        self.values = Vec::new();
    }
}

fn letterbox(side: u32) -> Result<Letterbox> {
    let options = LetterboxOptions {
        filter: Filter::Lanczos,
        mean: [0.5; 3],
        std: [0.5; 3],
        ..LetterboxOptions::default()
    };
    Ok(Letterbox::new(Size { width: side, height: side }, options)?)
}

fn processor() -> Result<ImageProcessor> {
    Ok(ImageProcessor::from_json(r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#)?)
}
