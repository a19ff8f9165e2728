//! A video as a caller has it.

use std::{fmt, path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose};
use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, Image, Result,
    image::{DataUrl, checked_address, decode_base64},
};

/// A video, and which of its frames are looked at; nothing is decoded or fetched here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// Where it is.
    pub source: VideoSource,
    /// Which frames are looked at.
    #[serde(default)]
    pub sampling: VideoSampling,
}

/// Where a video is.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
#[non_exhaustive]
pub enum VideoSource {
    /// A file that the provider reads.
    Path(PathBuf),
    /// An `http` or `https` address. Providers take what a loader made of it.
    Url(String),
    /// The bytes of a video file (MP4, GIF and so on).
    Encoded(Arc<[u8]>),
    /// Frames in the order of time, all of one size.
    Frames {
        /// One frame and more.
        frames: Vec<Image>,
        /// How many of them there are in a second, above 0.
        fps: f64,
    },
}

/// Which frames of a video are looked at, and how closely. `None` leaves it to the model, for most 2 frames a second,
/// from 4 to 768.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VideoSampling {
    /// Frames a second, above 0. Where [frames](VideoSource::Frames) are given, `None` takes all of them.
    pub fps: Option<f64>,
    /// The fewest frames, 1 and more; a video that has less is taken as it is.
    pub min_frames: Option<u32>,
    /// The most frames, 1 and more.
    pub max_frames: Option<u32>,
    /// The fewest pixels of a frame after resizing.
    pub min_pixels: Option<u64>,
    /// The most pixels of a frame after resizing. That of a request's parameters holds as well.
    pub max_pixels: Option<u64>,
}

impl Video {
    /// Returns a video in a file.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        VideoSource::Path(path.into()).into()
    }

    /// Returns a video from the bytes of a file.
    pub fn encoded(bytes: impl Into<Arc<[u8]>>) -> Self {
        VideoSource::Encoded(bytes.into()).into()
    }

    /// Returns a video of `frames`, of which there are `fps` in a second.
    ///
    /// # Errors
    /// [`ErrorKind::Image`] if there is no frame, or `fps` is no number above 0.
    pub fn frames(frames: impl IntoIterator<Item = Image>, fps: f64) -> Result<Self> {
        let frames: Vec<Image> = frames.into_iter().collect();
        let fail = |what: String| Err(Error::new(ErrorKind::Image, what));
        match (frames.is_empty(), is_rate(fps)) {
            (true, _) => fail("a video of no frames".to_owned()),
            (_, false) => fail(format!("fps of a video: expected a number above 0, found {fps}")),
            _ => Ok(VideoSource::Frames { frames, fps }.into()),
        }
    }

    /// Returns a video from a data URL: `data:video/mp4;base64,AAAAIGZ0...`; also of an animated image, such as a GIF.
    ///
    /// # Errors
    /// [`ErrorKind::Image`] if `url` is not a base64 data URL of a video or an image.
    pub fn data_url(url: &str) -> Result<Self> {
        let fail = |what: String| Error::new(ErrorKind::Image, what);
        let url = DataUrl::of(url, "video")?;
        let (data, media_type) = (url.base64()?, url.media_type);
        if !media_type.starts_with("video/") && !media_type.starts_with("image/") {
            return Err(fail(format!("expected a data URL of a video, found `{media_type}`")));
        }
        match decode_base64(data) {
            Ok(bytes) => Ok(VideoSource::Encoded(bytes).into()),
            Err(_) => Err(fail("video is not valid base64, or empty".to_owned())),
        }
    }

    /// Returns this video with other frames looked at.
    #[must_use]
    pub fn with_sampling(self, sampling: VideoSampling) -> Self {
        Self { sampling, ..self }
    }

    /// Checks what any provider can check without opening it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] that names the number that cannot be used.
    pub fn validate(&self) -> Result<()> {
        let fail = |what: String| Err(Error::new(ErrorKind::InvalidRequest, what));
        let VideoSampling { fps, min_frames, max_frames, min_pixels, max_pixels } = self.sampling;
        if let Some(fps) = fps.filter(|&fps| !is_rate(fps)) {
            return fail(format!("fps of a video: expected a number above 0, found {fps}"));
        }
        let numbers = [
            ("min_frames", min_frames.map(u64::from)),
            ("max_frames", max_frames.map(u64::from)),
            ("min_pixels", min_pixels),
            ("max_pixels", max_pixels),
        ];
        if let Some((name, _)) = numbers.iter().find(|(_, number)| *number == Some(0)) {
            return fail(format!("{name} of a video: expected 1 and more, found 0"));
        }
        for [(least, low), (most, high)] in [[numbers[0], numbers[1]], [numbers[2], numbers[3]]] {
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                return fail(format!(
                    "{least} of a video is {low}, which is above its {most}, {high}"
                ));
            }
        }
        Ok(())
    }
}

