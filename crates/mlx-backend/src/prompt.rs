//! From a request to what the model reads: token ids and image patches. No MLX here, so that it
//! runs on the caller's side while the MLX thread works for others.

use std::{borrow::Cow, collections::BTreeSet, fs, io::Read, path::Path, sync::Arc};

use llm_core::{GenerateParams, Image, Message, Notice, Request};
use perf_monitor::{Phase, Recorder, Span};
use vision_preproc::{Grid, ImageProcessor, Limits, Patches, PixelBudget, RgbImage, RgbView, Size};

use crate::{
    Error, ImageError, Result,
    chat::{self, ChatTemplate},
    guard::{Admitted, Asked, Guard},
    models::Media,
    tokenizer::Tokenizer,
};

/// Everything of a checkpoint that is not tensors.
#[derive(Debug)]
pub(crate) struct Frontend {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: ChatTemplate,
    /// `None` where the checkpoint has no image processor: the model reads text only.
    pub(crate) processor: Option<ImageProcessor>,
    pub(crate) stop_tokens: Arc<BTreeSet<u32>>,
    pub(crate) media: Media,
    pub(crate) context_tokens: usize,
    pub(crate) limits: Limits,
    pub(crate) guard: Guard,
    /// Tokens read at a time where memory allows.
    pub(crate) prefill_step_tokens: usize,
    pub(crate) recorder: Arc<dyn Recorder>,
}

/// What the model reads.
#[derive(Debug)]
pub(crate) struct Prompt {
    /// Token ids, one image token for each feature.
    pub(crate) ids: Vec<u32>,
    /// The images, in the order of their tokens.
    pub(crate) images: Vec<Patches>,
    /// How many of `ids` are image tokens.
    pub(crate) image_tokens: usize,
    /// Most new tokens that the context has room for.
    pub(crate) room_tokens: usize,
}

impl Frontend {
    /// Prepares `request`, which has been validated; `progress` hears of images done and in all, and
    /// `tell` of what is done otherwise than asked. Returns the prompt and how many of its tokens to
    /// read at a time.
    ///
    /// # Errors
    /// If an image cannot be used, a text cannot be said, or the prompt does not fit into the
    /// context or into memory.
    pub(crate) fn prepare(
        &self,
        request: &Request,
        progress: &dyn Fn(usize, usize),
        tell: &dyn Fn(Notice),
    ) -> Result<(Prompt, usize)> {
        let messages = request.messages_with_system();
        // The text first: it is cheap, and its errors should not wait for images.
        let rendered = self.render(&messages)?;
        let sources: Vec<&Image> = messages.iter().flat_map(Message::images).collect();
        let short = {
            let mut span = Span::enter(&*self.recorder, Phase::Tokenise);
            let short = self.tokenizer.encode(&rendered)?;
            span.units(short.len() as u64);
            short
        };
        let admitted = self.admit(&sources, &request.params, short.len())?;
        admitted.notice.into_iter().for_each(tell);
        let budget = admitted.budget;
        let mut images = Vec::with_capacity(sources.len());
        for (i, source) in sources.iter().enumerate() {
            progress(i, sources.len());
            images.push(self.image(source, &budget).map_err(|source_error| Error::Image {
                index: i + 1,
                name: image_name(source),
                source: source_error,
            })?);
        }
        if !sources.is_empty() {
            progress(sources.len(), sources.len());
        }
        Ok((self.assemble(&short, images)?, admitted.prefill_step_tokens))
    }

