//! Products that read the same input, side by side.

use mlx_rs::{
    Array,
    error::Result as MlxResult,
    ops::{
        self,
        indexing::{Ellipsis, TryIndexOp},
    },
};

use super::{Linear, RmsNorm, mlx_error};
use crate::{
    Result,
    ffi::{After, HostLinear, host_linear},
    matvec::Epilogue,
    weights::Scope,
};

/// Several [`Linear`] that read the same input: where one product is quicker than many, they are one.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(super) products: Vec<Linear>,
    /// Where the outputs of each end.
    pub(super) ends: Vec<i32>,
}

impl Joined {
    /// Takes the layers `parts`, each with its number of outputs, as [`Linear::load`] does.
    pub(crate) fn load(
        scope: &Scope<'_>,
        parts: &[(&str, i32)],
        input: i32,
        bias: bool,
    ) -> Result<Self> {
        let products = parts
            .iter()
            .map(|&(name, output)| Linear::open(&scope.sub(name), output, input, bias))
            .collect::<Result<_>>()?;
        let ends = parts.iter().scan(0, |end, part| {
            *end += part.1;
            Some(*end)
        });
        Self::of(scope, products, ends.collect())
    }

    /// Joins `products` whose outputs end at `ends`, where that pays.
    pub(super) fn of(scope: &Scope<'_>, products: Vec<Linear>, ends: Vec<i32>) -> Result<Self> {
        let join = scope.backend().joins_products();
        let joined = match join {
            true => Linear::join(&products).map_err(|e| mlx_error("concatenate", &e))?,
            false => None,
        };
        let products = joined.map_or(products, |joined| vec![joined]);
        let products = products.into_iter().map(|p| p.kept(scope)).collect::<Result<_>>()?;
        Ok(Self { products, ends })
    }

    /// As [`Linear::with_row`], if they are one product.
    pub(crate) fn with_row(
        mut self,
        scope: &Scope<'_>,
        norm_eps: f32,
        epilogue: Epilogue,
    ) -> Result<Self> {
        if self.products.len() == 1
            && let Some(product) = self.products.pop()
        {
            self.products.push(product.with_row(scope, Some(norm_eps), epilogue, 3)?);
        }
        Ok(self)
    }

    /// Returns the one product that they are, if they are.
    pub(crate) fn product(&self) -> Option<&Linear> {
        match self.products.as_slice() {
            [joined] => Some(joined),
            _ => None,
        }
    }

    /// `norm`, then [`forward`](Self::forward); its kernel must be one that adds the bias.
    pub(crate) fn forward_normed(&self, norm: &RmsNorm, x: &Array) -> MlxResult<Array> {
        if let [joined] = self.products.as_slice()
            && let Some(y) = joined.row(x, Some(&norm.weight), joined.bias.as_ref())
        {
            return y;
        }
        match self.host() {
            Some(parts) => host_linear(x, Some(norm.parts()), &parts, After::Nothing),
            None => self.forward(&norm.forward(x)?),
        }
    }

    /// Returns the layers, if they are computed outside of MLX and no adapter changes them.
    pub(super) fn host(&self) -> Option<Vec<HostLinear<'_>>> {
        let on_host = self.products.iter().all(|part| part.on_host && !part.outputs.are_changed());
        on_host.then(|| self.products.iter().map(Linear::host).collect())
    }

    /// `[.., input]` to `[.., sum of outputs]`.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        match self.products.as_slice() {
            [joined] => joined.forward(x),
            parts => {
                let outputs: Vec<Array> =
                    parts.iter().map(|part| part.forward(x)).collect::<MlxResult<_>>()?;
                ops::concatenate(&outputs, -1)
            }
        }
    }

    /// `[.., input]` to the outputs of each part.
    pub(crate) fn forward_parts(&self, x: &Array) -> MlxResult<Vec<Array>> {
        let [joined] = self.products.as_slice() else {
            return self.products.iter().map(|part| part.forward(x)).collect();
        };
        let all = joined.forward(x)?;
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(from, &to)| all.try_index((Ellipsis, from..to))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{linear, packed, wave},
        *,
    };

    fn joined(products: Vec<Linear>, ends: [i32; 2]) -> Joined {
        Joined { products, ends: ends.into() }
    }

    #[test]
    fn layers_side_by_side_are_the_layers() {
        for (parts, input) in [
            ([linear(6, 8, 0.3), linear(10, 8, 0.7)], 8),
            ([packed(6, 64, 0.3, 4), packed(10, 64, 0.7, 4)], 64),
        ] {
            let x = wave(&[2, 3, input], 0.11);
            let one = Linear::join(&parts).unwrap().expect("layers of one kind");
            let (many, one) = (joined(parts.into(), [6, 16]), joined(vec![one], [6, 16]));
            let (a, b) = (many.forward(&x).unwrap(), one.forward(&x).unwrap());
            assert_eq!(b.shape(), [2, 3, 16]);
            assert!(a.all_close(&b, 1e-5, 1e-5, None).unwrap());
            let (a, b) = (many.forward_parts(&x).unwrap(), one.forward_parts(&x).unwrap());
            assert_eq!((b[0].shape(), b[1].shape()), (&[2, 3, 6][..], &[2, 3, 10][..]));
            for (a, b) in a.iter().zip(&b) {
                assert!(a.all_close(b, 1e-5, 1e-5, None).unwrap());
            }
        }
        // Of different widths, with and without bias, packed and not.
        assert!(Linear::join(&[packed(6, 64, 0.3, 4), packed(6, 64, 0.3, 8)]).unwrap().is_none());
        let bare = Linear { bias: None, ..linear(6, 8, 0.3) };
        assert!(Linear::join(&[linear(6, 8, 0.3), bare]).unwrap().is_none());
        assert!(Linear::join(&[packed(6, 64, 0.3, 4), linear(6, 64, 0.3)]).unwrap().is_none());
    }
}
