//! From a request to what the model reads: token ids and, if the model asks for them, image patches.
//! No MLX here, so that it runs on the caller's side while the MLX thread works for others.

mod images;
mod videos;
mod workspaces;

use std::{ops::Range, sync::Arc};

use llm_core::{GenerateParams, Message, Notice, Part, Tool};
use perf_monitor::{Counter, Phase, Recorder, Span};
use vision_preproc::{Limits, Patches, PixelBudget};

#[cfg(test)]
pub(crate) use self::videos::timed as timed_videos;
pub(crate) use self::workspaces::Workspaces;
use self::{
    images::{ImageSource, OpenImage},
    videos::{OpenVideo, VideoPlan, timed},
};
use crate::{
    Error, Result,
    caches::{Caches, Digest, Lease, Unit},
    chat,
    guard::{Asked, Guard, Reservation, Shown},
    image_reader::Tiles,
    models::{Media, Seen, Wrap},
};

/// The part of a provider that needs no MLX.
#[derive(Debug)]
pub(crate) struct Frontend {
    pub(crate) model: Lease,
    pub(crate) limits: Limits,
    pub(crate) guard: Guard,
    /// Tokens read at a time where memory allows.
    pub(crate) prefill_step_tokens: usize,
    pub(crate) recorder: Arc<dyn Recorder>,
    pub(crate) caches: Arc<Caches>,
    pub(crate) workspaces: Workspaces,
}

/// What the model reads; pixels follow if it asks for them.
#[derive(Debug)]
pub(crate) struct Prompt {
    /// Token ids, one image token for each feature.
    pub(crate) ids: Vec<u32>,
    /// The images and videos, in the order of their tokens.
    pub(crate) images: Vec<PromptImage>,
    /// How many of `ids` stand for features of these.
    pub(crate) image_tokens: usize,
    /// Most new tokens that the context has room for.
    pub(crate) room_tokens: usize,
}

/// An image or a video as part of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PromptImage {
    /// The content, and what becomes of it.
    pub(crate) key: Digest,
    pub(crate) seen: Seen,
    /// Its tokens.
    pub(crate) range: Range<usize>,
}

/// A request that is ready for the engine.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    pub(crate) prompt: Prompt,
    /// Where the patches of each image and video can be had.
    pub(crate) sources: Vec<Source<'a>>,
    /// Tokens of the prompt to read at a time.
    pub(crate) prefill_step_tokens: usize,
    /// What is done otherwise than asked.
    pub(crate) notice: Option<Notice>,
    /// The memory that it was promised.
    pub(crate) reservation: Reservation,
}

/// An image or a video whose header has been read.
#[derive(Debug)]
enum Open<'a> {
    Image(OpenImage<'a>),
    Video(OpenVideo<'a>),
}

/// An image or a video of which it is known what it will become.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    Image(ImageSource<'a>),
    Video(VideoPlan<'a>),
}

impl Open<'_> {
    fn shown(&self) -> Shown {
        match self {
            Self::Image(image) => image.size.into(),
            Self::Video(video) => video.shown(),
        }
    }

    fn tiles(&self) -> Tiles {
        match self {
            Self::Image(image) => image.tiles,
            Self::Video(_) => Tiles::default(),
        }
    }

    /// Returns the times of the patches of a video whose prompt says them.
    fn times(&self) -> Option<&[f64]> {
        match self {
            Self::Image(_) => None,
            Self::Video(video) => video.times.as_deref(),
        }
    }
}

impl Source<'_> {
    fn key(&self) -> Digest {
        match self {
            Self::Image(image) => image.key,
            Self::Video(video) => video.key,
        }
    }

    /// Returns how many places it has in the prompt, with text between.
    fn places(&self) -> usize {
        match self {
            Self::Image(_) => 1,
            Self::Video(video) => video.places(),
        }
    }

    fn seen(&self) -> Seen {
        match self {
            Self::Image(image) => image.grid.into(),
            Self::Video(video) => Seen { grid: video.grid, seconds: Some(video.seconds) },
        }
    }
}

