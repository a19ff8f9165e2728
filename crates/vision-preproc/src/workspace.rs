use std::fmt;
use std::time::Duration;

use crate::decode::rows::Scratch;
use crate::{letterbox, patchify, resize};

/// Buffers and tables that are used for one image after the other.
///
/// It grows to what the largest image needed: some rows of the image and, for an image that is not decoded row by row,
/// all of them. With a workspace that has seen an image of the same size, a JPEG image costs no allocation but that of
/// the result, if the caller does not bring a buffer.
#[derive(Default)]
pub struct Workspace {
    pub(crate) decode: Scratch,
    pub(crate) resize: resize::Buffers,
    pub(crate) patchify: patchify::Buffers,
    pub(crate) letterbox: letterbox::Buffers,
    pub(crate) decode_time: Duration,
}

impl Workspace {
    /// An empty workspace.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the last image of an [`ImageProcessor`](crate::ImageProcessor) took to decode, which goes on while its
    /// rows are processed; zero if it was pixels.
    pub fn decode_time(&self) -> Duration {
        self.decode_time
    }
}

// The content of the buffers helps nobody.
impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace").finish_non_exhaustive()
    }
}
