//! From a request to what the model reads: token ids and, if the model asks for them, image patches.
//! No MLX here, so that it runs on the caller's side while the MLX thread works for others.

mod images;
mod workspaces;

use std::{ops::Range, sync::Arc};

use llm_core::{GenerateParams, Message, Notice, Tool};
use perf_monitor::{Phase, Recorder, Span};
use vision_preproc::{Grid, Limits, PixelBudget, Size};

pub(crate) use self::images::ImageSource;
pub(crate) use self::workspaces::Workspaces;
use crate::{
    Error, Result,
    caches::{Caches, Digest, Lease, Unit},
    chat,
    guard::{Asked, Guard, Reservation},
    image_reader::Tiles,
    models::{Media, Wrap},
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
    /// The images, in the order of their tokens.
    pub(crate) images: Vec<PromptImage>,
    /// How many of `ids` are image tokens.
    pub(crate) image_tokens: usize,
    /// Most new tokens that the context has room for.
    pub(crate) room_tokens: usize,
}

/// An image as part of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PromptImage {
    /// The content, and what becomes of it.
    pub(crate) key: Digest,
    pub(crate) grid: Grid,
    /// Its tokens.
    pub(crate) range: Range<usize>,
}

/// A request that is ready for the engine.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    pub(crate) prompt: Prompt,
    /// Where the patches of each image can be had.
    pub(crate) sources: Vec<ImageSource<'a>>,
    /// Tokens of the prompt to read at a time.
    pub(crate) prefill_step_tokens: usize,
    /// What is done otherwise than asked.
    pub(crate) notice: Option<Notice>,
    /// The memory that it was promised.
    pub(crate) reservation: Reservation,
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
        let images = messages.iter().flat_map(Message::images).enumerate();
        let opened = images.map(|(i, image)| self.open(i, image)).collect::<Result<Vec<_>>>()?;
        let tiles: Vec<Tiles> = opened.iter().map(|image| image.tiles).collect();
        let wrap = self.model.loaded.media.as_ref().and_then(|media| media.wrap);
        let short = match wrap.filter(|_| !tiles.is_empty()) {
            None => short,
            Some(wrap) => self.model.tokenizer.encode(&wrapped(&rendered, &tiles, wrap)?)?,
        };
        let sizes: Vec<Size> = opened.iter().map(|image| image.size).collect();
        let asked = Asked {
            sizes: &sizes,
            reader: self.model.reader.as_ref(),
            budget: pixel_budget(params),
            text_tokens: short.len(),
            new_tokens: params.max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS) as usize,
            prefill_step_tokens: self.prefill_step_tokens,
            adapted: params.adapter.is_some(),
        };
        let (admitted, reservation) = self.guard.admit(&asked, cancelled)?;
        let sources = opened.into_iter().map(|image| self.plan(image, admitted.budget));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        Ok(Prepared {
            prompt: self.assemble(&short, &sources, &tiles)?,
            sources,
            prefill_step_tokens: admitted.prefill_step_tokens,
            notice: admitted.notice,
            reservation,
        })
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

    /// Puts as many image tokens as there are features in the place of each image token.
    fn assemble(
        &self,
        short: &[u32],
        sources: &[ImageSource<'_>],
        tiles: &[Tiles],
    ) -> Result<Prompt> {
        let media = self.model.loaded.media.as_ref();
        let (ids, ranges) = match media {
            Some(media) => {
                let features = sources.iter().zip(tiles).map(|(source, tiles)| {
                    let places = media.wrap.map_or(1, |_| tiles.frames());
                    (places, media.tokens(source.grid) / places)
                });
                expand(short, &features.collect::<Vec<_>>(), media)?
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
            images.map(|(s, range)| PromptImage { key: s.key, grid: s.grid, range }).collect();
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

/// Makes of the image tokens of each image as many as it has features, and says where they stand: from
/// the first to the last, with what is between. Of each image, `features` has the number of its tokens
/// and of the features that each stands for.
fn expand(
    ids: &[u32],
    features: &[(usize, usize)],
    media: &Media,
) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
    let found = ids.iter().filter(|&&id| media.is_placeholder(id)).count();
    if found != features.iter().map(|(places, _)| places).sum::<usize>() {
        return Err(placeholders(found, features.len()));
    }
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(features.len());
    let each = |(image, &(places, each))| std::iter::repeat_n((image, each), places);
    let mut places = features.iter().enumerate().flat_map(each);
    let mut expanded = Vec::with_capacity(ids.len());
    for &id in ids {
        if !media.is_placeholder(id) {
            expanded.push(id);
            continue;
        }
        let Some((image, each)) = places.next() else { break };
        let start = expanded.len();
        expanded.extend(std::iter::repeat_n(id, each));
        match ranges.get_mut(image) {
            Some(range) => range.end = expanded.len(),
            None => ranges.push(start..expanded.len()),
        }
    }
    Ok((expanded, ranges))
}

fn placeholders(found: usize, images: usize) -> Error {
    Error::Prompt(format!("the chat template made {found} image placeholders for {images} images"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEDIA: Media =
        Media { image_token: 9, video_token: Some(8), merge: 2, wrap: None, whole_prompt: false };

    #[test]
    fn each_placeholder_becomes_its_images_tokens() {
        let (ids, ranges) = expand(&[1, 9, 2, 9, 3], &[(1, 2), (1, 1)], &MEDIA).unwrap();
        assert_eq!(ids, [1, 9, 9, 2, 9, 3]);
        assert_eq!(ranges, [1..3, 4..5]);
    }

    #[test]
    fn frames_of_an_image_may_have_text_between() {
        let (ids, ranges) = expand(&[9, 2, 9, 3, 9, 4], &[(2, 2), (1, 3)], &MEDIA).unwrap();
        assert_eq!(ids, [9, 9, 2, 9, 9, 3, 9, 9, 9, 4]);
        assert_eq!(ranges, [0..5, 6..9]);
    }

    #[test]
    fn markers_become_the_texts_of_their_images() {
        let wrap = Wrap { marker: "<i>", text: |tiles| format!("[{}]", tiles.frames()) };
        let tiles = [Tiles { rows: 2, columns: 3 }, Tiles::default()];
        assert_eq!(wrapped("a<i>b<i>", &tiles, wrap).unwrap(), "a[7]b[1]");
        let error = wrapped("a<i>", &tiles, wrap).unwrap_err().to_string();
        assert_eq!(error, "the chat template made 1 image placeholders for 2 images");
    }

    #[test]
    fn placeholders_without_images_are_an_error() {
        let error = expand(&[1, 9, 9], &[(1, 1)], &MEDIA).unwrap_err();
        assert_eq!(error.to_string(), "the chat template made 2 image placeholders for 1 images");
    }
}
