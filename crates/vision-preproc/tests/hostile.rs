//! Files that are broken, cut off or too large: what each says, and that nothing else happens.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vision_preproc::{Error, ImageProcessor, Limits, PixelBudget, RgbView, Size, decode, probe};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn files(folder: &Path, leave_out: &[&str]) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| !leave_out.contains(&name.as_str()))
        .map(|(name, path)| (name, std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// The message with that of its source, as a report shows them.
fn message(error: &Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Every file with its message, but for one that is sound. Two are refused here that Pillow accepts: where a checksum or
/// an amount of data is wrong, pixels may be, too.
const REFUSED: [(&str, &str); 21] = [
    ("bad_color_type.png", "cannot decode PNG: Invalid color type 5."),
    ("bad_data_crc.png", "cannot decode PNG: CRC error: expected 0xdeadbeef have 0x1ed5ffee"),
    ("bad_header_crc.png", "cannot decode PNG: CRC error: expected 0xdeadbeef have 0x2e29eb48"),
    ("bomb_20000x20000.gif", "number of pixels is 400000000, the limit is 178956970"),
    ("bomb_30000x30000.bmp", "number of pixels is 900000000, the limit is 178956970"),
    ("bomb_60000x60000.png", "number of pixels is 3600000000, the limit is 178956970"),
    ("empty.png", "unsupported image: found no bytes at all; check that the file was read"),
    ("header_only.jpg", "cannot decode JPEG: the header is truncated"),
    ("picture.svg", "unsupported image: found SVG; render it to PNG first"),
    (
        "short_data.png",
        "cannot decode PNG: IDAT or fDAT chunk does not have enough data for image.",
    ),
    ("signature_only.png", "cannot decode PNG: no IHDR chunk"),
    ("stub.avif", "unsupported image: found AVIF; convert it to JPEG, PNG, WebP, GIF or BMP first"),
    (
        "stub.heic",
        "unsupported image: found HEIC or HEIF; convert it to JPEG, PNG, WebP, GIF or BMP first",
    ),
    (
        "text.png",
        "unsupported image: found unknown content that starts with 54 68 69 73 20 69 73 20; \
         convert it to JPEG, PNG, WebP, GIF or BMP first",
    ),
    ("thin_1x201.png", "ratio of the longer to the shorter side is 201, the limit is 200"),
    ("thin_201x1.png", "ratio of the longer to the shorter side is 201, the limit is 200"),
    ("truncated.gif", "cannot decode GIF: Unexpected End of File"),
    ("truncated.jpg", "cannot decode JPEG: the file is truncated"),
    ("truncated.png", "cannot decode PNG: unexpected end of file"),
    ("truncated.webp", "cannot decode WebP: the file is truncated"),
    ("zero_width.png", "cannot decode PNG: the header has an empty side"),
];

#[test]
fn hostile_files_say_what_is_wrong_with_them() {
    let files = files(&folder("hostile"), &["README.md", "thin_1x200.png"]);
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, REFUSED.map(|(name, _)| name), "files without an expectation, or missing");
    for ((name, bytes), (_, text)) in files.iter().zip(REFUSED) {
        let started = Instant::now();
        let found = message(&decode(bytes, &Limits::default()).unwrap_err());
        assert!(found.starts_with(text), "{name}: {found}");
        // A bomb of 3.6 billion pixels would take seconds to fill, if it were allocated at all.
        assert!(started.elapsed() < Duration::from_secs(1), "{name} took {:?}", started.elapsed());
    }
    let sound = std::fs::read(folder("hostile/thin_1x200.png")).unwrap();
    let image = decode(&sound, &Limits::default()).unwrap();
    assert_eq!(image.size(), Size { width: 1, height: 200 });
}

/// The limits of a caller are held against the header, so they hold whatever the format.
#[test]
fn the_limits_of_the_caller_count() {
    for (name, bytes) in files(&folder("preproc/formats"), &["manifest.txt"]) {
        let pixels = Limits { max_pixels: 101 * 67 - 1, ..Limits::default() };
        let found = decode(&bytes, &pixels).unwrap_err().to_string();
        assert_eq!(found, "number of pixels is 6767, the limit is 6766", "{name}");
        let len = bytes.len() as u64;
        let encoded = Limits { max_encoded_bytes: len - 1, ..Limits::default() };
        let found = decode(&bytes, &encoded).unwrap_err().to_string();
        let text = format!("size of the encoded image in bytes is {len}, the limit is {}", len - 1);
        assert_eq!(found, text, "{name}");
        let aspect = Limits { max_aspect: 1, ..Limits::default() };
        let found = decode(&bytes, &aspect).unwrap_err().to_string();
        assert_eq!(found, "ratio of the longer to the shorter side is 2, the limit is 1", "{name}");
    }
}

/// A file that is cut off anywhere is refused, unless only its end marker is missing; then the picture is whole.
#[test]
fn truncated_files_are_refused_or_whole() {
    for (name, bytes) in files(&folder("preproc/formats"), &["manifest.txt"]) {
        let whole = decode(&bytes, &Limits::default()).unwrap();
        let mut accepted = 0;
        // Every position in the header and at the end, and every seventh between.
        let near_an_end = |len: &usize| *len < 400 || len + 100 > bytes.len();
        for len in (0..bytes.len()).filter(|len| near_an_end(len) || len % 7 == 0) {
            match decode(&bytes[..len], &Limits::default()) {
                Ok(image) => {
                    assert!(image == whole, "{name} cut at {len} of {}", bytes.len());
                    accepted += 1;
                }
                Err(Error::Decode { .. } | Error::Unsupported { .. }) => {}
                Err(error) => panic!("{name} cut at {len}: {error:?}"),
            }
        }
        // Nobody waits for the checksum of PNG's empty last chunk, or for the trailer of GIF.
        let most = if name.ends_with("png") || name.ends_with("gif") { 4 } else { 0 };
        assert!(accepted <= most, "{name} was accepted at {accepted} lengths");
    }
}

/// Pixels that reach the processor another way than through a decoder are held to the same limits.
#[test]
fn the_processor_refuses_narrow_and_large_images() {
    let config = r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#;
    let processor = ImageProcessor::from_json(config).unwrap();
    let budget = PixelBudget::default();
    let narrow = vec![0; 201 * 3];
    let narrow = RgbView::new(201, 1, &narrow).unwrap();
    let found = processor.process(narrow, &budget).unwrap_err().to_string();
    assert_eq!(found, "ratio of the longer to the shorter side is 201, the limit is 200");
    let vast = PixelBudget { min_pixels: Some(1 << 40), max_pixels: Some(1 << 41) };
    let found = processor.plan(Size { width: 64, height: 64 }, &vast).unwrap_err().to_string();
    assert!(found.starts_with("number of pixels after resizing is 10995"), "{found}");
    let none = PixelBudget { min_pixels: None, max_pixels: Some(0) };
    let found = processor.plan(Size { width: 64, height: 64 }, &none).unwrap_err().to_string();
    assert_eq!(found, "processor configuration, `max_pixels`: expected at least 1, found 0");
}

#[test]
fn probe_needs_no_pixels() {
    let bomb = std::fs::read(folder("hostile/bomb_60000x60000.png")).unwrap();
    assert_eq!(probe(&bomb).unwrap().size(), Size { width: 60_000, height: 60_000 });
}
