//! A checkpoint in the layout of mlx-community that differs from a published one in its values and
//! its tokenizer: those of tiny-vl, with the vocabulary filled up to the true size.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use serde_json::{Map, Value, json};

use crate::{
    Result,
    geometry::{GROUP, Geometry},
    random::{Fill, REAL_TOKENS, fill},
};

macro_rules! tiny_vl {
    ($name:literal) => {
        include_str!(concat!("../../models/tiny-vl/4bit/", $name))
    };
}

struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    fill: Fill,
}

impl Tensor {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * if self.dtype == "U32" { 4 } else { 2 }
    }
}

/// Writes the checkpoint `geometry` into the new folder `folder`.
pub(crate) fn make(geometry: &str, folder: &Path) -> Result<()> {
    let found = Geometry::find(geometry).ok_or_else(|| format!("no geometry {geometry}"))?;
    fs::create_dir_all(folder)?;
    let mut config: Value = serde_json::from_str(tiny_vl!("config.json"))?;
    found.configure(&mut config);
    fs::write(folder.join("config.json"), format!("{config:#}\n"))?;
    let mut processor: Value = serde_json::from_str(tiny_vl!("preprocessor_config.json"))?;
    processor["min_pixels"] = json!(56 * 56);
    processor["max_pixels"] = json!(16_384 * 28 * 28);
    fs::write(folder.join("preprocessor_config.json"), format!("{processor:#}\n"))?;
    fs::write(folder.join("tokenizer.json"), tokenizer(found.vocabulary)?)?;
    for (name, text) in [
        ("tokenizer_config.json", tiny_vl!("tokenizer_config.json")),
        ("chat_template.json", tiny_vl!("chat_template.json")),
        ("generation_config.json", tiny_vl!("generation_config.json")),
    ] {
        fs::write(folder.join(name), text)?;
    }
    write(&folder.join("model.safetensors"), &tensors(&found))
}

/// The tokenizer of tiny-vl with a word of its own, which no text is split into, for every other id.
fn tokenizer(vocabulary: usize) -> Result<String> {
    let mut tokenizer: Value = serde_json::from_str(tiny_vl!("tokenizer.json"))?;
    let special = tokenizer["added_tokens"].as_array().cloned().unwrap_or_default();
    let words = tokenizer["model"]["vocab"].as_object_mut().ok_or("a tokenizer without words")?;
    // A special token that is no word would get the first id after all words.
    let special = special.iter().filter_map(|token| token["content"].as_str().zip(token.get("id")));
    words.extend(special.map(|(content, id)| (content.to_owned(), id.clone())));
    words.extend((REAL_TOKENS..vocabulary).map(|id| (format!("Ġu{id}"), json!(id))));
    Ok(tokenizer.to_string())
}

fn write(path: &Path, tensors: &[Tensor]) -> Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "mlx"}));
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.bytes();
        let Tensor { name, dtype, shape, .. } = tensor;
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}),
        );
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut bytes = Vec::new();
    for (i, tensor) in tensors.iter().enumerate() {
        bytes.resize(tensor.bytes(), 0);
        fill(&mut bytes, i, tensor.fill);
        file.write_all(&bytes)?;
    }
    file.flush()?;
    println!("{}: {} tensors, {:.2} GB", path.display(), tensors.len(), end as f64 / 1e9);
    Ok(())
}

/// How much a branch adds to the residual stream: little, so that the stream stays dominated by the
/// token it began with and two roundings of it lead to the same next token.
const BRANCH: f32 = 0.2;