impl Frontend {
    /// Prepares the messages of a request, which has been validated, and the `tools` that may be called:
    /// reads headers of images, and no pixels.
    ///
    /// # Errors
    /// If an image cannot be used, a text cannot be said, the prompt does not fit into the context or
    /// into memory, or `cancelled` says so while it waits for memory.
    pub(crate) fn prepare<'a>(
        &self,
        messages: &'a [Message],
        tools: &[Tool],
        params: &GenerateParams,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Prepared<'a>> {
        // The text first: it is cheap, and its errors should not wait for images.
        let rendered = self.render(messages, tools)?;
        let short = {
            let mut span = Span::enter(&*self.recorder, Phase::Tokenise);
            let short = self.model.tokenizer.encode(&rendered)?;
            span.units(short.len() as u64);
            short
        };
        let opened = self.open_all(messages)?;
        let tiles: Vec<Tiles> = opened.iter().map(Open::tiles).collect();
        let wrap = self.model.loaded.media.as_ref().and_then(|media| media.wrap);
        let short = match wrap.filter(|_| !tiles.is_empty()) {
            None => short,
            Some(wrap) => self.model.tokenizer.encode(&wrapped(&rendered, &tiles, wrap)?)?,
        };
        let times: Vec<&[f64]> = opened.iter().filter_map(Open::times).collect();
        let short = match times.is_empty() {
            true => short,
            false => self.model.tokenizer.encode(&timed(&rendered, &times)?)?,
        };
        let shown: Vec<Shown> = opened.iter().map(Open::shown).collect();
        let asked = Asked {
            shown: &shown,
            reader: self.model.reader.as_ref(),
            videos: self.model.videos.as_ref(),
            budget: pixel_budget(params),
            text_tokens: short.len(),
            new_tokens: params.max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS) as usize,
            prefill_step_tokens: self.prefill_step_tokens,
            adapted: params.adapter.is_some(),
        };
        let (admitted, reservation) = self.guard.admit(&asked, cancelled)?;
        let sources = opened.into_iter().map(|open| {
            Ok(match open {
                Open::Image(image) => Source::Image(self.plan(image, admitted.budget)?),
                Open::Video(video) => Source::Video(self.plan_video(video, &admitted.budget)?),
            })
        });
        let sources = sources.collect::<Result<Vec<_>>>()?;
        Ok(Prepared {
            prompt: self.assemble(&short, &sources, &tiles)?,
            sources,
            prefill_step_tokens: admitted.prefill_step_tokens,
            notice: admitted.notice,
            reservation,
        })
    }

    /// Reads the headers of all images and videos, in the order in which the template shows them.
    fn open_all<'a>(&self, messages: &'a [Message]) -> Result<Vec<Open<'a>>> {
        let (mut images, mut videos) = (0.., 0..);
        let parts = messages.iter().flat_map(|message| &message.parts);
        let opened = parts.filter_map(|part| match part {
            Part::Image(image) => {
                Some(self.open(images.next().unwrap_or_default(), image).map(Open::Image))
            }
            Part::Video(video) => {
                Some(self.open_video(videos.next().unwrap_or_default(), video).map(Open::Video))
            }
            _ => None,
        });
        opened.collect()
    }

    /// Returns the patches of an image or a video, from the cache or from its pixels.
    ///
    /// # Errors
    /// If it cannot be decoded, or `cancelled` says so between two frames.
    pub(crate) fn patches(
        &self,
        source: &Source<'_>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Arc<Patches>> {
        let cached = self.caches.images.get(&source.key());
        let hit = cached.is_some();
        let counter = if hit { Counter::ImageCacheHits } else { Counter::ImageCacheMisses };
        self.recorder.count(counter, 1);
        if let Some(patches) = cached {
            return Ok(patches);
        }
        let patches = Arc::new(match source {
            Source::Image(image) => self.image_patches(image)?,
            Source::Video(video) => self.video_patches(video, cancelled)?,
        });
        let bytes = size_of_val(&patches.values[..]) as u64;
        self.caches.images.insert(source.key(), patches.clone(), bytes);
        Ok(patches)
    }

    fn render(&self, messages: &[Message], tools: &[Tool]) -> Result<String> {
        let check = |text: &str| chat::check_text(text, self.model.tokenizer.special_tokens());
        for message in messages {
            check(&message.text())?;
            message.tool_results().try_for_each(|result| check(&result.content))?;
            for call in message.tool_calls() {
                check(&call.name)?;
                check(&call.arguments_text())?;
            }
        }
        for tool in tools {
            check(&tool.description)?;
            check(&tool.parameters.to_string())?;
        }
        self.model.template.render(messages, tools, true)
    }

    /// Puts as many tokens as there are features in the place of each token of an image or a video.
    fn assemble(&self, short: &[u32], sources: &[Source<'_>], tiles: &[Tiles]) -> Result<Prompt> {
        let media = self.model.loaded.media.as_ref();
        let (ids, ranges) = match media {
            Some(media) => {
                let features = sources.iter().zip(tiles).map(|(source, tiles)| {
                    let places = media.wrap.map_or_else(|| source.places(), |_| tiles.frames());
                    let seen = source.seen();
                    let token = media.token(&seen)?;
                    Ok(Features { token, places, each: media.tokens(seen.grid) / places })
                });
                expand(short, &features.collect::<Result<Vec<_>>>()?, media)?
            }
            None => (short.to_vec(), Vec::new()),
        };
        let is_image = |&&id: &&u32| media.is_some_and(|media| media.is_placeholder(id));
        let image_tokens = ids.iter().filter(is_image).count();
        let context_tokens = self.model.loaded.context_tokens;
        let room_tokens = context_tokens.saturating_sub(ids.len());
        if room_tokens == 0 {
            return Err(Error::ContextOverflow {
                prompt_tokens: ids.len(),
                image_tokens,
                context_tokens,
            });
        }
        let images = sources.iter().zip(ranges);
        let images =
            images.map(|(s, range)| PromptImage { key: s.key(), seen: s.seen(), range }).collect();
        Ok(Prompt { ids, images, image_tokens, room_tokens })
    }
}

