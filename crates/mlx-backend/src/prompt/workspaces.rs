//! Memory for decoding and resizing images, used for one after the other.

use std::sync::{Mutex, PoisonError};

use vision_preproc::Workspace;

/// Most workspaces that are kept; each holds some rows and tables, a few megabytes.
const MOST_KEPT: usize = 4;

/// Workspaces that nobody uses at the moment.
#[derive(Debug, Default)]
pub(crate) struct Workspaces(Mutex<Vec<Workspace>>);

impl Workspaces {
    /// Lets `work` have a workspace to itself, for as long as it takes.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Workspace) -> T) -> T {
        let idle = self.idle().pop();
        let mut workspace = idle.unwrap_or_default();
        let done = work(&mut workspace);
        let mut idle = self.idle();
        if idle.len() < MOST_KEPT {
            idle.push(workspace);
        }
        done
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Workspace>> {
        // Whatever panicked held no lock while it worked, so that the list is sound.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use vision_preproc::{Letterbox, LetterboxOptions, RgbImage, Size};

    use super::*;

    #[test]
    fn a_workspace_is_used_again_and_never_by_two() {
        let workspaces = Workspaces::default();
        let count = || workspaces.idle().len();
        workspaces.with(|_| ());
        assert_eq!(count(), 1);
        // The kept one is taken, and others are made beside it.
        workspaces.with(|_| {
            assert_eq!(count(), 0);
            workspaces.with(|_| assert_eq!(count(), 0));
            assert_eq!(count(), 1);
        });
        assert_eq!(count(), 2);
        fn nested(workspaces: &Workspaces, depth: usize) {
            workspaces.with(|_| {
                if depth > 0 {
                    nested(workspaces, depth - 1)
                }
            });
        }
        nested(&workspaces, 10);
        assert_eq!(count(), MOST_KEPT);
    }

    #[test]
    fn an_image_does_not_depend_on_those_before_it() {
        let canvas = Size { width: 20, height: 20 };
        let letterbox = Letterbox::new(canvas, LetterboxOptions::default()).unwrap();
        let workspaces = Workspaces::default();
        for side in [7, 90, 33, 90] {
            let pixels = (0..side * side * 3).map(|at| (at % 251) as u8).collect();
            let image = RgbImage::new(side, side, pixels).unwrap();
            let mut values = vec![0.0_f32; letterbox.value_count()];
            workspaces
                .with(|workspace| letterbox.process_into(image.as_view(), workspace, &mut values))
                .unwrap();
            assert_eq!(values, letterbox.process(image.as_view()));
        }
    }
}
