//! Several images at once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::{Error, ImageProcessor, Input, Patches, PixelBudget, Workspace};

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
        assert!(inputs.is_empty() || !workspaces.is_empty(), "no workspace for {}", inputs.len());
        let results: Vec<_> = inputs.iter().map(|_| OnceLock::new()).collect();
        let next = AtomicUsize::new(0);
        let work = |workspace: &mut Workspace| {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(&input) = inputs.get(at) else { break };
                // No other thread gets this number.
                let _ = results[at].set(self.patches(input, budget, workspace));
            }
        };
        thread::scope(|scope| {
            let mut workspaces = workspaces.iter_mut().take(inputs.len());
            let own = workspaces.next();
            for workspace in workspaces {
                scope.spawn(|| work(workspace));
            }
            own.map(work);
        });
        results.into_iter().map(|result| result.into_inner().expect("all were processed")).collect()
    }
}
