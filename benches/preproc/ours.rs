//! This workspace's own side, through the public API alone.

use vision_preproc::{
    Filter, ImageProcessor, Letterbox, LetterboxOptions, Mode, PixelBudget, Size, Workspace, probe,
};

use crate::Result;
use crate::job::Job;
use crate::worker::Peer;

/// One workspace and one output for all images, or new ones for each.
pub(crate) struct Ours {
    reuse: bool,
    workspace: Workspace,
    values: Vec<f32>,
    /// The letterbox of the last job, its side and its mode.
    letterbox: Option<(u32, Mode, Letterbox)>,
    processor: Option<ImageProcessor>,
}

impl Ours {
    pub(crate) fn new(reuse: bool) -> Self {
        Self {
            reuse,
            workspace: Workspace::new(),
            values: Vec::new(),
            letterbox: None,
            processor: None,
        }
    }
}

impl Peer for Ours {
    fn run(&mut self, job: Job, image: &[u8]) -> Result<&[f32]> {
        let Self { workspace, values, .. } = self;
        match job {
            Job::Letterbox { side } | Job::Fast { side } => {
                let mode = if matches!(job, Job::Fast { .. }) { Mode::Fast } else { Mode::Exact };
                let held = self.letterbox.as_ref().map(|held| (held.0, held.1));
                if held != Some((side, mode)) {
                    self.letterbox = Some((side, mode, letterbox(side, mode)?));
                }
                let letterbox = &self.letterbox.as_ref().expect("made above").2;
                if self.reuse {
                    values.resize(letterbox.value_count(), 0.0);
                    letterbox.process_into(image, workspace, values)?;
                } else {
                    *values = letterbox.process_bytes(image, workspace)?;
                }
            }
            Job::Qwen { max_pixels } => {
                let processor = match &self.processor {
                    Some(processor) => processor,
                    None => self.processor.insert(processor()?),
                };
                let budget = PixelBudget { max_pixels: Some(max_pixels), ..PixelBudget::default() };
                if self.reuse {
                    let plan = processor.plan(probe(image)?.size(), &budget)?;
                    values.resize(plan.patches * processor.row_values(), 0.0);
                    processor.process_into(image, &budget, workspace, values)?;
                } else {
                    *values = processor.process_bytes(image, &budget, workspace)?.values;
                }
            }
        }
        Ok(&self.values)
    }

    fn forget(&mut self) {
        if !self.reuse {
            *self = Self::new(false);
        }
    }
}

fn letterbox(side: u32, mode: Mode) -> Result<Letterbox> {
    let options = LetterboxOptions {
        filter: Filter::Lanczos,
        mean: [0.5; 3],
        std: [0.5; 3],
        mode,
        ..LetterboxOptions::default()
    };
    Ok(Letterbox::new(Size { width: side, height: side }, options)?)
}

pub(crate) fn processor() -> Result<ImageProcessor> {
    Ok(ImageProcessor::from_json(r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#)?)
}
