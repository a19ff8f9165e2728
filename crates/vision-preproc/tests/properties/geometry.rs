use proptest::prelude::*;
use vision_preproc::{Error, Letterbox, LetterboxOptions, Size, letterbox, smart_resize};

use crate::cases;

fn size(most: u32) -> impl Strategy<Value = Size> {
    // Even over the orders of magnitude, since small sides are where rounding shows.
    let side = move || (0.0..=f64::from(most).log2()).prop_map(|log| log.exp2() as u32);
    (side(), side()).prop_map(|(width, height)| Size { width, height })
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn smart_resize_keeps_its_promises(
        size in size(60_000),
        factor in 1..=64_u32,
        min_blocks in 1..2000_u64,
        more_blocks in 0..20_000_u64,
    ) {
        let block = u64::from(factor * factor);
        let (min, max) = (min_blocks * block, (min_blocks + more_blocks) * block);
        let (long, short) = (size.width.max(size.height), size.width.min(size.height));
        let result = smart_resize(size, factor, min, max);
        if u64::from(long) > 200 * u64::from(short) {
            let is_limit = matches!(result, Err(Error::Limit { limit: 200, .. }));
            prop_assert!(is_limit, "{:?}", result);
            return Ok(());
        }
        let new = result.unwrap();
        prop_assert!(new.width > 0 && new.width.is_multiple_of(factor), "{}", new);
        prop_assert!(new.height > 0 && new.height.is_multiple_of(factor), "{}", new);
        let rounded = |side: u32| (f64::from(side) / f64::from(factor)).round_ties_even() as u64;
        let natural = rounded(size.width) * rounded(size.height) * block;
        // Growing rounds up, so it may pass the upper bound where the bounds are close.
        if natural <= max {
            prop_assert!(new.pixels() >= min, "{} has fewer than {} pixels", new, min);
        }
        // Shrinking rounds down, save that a side keeps one block.
        if natural >= min && new.width > factor && new.height > factor {
            prop_assert!(new.pixels() <= max, "{} has more than {} pixels", new, max);
        }
        if (min..=max).contains(&natural) {
            // Inside the bounds each side is rounded by itself, so it moves by half a block at most.
            prop_assert!(new.width.abs_diff(size.width) * 2 <= factor, "{} to {}", size, new);
            prop_assert!(new.height.abs_diff(size.height) * 2 <= factor, "{} to {}", size, new);
        } else {
            // The scale of both sides is the same to within a block.
            let scale = f64::from(new.width) / f64::from(size.width);
            let blocks = (f64::from(new.height) - f64::from(size.height) * scale).abs();
            let ratio = f64::from(size.height) / f64::from(size.width);
            if new.width > factor && new.height > factor {
                let allowed = f64::from(factor) * (1.0 + ratio) + 1e-6;
                prop_assert!(blocks <= allowed, "{} to {}", size, new);
            }
        }
    }

    #[test]
    fn a_tie_goes_to_the_even_multiple(blocks in 1..400_u32, half in 1..40_u32) {
        let factor = 2 * half;
        let side = blocks * factor + half;
        let new = smart_resize(Size { width: side, height: side }, factor, 1, u64::MAX).unwrap();
        prop_assert_eq!(new.width / factor % 2, 0);
        prop_assert_eq!(new.width.abs_diff(side), half);
    }

    #[test]
    fn a_second_smart_resize_changes_nothing(
        width in 64..5000_u32,
        height in 64..5000_u32,
        factor in 1..=28_u32,
    ) {
        let (min, max) = (u64::from(factor * factor) * 4, 3_000_000);
        let once = smart_resize(Size { width, height }, factor, min, max).unwrap();
        prop_assert_eq!(smart_resize(once, factor, min, max).unwrap(), once);
    }

    #[test]
    fn a_letterboxed_picture_fills_a_side_and_lies_in_the_middle(
        size in size(60_000),
        canvas in size(5000),
    ) {
        let placement = letterbox(size, canvas);
        let fitted = placement.size;
        prop_assert!(fitted.width == canvas.width || fitted.height == canvas.height);
        prop_assert!((1..=canvas.width).contains(&fitted.width));
        prop_assert!((1..=canvas.height).contains(&fitted.height));
        let right = canvas.width - fitted.width - placement.left;
        let below = canvas.height - fitted.height - placement.top;
        prop_assert!(right.abs_diff(placement.left) <= 1);
        prop_assert!(below.abs_diff(placement.top) <= 1);
        // The shape is kept to within half a pixel, or a whole one where that would leave nothing.
        let (w, h) = (f64::from(size.width), f64::from(size.height));
        let by_width = f64::from(fitted.height) - h / w * f64::from(canvas.width);
        let by_height = f64::from(fitted.width) - w / h * f64::from(canvas.height);
        let error = by_width.abs().min(by_height.abs());
        prop_assert!(error <= 0.5 + 1e-6 || fitted.width.min(fitted.height) == 1);
    }

    #[test]
    fn without_enlarging_a_small_picture_keeps_its_size(size in size(300), canvas in size(300)) {
        let options = LetterboxOptions { enlarge: false, ..LetterboxOptions::default() };
        let placement = Letterbox::new(canvas, options).unwrap().placement(size);
        if size.width <= canvas.width && size.height <= canvas.height {
            prop_assert_eq!(placement.size, size);
        } else {
            prop_assert_eq!(placement, letterbox(size, canvas));
        }
    }
}
