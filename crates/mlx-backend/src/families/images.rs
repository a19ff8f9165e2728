//! Families that read images, against values that mlx-vlm computed on the same tiny checkpoints; see
//! `testdata/families/README.md`.

use llm_core::{Capability, GenerateParams, Message, Part, Provider, Request};

use super::*;
use crate::provider::image_reader;

/// The folders of `testdata/families` that read images.
const IMAGES: [&str; 7] =
    ["gemma3", "idefics3", "llava", "paligemma", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe"];

fn picture() -> PathBuf {
    folder("../golden/a_220x150.png")
}

/// What a model reads of the prompt of a fixture.
struct Read {
    ids: Vec<u32>,
    embeddings: Array,
    positions: Positions,
}

/// Encodes the picture and puts it into the prompt; what the tower makes must be the reference's, unless
/// `packed`: what joins the tower of Idefics 3 to its decoder is packed as well.
fn embed(name: &str, model: &dyn VisionLanguageModel, packed: bool) -> Read {
    let expected = expected(name);
    let ids: Vec<u32> = expected["input_ids"].to_vec_cast().unwrap();
    let checkpoint = Checkpoint::open(&folder(name)).unwrap();
    let architecture = models::architecture(checkpoint.model_type()).unwrap();
    let reader = image_reader(&checkpoint, architecture).unwrap().unwrap();
    let bytes = std::fs::read(picture()).unwrap();
    let (input, budget) = (Input::Encoded(&bytes), PixelBudget::default());
    let patches = reader.patches(input, &budget, &mut Workspace::new()).unwrap();
    let rows = patches.grid.patches() as i32;
    let pixels = Array::from_slice(&patches.values, &[rows, patches.values.len() as i32 / rows]);
    let features = model.encode(&pixels, patches.grid).unwrap();
    let off = largest_difference(&features, &expected["features"]);
    assert!(off < TOLERANCE || packed && name == "idefics3", "{name}: features differ by {off}");

    let positions = model.positions(&ids, &[patches.grid.into()]).unwrap();
    if let Some(reference) = expected.get("position_ids") {
        let reference: Vec<i32> = reference.to_vec_cast().unwrap();
        assert_eq!(positions.axes.concat(), reference, "{name}: positions");
        let delta: Vec<i32> = expected["rope_delta"].to_vec_cast().unwrap();
        assert_eq!([positions.delta], *delta, "{name}");
    }

    let tokens = Array::from_slice(&ids, &[1, ids.len() as i32]);
    let embeddings = model.merge(&model.embed(&tokens).unwrap(), &ids, &[features]).unwrap();
    Read { ids, embeddings, positions }
}

fn check(name: &str, step: usize) {
    let expected = expected(name);
    let model = load(name, None);
    let read = embed(name, &*model, false);
    let mut caches = vec![KvCache::default(); model.layers()];
    let logits = read_embedded(&*model, &read.embeddings, &read.positions, &mut caches, step);
    let off = largest_difference(&logits, &expected["logits"]);
    assert!(off < TOLERANCE, "{name}: logits differ by {off}");
    let last = logits.try_index((.., -1, ..)).unwrap();
    let reference = (&expected["greedy"], &expected["greedy_logits"]);
    continues(name, &*model, (last, read.positions.delta), &mut caches, reference);
}

#[test]
fn every_family_matches_the_reference() {
    IMAGES.iter().for_each(|name| check(name, usize::MAX >> 1));
}

/// Also where steps cut through the image.
#[test]
fn a_prompt_read_in_steps_gives_the_same() {
    IMAGES.iter().for_each(|name| check(name, 7));
}

#[test]
fn every_family_packed_to_four_bits_matches_the_reference() {
    for name in IMAGES {
        let expected = expected(name);
        let model = load(name, Some(Quantize::default()));
        let read = embed(name, &*model, true);
        let mut caches = vec![KvCache::default(); model.layers()];
        let step = read.ids.len();
        let logits = read_embedded(&*model, &read.embeddings, &read.positions, &mut caches, step);
        let last = (logits.try_index((.., -1, ..)).unwrap(), read.positions.delta);
        let reference = (&expected["q4_greedy"], &expected["q4_greedy_logits"]);
        continues(name, &*model, last, &mut caches, reference);
    }
}

/// The whole way, twice: the second time what the decoder read is in the cache, or only what the tower
/// made.
#[test]
fn a_model_that_reads_images_answers() {
    for name in IMAGES {
        let model =
            MlxProvider::load(folder(name).to_str().unwrap(), MlxOptions::default()).unwrap();
        assert!(model.info().capabilities.has(Capability::Vision), "{name}");
        let tokens: Vec<u32> = expected(name)["greedy"].to_vec_cast().unwrap();
        let text = Tokenizer::load(&folder(name)).unwrap().decode(&tokens).unwrap();
        let ask = |question: &str| {
            let parts = vec![Part::image_file(picture()), Part::Text(question.to_owned())];
            let greedy = GenerateParams { max_tokens: Some(8), ..GenerateParams::default() };
            let request = Request::new([Message::user(parts)]).with_params(greedy);
            block_on(model.generate(request)).unwrap().text
        };
        assert_eq!(ask("what is it?"), text, "{name}");
        assert_eq!(ask("what is it?"), text, "{name}: again");
        let other = ask("what");
        assert_eq!(ask("what is it?"), text, "{name}: after another question");
        assert_eq!(ask("what"), other, "{name}: the other again");
    }
}

/// What transformers writes: other names, and of experts gates and ups side by side.
#[test]
fn a_checkpoint_in_the_layout_of_transformers_is_the_same() {
    let name = "qwen3_vl_moe";
    let mut tensors = Array::load_safetensors(folder(name).join("model.safetensors")).unwrap();
    let experts = "language_model.model.layers.1.mlp.switch_mlp";
    let mut turned = |part: &str| {
        let stacked = tensors.remove(&format!("{experts}.{part}.weight")).unwrap();
        stacked.transpose_axes(&[0, 2, 1]).unwrap()
    };
    let gate_up = [turned("gate_proj"), turned("up_proj")];
    let joined = [
        ("gate_up_proj", mlx_rs::ops::concatenate(&gate_up, 2).unwrap()),
        ("down_proj", turned("down_proj")),
    ];
    let renamed = tensors.into_iter().map(|(name, tensor)| {
        let name = name.replace("vision_tower.", "model.visual.");
        (name.replace("language_model.model.", "model.language_model."), tensor)
    });
    let experts = "model.language_model.layers.1.mlp.experts";
    let joined = joined.map(|(part, tensor)| (format!("{experts}.{part}"), tensor));
    let tensors: Vec<(String, Array)> = renamed.chain(joined).collect();

    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let weights = copy.path().join("model.safetensors");
    Array::save_safetensors(tensors.iter().map(|(name, x)| (name, x)), None, weights).unwrap();

    let ids: Vec<u32> = (40..70).collect();
    let logits = |model: &dyn VisionLanguageModel| {
        read(model, &ids, &mut vec![KvCache::default(); model.layers()], ids.len())
    };
    for quantize in [None, Some(Quantize::default())] {
        let (ours, theirs) = (load(name, quantize), load_from(copy.path(), quantize));
        // Not bit by bit: weights that lie in another order are multiplied in another.
        assert!(largest_difference(&logits(&*ours), &logits(&*theirs)) < 1e-4);
    }
}

/// Published checkpoints of PaliGemma have no chat template; what there is instead writes what its processor does, and
/// a prompt that begins as another takes nothing from it.
#[test]
fn a_family_without_templates_has_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder("paligemma")).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let about = dir.path().join("tokenizer_config.json");
    let text = std::fs::read_to_string(&about).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let own = json.as_object_mut().unwrap().remove("chat_template").unwrap();
    assert!(own.as_str().unwrap().starts_with("<image><bos>"));
    std::fs::write(&about, json.to_string()).unwrap();
    let template = Checkpoint::open(dir.path()).unwrap().chat_template().unwrap();
    let asked =
        Message::user(vec![Part::image_file(picture()), Part::Text("what is it?".to_owned())]);
    let rendered = |messages: &[Message]| template.render(messages, &[], true);
    assert_eq!(rendered(std::slice::from_ref(&asked)).unwrap(), "<image><bos>what is it?\n");
    assert_eq!(rendered(&[Message::user(["hello".into()])]).unwrap(), "<bos>hello\n");
    let more = [asked, Message::assistant("a cat"), Message::user(["sure?".into()])];
    let error = rendered(&more).unwrap_err().to_string();
    assert!(error.contains("PaliGemma takes one message, of a user"), "{error}");
}

/// Where all of a prompt sees all of it, none of it can be taken from another.
#[test]
fn prompts_that_are_read_whole_share_nothing() {
    let path = folder("paligemma");
    let model = MlxProvider::load(path.to_str().unwrap(), MlxOptions::default()).unwrap();
    let long = "what is it, what is it, what is it, what is it, what is it, what is it";
    let ask = |model: &MlxProvider, more: &str| {
        let parts = vec![Part::image_file(picture()), Part::Text(format!("{long}{more}"))];
        let greedy = GenerateParams { max_tokens: Some(6), ..GenerateParams::default() };
        block_on(model.generate(Request::new([Message::user(parts)]).with_params(greedy)))
            .unwrap()
            .text
    };
    let first = ask(&model, "?");
    let second = ask(&model, "? really");
    assert_eq!(ask(&model, "?"), first);
    let options = MlxOptions {
        caches: crate::Caches::open(crate::CacheLimits::default()).unwrap(),
        ..MlxOptions::default()
    };
    let fresh = MlxProvider::load(path.to_str().unwrap(), options).unwrap();
    assert_eq!(ask(&fresh, "? really"), second, "with nothing in the cache");
}
