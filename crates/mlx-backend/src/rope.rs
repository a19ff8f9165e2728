//! Rotary position embedding, with one position per token or three (multi-axis, M-RoPE).
//!
//! Sources: arXiv:2104.09864; Qwen2-VL, arXiv:2409.12191, section 2.1.

use std::{cell::RefCell, ops::Range};

use mlx_rs::{
    Array, Dtype, error::Result as MlxResult, fast, ops, ops::indexing::TryIndexOp,
    transforms::compile::compile,
};

/// Where each token of a prompt stands: time, height and width, which text tokens share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Positions {
    /// Time, height and width of each token, equally long.
    pub(crate) axes: [Vec<i32>; 3],
    /// What a token generated at cache offset `o` adds to it: its position is `o + delta`.
    pub(crate) delta: i32,
    /// Tokens that see each other, also those after them: each run is read in one step of its own.
    pub(crate) together: Vec<Range<usize>>,
}

impl Positions {
    /// Returns those of `tokens` tokens of text.
    pub(crate) fn of_text(tokens: usize) -> Self {
        let axis: Vec<i32> = (0..).take(tokens).collect();
        Self { axes: [axis.clone(), axis.clone(), axis], delta: 0, together: Vec::new() }
    }

    /// Returns where a step ends that begins at `from` and would like to end at `to`.
    pub(crate) fn step_end(&self, from: usize, to: usize) -> usize {
        match self.together.iter().find(|run| run.end > from) {
            Some(run) if run.start <= from => run.end,
            Some(run) => to.min(run.start),
            None => to,
        }
    }

    /// Returns the first position of `range` if there the axes agree and count up by one.
    fn run_of(&self, range: &Range<usize>) -> Option<i32> {
        let [t, h, w] = self.axes.each_ref().map(|axis| &axis[range.clone()]);
        let counts_up = t.windows(2).all(|pair| pair[1] == pair[0] + 1);
        (t == h && t == w && counts_up).then(|| t.first().copied()).flatten()
    }
}

/// How the queries and keys of one forward pass are rotated; made once, used by every layer.
#[derive(Debug)]
pub(crate) enum Rotation {
    /// Consecutive positions from this one on, as a number of MLX, whose fused kernel does it, and ours.
    Offset(Array, i32),
    /// The position of the one token that each of several sequences adds, `[B]`, and the same here.
    Rows(Array, Vec<i32>),
    /// Cosines and sines, `[L, D]`.
    Table(Array, Array),
    /// As [`Offset`](Self::Offset), of tokens that see each other.
    Together(Array),
}

impl Rotation {
    /// Returns the rotation of tokens at consecutive positions from `first` on.
    pub(crate) fn from(first: i32) -> Self {
        Self::Offset(Array::from_int(first), first)
    }

    /// Returns the rotation of a token of each of several sequences, at `positions`.
    pub(crate) fn rows(positions: &[i32]) -> Self {
        Self::Rows(Array::from_slice(positions, &[positions.len() as i32]), positions.to_vec())
    }
}

/// The frequencies of a model.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    dims: i32,
    /// Of plain frequencies, `base^(-2i / D)`.
    base: Option<f32>,
    frequencies: Vec<f32>,
    /// Where they are not plain, one over each.
    periods: Option<Array>,
    /// The axis (0 time, 1 height, 2 width) that each of the `D / 2` frequencies turns with.
    axis_of: Vec<usize>,
    /// As [`Backend::compiles`](crate::device::Backend::compiles).
    compiles: bool,
}

impl Rope {
    /// Returns the rotary embedding of the first `dims` values of a head by `frequencies`, `dims / 2` of
    /// them, each of which turns with the axis `axis_of`. `base` is given if they are plain.
    pub(crate) fn new(
        dims: i32,
        base: Option<f32>,
        frequencies: Vec<f32>,
        axis_of: Vec<usize>,
        compiles: bool,
    ) -> Self {
        let periods = || {
            let periods: Vec<f32> = frequencies.iter().map(|f| f.recip()).collect();
            Array::from_slice(&periods, &[periods.len() as i32])
        };
        let periods = base.is_none().then(periods);
        Self { dims, base, frequencies, periods, axis_of, compiles }
    }

    /// Returns the angles by which pairs of values turn from one position to the next.
    pub(crate) fn frequencies(&self) -> &[f32] {
        &self.frequencies
    }

    /// Returns the rotation of the tokens in `range` of a prompt.
    pub(crate) fn prompt(
        &self,
        positions: &Positions,
        range: Range<usize>,
        dtype: Dtype,
    ) -> MlxResult<Rotation> {
        if let Some(first) = positions.run_of(&range) {
            return Ok(match positions.together.iter().any(|run| run.contains(&range.start)) {
                true => Rotation::Together(Array::from_int(first)),
                false => Rotation::from(first),
            });
        }
        let half = self.axis_of.len();
        let mut angles = Vec::with_capacity(range.len() * half);
        for token in range.clone() {
            for (&axis, frequency) in self.axis_of.iter().zip(&self.frequencies) {
                angles.push(positions.axes[axis][token] as f32 * frequency);
            }
        }
        let (cos, sin) = cos_sin(&angles, range.len(), dtype)?;
        Ok(Rotation::Table(cos, sin))
    }

    /// Rotates `[B, H, L, D]`.
    pub(crate) fn apply(&self, x: &Array, rotation: &Rotation) -> MlxResult<Array> {
        match rotation {
            Rotation::Offset(offset, _)
            | Rotation::Together(offset)
            | Rotation::Rows(offset, _) => {
                let periods = self.periods.as_ref();
                fast::rope_dynamic(x, self.dims, false, self.base, 1.0, offset, periods)
            }
            Rotation::Table(cos, sin) => rotate(x, cos, sin, self.compiles),
        }
    }
}

