//! Errors of this crate, and what each means to a caller of the provider trait.

use std::{fmt, io, path::PathBuf};

use llm_core::ErrorKind;
use vision_preproc::Size;

use crate::guard::{ByteSize, MemoryStage};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be found, loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No model of this name is a folder, in the local cache, or to be had from the hub.
    #[error("no model `{name}`: {reason}")]
    NotFound {
        /// The name asked for.
        name: String,
        /// Where it was looked for, and what was found there.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the checkpoint does not say what it must.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// The tensors of the checkpoint are not those of the model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The architecture is not one of those this crate runs.
    #[error("unsupported model_type `{model_type}`; supported: {}", known.join(", "))]
    UnsupportedArchitecture {
        /// `model_type` of the checkpoint's `config.json`.
        model_type: String,
        /// Every `model_type` that can be run.
        known: Vec<&'static str>,
    },
    /// The tokenizer could not be loaded or failed on a text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template could not be loaded or failed on a conversation.
    #[error("chat template: {0}")]
    Template(String),
    /// The request cannot be turned into a prompt.
    #[error("{0}")]
    Prompt(String),
    /// Answers cannot be held to the form that the request asks for.
    #[error("{0}")]
    Output(String),
    /// The prompt holds another number of image placeholders than there are image features.
    #[error("the prompt has {placeholders} image placeholder tokens for {features} image features")]
    PlaceholderMismatch {
        /// Placeholder tokens in the prompt.
        placeholders: usize,
        /// Feature rows of all images.
        features: usize,
    },
    /// The prompt leaves no room in the context of the model.
    #[error(
        "the prompt is {prompt_tokens} tokens ({image_tokens} of them for images), \
         the context of the model {context_tokens}"
    )]
    ContextOverflow {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the prompt that stand for images and videos.
        image_tokens: usize,
        /// Most tokens of prompt and answer together.
        context_tokens: usize,
    },
    /// An image could not be read, decoded or resized.
    #[error("image {index}{}", name.as_deref().map(|n| format!(" ({n})")).unwrap_or_default())]
    Image {
        /// Which image of the request, from 1.
        index: usize,
        /// Its path, if it has one.
        name: Option<String>,
        /// Why.
        source: ImageError,
    },
    /// A video could not be read, decoded or resized.
    #[error("video {index}{}", name.as_deref().map(|n| format!(" ({n})")).unwrap_or_default())]
    Video {
        /// Which video of the request, from 1.
        index: usize,
        /// Its path, if it has one.
        name: Option<String>,
        /// Why.
        source: ImageError,
    },
    /// The request would not fit into memory; nothing of it was computed.
    #[error(
        "the request needs {} of memory ({required} bytes), and {bound} is {} ({available} bytes); \
         the largest part is {largest}, {}",
        ByteSize(*required), ByteSize(*available), ByteSize(*largest_bytes)
    )]
    OutOfMemory {
        /// Bytes that the process would hold at most.
        required: u64,
        /// Bytes that it may hold.
        available: u64,
        /// What bounds them.
        bound: &'static str,
        /// When the most is needed.
        stage: MemoryStage,
        /// The largest part of what is needed then.
        largest: &'static str,
        /// Its size.
        largest_bytes: u64,
    },
    /// As many requests wait for the model as may; nothing of this one was done.
    #[error(
        "the model is busy: {max_batch} requests are answered at a time and {max_queue} may wait, \
         which that many do"
    )]
    Busy {
        /// Most requests that are answered at a time.
        max_batch: usize,
        /// Most requests that wait beyond those.
        max_queue: usize,
    },
    /// MLX reported an error.
    #[error("MLX failed in {op}: {message}")]
    Mlx {
        /// What was being computed.
        op: &'static str,
        /// What MLX said.
        message: String,
    },
    /// A download failed.
    #[error("cannot download {url}: {reason}")]
    Download {
        /// What was asked for.
        url: String,
        /// Why it failed.
        reason: String,
    },
    /// The hub does not let this user read the model.
    #[error("access to {url} denied: {reason}")]
    Denied {
        /// What was asked for.
        url: String,
        /// What the hub said, and what to do.
        reason: String,
    },
    /// The thread that owns MLX has ended, because of a panic there.
    #[error("the MLX thread has ended: {0}")]
    Dead(String),
    /// The caller went away.
    #[error("cancelled")]
    Cancelled,
}