fn tensors(g: &Geometry) -> Vec<Tensor> {
    let mut all = Vec::new();
    let (e, d, inner) = (g.hidden, g.head_dim(), g.inner);
    let text = |name: &str| format!("language_model.model.{name}");
    table(&mut all, &text("embed_tokens"), g.vocabulary, e, g.packed);
    if !g.tied {
        table(&mut all, "language_model.lm_head", g.vocabulary, e, g.packed);
    }
    // Signs, so that where the head is tied, a token does not predict itself.
    all.push(plain(text("norm.weight"), &[e], Fill::Signs));
    for i in 0..g.layers {
        let name = |part: &str| text(&format!("layers.{i}.{part}"));
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            all.push(plain(name(&format!("{norm}.weight")), &[e], Fill::Constant(1.0, 1, false)));
        }
        for (part, output, input, gain) in [
            ("self_attn.q_proj", g.heads * d, e, 1.0),
            ("self_attn.k_proj", g.key_heads * d, e, 1.0),
            ("self_attn.v_proj", g.key_heads * d, e, 1.0),
            ("self_attn.o_proj", e, g.heads * d, BRANCH),
            ("mlp.gate_proj", inner, e, 1.0),
            ("mlp.up_proj", inner, e, 1.0),
            ("mlp.down_proj", e, inner, BRANCH),
        ] {
            linear(&mut all, &name(part), output, input, gain, g.packed);
        }
        for (part, heads) in [("q", g.heads), ("k", g.key_heads), ("v", g.key_heads)] {
            all.push(bias(name(&format!("self_attn.{part}_proj.bias")), heads * d));
        }
    }
    tower(&mut all, g);
    all
}

fn tower(all: &mut Vec<Tensor>, g: &Geometry) {
    let (e, inner) = (g.tower.hidden, g.tower.inner);
    let tower = |name: &str| format!("vision_tower.{name}");
    let patch = [e, 2, 14, 14, 3];
    all.push(plain(tower("patch_embed.proj.weight"), &patch, Fill::Normal(0.03)));
    let mut dense = |name: String, output: usize, input: usize, gain: f32| {
        linear(all, &name, output, input, gain, false);
        all.push(bias(format!("{name}.bias"), output));
    };
    for i in 0..g.tower.blocks {
        let name = |part: &str| tower(&format!("blocks.{i}.{part}"));
        dense(name("attn.qkv"), 3 * e, e, 1.0);
        dense(name("attn.proj"), e, e, BRANCH);
        dense(name("mlp.gate_proj"), inner, e, 1.0);
        dense(name("mlp.up_proj"), inner, e, 1.0);
        dense(name("mlp.down_proj"), e, inner, BRANCH);
    }
    dense(tower("merger.mlp.0"), 4 * e, 4 * e, 1.0);
    dense(tower("merger.mlp.2"), g.hidden, 4 * e, 1.0);
    let blocks = (0..g.tower.blocks)
        .flat_map(|i| [format!("blocks.{i}.norm1.weight"), format!("blocks.{i}.norm2.weight")]);
    for norm in blocks.chain(["merger.ln_q.weight".to_owned()]) {
        all.push(plain(tower(&norm), &[e], Fill::Constant(1.0, 1, false)));
    }
}

fn plain(name: String, shape: &[usize], fill: Fill) -> Tensor {
    Tensor { name, dtype: "BF16", shape: shape.to_vec(), fill }
}

fn bias(name: String, size: usize) -> Tensor {
    plain(name, &[size], Fill::Normal(0.02))
}

/// A projection whose outputs have the deviation `gain` for inputs of deviation 1.
fn linear(all: &mut Vec<Tensor>, name: &str, output: usize, input: usize, gain: f32, packed: bool) {
    let deviation = gain / (input as f32).sqrt();
    match packed {
        false => {
            all.push(plain(format!("{name}.weight"), &[output, input], Fill::Normal(deviation)))
        }
        true => pack(all, name, output, input, deviation, false),
    }
}

/// An embedding or a head.
fn table(all: &mut Vec<Tensor>, name: &str, rows: usize, width: usize, packed: bool) {
    match packed {
        false => all.push(plain(format!("{name}.weight"), &[rows, width], Fill::Rows(1.0, width))),
        true => pack(all, name, rows, width, 1.0, true),
    }
}

fn pack(
    all: &mut Vec<Tensor>,
    name: &str,
    rows: usize,
    width: usize,
    deviation: f32,
    by_row: bool,
) {
    // Sixteen levels, all equally likely, have a deviation of 4.61.
    let (scale, groups) = (deviation / 4.61, width / GROUP);
    all.push(Tensor {
        name: format!("{name}.weight"),
        dtype: "U32",
        shape: vec![rows, width / 8],
        fill: Fill::Words,
    });
    for (part, value) in [("scales", scale), ("biases", -7.5 * scale)] {
        let fill = Fill::Constant(value, groups, by_row);
        all.push(plain(format!("{name}.{part}"), &[rows, groups], fill));
    }
}