    /// Has the guard decide, by the headers of the images. What is wrong with an image is not said
    /// here: it shows when that is decoded.
    fn admit(
        &self,
        sources: &[&Image],
        params: &GenerateParams,
        text_tokens: usize,
    ) -> Result<Admitted> {
        let sizes: Vec<Size> = sources.iter().filter_map(|image| self.size(image)).collect();
        self.guard.admit(&Asked {
            sizes: &sizes,
            processor: self.processor.as_ref(),
            budget: pixel_budget(params),
            text_tokens,
            new_tokens: params.max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS) as usize,
            prefill_step_tokens: self.prefill_step_tokens,
        })
    }

    fn size(&self, image: &Image) -> Option<Size> {
        match image {
            Image::Rgb8 { width, height, .. } => {
                Some(Size { width: width.get(), height: height.get() })
            }
            Image::Path(path) => {
                let bytes = read_image(path, &self.limits).ok()?;
                Some(vision_preproc::probe(&bytes).ok()?.size())
            }
            Image::Encoded(bytes) => Some(vision_preproc::probe(bytes).ok()?.size()),
            _ => None,
        }
    }

    fn render(&self, messages: &[Message]) -> Result<String> {
        for message in messages {
            chat::check_text(&message.text(), self.tokenizer.special_tokens())?;
        }
        self.template.render(messages, true)
    }

    /// Puts as many image tokens as there are features in the place of each image token.
    fn assemble(&self, short: &[u32], images: Vec<Patches>) -> Result<Prompt> {
        let grids: Vec<Grid> = images.iter().map(|p| p.grid).collect();
        let ids = expand(short, &grids, &self.media)?;
        let image_tokens = grids.iter().map(|&g| self.media.tokens(g)).sum();
        let room_tokens = self.context_tokens.saturating_sub(ids.len());
        if room_tokens == 0 {
            return Err(Error::ContextOverflow {
                prompt_tokens: ids.len(),
                image_tokens,
                context_tokens: self.context_tokens,
            });
        }
        Ok(Prompt { ids, images, image_tokens, room_tokens })
    }

    fn image(&self, source: &Image, budget: &PixelBudget) -> Result<Patches, ImageError> {
        let processor = self.processor.as_ref().ok_or(ImageError::NoProcessor)?;
        let decoded: RgbImage;
        let view = match source {
            Image::Rgb8 { width, height, pixels } => {
                RgbView::new(width.get(), height.get(), pixels)?
            }
            encoded => {
                decoded = self.decode(encoded)?;
                decoded.as_view()
            }
        };
        let mut span = Span::enter(&*self.recorder, Phase::Patchify);
        let patches = processor.process(view, budget)?;
        span.units((patches.grid.t * patches.grid.h * patches.grid.w) as u64);
        Ok(patches)
    }

    fn decode(&self, source: &Image) -> Result<RgbImage, ImageError> {
        let bytes: Cow<'_, [u8]> = match source {
            Image::Path(path) => {
                let mut span = Span::enter(&*self.recorder, Phase::Fetch);
                let bytes = read_image(path, &self.limits)?;
                span.units(bytes.len() as u64);
                Cow::Owned(bytes)
            }
            Image::Encoded(bytes) => Cow::Borrowed(bytes),
            other => return Err(ImageError::Kind(format!("{other:?}"))),
        };
        let mut span = Span::enter(&*self.recorder, Phase::DecodeImage);
        let image = vision_preproc::decode(&bytes, &self.limits)?;
        let Size { width, height } = image.size();
        span.units(u64::from(width) * u64::from(height));
        Ok(image)
    }
}

/// Reads an image file, at most as many bytes as `limits` allows and one, so that the decoder says
/// that it is too large.
pub(crate) fn read_image(path: &Path, limits: &Limits) -> Result<Vec<u8>, ImageError> {
    if path.is_dir() {
        return Err(ImageError::Directory);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limits.max_encoded_bytes + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn pixel_budget(params: &GenerateParams) -> PixelBudget {
    PixelBudget { min_pixels: params.min_pixels, max_pixels: params.max_pixels }
}

fn image_name(image: &Image) -> Option<String> {
    match image {
        Image::Path(path) => Some(path.display().to_string()),
        _ => None,
    }
}

/// Replaces the `i`-th image token by as many as image `i` has features.
fn expand(ids: &[u32], grids: &[Grid], media: &Media) -> Result<Vec<u32>> {
    let placeholders = ids.iter().filter(|&&id| media.is_placeholder(id)).count();
    if placeholders != grids.len() {
        return Err(Error::Prompt(format!(
            "the chat template made {placeholders} image placeholders for {} images",
            grids.len()
        )));
    }
    let mut grids = grids.iter();
    let mut expanded = Vec::with_capacity(ids.len());
    for &id in ids {
        let count = match media.is_placeholder(id) {
            true => grids.next().map_or(0, |&grid| media.tokens(grid)),
            false => 1,
        };
        expanded.extend(std::iter::repeat_n(id, count));
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEDIA: Media = Media { image_token: 9, video_token: 8, merge: 2, patch_values: 1176 };

    #[test]
    fn each_placeholder_becomes_its_images_tokens() {
        let grids = [Grid { t: 1, h: 4, w: 2 }, Grid { t: 1, h: 2, w: 2 }];
        assert_eq!(expand(&[1, 9, 2, 9, 3], &grids, &MEDIA).unwrap(), [1, 9, 9, 2, 9, 3]);
    }

    #[test]
    fn placeholders_without_images_are_an_error() {
        let error = expand(&[1, 9, 9], &[Grid { t: 1, h: 2, w: 2 }], &MEDIA).unwrap_err();
        assert_eq!(error.to_string(), "the chat template made 2 image placeholders for 1 images");
    }
}