/// Why an image or a video of a request cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file could not be read.
    #[error("cannot read the file")]
    Io(#[from] io::Error),
    /// The path is a folder.
    #[error("is a directory, not a file")]
    Directory,
    /// The checkpoint has no `preprocessor_config.json`.
    #[error("the model has no image processor: it reads text only")]
    NoProcessor,
    /// A kind of image that this backend does not read.
    #[error("cannot read an image of kind {0}")]
    Kind(String),
    /// The model reads images and no videos.
    #[error("the model reads no videos")]
    NoVideos,
    /// A video has no frame.
    #[error("a video of no frames")]
    NoFrames,
    /// A frame of a video cannot be used.
    #[error("frame {number}")]
    Frame {
        /// Which one, from 1.
        number: usize,
        /// Why.
        source: Box<Self>,
    },
    /// The frames of a video are of several sizes.
    #[error("frame {number} is {found}, those before {expected}; all must be of one size")]
    FrameSize {
        /// Which one, from 1.
        number: usize,
        /// The size of those before.
        expected: Size,
        /// Its size.
        found: Size,
    },
    /// The bytes could not be decoded or the pixels not be resized.
    #[error(transparent)]
    Preprocess(#[from] vision_preproc::Error),
}

/// What is wrong with the tensors of a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A tensor that the model needs is not there.
    #[error("missing tensor `{name}`")]
    MissingTensor {
        /// Its name in the layout of the model.
        name: String,
    },
    /// A tensor has another shape than the model needs.
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<i32>,
        /// The shape in the file.
        found: Vec<i32>,
    },
    /// A tensor has a type that cannot be used in its place.
    #[error("tensor `{name}` has type {found}, expected {expected}")]
    Dtype {
        /// Its name.
        name: String,
        /// The types that can be used.
        expected: &'static str,
        /// The type in the file.
        found: String,
    },
    /// Tensors that the model has no use for.
    #[error("{}", Names { what: "unused tensor", names })]
    UnusedTensors {
        /// Their names in the layout of the model.
        names: Vec<String>,
    },
    /// Packed weights whose width fits no number of bits, or not the number configured.
    #[error("quantised tensor `{name}`: {reason}")]
    Quantization {
        /// Its module path.
        name: String,
        /// What does not fit.
        reason: String,
    },
    /// A tensor holds something that is no number.
    #[error("tensor `{name}` holds values that are infinite or no numbers")]
    NotFinite {
        /// Its name.
        name: String,
    },
    /// Two files hold a tensor of the same name.
    #[error("tensor `{name}` is in more than one file")]
    Duplicate {
        /// Its name.
        name: String,
    },
}

struct Names<'a> {
    what: &'static str,
    names: &'a [String],
}

impl fmt::Display for Names<'_> {
    /// Names the first few; a checkpoint of the wrong model would name hundreds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        let plural = if self.names.len() == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}: ", self.names.len(), self.what)?;
        for (i, name) in self.names.iter().take(SHOWN).enumerate() {
            write!(f, "{}`{name}`", if i == 0 { "" } else { ", " })?;
        }
        if self.names.len() > SHOWN {
            write!(f, " and {} more", self.names.len() - SHOWN)?;
        }
        Ok(())
    }
}

impl Error {
    /// Returns what a caller can do about this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. }
            | Self::Config { .. }
            | Self::Load(_)
            | Self::UnsupportedArchitecture { .. }
            | Self::Tokenizer(_)
            | Self::Template(_) => ErrorKind::Model,
            Self::Prompt(_) | Self::Output(_) | Self::PlaceholderMismatch { .. } => {
                ErrorKind::InvalidRequest
            }
            Self::ContextOverflow { .. } => ErrorKind::ContextOverflow,
            Self::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            Self::Image { .. } | Self::Video { .. } => ErrorKind::Image,
            Self::Io { .. } => ErrorKind::Io,
            Self::Denied { .. } => ErrorKind::Authentication,
            Self::Download { .. } | Self::Dead(_) => ErrorKind::Unavailable,
            Self::Mlx { .. } => ErrorKind::Internal,
            Self::Busy { .. } => ErrorKind::RateLimited,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }
}

impl From<Error> for llm_core::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error.to_string()).with_source(error)
    }
}
