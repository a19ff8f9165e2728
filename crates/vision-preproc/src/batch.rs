//! Several images at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

use crate::{Element, Error, Grid, ImageProcessor, Input, Patches, PixelBudget, Workspace};

impl ImageProcessor {
    /// Processes `inputs` side by side, one thread for each workspace; results come in the order of the inputs, and
    /// an image that fails does not disturb the others.
    ///
    /// The calling thread takes part, so that one workspace needs no thread. At any time there are no more images in
    /// work than workspaces; what they need beside the results is in those, and stays for the next call.
    ///
    /// ```
    /// use vision_preproc::{ImageProcessor, Input, PixelBudget, RgbImage, Workspace};
    ///
    /// let processor = ImageProcessor::from_json(r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#)?;
    /// let image = RgbImage::new(64, 64, vec![128; 64 * 64 * 3])?;
    /// let inputs = [Input::Rgb(image.as_view()), Input::Encoded(b"no image")];
    /// let mut workspaces = [Workspace::new(), Workspace::new()];
    /// let results = processor.process_batch(&inputs, &PixelBudget::default(), &mut workspaces);
    /// assert!(results[0].is_ok() && results[1].is_err());
    /// # Ok::<(), vision_preproc::Error>(())
    /// ```
    ///
    /// # Panics
    /// If there are inputs and no workspace.
    pub fn process_batch(
        &self,
        inputs: &[Input<'_>],
        budget: &PixelBudget,
        workspaces: &mut [Workspace],
    ) -> Vec<Result<Patches, Error>> {
        in_turns(inputs.len(), workspaces, |at, workspace| {
            self.patches(inputs[at], budget, workspace)
        })
    }

    /// The same into memory of the caller, a buffer for each input: nothing is allocated once workspaces have seen such
    /// images. [`plan`](Self::plan) says how long a buffer must be.
    ///
    /// # Panics
    /// If there are inputs and no workspace, or not as many buffers as inputs.
    pub fn process_batch_into<T: Element>(
        &self,
        inputs: &[Input<'_>],
        budget: &PixelBudget,
        workspaces: &mut [Workspace],
        outputs: &mut [&mut [T]],
    ) -> Vec<Result<Grid, Error>> {
        assert_eq!(inputs.len(), outputs.len(), "inputs and buffers");
        let outputs: Vec<_> = outputs.iter_mut().map(|output| Mutex::new(&mut **output)).collect();
        in_turns(inputs.len(), workspaces, |at, workspace| {
            // Nobody else has this number, so nobody has held the lock.
            let mut output = outputs[at].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            self.process_into(inputs[at], budget, workspace, &mut output)
        })
    }
}

/// Does `work` for the numbers below `count`, one thread for each workspace, and has the results in their order.
fn in_turns<R: Send + Sync>(
    count: usize,
    workspaces: &mut [Workspace],
    work: impl Fn(usize, &mut Workspace) -> R + Sync,
) -> Vec<R> {
    assert!(count == 0 || !workspaces.is_empty(), "no workspace for {count}");
    let results: Vec<_> = (0..count).map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let thread = |workspace: &mut Workspace| {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(result) = results.get(at) else { break };
            // No other thread gets this number.
            let _ = result.set(work(at, workspace));
        }
    };
    thread::scope(|scope| {
        let mut workspaces = workspaces.iter_mut().take(count);
        let own = workspaces.next();
        for workspace in workspaces {
            scope.spawn(|| thread(workspace));
        }
        own.map(thread);
    });
    results.into_iter().map(|result| result.into_inner().expect("all were processed")).collect()
}
