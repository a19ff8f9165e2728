//! What makes an image or a model the one that it is.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    time::UNIX_EPOCH,
};

use vision_preproc::{RgbView, Sampled, Size};

use super::{Digest, Unit};
use crate::{Error, Result, checkpoint::Checkpoint, gguf::Gguf, kv_cache::KvCacheOptions};

/// The content of an image file.
pub(crate) fn encoded_content(bytes: &[u8]) -> Digest {
    Digest::of("encoded image", &[bytes])
}

/// The content of pixels.
pub(crate) fn rgb_content(view: RgbView<'_>) -> Digest {
    let sides = [view.width(), view.height()].map(u32::to_le_bytes).concat();
    Digest::of("rgb image", &[&sides, view.pixels()])
}

/// What becomes of `content`: the processor and the size that it resizes to. The limits that led to
/// the size do not matter, so that a request with other limits and the same result finds it.
pub(crate) fn image_key(content: &Digest, processor: &Digest, resized: Size) -> Digest {
    let sides = [resized.width, resized.height].map(u32::to_le_bytes).concat();
    Digest::of("image", &[content.bytes(), processor.bytes(), &sides])
}

/// The content of the frames of a video.
pub(crate) fn video_content<'a>(frames: impl Iterator<Item = &'a Digest>) -> Digest {
    let frames: Vec<u8> = frames.flat_map(|frame| *frame.bytes()).collect();
    Digest::of("frames", &[&frames])
}

/// What becomes of the video `content`: as of an image, and the frames that are looked at, with their times.
pub(crate) fn video_key(
    content: &Digest,
    processor: &Digest,
    resized: Size,
    sampled: &Sampled,
) -> Digest {
    let sides = [resized.width, resized.height].map(u32::to_le_bytes).concat();
    let indices: Vec<u8> =
        sampled.indices.iter().flat_map(|&index| (index as u64).to_le_bytes()).collect();
    let fps = [sampled.fps, sampled.source_fps].map(f64::to_le_bytes).concat();
    Digest::of("video", &[content.bytes(), processor.bytes(), &sides, &indices, &fps])
}

/// What prepares the images and videos of a checkpoint.
pub(crate) fn processor_identity(checkpoint: &Checkpoint) -> Digest {
    let text = |config: Option<&str>| config.unwrap_or_default().as_bytes().to_vec();
    // Another version of this crate may compute other bits.
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let configs = [
        checkpoint.preprocessor_config(),
        checkpoint.processor_config(),
        checkpoint.video_config(),
    ]
    .map(text);
    Digest::of("processor", &[version, &configs[0], &configs[1], &configs[2]])
}

/// Bytes of a weight file that are looked at, besides its header: at both ends and between.
const SAMPLES: u64 = 64;
const SAMPLE_BYTES: u64 = 4096;

/// The weights of a checkpoint, and `options`, how they are used.
///
/// Of each file, name, length, time of change, the whole header and [`SAMPLES`] samples: reading
/// gigabytes to hash them would take longer than loading them. A copy of a checkpoint is another
/// model by this, which costs a miss and no wrong answer.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read.
pub(crate) fn model_identity(checkpoint: &Checkpoint, options: &str) -> Result<Digest> {
    let config = checkpoint.config().to_string();
    let mut parts = vec![
        env!("CARGO_PKG_VERSION").as_bytes().to_vec(),
        config.into_bytes(),
        options.as_bytes().to_vec(),
    ];
    for path in checkpoint.weight_files() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        parts.push(name.into_bytes());
        parts.push(
            samples(path, checkpoint.gguf().map(Gguf::header_bytes))
                .map_err(|source| Error::Io { action: "read", path: path.clone(), source })?,
        );
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Ok(Digest::of("model", &parts))
}

/// As [`model_identity`], of one safetensors file.
pub(crate) fn weight_file_identity(path: &Path) -> io::Result<Vec<u8>> {
    samples(path, None)
}

/// Returns length, time of change, header and samples of a file whose header has `header` bytes, or says
/// in its first eight, as safetensors files do, how many it has.
fn samples(path: &Path, header: Option<u64>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let length = metadata.len();
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(changed.as_nanos().to_le_bytes());
    let mut first = [0; 8];
    file.read_exact(&mut first)?;
    let header = header.unwrap_or(u64::from_le_bytes(first)).min(length);
    file.by_ref().take(header).read_to_end(&mut bytes)?;
    let last = length.saturating_sub(SAMPLE_BYTES);
    for i in 0..SAMPLES {
        file.seek(SeekFrom::Start(
            (u128::from(last) * u128::from(i) / u128::from(SAMPLES - 1)) as u64,
        ))?;
        file.by_ref().take(SAMPLE_BYTES).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Returns the identity of `model` where `adapter` changes it.
pub(crate) fn adapted_identity(model: &Digest, adapter: &Digest) -> Digest {
    Digest::of("adapted", &[model.bytes(), adapter.bytes()])
}

/// Returns the identity of `reader` for one prompt, whose tokens depend on all of it.
pub(crate) fn prompt_identity(reader: &Digest, units: &[Unit]) -> Digest {
    let units: Vec<u8> = units.iter().flat_map(|unit| unit.to_bytes()).collect();
    Digest::of("whole prompt", &[reader.bytes(), &units])
}

/// Returns the identity of `model` where it keeps keys and values as `how` says.
pub(crate) fn reader_identity(model: &Digest, how: &KvCacheOptions) -> Digest {
    match how.is_plain() {
        true => *model,
        false => Digest::of("reader", &[model.bytes(), format!("{how:?}").as_bytes()]),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name)
    }

    #[test]
    fn images_of_equal_size_differ_and_equal_ones_agree() {
        let view = |pixels: &'static [u8]| rgb_content(RgbView::new(2, 1, pixels).unwrap());
        assert_eq!(view(&[1, 2, 3, 4, 5, 6]), view(&[1, 2, 3, 4, 5, 6]));
        assert_ne!(view(&[1, 2, 3, 4, 5, 6]), view(&[4, 5, 6, 1, 2, 3]));
        let turned = RgbView::new(1, 2, &[1, 2, 3, 4, 5, 6]).unwrap();
        assert_ne!(view(&[1, 2, 3, 4, 5, 6]), rgb_content(turned));
        let content = view(&[1, 2, 3, 4, 5, 6]);
        let processor = processor_identity(&Checkpoint::open(&golden("tiny_fp32")).unwrap());
        let size = |width, height| Size { width, height };
        let key = image_key(&content, &processor, size(28, 56));
        assert_eq!(key, image_key(&content, &processor, size(28, 56)));
        assert_ne!(key, image_key(&content, &processor, size(56, 28)));
    }

    #[test]
    fn a_changed_weight_file_and_changed_options_are_another_model() {
        let dir = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(golden("tiny_fp32")).unwrap() {
            let path = file.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        let identity = |options: &str| {
            model_identity(&Checkpoint::open(dir.path()).unwrap(), options).unwrap()
        };
        let first = identity("a");
        assert_eq!(first, identity("a"));
        assert_ne!(first, identity("b"));
        let path = dir.path().join("model.safetensors");
        let changed = std::fs::metadata(&path).unwrap().modified().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        // The bytes alone must tell.
        File::options().append(true).open(&path).unwrap().set_modified(changed).unwrap();
        assert_ne!(first, identity("a"));
    }
}
