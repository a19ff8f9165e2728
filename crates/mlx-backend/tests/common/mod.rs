//! Checkpoints of random weights, for what depends on sizes and not on answers.

use std::{borrow::Cow, collections::BTreeMap, fs, path::Path};

use safetensors::{Dtype, View};
use serde_json::json;

/// The sizes of a Qwen2.5-VL; the tokenizer and its vocabulary are those of tiny-vl.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Blocks of the tower; the last one attends over the whole image.
    pub(crate) depth: usize,
    /// Values of a patch in the tower.
    pub(crate) vision_hidden: usize,
    /// Inner values of the tower's MLP.
    pub(crate) vision_inner: usize,
    /// Heads of the tower.
    pub(crate) vision_heads: usize,
    /// Layers of the decoder.
    pub(crate) layers: usize,
    /// Values of a token in the decoder.
    pub(crate) hidden: usize,
    /// Inner values of the decoder's MLP.
    pub(crate) inner: usize,
    /// Query heads of the decoder, twice as many as key heads.
    pub(crate) heads: usize,
}

const VOCABULARY: usize = 457;

/// Writes a checkpoint of `sizes` in bf16 to the folder `to`, which exists.
pub(crate) fn write_checkpoint(sizes: Sizes, to: &Path) {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl/full");
    for name in
        ["chat_template.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    {
        fs::copy(tiny.join(name), to.join(name)).expect("a file of this repository");
    }
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(tiny.join(name)).expect("a file")).expect("JSON")
    };
    let write = |name: &str, json: &serde_json::Value| {
        fs::write(to.join(name), json.to_string()).expect("the folder can be written");
    };
    let mut processor = read("preprocessor_config.json");
    processor["max_pixels"] = json!(12_845_056);
    write("preprocessor_config.json", &processor);

    let mut config = read("config.json");
    let rope = sizes.hidden / sizes.heads / 2;
    for (key, value) in [
        ("hidden_size", sizes.hidden),
        ("num_hidden_layers", sizes.layers),
        ("intermediate_size", sizes.inner),
        ("num_attention_heads", sizes.heads),
        ("num_key_value_heads", sizes.heads / 2),
        ("max_position_embeddings", 128_000),
    ] {
        config[key] = json!(value);
    }
    config["rope_scaling"]["mrope_section"] = json!([rope - 2 * (rope / 3), rope / 3, rope / 3]);
    for (key, value) in [
        ("depth", json!(sizes.depth)),
        ("hidden_size", json!(sizes.vision_hidden)),
        ("intermediate_size", json!(sizes.vision_inner)),
        ("num_heads", json!(sizes.vision_heads)),
        ("out_hidden_size", json!(sizes.hidden)),
        ("fullatt_block_indexes", json!([sizes.depth - 1])),
    ] {
        config["vision_config"][key] = value;
    }
    write("config.json", &config);

    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let tensors = shapes(sizes).into_iter().map(|(name, shape)| {
        let scale = 1.0 / (*shape.last().unwrap_or(&1) as f32).sqrt();
        let count = shape.iter().product();
        let values: Vec<u8> =
            (0..count).flat_map(|_| bf16(random.next() * scale).to_le_bytes()).collect();
        (name, Tensor { shape, values })
    });
    safetensors::serialize_to_file(tensors, None, &to.join("model.safetensors")).expect("weights");
}

/// Writes an adapter of rank 8 that changes every linear layer of the blocks of such a checkpoint to the
/// folder `to`, which exists.
pub(crate) fn write_adapter(sizes: Sizes, to: &Path) {
    const RANK: usize = 8;
    let config = json!({"lora_parameters": {"rank": RANK, "scale": 1.0}});
    fs::write(to.join("adapter_config.json"), config.to_string())
        .expect("the folder can be written");
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let products = shapes(sizes).into_iter().filter(|(name, shape)| {
        shape.len() == 2 && (name.contains("layers.") || name.contains("blocks."))
    });
    let tensors = products.flat_map(|(name, shape)| {
        let mut matrix = |part: &str, shape: [usize; 2]| {
            let count = shape[0] * shape[1];
            let values =
                (0..count).flat_map(|_| bf16(random.next() * 0.01).to_le_bytes()).collect();
            let name = format!("{}.{part}", name.trim_end_matches(".weight"));
            (name, Tensor { shape: shape.to_vec(), values })
        };
        [matrix("lora_a", [shape[1], RANK]), matrix("lora_b", [RANK, shape[0]])]
    });
    let tensors: Vec<_> = tensors.collect();
    safetensors::serialize_to_file(tensors, None, &to.join("adapters.safetensors"))
        .expect("weights");
}

fn shapes(of: Sizes) -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| shapes.insert(name, shape.to_vec());
    let (e, inner) = (of.vision_hidden, of.vision_inner);
    add("visual.patch_embed.proj.weight".into(), &[e, 3, 2, 14, 14]);
    for block in 0..of.depth {
        let mut sub =
            |name: &str, shape: &[usize]| add(format!("visual.blocks.{block}.{name}"), shape);
        for (name, output, input) in [
            ("attn.qkv", 3 * e, e),
            ("attn.proj", e, e),
            ("mlp.gate_proj", inner, e),
            ("mlp.up_proj", inner, e),
            ("mlp.down_proj", e, inner),
        ] {
            sub(&format!("{name}.weight"), &[output, input]);
            sub(&format!("{name}.bias"), &[output]);
        }
        sub("norm1.weight", &[e]);
        sub("norm2.weight", &[e]);
    }
    add("visual.merger.ln_q.weight".into(), &[e]);
    for (layer, output) in [(0, 4 * e), (2, of.hidden)] {
        add(format!("visual.merger.mlp.{layer}.weight"), &[output, 4 * e]);
        add(format!("visual.merger.mlp.{layer}.bias"), &[output]);
    }
    let (e, inner, keys) = (of.hidden, of.inner, of.hidden / 2);
    add("model.embed_tokens.weight".into(), &[VOCABULARY, e]);
    add("model.norm.weight".into(), &[e]);
    for layer in 0..of.layers {
        let mut sub =
            |name: &str, shape: &[usize]| add(format!("model.layers.{layer}.{name}"), shape);
        for (name, output, input) in [
            ("self_attn.q_proj", e, e),
            ("self_attn.k_proj", keys, e),
            ("self_attn.v_proj", keys, e),
            ("self_attn.o_proj", e, e),
            ("mlp.gate_proj", inner, e),
            ("mlp.up_proj", inner, e),
            ("mlp.down_proj", e, inner),
        ] {
            sub(&format!("{name}.weight"), &[output, input]);
            if ["q_proj", "k_proj", "v_proj"].iter().any(|with_bias| name.ends_with(with_bias)) {
                sub(&format!("{name}.bias"), &[output]);
            }
        }
        sub("input_layernorm.weight", &[e]);
        sub("post_attention_layernorm.weight", &[e]);
    }
    shapes
}

struct Tensor {
    shape: Vec<usize>,
    values: Vec<u8>,
}

impl View for Tensor {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.values)
    }

    fn data_len(&self) -> usize {
        self.values.len()
    }
}

/// Xorshift: the same weights each time.
struct Random(u64);

impl Random {
    /// Returns a number from -1 to 1.
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn bf16(value: f32) -> u16 {
    (value.to_bits() >> 16) as u16
}