/// Returns cosines and sines, `[rows, 2 * n]`, of `rows` times `n` angles, both halves alike.
pub(crate) fn cos_sin(angles: &[f32], rows: usize, dtype: Dtype) -> MlxResult<(Array, Array)> {
    let n = angles.len() / rows.max(1);
    let shape = [rows as i32, n as i32];
    let angles = Array::from_slice(angles, &shape);
    let both = ops::concatenate(&[&angles, &angles], 1)?;
    Ok((both.cos()?.as_dtype(dtype)?, both.sin()?.as_dtype(dtype)?))
}

/// `x * cos + rotate_half(x) * sin` in the type of `x`, with value `i` paired with value `i + D / 2`.
/// Both halves of `cos` and of `sin` are alike.
pub(crate) fn rotate(x: &Array, cos: &Array, sin: &Array, compiles: bool) -> MlxResult<Array> {
    let half = x.dim(-1) / 2;
    let first = |x: &Array| x.try_index((ops::indexing::Ellipsis, ..half));
    let second = x.try_index((ops::indexing::Ellipsis, half..))?;
    let parts = [first(x)?, second, first(cos)?, first(sin)?];
    let turned = if compiles { turn_compiled(&parts)? } else { turn(&parts)? };
    ops::concatenate(&turned, -1)
}

/// Turns the vectors of `first` and `second` halves, given with cosines and sines.
fn turn(parts: &[Array]) -> MlxResult<Vec<Array>> {
    let [first, second, cos, sin] = parts else { unreachable!("two halves, cosines and sines") };
    let dtype = first.dtype();
    let turned = [
        first.multiply(cos)?.subtract(second.multiply(sin)?)?,
        second.multiply(cos)?.add(first.multiply(sin)?)?,
    ];
    turned.iter().map(|half| half.as_dtype(dtype)).collect()
}

/// [`turn`] as one kernel, which MLX makes when it is first needed.
fn turn_compiled(parts: &[Array]) -> MlxResult<Vec<Array>> {
    type Compiled = Box<dyn for<'a> FnMut(&'a [Array]) -> MlxResult<Vec<Array>>>;
    thread_local! {
        static COMPILED: RefCell<Compiled> = RefCell::new(Box::new(compile(turn, true)));
    }
    COMPILED.with_borrow_mut(|compiled| compiled(parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        device::Backend,
        models::{Axes, RopeSpec},
    };

    #[test]
    fn text_is_a_run_and_an_image_is_not() {
        let axis: Vec<i32> = (0..5).collect();
        let text = Positions { axes: [axis.clone(), axis.clone(), axis], ..Positions::default() };
        assert_eq!(text.run_of(&(2..5)), Some(2));
        let mut image = text.clone();
        image.axes[1][3] = 2;
        assert_eq!(image.run_of(&(0..3)), Some(0));
        assert_eq!(image.run_of(&(2..5)), None);
    }

    #[test]
    fn steps_end_where_tokens_that_see_each_other_begin_and_end() {
        let positions = Positions { together: vec![3..7, 9..12], ..Positions::of_text(20) };
        let steps = |step: usize| {
            let mut ends = vec![0];
            while ends[ends.len() - 1] < 20 {
                let from = ends[ends.len() - 1];
                ends.push(positions.step_end(from, 20.min(from + step)));
            }
            ends
        };
        assert_eq!(steps(100), [0, 3, 7, 9, 12, 20]);
        assert_eq!(steps(2), [0, 2, 3, 7, 9, 12, 14, 16, 18, 20]);
        assert_eq!(positions.step_end(5, 6), 7, "what is left of a run");
    }

    fn rope() -> Rope {
        let spec = RopeSpec {
            dims: 16,
            base: 1e6,
            axes: Axes::Sections([2, 3, 3]),
            ..RopeSpec::default()
        };
        spec.rope(Backend::Cpu)
    }

    #[test]
    fn each_row_turns_by_its_own_position() {
        let rope = rope();
        let values: Vec<f32> = (0..3 * 2 * 16).map(|i| (i as f32 * 0.37).sin()).collect();
        let x = Array::from_slice(&values, &[3, 2, 1, 16]);
        let positions = [7, 0, 300];
        let all = rope.apply(&x, &Rotation::rows(&positions)).unwrap();
        for (row, position) in (0..).zip(positions) {
            let of = |x: &Array| x.try_index((row..row + 1, .., .., ..)).unwrap();
            let one = rope.apply(&of(&x), &Rotation::from(position)).unwrap();
            assert!(one.eq_values(of(&all)).unwrap(), "row {row}");
        }
    }

    #[test]
    fn table_and_kernel_agree_where_positions_count_up() {
        let rope = rope();
        let values: Vec<f32> = (0..2 * 3 * 16).map(|i| (i as f32 * 0.37).sin()).collect();
        let x = Array::from_slice(&values, &[1, 2, 3, 16]);
        let kernel = rope.apply(&x, &Rotation::from(7)).unwrap();
        let angles: Vec<f32> = (7..10)
            .flat_map(|p| (0..8).map(move |i| p as f32 * 1e6f32.powf(-(2.0 * i as f32) / 16.0)))
            .collect();
        let (cos, sin) = cos_sin(&angles, 3, Dtype::Float32).unwrap();
        let table = rope.apply(&x, &Rotation::Table(cos, sin)).unwrap();
        assert!(kernel.all_close(&table, 1e-5, 1e-5, None).unwrap());
    }
}
