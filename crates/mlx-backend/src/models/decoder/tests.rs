use std::{collections::HashMap, path::Path};

use super::*;
use crate::{
    checkpoint::QuantizationConfig,
    kv_cache::{KvCache, SequenceCaches},
    nn::Activation,
    noise::{f32, noise_bf16},
    quantize::Quantize,
    weights::{Scope, Weights},
};

/// Hidden and inner values, query and key heads, values of a head.
type Shape = (i32, i32, i32, i32, i32);

/// Of published models, and whether queries, keys and values have biases.
const SHAPES: [(Shape, bool); 4] = [
    ((2048, 11008, 16, 2, 128), true),
    ((3584, 18944, 28, 4, 128), true),
    ((2048, 8192, 32, 8, 64), false),
    ((4096, 14336, 32, 8, 128), false),
];

fn spec((hidden, inner, heads, key_value_heads, head_dim): Shape, bias: bool) -> Spec {
    let rope = RopeSpec { dims: head_dim, base: 1e6, ..RopeSpec::default() };
    Spec {
        hidden,
        inner,
        heads,
        key_value_heads,
        head_dim,
        vocabulary: 8,
        context_tokens: 4096,
        layers: vec![LayerSpec { rope, window: None, experts: None }],
        eps: 1e-6,
        attention_scale: (head_dim as f32).powf(-0.5),
        attention_bias: bias,
        output_bias: false,
        mlp_bias: false,
        head_norms: false,
        after_norms: false,
        norms_add_one: false,
        activation: Activation::Silu,
        embedding_scale: None,
        tied: true,
    }
}

/// Weights under which values keep their size.
fn tensors(spec: &Spec) -> HashMap<String, Array> {
    let (of_queries, of_keys) = (spec.heads * spec.head_dim, spec.key_value_heads * spec.head_dim);
    let mut seed = 0;
    let mut noise = |shape: &[i32], scale: f32| {
        seed += 1;
        let scale = Array::from_f32(scale).as_dtype(Dtype::Bfloat16).unwrap();
        noise_bf16(shape, seed).multiply(scale).unwrap()
    };
    let mut all = HashMap::new();
    for (name, output, input) in [
        ("self_attn.q_proj", of_queries, spec.hidden),
        ("self_attn.k_proj", of_keys, spec.hidden),
        ("self_attn.v_proj", of_keys, spec.hidden),
        ("self_attn.o_proj", spec.hidden, of_queries),
        ("mlp.gate_proj", spec.inner, spec.hidden),
        ("mlp.up_proj", spec.inner, spec.hidden),
        ("mlp.down_proj", spec.hidden, spec.inner),
    ] {
        let weight = noise(&[output, input], (3.0 / input as f32).sqrt());
        all.insert(format!("{name}.weight"), weight);
        if spec.attention_bias && ["q_proj", "k_proj", "v_proj"].iter().any(|n| name.ends_with(n)) {
            all.insert(format!("{name}.bias"), noise(&[output], 0.5));
        }
    }
    for name in ["input_layernorm", "post_attention_layernorm"] {
        all.insert(format!("{name}.weight"), noise(&[spec.hidden], 1.0));
    }
    all
}

/// Returns what `load` makes of all tensors in the file `path`, packed as `how`.
fn loaded<T>(
    path: &Path,
    dtype: Dtype,
    how: Option<Quantize>,
    load: impl FnOnce(&Scope<'_>) -> Result<T>,
) -> T {
    let (packed, rename) = (QuantizationConfig::default(), |name: &str| Some(name.to_owned()));
    let files = [path.to_owned()];
    let weights = Weights::open(&files, rename, dtype, packed, how, Backend::Cuda).unwrap();
    let made = load(&weights.root()).unwrap();
    weights.finish(&|_, _| ()).unwrap();
    made
}

/// Returns the norm of the difference over that of `expected`.
fn difference(found: &Array, expected: &Array) -> f32 {
    let norm = |x: &Array| -> f32 {
        x.multiply(x).unwrap().sum(None).unwrap().sqrt().unwrap().item_cast()
    };
    norm(&found.subtract(expected).unwrap()) / norm(expected)
}

/// Behind tokens that were read as a prompt, some more, each by itself.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_block_as_one_kernel_is_the_block_in_f32() {
    crate::ffi::load_library().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("block.safetensors");
    for (shape, bias) in SHAPES {
        let spec = spec(shape, bias);
        Array::save_safetensors(tensors(&spec).iter(), None, &path).unwrap();
        for how in [None, Some(Quantize::affine(4, 64))] {
            let block = |dtype| {
                loaded(&path, dtype, how, |root| {
                    Block::load(&spec, &spec.layers[0], root, Backend::Cuda)
                })
            };
            let (fused, exact) = (block(Dtype::Bfloat16), block(Dtype::Float32));
            assert!(fused.fused.is_some() && exact.fused.is_none(), "{shape:?} {how:?}");
            let mut caches = vec![KvCache::default()];
            let mut exact_caches = caches.clone();
            let prompt = noise_bf16(&[1, 300, spec.hidden], 77);
            let from = Rotation::from(0);
            fused.forward(&prompt, &from, &mut caches, 0).unwrap().eval().unwrap();
            exact.forward(&f32(&prompt), &from, &mut exact_caches, 0).unwrap().eval().unwrap();
            for token in 0..3 {
                let x = noise_bf16(&[1, 1, spec.hidden], 100 + token);
                let rotation = Rotation::from(caches[0].offset() + 40);
                let before = caches.clone();
                let found = fused.forward(&x, &rotation, &mut caches, 0).unwrap();
                found.eval().unwrap();
                let expected = exact.forward(&f32(&x), &rotation, &mut exact_caches, 0).unwrap();
                let off = difference(&f32(&found), &expected);
                assert!(off < 0.01, "{shape:?}, {how:?}, token {token}: {off}");
                // The same memory, so the same token is written to the same place.
                for _ in 0..20 {
                    let mut again = before.clone();
                    let once_more = fused.forward(&x, &rotation, &mut again, 0).unwrap();
                    assert!(once_more.eq_values(&found).unwrap(), "{shape:?} is not repeated");
                }
            }
        }
    }
}

