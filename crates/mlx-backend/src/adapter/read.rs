//! The matrices of an adapter, each compared with the product that it is for.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use mlx_rs::{Array, Dtype, ops};

use super::{Adapter, AdapterConfig, Delta, Products};
use crate::{Error, LoadError, Result, models::Rename, nn::mlx_error, weights::open_tensors};

/// How files name A and B, and whether they hold them transposed. Sources: mlx-lm `tuner/lora.py`, mlx-vlm
/// `trainer/peft/lora.py`, PEFT `tuners/lora/layer.py`.
const SUFFIXES: [(&str, Part, bool); 8] = [
    (".lora_a", Part::A, false),
    (".lora_b", Part::B, false),
    (".A", Part::A, false),
    (".B", Part::B, false),
    (".lora_A.weight", Part::A, true),
    (".lora_B.weight", Part::B, true),
    (".lora_A.default.weight", Part::A, true),
    (".lora_B.default.weight", Part::B, true),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    A,
    B,
}

/// Reads the matrices in the file `path` for a model with `products`, named as `rename` says.
///
/// # Errors
/// [`LoadError`] with the tensor that does not fit, or [`Error::Config`] if the file is none of an adapter.
pub(crate) fn matrices(
    path: &Path,
    config: &AdapterConfig,
    products: &Products,
    rename: Rename,
) -> Result<Adapter> {
    let bad = |reason: String| Error::Config { path: path.to_owned(), reason };
    let mut found: BTreeMap<(String, Part), Array> = BTreeMap::new();
    for (name, array) in open_tensors(&[path.to_owned()], |name| Some(name.to_owned()))? {
        let Some((module, part, transposed)) = split(&name) else {
            return Err(bad(format!(
                "tensor `{name}`: expected `PRODUCT.lora_a` and `PRODUCT.lora_b`, as adapters of linear layers have"
            )));
        };
        let product = in_model(module, rename);
        let Some(&(output, input)) = products.get(&product) else {
            return Err(bad(format!(
                "tensor `{name}`: the model has no linear layer `{product}` that can be changed"
            )));
        };
        let rank = config.rank;
        let expected = match part {
            Part::A => [input, rank],
            Part::B => [rank, output],
        };
        let stored = if transposed { [expected[1], expected[0]] } else { expected };
        if array.shape() != stored {
            let (expected, found) = (stored.to_vec(), array.shape().to_vec());
            return Err(LoadError::Shape { name, expected, found }.into());
        }
        let array = prepared(&name, array, transposed)?;
        if found.insert((product, part), array).is_some() {
            return Err(LoadError::Duplicate { name }.into());
        }
    }
    if found.is_empty() {
        return Err(bad("it holds no tensors".to_owned()));
    }
    let mut deltas = HashMap::new();
    let scale = Array::from_f32(config.scale);
    while let Some(((product, part), first)) = found.pop_first() {
        let other = match part {
            Part::A => found.remove(&(product.clone(), Part::B)),
            Part::B => None,
        };
        let Some(b) = other else {
            let (has, lacks) = if part == Part::A { ("A", "B") } else { ("B", "A") };
            return Err(bad(format!("`{product}` has a matrix {has} and no matrix {lacks}")));
        };
        deltas.insert(product, Delta { a: first, b, scale: scale.clone() });
    }
    Ok(Adapter { deltas })
}

/// Splits the name of a tensor into that of the module and what it is of it.
fn split(name: &str) -> Option<(&str, Part, bool)> {
    SUFFIXES.iter().find_map(|&(suffix, part, transposed)| {
        name.strip_suffix(suffix).map(|module| (module, part, transposed))
    })
}

/// Returns the name that the model uses for a module of a file.
fn in_model(module: &str, rename: Rename) -> String {
    let module = module.strip_prefix("base_model.model.").unwrap_or(module);
    // Names of layouts are told by their beginnings, some by their ends.
    let renamed = rename(&format!("{module}.weight")).unwrap_or_default();
    renamed.strip_suffix(".weight").unwrap_or(module).to_owned()
}

/// Returns `array` as `[input, rank]` or `[rank, output]` in f32, read from the file.
fn prepared(name: &str, array: Array, transposed: bool) -> Result<Array> {
    if !matches!(array.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16) {
        let found = format!("{:?}", array.dtype());
        let expected = "float32, float16 or bfloat16";
        return Err(LoadError::Dtype { name: name.to_owned(), expected, found }.into());
    }
    let run = || {
        let array = array.as_dtype(Dtype::Float32)?;
        let array = if transposed { ops::transpose(&array)? } else { array };
        let finite = array.is_finite()?.all(None)?;
        mlx_rs::transforms::eval([&array, &finite])?;
        Ok((finite.try_item_exact::<bool>().unwrap_or(false), array))
    };
    match run().map_err(|e: mlx_rs::error::Exception| mlx_error("adapter", &e))? {
        (true, array) => Ok(array),
        (false, _) => Err(LoadError::NotFinite { name: name.to_owned() }.into()),
    }
}
