//! What the fuzz targets call, which `cargo fuzz` compiles the crate for: parsers of outside data that are
//! private, each with what must be true of all that it accepts. No MLX but for weight files.

use std::{
    collections::BTreeMap,
    fs,
    io::Cursor,
    path::{Component, Path},
    sync::Arc,
};

use llm_core::{Message, Tool};
use mlx_rs::Dtype;
use safetensors::SafeTensors;
use serde_json::{Map, Value};

use crate::{
    Error,
    adapter::{AdapterConfig, Products, read_adapter},
    calls::{CallReader, Said},
    chat::{self, ChatTemplate},
    checkpoint::{QuantizationConfig, add_ids, shards},
    device::Backend,
    gguf::{Data, Gguf},
    grammar::{Grammars, Next},
    guard::{Estimate, Footprint, ImageWork, Setting, Work},
    models,
    text_stream::TextStream,
    tokenizer,
    weights::{Weights, open_tensors, safetensors_header},
};

#[cfg(feature = "hub")]
pub use crate::hub::fuzz_listing as hub_listing;

/// Reads `config.json` as that of each family.
pub fn model_config(config: &Value) {
    let path = Path::new("config.json");
    if let Ok(packed) = QuantizationConfig::from_config(config) {
        let _ = (packed.get("lm_head"), packed.get("language_model.model.layers.0.mlp.up_proj"));
    }
    let _ = add_ids(path, config.get("eos_token_id"), &mut Default::default());
    for architecture in models::architectures() {
        match (architecture.footprint)(config, path) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(footprint) => {
                estimates(footprint);
                loads_nothing(architecture, config, path);
            }
        }
    }
}

/// Estimates of what is accepted have no overflow, and more work never takes less memory.
fn estimates(footprint: Footprint) {
    assert!(footprint.decoder.layers > 0 && footprint.decoder.head_dim > 0);
    for (backend, value_bytes) in [(Backend::Cpu, 4), (Backend::Metal, 2), (Backend::Cuda, 2)] {
        let setting = Setting {
            footprint,
            backend,
            value_bytes,
            on_host: backend.on_host(Dtype::Float32),
            weight_bytes: 1 << 30,
            fused_tower: false,
            fused_decoder: false,
            unpacks: true,
        };
        let image = ImageWork {
            source_pixels: 1 << 22,
            decoder_bytes: 1 << 16,
            pixels: 1 << 20,
            patches: 5120,
            patch_frames: 2,
            tower_patches: 5120,
        };
        let of = |images: usize, tokens| {
            let images = if footprint.tower.hidden == 0 { 0 } else { images };
            let work = Work {
                images: vec![image; images],
                text_tokens: tokens,
                new_tokens: 256,
                prefill_step_tokens: 512,
                ..Work::default()
            };
            Estimate::new(&setting, &work, 1 << 20).required().1
        };
        assert!(of(0, 10) <= of(0, 1000), "{setting:?}");
        assert!(of(1, 10) <= of(2, 10), "{setting:?}");
    }
}

/// Without a single tensor no model is loaded.
fn loads_nothing(architecture: &models::Architecture, config: &Value, path: &Path) {
    for backend in [Backend::Cpu, Backend::Cuda] {
        let packed = QuantizationConfig::from_config(config).unwrap_or_default();
        let weights =
            Weights::open(&[], architecture.rename, Dtype::Float32, packed, None, backend);
        let weights = weights.expect("no file is to be read");
        assert!((architecture.load)(config, path, &weights, backend).is_err());
    }
}

/// Reads `model.safetensors.index.json`: what it names is in its folder.
pub fn weight_index(index: &Value) {
    let folder = Path::new("/a/b");
    let names = shards(&folder.join("model.safetensors.index.json"), index);
    for name in names.into_iter().flatten() {
        let path = folder.join(&name);
        assert!(path.starts_with(folder) && path != folder, "{name:?}");
        assert!(path.components().all(|c| c != Component::ParentDir), "{name:?}");
        assert!(!name.contains(['\\', '\0', ':']) && name.ends_with(".safetensors"), "{name:?}");
    }
}

/// Reads a safetensors file: as the crate of the format does, and what is accepted is the same once it was
/// written again.
pub fn safetensors(bytes: &[u8]) {
    let path = Path::new("model.safetensors");
    let ours = safetensors_header(path, bytes, bytes.len() as u64);
    let theirs = SafeTensors::deserialize(bytes);
    assert_eq!(ours.is_ok(), theirs.is_ok(), "{ours:?} and {theirs:?}");
    let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return };
    assert_eq!(ours.tensors().len(), theirs.len());
    for (name, info) in ours.tensors() {
        let tensor = theirs.tensor(&name).expect("both have it");
        assert_eq!((info.dtype, &info.shape[..]), (tensor.dtype(), tensor.shape()));
    }
    let written = safetensors::serialize(theirs.tensors(), ours.metadata().clone());
    let written = written.expect("it was read");
    let again =
        safetensors_header(path, &written[..], written.len() as u64).expect("it was written");
    assert_eq!(format!("{:?}", sorted(&again)), format!("{:?}", sorted(&ours)));
}

