//! What the Qwen-VL families share beside the decoder: the names of tensors, and positions of three
//! axes.
//!
//! Sources: arXiv:2409.12191, section 2.1; transformers `modeling_qwen2_vl.py`, `get_rope_index`.

use super::{Media, Seen, vlm, vlm::Choices};
use crate::{Error, Result, rope::Positions};

/// What these families choose alike.
pub(super) const CHOICES: Choices = Choices {
    rename,
    image_token: 151_655,
    video_token: Some(151_656),
    wrap: None,
    tokens_per_second: None,
    places: positions,
    whole_prompt: false,
};

/// Returns the name that the models use for a tensor, whatever layout the checkpoint is in.
fn rename(name: &str) -> Option<String> {
    const LAYOUTS: [(&str, &str); 7] = [
        ("vision_tower.", "vision_tower."),
        ("language_model.", "language_model."),
        ("model.visual.", "vision_tower."),
        ("model.language_model.", "language_model.model."),
        ("visual.", "vision_tower."),
        ("model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ];
    vlm::rename(&LAYOUTS, name)
}

/// Returns the positions of a prompt whose image and video tokens stand for `seen`, in order.
///
/// Text counts up on all axes. An image that starts at `s` has time `s`, height `s` plus the row and
/// width `s` plus the column of its merged cells. The time of a video grows from patch to patch, by one
/// or by what [`Media::tokens_per_second`] makes of the seconds between them, rounded down. Text after
/// them goes on from the largest position so far, as in the paper, transformers 4 and vLLM;
/// transformers 5 has it go on from rows and columns, even where time has gone further.
pub(super) fn positions(ids: &[u32], seen: &[Seen], media: &Media) -> Result<Positions> {
    let placeholders = ids.iter().filter(|&&id| media.is_placeholder(id)).count();
    let features: usize = seen.iter().map(|seen| media.tokens(seen.grid)).sum();
    if placeholders != features {
        return Err(Error::PlaceholderMismatch { placeholders, features });
    }
    let mut axes = [const { Vec::new() }; 3];
    let mut seen = seen.iter();
    let (mut at, mut next) = (0, 0_i32);
    while at < ids.len() {
        if !media.is_placeholder(ids[at]) {
            axes.iter_mut().for_each(|axis| axis.push(next));
            (at, next) = (at + 1, next + 1);
            continue;
        }
        let Some(&Seen { grid, seconds }) = seen.next() else { break };
        let (t, h, w) = (grid.t, grid.h / media.merge, grid.w / media.merge);
        if !ids[at..].iter().take(t * h * w).all(|&id| media.is_placeholder(id)) {
            let reason = "the tokens of an image or a video are torn apart";
            return Err(Error::Prompt(reason.to_owned()));
        }
        let step = match (media.tokens_per_second, seconds) {
            (Some(rate), Some(seconds)) => rate * seconds,
            _ => 1.0,
        };
        // In f32 as upstream; what hours between two patches make is no position.
        let time = |patch: usize| (patch as f32 * step).min(MOST_TIME) as i32;
        for (patch, row, column) in
            (0..t).flat_map(|p| (0..h).flat_map(move |r| (0..w).map(move |c| (p, r, c))))
        {
            for (axis, offset) in axes.iter_mut().zip([time(patch), row as i32, column as i32]) {
                axis.push(next.saturating_add(offset));
            }
        }
        at += t * h * w;
        let last = t.checked_sub(1).map_or(0, time);
        next = next.saturating_add((last + 1).max(h as i32).max(w as i32));
    }
    Ok(Positions { axes, delta: next.saturating_sub(ids.len() as i32), together: Vec::new() })
}

/// Largest time of a patch: f32 has no fractions above, and what follows has room below the end of i32.
const MOST_TIME: f32 = 16_777_216.0;

#[cfg(test)]
mod tests {
    use vision_preproc::Grid;

    use super::*;

    const I: u32 = 900;
    const MEDIA: Media = Media {
        image_token: I,
        video_token: Some(901),
        tokens_per_second: None,
        merge: 2,
        wrap: None,
        whole_prompt: false,
    };

    fn grid(h: usize, w: usize) -> Seen {
        Grid { t: 1, h, w }.into()
    }

    /// Values of the reference for one image of 2 x 3 cells.
    #[test]
    fn one_image() {
        let ids = [5, 6, 800, I, I, I, I, I, I, 801, 7, 8];
        let found = positions(&ids, &[grid(4, 6)], &MEDIA).unwrap();
        assert_eq!(found.axes[0], [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7, 8]);
        assert_eq!(found.axes[1], [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7, 8]);
        assert_eq!(found.axes[2], [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8]);
        assert_eq!(found.delta, -3);
    }

    /// Values of the reference for images of 2 x 2 and 2 x 3 cells.
    #[test]
    fn two_images() {
        let ids = [5, 800, I, I, I, I, 7, 800, I, I, I, I, I, I, 9];
        let found = positions(&ids, &[grid(4, 4), grid(4, 6)], &MEDIA).unwrap();
        assert_eq!(found.axes[0], [0, 1, 2, 2, 2, 2, 4, 5, 6, 6, 6, 6, 6, 6, 9]);
        assert_eq!(found.axes[1], [0, 1, 2, 2, 3, 3, 4, 5, 6, 6, 6, 7, 7, 7, 9]);
        assert_eq!(found.axes[2], [0, 1, 2, 3, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8, 9]);
        assert_eq!(found.delta, -5);
    }

    #[test]
    fn a_count_that_does_not_fit_is_an_error() {
        let error = positions(&[5, I, I, 6], &[grid(4, 4)], &MEDIA).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the prompt has 2 image placeholder tokens for 4 image features"
        );
        assert!(positions(&[I, I, 5, I, I], &[grid(4, 4)], &MEDIA).is_err());
    }

    #[test]
    fn every_layout_leads_to_the_same_names() {
        let expected = "language_model.model.layers.0.mlp.up_proj.weight";
        for name in [
            "model.layers.0.mlp.up_proj.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
            "language_model.model.layers.0.mlp.up_proj.weight",
        ] {
            assert_eq!(rename(name).as_deref(), Some(expected));
        }
        let expected = "vision_tower.blocks.0.norm1.weight";
        for name in ["visual.", "model.visual.", "vision_tower."] {
            assert_eq!(rename(&format!("{name}blocks.0.norm1.weight")).as_deref(), Some(expected));
        }
        assert_eq!(rename("lm_head.weight").as_deref(), Some("language_model.lm_head.weight"));
        assert_eq!(rename("visual.position_ids"), None);
    }
}
