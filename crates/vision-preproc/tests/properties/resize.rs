use proptest::prelude::*;
use vision_preproc::{
    Filter, ImageProcessor, PassOrder, PixelBudget, RgbImage, Size, resize, smart_resize,
};

use crate::cases;

const FILTERS: [Filter; 5] =
    [Filter::Box, Filter::Bilinear, Filter::Hamming, Filter::Bicubic, Filter::Lanczos];

fn filter() -> impl Strategy<Value = Filter> {
    proptest::sample::select(&FILTERS[..])
}

fn order() -> impl Strategy<Value = PassOrder> {
    proptest::sample::select(&[PassOrder::Pillow12, PassOrder::Pillow13][..])
}

fn size() -> impl Strategy<Value = Size> {
    (1..90_u32, 1..90_u32).prop_map(|(width, height)| Size { width, height })
}

fn image() -> impl Strategy<Value = RgbImage> {
    size().prop_flat_map(|size| {
        let len = (size.pixels() * 3) as usize;
        proptest::collection::vec(any::<u8>(), len)
            .prop_map(move |pixels| RgbImage::new(size.width, size.height, pixels).unwrap())
    })
}

/// The largest and smallest value of each channel.
fn range(image: &RgbImage) -> [(u8, u8); 3] {
    [0, 1, 2].map(|channel| {
        let values = image.pixels().iter().skip(channel).step_by(3);
        (*values.clone().min().unwrap(), *values.max().unwrap())
    })
}

fn transposed(image: &RgbImage) -> RgbImage {
    let rows = image.height() as usize;
    let pixels = (0..image.width() as usize)
        .flat_map(|x| {
            (0..rows).flat_map(move |y| image.as_view().row(y)[x * 3..x * 3 + 3].to_vec())
        })
        .collect();
    RgbImage::new(image.height(), image.width(), pixels).unwrap()
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_flat_image_stays_flat(
        from in size(), to in size(), color in any::<[u8; 3]>(), filter in filter(), order in order(),
    ) {
        let image = RgbImage::new(from.width, from.height, color.repeat(from.pixels() as usize));
        let result = resize(image.unwrap().as_view(), to, filter, order).unwrap();
        prop_assert_eq!(result.size(), to);
        prop_assert!(result.pixels().as_chunks().0.iter().all(|pixel| *pixel == color));
    }

    #[test]
    fn the_same_size_is_the_same_image(image in image(), filter in filter(), order in order()) {
        let result = resize(image.as_view(), image.size(), filter, order).unwrap();
        prop_assert!(result == image);
    }

    /// Box, bilinear and Hamming have no negative weights; the other two overshoot at edges.
    #[test]
    fn without_negative_weights_values_stay_in_range(
        image in image(), to in size(), filter in filter(), order in order(),
    ) {
        prop_assume!(!matches!(filter, Filter::Bicubic | Filter::Lanczos));
        let result = resize(image.as_view(), to, filter, order).unwrap();
        for ((low, high), (found_low, found_high)) in range(&image).into_iter().zip(range(&result)) {
            prop_assert!(found_low >= low && found_high <= high);
        }
    }

    #[test]
    fn the_channels_do_not_mix(image in image(), to in size(), filter in filter(), order in order()) {
        let turned = |image: &RgbImage| {
            let pixels = image.pixels().as_chunks().0.iter().flat_map(|&[r, g, b]| [g, b, r]);
            RgbImage::new(image.width(), image.height(), pixels.collect()).unwrap()
        };
        let expected = turned(&resize(image.as_view(), to, filter, order).unwrap());
        let found = resize(turned(&image).as_view(), to, filter, order).unwrap();
        prop_assert!(found == expected);
    }

    /// One axis at a time, so that the order of the passes does not matter.
    #[test]
    fn the_axes_are_treated_alike(image in image(), height in 1..90_u32, filter in filter()) {
        let to = Size { width: image.width(), height };
        let expected = transposed(&resize(image.as_view(), to, filter, PassOrder::Pillow13).unwrap());
        let to = Size { width: height, height: image.width() };
        let found = resize(transposed(&image).as_view(), to, filter, PassOrder::Pillow13).unwrap();
        prop_assert!(found == expected);
    }

    #[test]
    fn the_patches_are_those_of_the_plan(image in image(), max_blocks in 1..40_u64) {
        let config = r#"{"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 784}"#;
        let processor = ImageProcessor::from_json(config).unwrap();
        let budget =
            PixelBudget { max_pixels: Some(max_blocks * 784), ..PixelBudget::default() };
        let plan = processor.plan(image.size(), &budget).unwrap();
        prop_assert_eq!(plan.resized, smart_resize(image.size(), 28, 784, max_blocks * 784).unwrap());
        prop_assert_eq!(plan.tokens * 4, plan.patches);
        let patches = processor.process(image.as_view(), &budget).unwrap();
        prop_assert_eq!(patches.grid, plan.grid);
        prop_assert_eq!(patches.values.len(), plan.patches * processor.row_values());
        // CLIP's constants take 0 and 255 to these.
        prop_assert!(patches.values.iter().all(|value| (-1.80..=2.15).contains(value)));
    }
}
