//! Low-rank adapters: small changes to the products of a model, one of which a request may name.
//!
//! ```text
//! y = x Wᵀ + b + scale * (x A) B        A [input, rank], B [rank, output]
//! ```
//!
//! The weights of the model stay as they are, packed or not, so that any number of adapters share them, and
//! another one is no more than other matrices in the next step. Answers share steps with those of the same
//! adapter. Source: arXiv:2106.09685.

mod active;
mod config;
mod read;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    rc::Rc,
};

use mlx_rs::{
    Array,
    error::Result as MlxResult,
    ops::{
        self,
        indexing::{Ellipsis, TryIndexOp},
    },
};

#[cfg(any(test, fuzzing))]
pub(crate) use self::read::matrices as read_adapter;
pub(crate) use self::{
    active::{active, is_active, with},
    config::AdapterConfig,
};
use crate::{
    Error, Result,
    caches::{Digest, weight_file_identity},
    checkpoint::read_text_if_any,
    models::Rename,
};

/// Numbers of outputs and inputs of the products of a model, by name.
pub(crate) type Products = BTreeMap<String, (i32, i32)>;

/// The matrices of an adapter, by the products that they change.
#[derive(Debug)]
pub(crate) struct Adapter {
    deltas: HashMap<String, Delta>,
}

/// What is added to a product: `scale * (x A) B`.
#[derive(Debug)]
pub(crate) struct Delta {
    /// `[input, rank]`, in f32.
    a: Array,
    /// `[rank, output]`, in f32.
    b: Array,
    scale: Array,
}

impl Adapter {
    /// Returns the adapter that changes the product `name` by `scale * (x a) b`.
    #[cfg(test)]
    pub(crate) fn of(name: &str, a: Array, b: Array, scale: f32) -> Rc<Self> {
        let delta = Delta { a, b, scale: Array::from_f32(scale) };
        Rc::new(Self { deltas: [(name.to_owned(), delta)].into() })
    }

    /// Returns what is added to the product of this name, if anything.
    pub(crate) fn delta(&self, name: &str) -> Option<&Delta> {
        self.deltas.get(name)
    }

    /// Whether the features of an image are other ones with it.
    pub(crate) fn changes_tower(&self) -> bool {
        self.deltas.keys().any(|name| !name.starts_with("language_model."))
    }
}

impl Delta {
    /// `[.., input]` to `[.., output]`, of the type of `x`. Products may have been made wider than they are
    /// in the checkpoint: more inputs do not count, and more outputs, up to `width`, are zeros.
    pub(crate) fn apply(&self, x: &Array, width: i32) -> MlxResult<Array> {
        let inputs = self.a.dim(0);
        let used = match x.dim(-1) == inputs {
            true => x.clone(),
            false => x.try_index((Ellipsis, ..inputs))?,
        };
        let sum = ops::matmul(ops::matmul(&used, &self.a)?, &self.b)?;
        let sum = sum.multiply(&self.scale)?.as_dtype(x.dtype())?;
        match width - self.b.dim(1) {
            0 => Ok(sum),
            more => {
                let mut shape = sum.shape().to_vec();
                shape.pop();
                shape.push(more);
                ops::concatenate(&[&sum, &ops::zeros_dtype(&shape, sum.dtype())?], -1)
            }
        }
    }
}

/// The files of an adapter, found and named by what they hold.
#[derive(Clone, Debug)]
pub(crate) struct AdapterFiles {
    weights: PathBuf,
    config: AdapterConfig,
    pub(crate) identity: Digest,
    /// Bytes of its matrices in f32, at most.
    pub(crate) bytes: u64,
}

/// Names of the files with the matrices, as mlx-vlm and mlx-lm write them and as PEFT does.
const WEIGHTS: [&str; 2] = ["adapters.safetensors", "adapter_model.safetensors"];

impl AdapterFiles {
    /// Finds the files of the adapter in `folder`.
    ///
    /// # Errors
    /// If one is not there, cannot be read, or does not say what an adapter must.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let config_path = folder.join("adapter_config.json");
        let text = read_text_if_any(&config_path)?.ok_or_else(|| Error::NotFound {
            name: folder.display().to_string(),
            reason:
                "expected a folder with adapter_config.json, as mlx-vlm, mlx-lm and PEFT write them"
                    .to_owned(),
        })?;
        let config = AdapterConfig::read(&text)
            .map_err(|reason| Error::Config { path: config_path, reason })?;
        let found = WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.exists());
        let weights = found.ok_or_else(|| Error::NotFound {
            name: folder.display().to_string(),
            reason: format!("expected {} beside adapter_config.json", WEIGHTS.join(" or ")),
        })?;
        let io = |source| Error::Io { action: "read", path: weights.clone(), source };
        let length = weights.metadata().map_err(io)?.len();
        let content = weight_file_identity(&weights).map_err(io)?;
        Ok(Self {
            identity: Digest::of("adapter", &[text.as_bytes(), &content]),
            // Of 16 bits in the file, at least.
            bytes: length.saturating_mul(2),
            weights,
            config,
        })
    }

    /// Reads the matrices for a model with these `products`, whose names `rename` makes of those in files.
    ///
    /// # Errors
    /// What does not fit, by name.
    pub(crate) fn read(&self, products: &Products, rename: Rename) -> Result<Rc<Adapter>> {
        read::matrices(&self.weights, &self.config, products, rename).map(Rc::new)
    }
}
