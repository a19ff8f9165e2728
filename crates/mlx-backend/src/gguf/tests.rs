//! The reader against values of gguf-py, tiny models against the checkpoints that they were made of, and files
//! that are not as they must be.

use std::{collections::HashMap, fs};

use mlx_rs::{Array, Dtype};

use super::*;
use crate::{
    checkpoint::Checkpoint,
    engine::{LoadSpec, build},
    ffi::dequantize,
    kv_cache::KvCache,
    models,
    quantize::Quantize,
    rope::Positions,
    weights::{open_tensors, read_header},
};

pub(super) fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn floats(array: &Array) -> Vec<f32> {
    array.reshape(&[-1]).unwrap().to_vec_cast().unwrap()
}

/// A file of metadata and tensors of F32, as its bytes.
#[derive(Clone, Default)]
struct File {
    pairs: Vec<(String, Vec<u8>)>,
    /// Name, axes as the file has them, number of the type, and offset.
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn of(kind: u32, value: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), value].concat()
}

fn array(kind: u32, count: u64, values: &[u8]) -> Vec<u8> {
    of(9, &[&kind.to_le_bytes()[..], &count.to_le_bytes(), values].concat())
}

impl File {
    /// A llama of one matrix.
    fn small() -> Self {
        let mut file = Self { data: 4 * 64, ..Self::default() };
        file.pair("general.architecture", of(8, &text("llama")));
        for (key, value) in [
            ("embedding_length", 8),
            ("block_count", 1),
            ("feed_forward_length", 8),
            ("context_length", 16),
            ("attention.head_count", 2_u32),
        ] {
            file.pair(&format!("llama.{key}"), of(4, &value.to_le_bytes()));
        }
        let eps = of(6, &1e-6_f32.to_le_bytes());
        file.pair("llama.attention.layer_norm_rms_epsilon", eps);
        file.pair("tokenizer.ggml.model", of(8, &text("gpt2")));
        file.pair("tokenizer.ggml.pre", of(8, &text("smollm")));
        file.pair("tokenizer.ggml.tokens", array(8, 2, &[text("a"), text("b")].concat()));
        let kinds = [1_i32, 3].map(i32::to_le_bytes).concat();
        file.pair("tokenizer.ggml.token_type", array(5, 2, &kinds));
        file.tensors.push(("token_embd.weight".to_owned(), vec![8, 8], 0, 0));
        file
    }

    fn pair(&mut self, key: &str, value: Vec<u8>) {
        self.pairs.retain(|(known, _)| known != key);
        self.pairs.push((key.to_owned(), value));
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            bytes.extend(text(key));
            bytes.extend(value);
        }
        for (name, axes, kind, offset) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((axes.len() as u32).to_le_bytes());
            axes.iter().for_each(|axis| bytes.extend(axis.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }
}

fn read(bytes: &[u8]) -> Result<Gguf, String> {
    Gguf::read(Path::new("a.gguf"), bytes, bytes.len() as u64)
}

/// Everything that is read of a file but its weights; the message of what is wrong with it.
fn all_of(bytes: &[u8]) -> Result<(), String> {
    let gguf = read(bytes)?;
    let chain = |error: Error| error.to_string();
    gguf.config().map_err(chain)?;
    gguf.parts().map_err(chain)?;
    gguf.tokenizer().map(drop).map_err(chain)?;
    gguf.chat_template().map(drop).or_else(|error| match error.to_string().contains("metadata") {
        true => Ok(()),
        false => Err(error.to_string()),
    })
}

#[test]
fn every_type_has_the_values_of_the_reference() {
    let expected = Array::load_safetensors(testdata("gguf/types.safetensors")).unwrap();
    let gguf = Gguf::open(&testdata("gguf/types.gguf")).unwrap();
    let mut parts = HashMap::new();
    // The file has no heads, which reading by name would ask for.
    for tensor in &gguf.tensors {
        let bytes = fs::read(&gguf.path).unwrap();
        let range = tensor.range.start as usize..tensor.range.end as usize;
        for part in layout::convert(tensor, &bytes[range]).unwrap() {
            parts.insert(part.name.clone(), crate::weights::array(&part));
        }
    }
    let packing = gguf.quantization();
    for kind in kind::Kind::ALL {
        let name = kind.name();
        let weight = &parts[&format!("{name}.weight")];
        let found = match packing.per_path.get(name) {
            None => weight.clone(),
            Some(how) => {
                let wide =
                    |part: &str| parts[&format!("{name}.{part}")].as_dtype(Dtype::Float32).unwrap();
                let how = how.unwrap();
                dequantize((weight, &wide("scales"), Some(&wide("biases"))), how, Dtype::Float32)
                    .unwrap()
            }
        };
        let (found, expected) = (floats(&found), floats(&expected[name]));
        assert_eq!(found.len(), 3 * 512);
        let largest = expected.iter().fold(0_f32, |most, value| most.max(value.abs()));
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // A product and a sum, rounded in another order.
            assert!((found - expected).abs() <= 1e-6 * largest, "{name} {i}: {found} {expected}");
        }
    }
    assert_eq!(packing.per_path["Q8_0"], Some(Quantize::affine(8, 32)));
    assert_eq!(packing.per_path.len(), 7);
}