fn sorted(
    metadata: &safetensors::tensor::Metadata,
) -> BTreeMap<String, (safetensors::Dtype, Vec<usize>)> {
    let tensors = metadata.tensors().into_iter();
    tensors.map(|(name, info)| (name, (info.dtype, info.shape.clone()))).collect()
}

/// Reads a safetensors file by MLX, on the caller's thread, which must be the same each time: what the check of
/// its header lets pass is read as the header says. `path` is a file that is written for it.
pub fn weight_file(bytes: &[u8], path: &Path) {
    fs::write(path, bytes).expect("a file for the test");
    let Ok(header) = safetensors_header(path, bytes, bytes.len() as u64) else { return };
    // MLX refuses some types and more elements than it counts.
    let Ok(tensors) = open_tensors(&[path.to_owned()], |name| Some(name.to_owned())) else {
        return;
    };
    assert_eq!(tensors.len(), header.tensors().len());
    for (name, info) in header.tensors() {
        let array = &tensors[&name];
        assert!(array.shape().iter().zip(&info.shape).all(|(&a, &b)| a as usize == b), "{name}");
        assert_eq!(array.shape().len(), info.shape.len());
        if array.eval().is_ok() {
            assert_eq!(array.nbytes(), info.data_offsets.1 - info.data_offsets.0, "{name}");
        }
    }
}

/// Reads an adapter of one layer: its `adapter_config.json`, and its matrices as [`weight_file`] does.
pub fn adapter(config: &str, bytes: &[u8], path: &Path) {
    let Ok(config) = AdapterConfig::read(config) else { return };
    assert!(config.rank > 0 && config.scale.is_finite());
    fs::write(path, bytes).expect("a file for the test");
    let products = Products::from([("a".to_owned(), (3, 2))]);
    if let Ok(adapter) = read_adapter(path, &config, &products, |name| Some(name.to_owned())) {
        assert!(adapter.delta("a").is_some() && adapter.delta("b").is_none());
    }
}

/// Reads a GGUF file with all that it holds; `scratch` is a file that is written for it.
pub fn gguf(bytes: &[u8], scratch: &Path) {
    let length = bytes.len() as u64;
    let gguf = match Gguf::read(scratch, Cursor::new(bytes), length) {
        Err(reason) => return assert!(!reason.is_empty()),
        Ok(gguf) => gguf,
    };
    assert!(gguf.header_bytes() <= length.next_multiple_of(1 << 20));
    fs::write(scratch, bytes).expect("a file for the test");
    let _ = gguf.quantization();
    // Some of the time: the patterns of a tokenizer take longer than all else together.
    if bytes.last().is_some_and(|last| last % 8 == 0) {
        let _ = (gguf.tokenizer(), gguf.chat_template());
    }
    if let Ok(config) = gguf.config() {
        let known = config["model_type"].as_str().and_then(|name| models::architecture(name).ok());
        let architecture = known.expect("it is of a family that is known");
        if let Ok(footprint) = (architecture.footprint)(&config, scratch) {
            estimates(footprint);
        }
    }
    // What was promised is what is read.
    let Ok(promised) = gguf.parts() else { return };
    let promised = sorted(&promised);
    let mut read = 0;
    let all = gguf.read_parts(
        |_| true,
        |part| {
            let (dtype, shape) = &promised[&part.name];
            let (found, values) = match &part.data {
                Data::F32(values) => (safetensors::Dtype::F32, values.len()),
                Data::F16(values) => (safetensors::Dtype::F16, values.len()),
                Data::Bf16(values) => (safetensors::Dtype::BF16, values.len()),
                Data::Words(words) => (safetensors::Dtype::U32, words.len()),
            };
            assert_eq!((found, values), (*dtype, shape.iter().product()), "{}", part.name);
            assert!(part.shape.iter().zip(shape).all(|(&a, &b)| a as usize == b));
            read += 1;
            Ok(())
        },
    );
    assert!(all.is_err() || read == promised.len());
}