impl Prompt {
    /// Returns what stands at each position, for the cache of prefixes.
    pub(crate) fn units(&self) -> Vec<Unit> {
        let mut units: Vec<Unit> = self.ids.iter().map(|&id| Unit::Token(id)).collect();
        for image in &self.images {
            for (index, unit) in (0..).zip(&mut units[image.range.clone()]) {
                *unit = Unit::Feature { image: image.key, index };
            }
        }
        units
    }
}

pub(crate) fn pixel_budget(params: &GenerateParams) -> PixelBudget {
    PixelBudget { min_pixels: params.min_pixels, max_pixels: params.max_pixels }
}

/// Puts the text that stands for each image in the place of its marker.
fn wrapped(rendered: &str, tiles: &[Tiles], wrap: Wrap) -> Result<String> {
    let mut parts = rendered.split(wrap.marker);
    let mut text = parts.next().unwrap_or_default().to_owned();
    let after: Vec<&str> = parts.collect();
    if after.len() != tiles.len() {
        return Err(placeholders(after.len(), tiles.len()));
    }
    for (&tiles, after) in tiles.iter().zip(after) {
        text += &(wrap.text)(tiles);
        text += after;
    }
    Ok(text)
}

/// The features of an image or a video.
#[derive(Clone, Copy, Debug)]
struct Features {
    /// What stands for one.
    token: u32,
    /// Tokens that the template has for them.
    places: usize,
    /// Features that each of these becomes.
    each: usize,
}

