use proptest::prelude::*;
use serde_json::{Value, json};
use vision_preproc::{Error, ImageProcessor, PixelBudget, Preprocessor, RgbImage, Size};

use crate::cases;

const KEYS: [&str; 24] = [
    "image_processor_type",
    "do_resize",
    "do_rescale",
    "do_normalize",
    "patch_size",
    "temporal_patch_size",
    "merge_size",
    "min_pixels",
    "max_pixels",
    "size",
    "shortest_edge",
    "longest_edge",
    "resample",
    "rescale_factor",
    "image_mean",
    "image_std",
    "image_processor",
    "crop_size",
    "do_center_crop",
    "do_image_splitting",
    "do_pad",
    "height",
    "max_image_size",
    "width",
];

/// Any JSON whose objects use the keys that the parser knows.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..30_u64).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::collection::vec(-1.0..2.0_f64, 0..5).prop_map(Value::from),
        "[a-zA-Z0-9 ]{0,9}".prop_map(Value::from),
        Just(Value::from("Qwen2VLImageProcessor")),
        Just(Value::from("Qwen2_5_VLImageProcessorFast")),
        Just(Value::from("CLIPImageProcessor")),
        Just(Value::from("Idefics3ImageProcessor")),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        let key = proptest::sample::select(&KEYS[..]);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..6).prop_map(|pairs| {
                pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            }),
        ]
    })
}

/// What was accepted can plan any image; whatever else happens is an error of the configuration.
fn check(result: Result<ImageProcessor, Error>) {
    match result {
        Ok(processor) => {
            assert!(processor.row_values() >= 3);
            let planned = processor.plan(Size { width: 640, height: 480 }, &PixelBudget::default());
            match planned {
                Ok(plan) => assert_eq!(plan.grid.patches(), plan.patches),
                Err(Error::Limit { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        Err(Error::Config { field, reason }) => {
            assert!(!field.is_empty() && !reason.is_empty(), "{field}: {reason}");
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// As `check`, for any family; what makes frames makes as many as it said.
fn check_any(result: Result<Preprocessor, Error>) {
    match result {
        Ok(Preprocessor::Frames(processor)) => {
            let image = RgbImage::new(30, 7, vec![100; 630]).unwrap();
            let (rows, columns) = processor.tiles(image.size()).unwrap();
            let pixels = (rows * columns + 1) as u64 * processor.frame_size().pixels();
            // Tiles of one pixel, and images of thousands, are allowed and slow.
            if columns < 100 && pixels < 50_000 {
                let frames = processor.process(image.as_view()).unwrap();
                assert_eq!(frames.count, rows * columns + 1);
                assert_eq!(frames.values.len() as u64, 3 * pixels);
            }
        }
        Ok(Preprocessor::Patches(processor)) => check(Ok(processor)),
        Ok(other) => panic!("{other:?}"),
        Err(error) => check(Err(error)),
    }
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn any_json_is_accepted_or_an_error(first in value(), second in value()) {
        let (first, second) = (first.to_string(), second.to_string());
        check(ImageProcessor::from_json(&first));
        check_any(Preprocessor::from_json(&first));
        check(ImageProcessor::from_configs(Some(&first), Some(&second)));
        check(ImageProcessor::from_configs(None, Some(&second)));
    }

    /// A sound file with one value replaced, which comes further into the parser.
    #[test]
    fn one_odd_value_is_accepted_or_an_error(
        key in proptest::sample::select(&KEYS[1..]),
        value in value(),
    ) {
        let mut config = json!({
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": 14,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "size": {"shortest_edge": 3136, "longest_edge": 12_845_056},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        });
        config[key] = value;
        check(ImageProcessor::from_json(&config.to_string()));
    }

    #[test]
    fn one_odd_value_in_a_preset_is_accepted_or_an_error(
        kind in proptest::sample::select(&["CLIP", "Llava", "Siglip", "SmolVLM"][..]),
        key in proptest::sample::select(&KEYS[1..]),
        value in value(),
    ) {
        let mut config = json!({"image_processor_type": format!("{kind}ImageProcessor")});
        config[key] = value;
        check_any(Preprocessor::from_json(&config.to_string()));
    }

    #[test]
    fn any_text_is_an_error(text in ".{0,80}") {
        let is_config = matches!(ImageProcessor::from_json(&text), Err(Error::Config { .. }));
        prop_assert!(is_config, "{}", text);
    }
}

/// `serde_json` reads this number one step off unless it is told to take care.
#[test]
fn the_rescale_factor_is_read_to_the_last_bit() {
    let config = |factor: &str| {
        let text = format!(
            r#"{{"image_processor_type": "Qwen2VLImageProcessor", "rescale_factor": {factor},
                "do_normalize": false, "min_pixels": 784, "max_pixels": 784}}"#
        );
        let image = RgbImage::new(28, 28, vec![1; 28 * 28 * 3]).unwrap();
        let processor = ImageProcessor::from_json(&text).unwrap();
        processor.process(image.as_view(), &PixelBudget::default()).unwrap().values[0]
    };
    for factor in ["0.00392156862745098", "1.4233394861221313", "0.0078431372549019607843"] {
        assert_eq!(config(factor), factor.parse::<f64>().unwrap() as f32, "{factor}");
    }
}