/// Reads a `tokenizer.json`; `text` is made tokens, and these text again.
pub fn tokenizer(json: &[u8], text: &str) {
    let Ok(tokenizer) = tokenizer::Tokenizer::from_json(json) else { return };
    assert!(tokenizer.vocab_size() <= json.len());
    for id in (0..tokenizer.ids_end().min(300)).chain([u32::MAX]) {
        let _ = (tokenizer.piece(id), tokenizer.token_bytes(id), tokenizer.is_added(id));
    }
    let Ok(ids) = tokenizer.encode(text) else { return };
    let Ok(whole) = tokenizer.decode(&ids) else { return };
    let (mut stream, mut pieces) = (TextStream::new(), String::new());
    let pushed = ids
        .iter()
        .try_for_each(|&id| stream.push(&tokenizer, id).map(|piece| pieces.extend(piece)));
    let ended = stream.finish(&tokenizer).map(|piece| pieces.extend(piece));
    if pushed.is_ok() && ended.is_ok() && tokenizer.is_byte_level() {
        assert_eq!(pieces, whole, "in pieces and at once");
    }
}

/// A chat template that was read.
#[derive(Debug)]
pub struct Template(ChatTemplate);

impl Template {
    /// Reads `source`, with the usual names of special tokens; `None` if it is none.
    pub fn new(source: &str) -> Option<Self> {
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
        let tokens: Map<String, Value> =
            tokens.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
        ChatTemplate::new(source, tokens).ok().map(Self)
    }

    /// Makes a prompt, whose size is bounded; `None` if the template fails or refuses.
    pub fn render(&self, messages: &[Message], tools: &[Tool]) -> Option<String> {
        match self.0.render(messages, tools, true) {
            Ok(text) => {
                assert!(text.len() <= 16 << 20);
                Some(text)
            }
            Err(error) => {
                assert!(matches!(error, Error::Template(_) | Error::Prompt(_)), "{error}");
                None
            }
        }
    }
}

/// Whether no special token is written out in `text`.
pub fn is_plain(text: &str, special: &[String]) -> bool {
    chat::check_text(text, special).is_ok()
}

/// What was said in an answer that came in `pieces`: texts, and calls with arguments.
pub fn said<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Vec<(String, Option<Value>)> {
    let mut reader = CallReader::default();
    let mut all = Vec::new();
    for piece in pieces {
        all.extend(reader.push(piece));
    }
    all.extend(reader.finish());
    let mut said: Vec<(String, Option<Value>)> = Vec::new();
    for one in all {
        match (one, said.last_mut()) {
            // Where texts are cut depends on the pieces.
            (Said::Text(more), Some((text, None))) => text.push_str(&more),
            (Said::Text(text), _) => said.push((text, None)),
            (Said::Call(call), _) => said.push((call.name, Some(call.arguments))),
        }
    }
    said
}

/// Grammars of the tokenizer of a checkpoint.
#[derive(Debug)]
pub struct Forms {
    grammars: Grammars,
    tokenizer: Arc<tokenizer::Tokenizer>,
    stop: u32,
}

impl Forms {
    /// Reads the tokenizer in `folder`, whose answers end with `stop`.
    pub fn new(folder: &Path, stop: &str) -> Self {
        let tokenizer = Arc::new(tokenizer::Tokenizer::load(folder).expect("a sound tokenizer"));
        let stop = tokenizer.token_to_id(stop).expect("a token");
        let stops = Arc::new([stop].into());
        Self { grammars: Grammars::new(tokenizer.clone(), stops), tokenizer, stop }
    }

    /// Makes an answer of the form of `request`, of at most `most` tokens which `choices` choose; `None` if
    /// the form is refused, or the answer did not come to an end.
    pub fn answer(
        &self,
        request: &llm_core::Request,
        most: usize,
        choices: &[u8],
    ) -> Option<String> {
        let mut grammar = self.grammars.of(request).ok()??;
        let (mut stream, mut text) = (TextStream::new(), String::new());
        let mut choices = choices.iter().cycle();
        for _ in 0..most {
            let token = match grammar.next() {
                Next::Only(token) => token,
                Next::Nothing => {
                    text.extend(stream.finish(&self.tokenizer).ok()?);
                    return Some(text);
                }
                Next::Among(bits) => {
                    let allowed: Vec<u32> = (0..self.tokenizer.ids_end())
                        .filter(|id| bits[*id as usize / 32] >> (id % 32) & 1 == 1)
                        .collect();
                    assert!(!allowed.is_empty(), "a grammar leads nowhere");
                    // An end that is allowed is taken now and then, so that answers have one.
                    let choice = usize::from(*choices.next()?);
                    match allowed.contains(&self.stop) && choice % 4 == 0 {
                        true => self.stop,
                        false => allowed[choice * 31 % allowed.len()],
                    }
                }
            };
            // Bounds on the work of a grammar end some answers with an error.
            grammar.take(token).ok()?;
            if token != self.stop {
                text.extend(stream.push(&self.tokenizer, token).ok()?);
                continue;
            }
            text.extend(stream.finish(&self.tokenizer).ok()?);
            return Some(text);
        }
        None
    }
}
