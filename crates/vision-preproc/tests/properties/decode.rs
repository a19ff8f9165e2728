use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use vision_preproc::{
    Error, Letterbox, LetterboxOptions, Limits, RgbImage, Size, Workspace, decode, probe,
};

use crate::cases;

/// The small files of all formats, sound and hostile.
static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let mut paths: Vec<_> = ["preproc/formats", "hostile"]
        .iter()
        .flat_map(|name| std::fs::read_dir(folder.join(name)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let files: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(files.len() > 60, "{} files", files.len());
    files
});

/// A change to a file: `at` is a share of its length.
#[derive(Clone, Debug)]
enum Change {
    Set { at: f64, bytes: Vec<u8> },
    Insert { at: f64, bytes: Vec<u8> },
    Remove { at: f64, len: usize },
    Flip { at: f64, bit: u8 },
}

fn change() -> impl Strategy<Value = Change> {
    // Most of what a decoder believes stands in the first bytes, so half of the changes go there.
    let at = || prop_oneof![0.0..1.0, (0.0..1.0_f64).prop_map(|at| at * at * at * at)];
    let bytes = || {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..5),
            proptest::collection::vec(proptest::sample::select(vec![0, 0x7f, 0x80, 0xff]), 1..5),
        ]
    };
    prop_oneof![
        (at(), bytes()).prop_map(|(at, bytes)| Change::Set { at, bytes }),
        (at(), bytes()).prop_map(|(at, bytes)| Change::Insert { at, bytes }),
        (at(), 1..40_usize).prop_map(|(at, len)| Change::Remove { at, len }),
        (at(), 0..8_u8).prop_map(|(at, bit)| Change::Flip { at, bit }),
    ]
}

fn changed(file: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut file = file.to_vec();
    for change in changes {
        let place = |at: f64| (at * file.len() as f64) as usize;
        match change {
            Change::Set { at, bytes } => {
                let at = place(*at);
                let end = (at + bytes.len()).min(file.len());
                file[at..end].copy_from_slice(&bytes[..end - at]);
            }
            Change::Insert { at, bytes } => {
                let at = place(*at);
                file.splice(at..at, bytes.iter().copied());
            }
            Change::Remove { at, len } => {
                let at = place(*at);
                let end = (at + len).min(file.len());
                file.drain(at..end);
            }
            Change::Flip { at, bit } => {
                let at = place(*at);
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
        }
    }
    file
}

/// Nothing panics, `decode` keeps to the limits and to what `probe` said, and fails where `probe` does.
fn check(bytes: &[u8]) {
    // Changed headers ask for any size; what is within the limits is decoded.
    let limits = Limits { max_pixels: 1 << 20, ..Limits::default() };
    let decoded = decode(bytes, &limits);
    check_letterbox(bytes, &limits, &decoded);
    match (probe(bytes), decoded) {
        (Ok(info), Ok(image)) => {
            assert_eq!(info.size(), image.size());
            limits.check_size(image.size()).unwrap();
        }
        (Ok(info), Err(Error::Limit { .. })) => assert!(limits.check_size(info.size()).is_err()),
        (Ok(info), Err(Error::Decode { format, .. })) => assert_eq!(format, info.format),
        (Err(probed), Err(decoded)) => assert_eq!(probed.to_string(), decoded.to_string()),
        (probed, decoded) => panic!("probe gave {probed:?}, decode {decoded:?}"),
    }
}

/// The way without a whole frame accepts the same files, and makes the same of them.
fn check_letterbox(bytes: &[u8], limits: &Limits, decoded: &Result<RgbImage, Error>) {
    let canvas = Size { width: 20, height: 30 };
    let options = LetterboxOptions { limits: *limits, ..LetterboxOptions::default() };
    let letterbox = Letterbox::new(canvas, options).unwrap();
    match (decoded, letterbox.process_bytes(bytes, &mut Workspace::new())) {
        (Ok(image), Ok(values)) => assert!(letterbox.process(image.as_view()) == values),
        (Err(decoded), Err(streamed)) => assert_eq!(decoded.to_string(), streamed.to_string()),
        (decoded, streamed) => {
            panic!("decode gave {decoded:?}, process_bytes {:?}", streamed.map(|_| ()))
        }
    }
}

#[test]
fn probe_agrees_with_decode_on_every_file() {
    FILES.iter().for_each(|file| check(file));
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn changed_files_do_not_panic(
        index in any::<proptest::sample::Index>(),
        changes in proptest::collection::vec(change(), 1..5),
    ) {
        check(&changed(index.get::<Vec<u8>>(&FILES), &changes));
    }

    #[test]
    fn random_bytes_behind_a_signature_do_not_panic(
        start in proptest::sample::select(vec![
            &b"\xff\xd8\xff"[..],
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\x40\0\0\0WEBP",
            b"GIF89a",
            b"BM",
            b"",
        ]),
        rest in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        check(&[start, &rest].concat());
    }
}
