use std::collections::HashMap;

use super::*;
use crate::{
    checkpoint::QuantizationConfig,
    kv_cache::KvCache,
    nn::Activation,
    noise::{f32, noise_bf16},
    quantize::Quantize,
    weights::Weights,
};

/// Hidden and inner values, query and key heads, values of a head.
type Shape = (i32, i32, i32, i32, i32);

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

/// Behind tokens that were read as a prompt, some more, each by itself.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_block_as_one_kernel_is_the_block_in_f32() {
    crate::ffi::load_library().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("block.safetensors");
    for (shape, bias) in [
        ((2048, 11008, 16, 2, 128), true),
        ((3584, 18944, 28, 4, 128), true),
        ((2048, 8192, 32, 8, 64), false),
        ((4096, 14336, 32, 8, 128), false),
    ] {
        let spec = spec(shape, bias);
        Array::save_safetensors(tensors(&spec).iter(), None, &path).unwrap();
        for how in [None, Some(Quantize::affine(4, 64))] {
            let block = |dtype| {
                let (packed, rename) =
                    (QuantizationConfig::default(), |name: &str| Some(name.to_owned()));
                let files = [path.clone()];
                let weights =
                    Weights::open(&files, rename, dtype, packed, how, Backend::Cuda).unwrap();
                let block = Block::load(&spec, &spec.layers[0], &weights.root(), Backend::Cuda);
                let block = block.unwrap();
                weights.finish(&|_, _| ()).unwrap();
                block
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
                let norm = |x: &Array| -> f32 {
                    x.multiply(x).unwrap().sum(None).unwrap().sqrt().unwrap().item_cast()
                };
                let off = norm(&f32(&found).subtract(&expected).unwrap()) / norm(&expected);
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
