//! Compares two images and reports what it took:
//! `cargo run --example compare_images [IMAGE IMAGE]`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::{env, sync::Arc};

use abstractllm::{
    Image, Request, Result, blocking, load,
    mlx::MlxOptions,
    perf::{MonitorOptions, PerformanceMonitor},
};

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-vl/samples");

fn main() -> Result<()> {
    let mut paths: Vec<String> = env::args().skip(1).collect();
    if paths.is_empty() {
        paths = ["scene.png", "second.png"].map(|name| format!("{SAMPLES}/{name}")).into();
    }
    let images = paths.into_iter().map(|path| Image::Path(path.into()));

    // As the recorder of the model, the monitor also hears of the steps inside an operation.
    let monitor = PerformanceMonitor::new(MonitorOptions::default());
    let options = MlxOptions { recorder: Arc::new(monitor.clone()), ..MlxOptions::default() };
    let llm = load("tiny-vl", options)?;

    let answer = {
        let _operation = monitor.monitor("compare images");
        blocking::generate(&llm, Request::images(images, "Compare these images."))?
    };

    println!("{}", answer.text);
    println!("{}", monitor.report().to_json());
    Ok(())
}
