"""Write testdata/families: for each family that reads images a tiny checkpoint of random weights, and what mlx-vlm
computes with it for one image and a question, as it is and packed to 4 bits.

usage: vision.py [--out testdata/families] [NAME ..]

Needs mlx-vlm 0.7.10 with MLX 0.32.4, transformers 5.23.0 and Pillow 13.0.0, on a CPU. testdata/families/README.md
describes what is written.
"""
import argparse
import importlib
import json
import pathlib

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.models.cache import make_prompt_cache
from mlx_vlm.models.qwen3_vl.processing_qwen3_vl import Qwen3VLImageProcessor
from PIL import Image
from transformers import PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "testdata/golden"
PICTURE = GOLDEN / "a_220x150.png"
STEPS = 8
# Where the first seed leads to two logits that are nearly equal, or to one token only.
SEEDS = {"qwen2_vl": 2, "qwen3_vl": 5, "qwen3_vl_moe": 4}
TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "rms_norm_eps": 1e-6,
    "vocab_size": 272,
    "max_position_embeddings": 4096,
    "rope_theta": 1e6,
}
IDS = {"image_token_id": 262, "video_token_id": 263, "vision_start_token_id": 259, "vision_end_token_id": 260, "eos_token_id": 258}
QWEN3_TEXT = TEXT | {
    "head_dim": 16,
    "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [3, 3, 2]},
}
QWEN3_TOWER = {
    "depth": 3,
    "hidden_size": 8,
    "intermediate_size": 24,
    "out_hidden_size": 64,
    "num_heads": 1,
    "patch_size": 16,
    "num_position_embeddings": 36,
    "deepstack_visual_indexes": [0, 1],
}
# Published checkpoints have larger numbers of pixels; these keep the fixture small.
PIXELS = {"min_pixels": 3136, "max_pixels": 7000}
QWEN_PROCESSOR = {"image_processor_type": "Qwen2VLImageProcessorFast", "temporal_patch_size": 2, "merge_size": 2} | PIXELS
FAMILIES = {
    "qwen2_vl": {
        "config": TEXT
        | IDS
        | {
            "model_type": "qwen2_vl",
            "tie_word_embeddings": True,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
            "vision_config": {"model_type": "qwen2_vl", "depth": 2, "embed_dim": 16, "hidden_size": 64, "num_heads": 2, "patch_size": 14},
        },
        "processor": QWEN_PROCESSOR
        | {"patch_size": 14, "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]},
    },
    "qwen3_vl": {
        "config": IDS
        | {
            "model_type": "qwen3_vl",
            "tie_word_embeddings": True,
            "text_config": QWEN3_TEXT | {"model_type": "qwen3_vl_text", "tie_word_embeddings": True},
            "vision_config": QWEN3_TOWER | {"model_type": "qwen3_vl"},
        },
        "processor": QWEN_PROCESSOR | {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    },
    "qwen3_vl_moe": {
        "config": IDS
        | {
            "model_type": "qwen3_vl_moe",
            "tie_word_embeddings": True,
            "text_config": QWEN3_TEXT
            | {
                "model_type": "qwen3_vl_moe_text",
                "tie_word_embeddings": True,
                "num_key_value_heads": 1,
                "moe_intermediate_size": 64,
                "num_experts": 3,
                "num_experts_per_tok": 2,
                "decoder_sparse_step": 1,
                "mlp_only_layers": [0],
                "norm_topk_prob": True,
            },
            "vision_config": QWEN3_TOWER
            | {"model_type": "qwen3_vl_moe", "depth": 2, "deepstack_visual_indexes": [1]},
        },
        "processor": QWEN_PROCESSOR | {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    },
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]


def randomise(model, seed):
    """Fills every parameter with noise in bfloat16; norms are noise around what keeps their input."""
    mx.random.seed(seed)

    def fill(path, value):
        noise = mx.random.normal(value.shape)
        if "norm" in path and path.endswith("weight") and value.ndim == 1:
            value = 0.2 * noise + 1
        elif value.ndim == 1:
            value = 0.2 * noise
        elif "embed" in path and value.ndim == 2:
            value = 0.3 * noise
        else:
            value = noise * (1.5 / (value.size / value.shape[-2 if "experts" in path else 0]) ** 0.5)
        return value.astype(mx.bfloat16)

    model.update(tree_map_with_path(fill, model.parameters()))


def build(config):
    module = importlib.import_module(f"mlx_vlm.models.{config['model_type']}")
    config = json.loads(json.dumps(config))
    arguments = module.ModelConfig.from_dict(config)
    if isinstance(arguments.vision_config, dict):
        arguments.vision_config = module.VisionConfig.from_dict(arguments.vision_config)
    if isinstance(arguments.text_config, dict):
        arguments.text_config = module.TextConfig.from_dict(arguments.text_config)
    model = module.Model(arguments)
    if config["model_type"] == "qwen3_vl_moe":
        # mlx-vlm has the two kinds of GELU of this tower the other way round; these are those of transformers.
        tower = model.vision_tower
        for block in tower.blocks:
            block.mlp.act_fn = nn.GELU(approx="tanh")
        for merger in [tower.merger, *tower.deepstack_merger_list]:
            merger.act_fn = nn.GELU()
    return model


def qwen_inputs(processor, prompt):
    """Returns the prompt with an image token for each feature, and what the tower is given."""
    keys = {key: value for key, value in processor.items() if key != "image_processor_type"}
    made = Qwen3VLImageProcessor(**keys)(images=[Image.open(PICTURE)])
    grid = np.array(made["image_grid_thw"])
    prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * int(grid.prod() // 4))
    return prompt, {"pixel_values": mx.array(np.array(made["pixel_values"])), "image_grid_thw": mx.array(grid)}


def greedy(model, ids, given):
    """Logits of the prompt, then greedy tokens and the logits that each was chosen from, in float32."""
    cache = make_prompt_cache(model.language_model)
    read = model.get_input_embeddings(mx.array([ids]), **given)
    rest = {key: value for key, value in read.to_dict().items() if value is not None}
    delta = int(rest.pop("rope_deltas").item())
    whole = logits = model.language_model(mx.array([ids]), cache=cache, **rest).logits
    tokens, rows = [], []
    for step in range(STEPS):
        rows.append(logits[0, -1])
        tokens.append(int(mx.argmax(rows[-1]).item()))
        at = mx.full((3, 1, 1), len(ids) + step + delta, mx.int32)
        logits = model.language_model(mx.array([[tokens[-1]]]), cache=cache, position_ids=at).logits
    rows = mx.stack(rows)
    top = mx.sort(rows, axis=-1)[:, -2:]
    made = {"logits": whole, "greedy": mx.array(tokens, mx.int32), "greedy_logits": rows}
    places = {"position_ids": rest["position_ids"].astype(mx.int32).reshape(3, -1), "rope_delta": mx.array([delta], mx.int32)}
    return made, places, float((top[:, 1] - top[:, 0]).min())


def features(model, given):
    """What the tower makes of the image, with what goes to the first layers of the decoder beside it."""
    made = model.vision_tower(given["pixel_values"], given["image_grid_thw"])
    if not isinstance(made, tuple):
        return made
    return mx.concatenate([made[0], *made[1]], axis=-1)


def packs(path, module):
    """What mlx-vlm's converter packs: no tower, and no router of experts."""
    return hasattr(module, "to_quantized") and "vision" not in path and not path.endswith("mlp.gate")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, default=ROOT / "testdata/families")
    arguments.add_argument("names", nargs="*", default=list(FAMILIES))
    arguments = arguments.parse_args()
    for name in arguments.names:
        config, processor = FAMILIES[name]["config"], FAMILIES[name]["processor"]
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        model = build(config)
        randomise(model, sum(map(ord, name)) + SEEDS.get(name, 0))
        mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
        (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}, indent=1) + "\n")
        (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1) + "\n")
        (folder / "tokenizer.json").write_bytes((GOLDEN / "tiny_fp32/tokenizer.json").read_bytes())
        about = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": TEMPLATE,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1) + "\n")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        prompt = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
        prompt, given = qwen_inputs(processor, prompt)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        expected = {"input_ids": mx.array([ids], mx.int32)}
        gaps = []
        for prefix in ["", "q4_"]:
            if prefix:
                # From bfloat16, as converters do; what they keep as floats is computed in float32.
                model.set_dtype(mx.bfloat16)
                nn.quantize(model, 64, 4, class_predicate=packs)
            model.set_dtype(mx.float32)
            run, places, gap = greedy(model, ids, given)
            if not prefix:
                expected |= {"features": features(model, given)} | places
            expected |= {prefix + key: value for key, value in run.items()}
            gaps.append(gap)
        expected.pop("q4_logits")
        mx.save_safetensors(str(arguments.out / f"{name}.safetensors"), expected, {"prompt": prompt})
        size = sum(f.stat().st_size for f in folder.iterdir()) + (arguments.out / f"{name}.safetensors").stat().st_size
        print(name, f"{size / 1000:.0f} kB", len(ids), expected["greedy"].tolist(), expected["q4_greedy"].tolist(), "gaps", gaps)


if __name__ == "__main__":
    main()