/// Makes of the tokens of each image and video as many as it has features, and says where they stand: from the first
/// to the last, with what is between.
fn expand(
    ids: &[u32],
    features: &[Features],
    media: &Media,
) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
    let found = ids.iter().filter(|&&id| media.is_placeholder(id)).count();
    if found != features.iter().map(|features| features.places).sum::<usize>() {
        return Err(placeholders(found, features.len()));
    }
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(features.len());
    let each =
        |(at, features): (usize, &Features)| std::iter::repeat_n((at, *features), features.places);
    let mut places = features.iter().enumerate().flat_map(each);
    let mut expanded = Vec::with_capacity(ids.len());
    for &id in ids {
        if !media.is_placeholder(id) {
            expanded.push(id);
            continue;
        }
        let Some((at, features)) = places.next() else { break };
        if id != features.token {
            let reason =
                "the chat template has images and videos in another order than the message";
            return Err(Error::Prompt(reason.to_owned()));
        }
        let start = expanded.len();
        expanded.extend(std::iter::repeat_n(id, features.each));
        match ranges.get_mut(at) {
            Some(range) => range.end = expanded.len(),
            None => ranges.push(start..expanded.len()),
        }
    }
    Ok((expanded, ranges))
}

fn placeholders(found: usize, wanted: usize) -> Error {
    Error::Prompt(format!(
        "the chat template made {found} placeholders for {wanted} images and videos"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEDIA: Media = Media {
        image_token: 9,
        video_token: Some(8),
        tokens_per_second: None,
        merge: 2,
        wrap: None,
        whole_prompt: false,
    };

    fn of(token: u32, places: usize, each: usize) -> Features {
        Features { token, places, each }
    }

    #[test]
    fn each_placeholder_becomes_its_images_tokens() {
        let (ids, ranges) = expand(&[1, 9, 2, 9, 3], &[of(9, 1, 2), of(9, 1, 1)], &MEDIA).unwrap();
        assert_eq!(ids, [1, 9, 9, 2, 9, 3]);
        assert_eq!(ranges, [1..3, 4..5]);
    }

    #[test]
    fn videos_have_a_token_of_their_own() {
        let (ids, ranges) = expand(&[8, 1, 9], &[of(8, 1, 3), of(9, 1, 2)], &MEDIA).unwrap();
        assert_eq!(ids, [8, 8, 8, 1, 9, 9]);
        assert_eq!(ranges, [0..3, 4..6]);
        let error = expand(&[9, 1, 8], &[of(8, 1, 3), of(9, 1, 2)], &MEDIA).unwrap_err();
        assert!(error.to_string().contains("in another order"), "{error}");
    }

    #[test]
    fn frames_of_an_image_may_have_text_between() {
        let (ids, ranges) =
            expand(&[9, 2, 9, 3, 9, 4], &[of(9, 2, 2), of(9, 1, 3)], &MEDIA).unwrap();
        assert_eq!(ids, [9, 9, 2, 9, 9, 3, 9, 9, 9, 4]);
        assert_eq!(ranges, [0..5, 6..9]);
    }

    #[test]
    fn markers_become_the_texts_of_their_images() {
        let wrap = Wrap { marker: "<i>", text: |tiles| format!("[{}]", tiles.frames()) };
        let tiles = [Tiles { rows: 2, columns: 3 }, Tiles::default()];
        assert_eq!(wrapped("a<i>b<i>", &tiles, wrap).unwrap(), "a[7]b[1]");
        let error = wrapped("a<i>", &tiles, wrap).unwrap_err().to_string();
        assert_eq!(error, "the chat template made 1 placeholders for 2 images and videos");
    }

    #[test]
    fn each_patch_of_a_video_follows_its_time() {
        let video = "<|vision_start|><|video_pad|><|vision_end|>";
        let shown = timed(&format!("a{video}b{video}"), &[&[0.25, 1.25], &[3.0]]).unwrap();
        let expected = format!("a<0.2 seconds>{video}<1.2 seconds>{video}b<3.0 seconds>{video}");
        assert_eq!(shown, expected);
        let error = timed("a<|video_pad|>", &[&[0.25]]).unwrap_err().to_string();
        assert!(error.ends_with(&format!("has {video} 0 times for 1 videos")), "{error}");
    }

    #[test]
    fn placeholders_without_images_are_an_error() {
        let error = expand(&[1, 9, 9], &[of(9, 1, 1)], &MEDIA).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the chat template made 2 placeholders for 1 images and videos"
        );
    }
}