impl From<VideoSource> for Video {
    fn from(source: VideoSource) -> Self {
        Self { source, sampling: VideoSampling::default() }
    }
}

fn is_rate(fps: f64) -> bool {
    fps > 0.0 && fps.is_finite()
}

// Derived Debug would print megabytes.
impl fmt::Debug for VideoSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Url(url) => f.debug_tuple("Url").field(url).finish(),
            Self::Encoded(bytes) => write!(f, "Encoded({} bytes)", bytes.len()),
            Self::Frames { frames, fps } => write!(f, "Frames({}, {fps} fps)", frames.len()),
        }
    }
}

/// A source as it is stored: bytes in base64, and frames not yet checked.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    Path(PathBuf),
    Url(String),
    Encoded(String),
    Frames { frames: Vec<Image>, fps: f64 },
}

impl From<VideoSource> for Stored {
    fn from(source: VideoSource) -> Self {
        match source {
            VideoSource::Path(path) => Self::Path(path),
            VideoSource::Url(url) => Self::Url(url),
            VideoSource::Encoded(bytes) => Self::Encoded(general_purpose::STANDARD.encode(&bytes)),
            VideoSource::Frames { frames, fps } => Self::Frames { frames, fps },
        }
    }
}

impl TryFrom<Stored> for VideoSource {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        match stored {
            Stored::Path(path) => Ok(Self::Path(path)),
            Stored::Url(url) => checked_address(url).map(Self::Url),
            Stored::Encoded(text) => decode_base64(&text).map(Self::Encoded),
            Stored::Frames { frames, fps } => Ok(Video::frames(frames, fps)?.source),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_video_is_the_same_after_json() {
        let frames = [Image::encoded(vec![1]), Image::Path("a.png".into())];
        let sampling = VideoSampling { fps: Some(1.5), max_frames: Some(9), ..Default::default() };
        for video in [
            Video::path("a.mp4"),
            Video::encoded(vec![1, 2]),
            Video::frames(frames, 2.0).unwrap().with_sampling(sampling),
        ] {
            let json = serde_json::to_value(&video).unwrap();
            assert_eq!(serde_json::from_value::<Video>(json).unwrap(), video);
        }
        let short: Video = serde_json::from_value(json!({"source": {"path": "a.gif"}})).unwrap();
        assert_eq!(short, Video::path("a.gif"));
        for (source, says) in [
            (json!({"frames": {"frames": [], "fps": 1.0}}), "no frames"),
            (json!({"frames": {"frames": [{"encoded": "AQ=="}], "fps": 0.0}}), "above 0"),
            (json!({"url": "file:///etc/passwd"}), "begins with http"),
            (json!({"encoded": "%"}), "not valid base64"),
        ] {
            let error = serde_json::from_value::<Video>(json!({"source": source})).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn data_urls_are_of_videos_and_moving_images() {
        for media_type in ["video/mp4", "image/gif"] {
            let video = Video::data_url(&format!("data:{media_type};base64,AQID")).unwrap();
            assert_eq!(video, Video::encoded(vec![1, 2, 3]));
        }
        for url in
            ["a.mp4", "data:text/plain;base64,AQ==", "data:video/mp4,x", "data:video/mp4;base64,"]
        {
            assert_eq!(Video::data_url(url).unwrap_err().kind(), ErrorKind::Image, "{url}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_used_are_named() {
        let default = VideoSampling::default();
        for (says, sampling) in [
            ("fps", VideoSampling { fps: Some(f64::NAN), ..default }),
            ("fps", VideoSampling { fps: Some(-1.0), ..default }),
            ("max_frames of", VideoSampling { max_frames: Some(0), ..default }),
            (
                "above its max_frames, 3",
                VideoSampling { min_frames: Some(4), max_frames: Some(3), ..default },
            ),
            (
                "above its max_pixels, 1",
                VideoSampling { min_pixels: Some(2), max_pixels: Some(1), ..default },
            ),
        ] {
            let error = Video::path("a").with_sampling(sampling).validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(Video::path("a").validate().is_ok());
    }
}
