//! What adapters change of the output of a product.

use std::rc::Rc;

use mlx_rs::{Array, error::Result as MlxResult, ops};

use crate::{
    adapter::{self, Delta},
    weights::Scope,
};

/// The layers whose outputs a product makes, side by side: their names, and how many of each.
#[derive(Clone, Debug, Default)]
pub(super) struct Outputs(Vec<(Rc<str>, i32)>);

impl Outputs {
    /// Those of the layer at `scope`.
    pub(super) fn of(scope: &Scope<'_>, output: i32, input: i32) -> Self {
        Self(vec![(scope.is_product(output, input), output)])
    }

    /// The same layer with more outputs, which are zeros.
    pub(super) fn widened(mut self, outputs: i32) -> Self {
        self.0.iter_mut().for_each(|(_, of_layer)| *of_layer = outputs);
        self
    }

    /// Those of several products side by side.
    pub(super) fn join<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        Self(parts.flat_map(|part| part.0.iter().cloned()).collect())
    }

    /// Whether the active adapter changes one of them: then no kernel will do that makes more than the
    /// product.
    pub(super) fn are_changed(&self) -> bool {
        adapter::active()
            .is_some_and(|adapter| self.0.iter().any(|(name, _)| adapter.delta(name).is_some()))
    }

    /// Returns what the active adapter adds to the product of `x`, `[.., input]`, if anything.
    pub(super) fn change(&self, x: &Array) -> MlxResult<Option<Array>> {
        let Some(adapter) = adapter::active() else { return Ok(None) };
        let deltas: Vec<_> =
            self.0.iter().map(|(name, width)| (adapter.delta(name), *width)).collect();
        if deltas.iter().all(|(delta, _)| delta.is_none()) {
            return Ok(None);
        }
        let part = |(delta, width): (Option<&Delta>, i32)| match delta {
            Some(delta) => delta.apply(x, width),
            None => {
                let shape = [&x.shape()[..x.ndim() - 1], &[width]].concat();
                ops::zeros_dtype(&shape, x.dtype())
            }
        };
        let parts: Vec<Array> = deltas.into_iter().map(part).collect::<MlxResult<_>>()?;
        match parts.as_slice() {
            [only] => Ok(Some(only.clone())),
            many => ops::concatenate(many, -1).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::ops;

    use super::{
        super::{
            Linear,
            tests::{linear, packed, wave},
        },
        *,
    };
    use crate::adapter::Adapter;

    fn named(name: &str, layer: Linear) -> Linear {
        let outputs = Outputs(vec![(name.into(), layer.shape().0)]);
        Linear { outputs, ..layer }
    }

    /// As on a GPU, where products are one and as wide as suits its kernels.
    #[test]
    fn layers_side_by_side_and_wider_ones_are_changed_as_they_are_alone() {
        let (a, b) = (wave(&[64, 3], 0.37), wave(&[3, 10], 0.51));
        let adapter = Adapter::of("second", a.clone(), b.clone(), 0.5);
        let x = wave(&[2, 5, 64], 0.11);
        let low = ops::matmul(ops::matmul(&x, &a).unwrap(), &b).unwrap();
        let added = low.multiply(Array::from_f32(0.5)).unwrap();
        for parts in [
            [named("first", linear(6, 64, 0.3)), named("second", linear(10, 64, 0.7))],
            [named("first", packed(6, 64, 0.3, 4)), named("second", packed(10, 64, 0.7, 4))],
        ] {
            let [first, second] = &parts;
            let alone = [first.forward(&x).unwrap(), second.forward(&x).unwrap()];
            let changed = [alone[0].clone(), alone[1].add(&added).unwrap()];
            let expected = ops::concatenate(&changed, -1).unwrap();
            let one = Linear::join(&parts).unwrap().unwrap();
            let found = adapter::with(Some(&adapter), || one.forward(&x)).unwrap();
            assert!(found.all_close(&expected, 1e-5, 1e-5, None).unwrap());
            let found = one.forward(&x).unwrap();
            let unchanged = ops::concatenate(&alone, -1).unwrap();
            assert!(found.all_close(&unchanged, 1e-6, 1e-6, None).unwrap());
        }
        let wide = named("second", linear(10, 64, 0.7)).padded(16, 80).unwrap();
        let zeros = ops::zeros_dtype(&[2, 5, 16], x.dtype()).unwrap();
        let padded = ops::concatenate(&[&x, &zeros], -1).unwrap();
        let found = adapter::with(Some(&adapter), || wide.forward(&padded)).unwrap();
        let alone = linear(10, 64, 0.7).forward(&x).unwrap().add(&added).unwrap();
        let zeros = ops::zeros_dtype(&[2, 5, 6], x.dtype()).unwrap();
        let expected = ops::concatenate(&[&alone, &zeros], -1).unwrap();
        assert!(found.all_close(&expected, 1e-5, 1e-5, None).unwrap());
    }
}
