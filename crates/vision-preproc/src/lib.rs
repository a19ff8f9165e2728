//! Images to model input: decode, resize, normalise and patchify, bit-equal to the reference.
//!
//! ```text
//! bytes -- decode --> RGB, upright -- resize --> multiples of 28 -- normalise, patchify --> [P, 1176] f32
//! header -- probe --> size ---------- plan ----> grid, patches, tokens
//! ```
//!
//! ```
//! use vision_preproc::{ImageProcessor, PixelBudget, RgbImage};
//!
//! let processor = ImageProcessor::from_json(r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#)?;
//! let image = RgbImage::new(640, 480, vec![128; 640 * 480 * 3])?;
//! let patches = processor.process(image.as_view(), &PixelBudget::default())?;
//! assert_eq!((patches.grid.h, patches.grid.w), (34, 46));
//! assert_eq!(patches.values.len(), 34 * 46 * 1176);
//! # Ok::<(), vision_preproc::Error>(())
//! ```
#![deny(unsafe_code)]

mod batch;
mod canvas;
mod decode;
mod error;
mod frames;
mod geometry;
mod image;
mod kernels;
mod keys;
mod letterbox;
mod limits;
mod mode;
mod normalize;
mod patchify;
mod pipeline;
mod presets;
mod processor;
mod resize;
/// What only benches call.
#[cfg(feature = "stages")]
#[doc(hidden)]
pub mod stages;
mod steps;
mod video;
mod workspace;

/// What only the fuzz targets call, which `cargo fuzz` compiles the crate for.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::decode::compare_decoders as compare_jpeg_decoders;
}

pub use canvas::ChannelOrder;
pub use decode::{Format, ImageInfo, Orientation, decode, probe};
pub use error::Error;
pub use frames::{FrameProcessor, Frames};
pub use geometry::{Grid, Placement, letterbox, smart_resize};
pub use image::{RgbImage, RgbView, Size};
pub use kernels::{Element, Level};
pub use letterbox::{Letterbox, LetterboxOptions};
pub use limits::Limits;
pub use mode::Mode;
pub use normalize::Rescale;
pub use pipeline::Input;
pub use presets::{PRESETS, Preprocessor};
pub use processor::{ImageProcessor, Patches, PixelBudget, Plan};
pub use resize::{Filter, PassOrder, resize};
pub use steps::StepTimes;
pub use video::{
    Sampled, Sampling, VideoFamily, VideoFormat, VideoInfo, VideoPatches, VideoProcessor,
    decode_video, probe_video,
};
pub use workspace::Workspace;
