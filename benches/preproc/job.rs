//! What is measured.

use std::fmt;
use std::str::FromStr;

/// One thing to do with an encoded image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Decode, fit into a square by Lanczos, pad with black, scale to -1..=1, CHW: `[3, side, side]`.
    Letterbox { side: u32 },
    /// The same from a file that may be decoded at a reduced size, so that the output differs.
    Fast { side: u32 },
    /// Decode, `smart_resize`, bicubic, normalise as CLIP does, patchify: `[P, 1176]`.
    Qwen { max_pixels: u64 },
}

/// Mean and standard deviation of CLIP, which Qwen2.5-VL uses.
pub(crate) const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
pub(crate) const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

impl Job {
    /// The job whose output is the reference of this one.
    pub(crate) fn exact(self) -> Self {
        match self {
            Self::Fast { side } => Self::Letterbox { side },
            exact => exact,
        }
    }

    /// The level, 0 to 255, that value number `at` of the output came from, in this job's normalisation.
    pub(crate) fn level(self, at: usize, value: f32) -> f32 {
        match self {
            Self::Letterbox { .. } | Self::Fast { .. } => (value * 0.5 + 0.5) * 255.0,
            Self::Qwen { .. } => {
                let channel = at % 1176 / 392;
                (value * CLIP_STD[channel] + CLIP_MEAN[channel]) * 255.0
            }
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Letterbox { side } => write!(f, "letterbox:{side}"),
            Self::Fast { side } => write!(f, "fast:{side}"),
            Self::Qwen { max_pixels } => write!(f, "qwen:{max_pixels}"),
        }
    }
}

impl FromStr for Job {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, number) = text.split_once(':').unwrap_or((text, ""));
        let wrong = |_| format!("expected KIND:NUMBER, found {text}");
        match kind {
            "letterbox" => Ok(Self::Letterbox { side: number.parse().map_err(wrong)? }),
            "fast" => Ok(Self::Fast { side: number.parse().map_err(wrong)? }),
            "qwen" => Ok(Self::Qwen { max_pixels: number.parse().map_err(wrong)? }),
            _ => Err(format!("unknown job {text}")),
        }
    }
}