/// Tokens of 18 sequences of different lengths, which two kernels share, each of which ends elsewhere.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn several_rows_as_one_kernel_are_each_in_f32() {
    crate::ffi::load_library().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decoder.safetensors");
    for (shape, bias) in SHAPES {
        let spec = spec(shape, bias);
        let layer = tensors(&spec);
        let mut all: HashMap<String, Array> =
            layer.iter().map(|(name, x)| (format!("model.layers.0.{name}"), x.clone())).collect();
        all.insert("model.norm.weight".to_owned(), noise_bf16(&[spec.hidden], 55));
        all.insert(
            "model.embed_tokens.weight".to_owned(),
            noise_bf16(&[spec.vocabulary, spec.hidden], 56),
        );
        Array::save_safetensors(all.iter(), None, &path).unwrap();
        for how in [None, Some(Quantize::affine(4, 64))] {
            let decoder =
                |dtype| loaded(&path, dtype, how, |root| Decoder::load(&spec, root, Backend::Cuda));
            let (fused, exact) = (decoder(Dtype::Bfloat16), decoder(Dtype::Float32));
            assert!(fused.takes_sequences() && !exact.takes_sequences(), "{shape:?} {how:?}");
            let lengths = [300, 1, 15, 16, 17, 900, 33, 2, 64, 3, 255, 256, 257, 5, 31, 700, 48, 8];
            let mut alone = Vec::new();
            let mut sequences = Vec::new();
            for (seed, &length) in (1000..).zip(&lengths) {
                let prompt = noise_bf16(&[1, length, spec.hidden], seed);
                let from = Rotation::from(0);
                let (mut caches, mut exact_caches) =
                    (vec![KvCache::default()], vec![KvCache::default()]);
                fused.forward(prompt.clone(), &from, &mut caches).unwrap().eval().unwrap();
                exact.forward(f32(&prompt), &from, &mut exact_caches).unwrap().eval().unwrap();
                sequences.push(caches);
                alone.push(exact_caches);
            }
            for count in [18, 16, 5] {
                let mut together = SequenceCaches::new(sequences[..count].to_vec());
                for token in 0..2 {
                    let x = noise_bf16(&[1, count as i32, spec.hidden], 100 + token);
                    let delta = |row: usize| 40 * row as i32;
                    let positions: Vec<i32> =
                        together.lengths().enumerate().map(|(row, l)| l + delta(row)).collect();
                    let rotation = Rotation::rows(&positions);
                    let mut again = SequenceCaches::new(
                        (0..count).map(|row| together.row(row).unwrap()).collect(),
                    );
                    let found = fused.forward(x.clone(), &rotation, &mut together).unwrap();
                    found.eval().unwrap();
                    // The same memory, so the same tokens are written to the same places.
                    let once_more = fused.forward(x.clone(), &rotation, &mut again).unwrap();
                    assert!(once_more.eq_values(&found).unwrap(), "{shape:?} is not repeated");
                    for (row, caches) in alone[..count].iter_mut().enumerate() {
                        let of =
                            |x: &Array| x.try_index((.., row as i32..row as i32 + 1, ..)).unwrap();
                        let rotation = Rotation::from(positions[row]);
                        // What other counts of rows add is taken back.
                        KvCache::shorten(caches, lengths[row] + token as i32);
                        let expected = exact.forward(f32(&of(&x)), &rotation, caches).unwrap();
                        let off = difference(&f32(&of(&found)), &expected);
                        assert!(off < 0.01, "{shape:?}, {how:?}, {row} of {count}: {off}");
                    }
                }
            }
        }
    }
}
