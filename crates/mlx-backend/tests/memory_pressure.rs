//! Caches give back when memory gets scarce while an answer is made. Alone in its process, since the
//! limit is the process's.

use std::{path::Path, sync::Arc};

use futures_executor::block_on;
use llm_core::{ErrorKind, Event, Image, Provider, Request};
use mlx_backend::{CacheLimits, Caches, MemoryOptions, MlxOptions, MlxProvider};

fn load(caches: &Arc<Caches>, limit_bytes: Option<u64>) -> MlxProvider {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl/full");
    let memory = MemoryOptions { limit_bytes, ..MemoryOptions::default() };
    let options = MlxOptions { caches: caches.clone(), memory, ..MlxOptions::default() };
    MlxProvider::load(path.to_str().unwrap(), options).unwrap()
}

#[test]
fn caches_give_back_and_the_answer_goes_on() {
    let caches = Caches::new(CacheLimits::default());
    let model = load(&caches, None);
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl/samples");
    let picture = || Request::images([Image::Path(samples.join("scene.png"))], "What is it?");
    block_on(model.generate(picture())).unwrap();
    let held = caches.report();
    assert!(
        held.features.bytes > 0 && held.images.bytes > 0 && held.prefixes.bytes > 0,
        "{held:?}"
    );

    let question = || Request::text("What can you do?");
    let undisturbed = block_on(model.generate(question())).unwrap().text;
    let mut stream = block_on(model.generate_stream(question())).unwrap();
    let mut text = String::new();
    let mut limited = None;
    while let Some(event) = block_on(stream.next()) {
        // Less than the process holds: pressure is critical from here on.
        limited.get_or_insert_with(|| load(&caches, Some(1 << 20)));
        if let Event::Text(piece) = event.unwrap() {
            text.push_str(&piece);
        }
    }
    assert!(limited.is_some());
    assert_eq!(text, undisturbed, "what is in use is kept");
    let left = caches.report();
    assert_eq!((left.features.bytes, left.images.bytes), (0, 0), "{left:?}");

    // A limit is for the whole process, so that of the other provider counts here too.
    let error = block_on(model.generate(picture())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error:?}");
}
