//! An image to the input of a tower: patches of the whole at a size of its own, or frames of one size.

use vision_preproc::{
    Error, FrameProcessor, Grid, ImageProcessor, Input, Limits, Patches, PixelBudget, Plan,
    Preprocessor, Rescale, Size, Workspace,
};

use crate::guard::{FrameFootprint, TowerFootprint};

/// The preprocessing of one checkpoint.
#[derive(Clone, Debug)]
pub(crate) enum ImageReader {
    Patches(ImageProcessor),
    /// Frames, which the tower cuts into patches.
    Frames(FrameProcessor, FrameFootprint),
}

/// Rows and columns of tiles that an image is cut into, beside being seen as a whole; zeros for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tiles {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Tiles {
    /// Returns the number of frames.
    pub(crate) fn frames(self) -> usize {
        self.rows * self.columns + 1
    }
}

impl ImageReader {
    /// Reads both configuration files of a checkpoint for a tower of these sizes.
    ///
    /// # Errors
    /// [`Error::Config`] with what cannot be used, or does not fit the tower.
    pub(crate) fn from_configs(
        preprocessor: Option<&str>,
        processor: Option<&str>,
        tower: &TowerFootprint,
    ) -> Result<Self, Error> {
        let misfit = |expected: &str, found: String| Error::Config {
            field: "image_processor_type".to_owned(),
            reason: format!("the model takes {expected}, the processor makes {found}"),
        };
        match (Preprocessor::from_configs(preprocessor, processor)?, tower.frame) {
            // The reference of this backend is mlx-vlm, whose last bits are not those of transformers.
            (Preprocessor::Patches(p), None) => {
                Ok(Self::Patches(p.with_rescale(Rescale::MlxVlm).with_one_frame()))
            }
            (Preprocessor::Frames(p), Some(frame)) => {
                let (expected, found) = (frame.side, p.frame_size());
                // Those of a request are given with it; until then only sizes are asked for.
                let none = Limits {
                    max_pixels: u64::MAX,
                    max_encoded_bytes: u64::MAX,
                    max_aspect: u32::MAX,
                };
                match (found.width, found.height) == (expected, expected) {
                    true => Ok(Self::Frames(p.with_limits(none), frame)),
                    false => {
                        let expected = format!("frames of {expected}x{expected}");
                        Err(misfit(&expected, format!("frames of {found}")))
                    }
                }
            }
            (Preprocessor::Patches(_), Some(_)) => Err(misfit("frames", "patches".to_owned())),
            _ => Err(misfit("patches", "frames".to_owned())),
        }
    }

    /// Replaces the limits that source images are held to.
    #[must_use]
    pub(crate) fn with_limits(self, limits: Limits) -> Self {
        match self {
            Self::Patches(processor) => Self::Patches(processor.with_limits(limits)),
            Self::Frames(processor, frame) => Self::Frames(processor.with_limits(limits), frame),
        }
    }

    /// Returns the fewest and the most pixels after resizing; `None` if there is no choice.
    pub(crate) fn pixel_bounds(&self, budget: &PixelBudget) -> Option<(u64, u64)> {
        match self {
            Self::Patches(processor) => Some(processor.pixel_bounds(budget)),
            Self::Frames(..) => None,
        }
    }

    /// Returns the tiles of an image of `size`.
    ///
    /// # Errors
    /// If a side of `size` is zero.
    pub(crate) fn tiles(&self, size: Size) -> Result<Tiles, Error> {
        match self {
            Self::Patches(_) => Ok(Tiles::default()),
            Self::Frames(processor, _) => {
                processor.tiles(size).map(|(rows, columns)| Tiles { rows, columns })
            }
        }
    }

    /// Says what an image of `size` becomes; of frames, the grid has a time for each.
    ///
    /// # Errors
    /// As [`tiles`](Self::tiles), or if `budget` allows no size or cannot be held to.
    pub(crate) fn plan(&self, size: Size, budget: &PixelBudget) -> Result<Plan, Error> {
        let frame = match self {
            Self::Patches(processor) => return processor.plan(size, budget),
            Self::Frames(_, frame) => frame,
        };
        check_budget(budget)?;
        let side = (frame.side / frame.patch) as usize;
        let grid = Grid { t: self.tiles(size)?.frames(), h: side, w: side };
        let resized = Size { width: frame.side, height: frame.side * grid.t as u32 };
        Ok(Plan { resized, grid, patches: grid.patches(), tokens: grid.patches() })
    }

    /// Returns the input of the tower; of frames, the values of one follow those of the other, channel
    /// by channel.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), or if the image cannot be decoded.
    pub(crate) fn patches(
        &self,
        input: Input<'_>,
        budget: &PixelBudget,
        workspace: &mut Workspace,
    ) -> Result<Patches, Error> {
        let (processor, frame) = match self {
            Self::Patches(processor) => return processor.patches(input, budget, workspace),
            Self::Frames(processor, frame) => (processor, frame),
        };
        check_budget(budget)?;
        let frames = processor.process_input(input, workspace)?;
        let side = (frame.side / frame.patch) as usize;
        Ok(Patches { values: frames.values, grid: Grid { t: frames.count, h: side, w: side } })
    }
}

/// Refuses what would be ignored.
fn check_budget(budget: &PixelBudget) -> Result<(), Error> {
    let given = [("min_pixels", budget.min_pixels), ("max_pixels", budget.max_pixels)];
    match given.into_iter().find_map(|(name, value)| Some((name, value?))) {
        None => Ok(()),
        Some((field, value)) => Err(Error::Config {
            field: field.to_owned(),
            reason: format!("the model takes frames of one size, found {value}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMOLVLM: &str = r#"{"image_processor_type": "Idefics3ImageProcessor",
        "size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}"#;
    const QWEN: &str = r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#;

    fn tower(side: u32) -> TowerFootprint {
        TowerFootprint {
            frame: Some(FrameFootprint { side, patch: 16 }),
            ..TowerFootprint::default()
        }
    }

    #[test]
    fn tiles_are_frames_of_their_own() {
        let reader = ImageReader::from_configs(Some(SMOLVLM), None, &tower(512)).unwrap();
        let size = Size { width: 1000, height: 500 };
        assert_eq!(reader.tiles(size).unwrap(), Tiles { rows: 2, columns: 4 });
        let plan = reader.plan(size, &PixelBudget::default()).unwrap();
        assert_eq!(plan.grid, Grid { t: 9, h: 32, w: 32 });
        assert_eq!(plan.resized.pixels(), 9 * 512 * 512);
        let error = reader.plan(size, &PixelBudget { max_pixels: Some(1), min_pixels: None });
        assert!(error.unwrap_err().to_string().contains("`max_pixels`"));
    }

    #[test]
    fn a_processor_of_another_model_is_refused() {
        let says = |text: &str, tower: &TowerFootprint| {
            ImageReader::from_configs(Some(text), None, tower).unwrap_err().to_string()
        };
        let error = says(SMOLVLM, &tower(384));
        assert!(
            error.contains("frames of 384x384, the processor makes frames of 512x512"),
            "{error}"
        );
        assert!(says(QWEN, &tower(384)).contains("takes frames"));
        assert!(says(SMOLVLM, &TowerFootprint::default()).contains("takes patches"));
    }
}