#[test]
fn the_header_that_is_made_up_is_that_of_the_parts() {
    for name in ["llama_tied", "qwen2"] {
        let path = testdata(&format!("gguf/{name}.gguf"));
        let header = read_header(&path).unwrap();
        let tensors = open_tensors(&[path], |name| Some(name.to_owned())).unwrap();
        let infos = header.tensors();
        assert_eq!(infos.len(), tensors.len());
        for (name, array) in &tensors {
            let (from, to) = infos[name].data_offsets;
            assert_eq!(array.nbytes(), to - from, "{name}");
        }
    }
}

/// Two families, one with rows in the order of llama.cpp, compute what their checkpoints compute.
#[test]
fn tiny_models_compute_what_the_reference_computes() {
    for name in ["llama_tied", "qwen2"] {
        let checkpoint = Checkpoint::open(&testdata(&format!("gguf/{name}.gguf"))).unwrap();
        let architecture = models::architecture(checkpoint.model_type()).unwrap();
        let spec = LoadSpec::new(&checkpoint, architecture);
        let model = build(&LoadSpec { dtype: Some(Dtype::Float32), ..spec }).unwrap();
        let expected =
            Array::load_safetensors(testdata(&format!("families/{name}.safetensors"))).unwrap();
        let ids: Vec<u32> = expected["input_ids"].to_vec_cast().unwrap();
        let x = model.embed(&Array::from_slice(&ids, &[1, ids.len() as i32])).unwrap();
        let rotation = model.prompt_rotation(&Positions::of_text(ids.len()), 0..ids.len()).unwrap();
        let mut caches = vec![KvCache::default(); model.layers()];
        let hidden = model.forward(x, &rotation, &mut caches).unwrap();
        let (found, expected) =
            (floats(&model.logits(&hidden).unwrap()), floats(&expected["logits"]));
        assert_eq!(found.len(), expected.len());
        let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-3, "{name}: logits differ by {off}");
        // The same tokens, template and stops as those of the folder.
        let folder = Checkpoint::open(&testdata(&format!("families/{name}"))).unwrap();
        let (ours, theirs) = (checkpoint.tokenizer().unwrap(), folder.tokenizer().unwrap());
        for text in ["<|im_start|>user\nhé 12<|im_end|>", " a  b\n", "日本語 🦀"] {
            assert_eq!(ours.encode(text).unwrap(), theirs.encode(text).unwrap(), "{text}");
        }
        assert_eq!(ours.special_tokens(), theirs.special_tokens());
        let stops = checkpoint.stop_tokens(&ours).unwrap();
        assert!(folder.stop_tokens(&theirs).unwrap().is_subset(&stops), "{stops:?}");
        let message = [llm_core::Message::user(["hi".into()])];
        let render = |checkpoint: &Checkpoint| {
            checkpoint.chat_template().unwrap().render(&message, &[], true).unwrap()
        };
        assert_eq!(render(&checkpoint), render(&folder));
    }
}

