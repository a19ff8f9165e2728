use std::fmt;

use crate::decode::rows::Scratch;
use crate::{StepTimes, letterbox, patchify, resize};

/// Buffers and tables that are used for one image after the other.
///
/// It grows to what the largest image needed: some rows of the image and, for an image that is not decoded row by row,
/// all of them. With a workspace that has seen an image of the same size, pixels cost no allocation but that of the
/// result, if the caller does not bring a buffer; decoding a JPEG file makes some small tables besides.
#[derive(Default)]
pub struct Workspace {
    pub(crate) decode: Scratch,
    pub(crate) resize: resize::Buffers,
    pub(crate) patchify: patchify::Buffers,
    pub(crate) letterbox: letterbox::Buffers,
    pub(crate) measures: bool,
    pub(crate) times: Option<StepTimes>,
}

impl Workspace {
    /// An empty workspace.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty workspace that measures the steps of [`ImageProcessor::patches`](crate::ImageProcessor::patches) and its
    /// kin, at the cost of some clock readings for each batch of rows.
    pub fn measuring() -> Self {
        Self { measures: true, ..Self::default() }
    }

    /// Says whether the steps of images are measured from now on, as [`Workspace::measuring`] does.
    pub fn measure(&mut self, measures: bool) {
        self.measures = measures;
    }

    /// How long the steps of the last image took; absent before the first, after an error, and if nothing is measured.
    pub fn times(&self) -> Option<StepTimes> {
        self.times
    }
}

// The content of the buffers helps nobody.
impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace").finish_non_exhaustive()
    }
}
