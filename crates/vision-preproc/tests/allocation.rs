//! Pixels cost no allocation once a workspace has seen an image of their size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use vision_preproc::{
    ImageProcessor, Letterbox, LetterboxOptions, PixelBudget, RgbImage, Size, Workspace,
};

/// Counts calls.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// One test, because the counters see all threads.
#[test]
fn a_workspace_is_enough() {
    let config = r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#;
    let processor = ImageProcessor::from_json(config).unwrap();
    let budget = PixelBudget::default();
    let mut workspace = Workspace::new();

    let image = RgbImage::new(900, 700, vec![9; 900 * 700 * 3]).unwrap();
    let plan = processor.plan(image.size(), &budget).unwrap();
    let mut out = vec![0.0_f32; plan.patches * processor.row_values()];
    processor.process_into(image.as_view(), &budget, &mut workspace, &mut out).unwrap();
    let calls = CALLS.load(Relaxed);
    processor.process_into(image.as_view(), &budget, &mut workspace, &mut out).unwrap();
    assert_eq!(CALLS.load(Relaxed) - calls, 0, "allocations for the second image");

    let canvas = Size { width: 448, height: 448 };
    let letterbox = Letterbox::new(canvas, LetterboxOptions::default()).unwrap();
    let mut out = vec![0.0_f32; letterbox.value_count()];
    letterbox.process_into(image.as_view(), &mut workspace, &mut out).unwrap();
    let calls = CALLS.load(Relaxed);
    letterbox.process_into(image.as_view(), &mut workspace, &mut out).unwrap();
    assert_eq!(CALLS.load(Relaxed) - calls, 0, "allocations for the second letterbox");
}