#[test]
fn a_file_that_lies_is_refused_with_what_it_says() {
    all_of(&File::small().bytes()).unwrap();
    let tensor = |change: &dyn Fn(&mut File)| {
        let mut file = File::small();
        change(&mut file);
        file.bytes()
    };
    let pair = |key: &'static str, value: Vec<u8>| {
        tensor(&move |file: &mut File| file.pair(key, value.clone()))
    };
    let at = |bytes: &[u8], at: usize| [&File::small().bytes()[..at], bytes].concat();
    for (bytes, says) in [
        (b"GGML0000".to_vec(), "not a GGUF file"),
        (at(&1_u32.to_le_bytes(), 4), "expected GGUF of version 2 or 3, found 1"),
        (at(&3_u32.to_be_bytes(), 4), "found version 3, big-endian"),
        (at(&[], 6), "corrupt GGUF at byte 4: the file, or what may be of its header, ends"),
        (at(&[0xff; 16], 8), "metadata pairs of 18446744073709551615"),
        ([&File::small().bytes()[..24], &u64::MAX.to_le_bytes()].concat(), "corrupt GGUF at byte"),
        (pair("x", of(13, &[0; 8])), "`x` is of type 13"),
        (pair("x", of(7, &[2])), "`x` is a truth value of 2"),
        (pair("x", array(9, 1, &[0; 16])), "an array of arrays"),
        (pair("x", array(8, 1 << 60, &[])), "the array `x` of 1152921504606846976"),
        (pair("x", of(8, &[&2_u64.to_le_bytes()[..], &[0xff, 0xff]].concat())), "not valid UTF-8"),
        (pair("general.alignment", of(4, &24_u32.to_le_bytes())), "a power of two up to"),
        (pair("llama.block_count", of(8, &text("1"))), "as a whole number, found a text"),
        (pair("llama.block_count", of(10, &u64::MAX.to_le_bytes())), "for 1 tensors"),
        (pair("llama.expert_count", of(4, &8_u32.to_le_bytes())), "without experts, found 8"),
        (pair("llama.rope.dimension_count", of(4, &2_u32.to_le_bytes())), "size of a head, 4"),
        (pair("llama.rope.scaling.type", of(8, &text("yarn"))), "none or linear, found yarn"),
        (pair("general.architecture", of(8, &text("mamba"))), "unsupported model_type `mamba`"),
        (pair("tokenizer.ggml.model", of(8, &text("bert"))), "gpt2, found bert"),
        (pair("tokenizer.ggml.pre", of(8, &text("new"))), "smollm, qwen2, llama-bpe, found new"),
        (
            pair("tokenizer.ggml.tokens", array(8, 2, &[text("a"), text("a")].concat())),
            "\"a\" is there twice, as 0 and 1",
        ),
        (
            pair("tokenizer.ggml.tokens", array(8, 9, &text("a").repeat(9))),
            "9 tokens for 8 rows of the embedding",
        ),
        (pair("tokenizer.ggml.merges", array(8, 1, &text("ab"))), "two tokens and a space"),
        (pair("tokenizer.ggml.merges", array(8, 1, &text("a q"))), "not a tokenizer"),
        (tensor(&|file| file.data = 64), "is at bytes 0..256 after byte"),
        (tensor(&|file| file.tensors[0].3 = 8), "is at 8, expected a multiple of 32"),
        (tensor(&|file| file.tensors[0].3 = u64::MAX - 31), "is beyond any file"),
        (tensor(&|file| file.tensors[0].1 = vec![0, 8]), "has an axis of 0"),
        (tensor(&|file| file.tensors[0].1 = vec![1 << 40]), "has an axis of 1099511627776"),
        (tensor(&|file| file.tensors[0].1 = vec![1; 5]), "has 5 axes"),
        (tensor(&|file| file.tensors[0].1 = vec![i32::MAX as u64; 4]), "is beyond any file"),
        (tensor(&|file| file.tensors[0].2 = 2), "rows of 8 values, expected a multiple of 32"),
        (tensor(&|file| file.tensors[0].2 = 10), "is of type 10, expected one of F32 (0)"),
        (tensor(&|file| file.tensors.push(file.tensors[0].clone())), "is there twice"),
        (
            tensor(&|file| {
                file.tensors.push(("b".to_owned(), vec![8, 8], 0, 32));
                file.data *= 2;
            }),
            "overlap",
        ),
        (tensor(&|file| file.tensors[0].0 = "x".repeat(300)), "of 300 bytes, expected at most 256"),
    ] {
        let found = all_of(&bytes).expect_err(says);
        assert!(found.contains(says), "expected {says:?} in {found:?}");
    }
}

/// No length of the file and no byte of it makes a panic.
#[test]
fn cut_and_changed_files_are_read_or_refused() {
    let whole = File::small().bytes();
    for length in 0..whole.len() {
        assert!(all_of(&whole[..length]).is_err(), "{length}");
    }
    for at in 0..whole.len() - 256 {
        for byte in [0, 1, 0x7f, 0x80, 0xff, whole[at] ^ 1] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            // Either is right: some bytes are free.
            let _ = all_of(&bytes);
        }
    }
}

#[test]
fn a_folder_and_another_file_are_no_gguf_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "GGU").unwrap();
    assert!(!is_gguf(dir.path()) && !is_gguf(&file) && !is_gguf(&dir.path().join("none")));
    fs::write(&file, "GGUF").unwrap();
    assert!(is_gguf(&file));
    let error = Gguf::open(&file).unwrap_err().to_string();
    assert!(error.contains("corrupt GGUF at byte 4: the file"), "{error}");
}
