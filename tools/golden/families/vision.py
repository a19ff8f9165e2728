"""Write testdata/families: for each family that reads images a tiny checkpoint of random weights, and what mlx-vlm
computes with it for one image and a question, as it is and packed to 4 bits.

usage: vision.py [--out testdata/families] [NAME ..]

Needs mlx-vlm 0.7.10 with MLX 0.32.4, transformers 5.23.0 and Pillow 13.0.0, on a CPU. testdata/families/README.md
describes what is written.
"""
import importlib
import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_vlm.models import gemma3, paligemma
from mlx_vlm.models.idefics3.processing_idefics3 import get_image_prompt_string
from mlx_vlm.models.qwen3_vl.processing_qwen3_vl import Qwen3VLImageProcessor
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

import fixture
from fixture import GOLDEN

IMAGE = "<image>"
# What the template writes for an image, where that is not what Qwen-VL has.
MARKERS = {"gemma3": "<start_of_image>", "paligemma": IMAGE, "llava": IMAGE, "idefics3": IMAGE}
# Special tokens from 259 on, where a family has others than Qwen-VL.
TOKENS = {
    "gemma3": ["<start_of_image>", "<end_of_image>", "<unused_0>", "<image_soft_token>"],
    "paligemma": ["<bos>", "<unused_0>", "<unused_1>", IMAGE],
    "llava": ["<unused_0>", "<unused_1>", "<unused_2>", IMAGE],
    "idefics3": ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", IMAGE]
    + [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)],
}
PICTURE = GOLDEN / "a_220x150.png"
# Where the first seed leads to two logits that are nearly equal, or to one token only.
SEEDS = {"gemma3": 4, "llava": 5, "paligemma": 3, "qwen2_vl": 2, "qwen3_vl": 5, "qwen3_vl_moe": 4}
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
# A decoder as Llama's, and small towers that take frames.
LLAMA_TEXT = TEXT | {"model_type": "llama", "rope_theta": 1e4}
FRAME_IDS = {"image_token_id": 262, "image_token_index": 262, "eos_token_id": 258}
FAMILIES |= {
    "llava": {
        "config": FRAME_IDS
        | {
            "model_type": "llava",
            "text_config": LLAMA_TEXT,
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": 56,
                "patch_size": 14,
            },
        },
        "processor": {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 56},
            "crop_size": {"height": 56, "width": 56},
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    },
    "idefics3": {
        "config": FRAME_IDS
        | {
            "model_type": "idefics3",
            "scale_factor": 2,
            "text_config": LLAMA_TEXT,
            "vision_config": {
                "model_type": "idefics3_vision",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 8,
            },
        },
        "processor": {
            "image_processor_type": "Idefics3ImageProcessor",
            "size": {"longest_edge": 64},
            "max_image_size": {"longest_edge": 32},
            "resample": 1,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
    },
}
FAMILIES["gemma3"] = {
    "config": FRAME_IDS
    | {
        "model_type": "gemma3",
        "hidden_size": 64,
        "mm_tokens_per_image": 4,
        "text_config": TEXT
        | {
            "model_type": "gemma3_text",
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": 512,
            "sliding_window_pattern": 2,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "mm_tokens_per_image": 4,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
        },
    },
    "processor": {
        "image_processor_type": "Gemma3ImageProcessor",
        "size": {"height": 56, "width": 56},
        "resample": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    },
}
# SigLIP as Gemma 3 has it, and the decoder of Gemma.
FAMILIES["paligemma"] = {
    "config": FRAME_IDS
    | {
        "model_type": "paligemma",
        "hidden_size": 64,
        "projection_dim": 64,
        "pad_token_id": 257,
        "text_config": TEXT | {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 16, "rope_theta": 1e4},
        "vision_config": FAMILIES["gemma3"]["config"]["vision_config"] | {"projection_dim": 64},
    },
    "processor": FAMILIES["gemma3"]["processor"] | {"image_processor_type": "SiglipImageProcessor", "resample": 3},
}
WRAPPED = "<|vision_start|><|image_pad|><|vision_end|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}" + WRAPPED + "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]


def scale(name):
    """Returns how large noise is: norms are noise around what keeps their input."""

    def scaled(path, value, noise):
        # Gemma's norms are stored as their distance from 1, and its embeddings are multiplied; not those of the tower.
        gemma = name in ("gemma3", "paligemma") and "vision" not in path
        if "norm" in path and path.endswith("weight") and value.ndim == 1:
            return 0.2 * noise + (0 if gemma else 1)
        if value.ndim == 1:
            return 0.2 * noise
        if "embed" in path and value.ndim == 2:
            return (0.06 if gemma else 0.3) * noise
        return noise * (1.5 / (value.size / value.shape[-2 if "experts" in path else 0]) ** 0.5)

    return scaled


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


def inputs(config, processor, prompt):
    """Returns the prompt with an image token for each feature, and what the tower is given."""
    if config["model_type"] == "llava":
        frame = CLIPImageProcessorPil(**processor)([Image.open(PICTURE).convert("RGB")], return_tensors="np")["pixel_values"]
        return prompt.replace(IMAGE, IMAGE * 16), {"pixel_values": mx.array(frame)}
    if config["model_type"] == "paligemma":
        frame = SiglipImageProcessorPil(**processor)([Image.open(PICTURE).convert("RGB")], return_tensors="np")["pixel_values"]
        return prompt.replace(IMAGE, IMAGE * 16), {"pixel_values": mx.array(frame)}
    if config["model_type"] == "gemma3":
        frame = SiglipImageProcessorPil(**processor)([Image.open(PICTURE).convert("RGB")], return_tensors="np")["pixel_values"]
        text = f"\n\n<start_of_image>{'<image_soft_token>' * 4}<end_of_image>\n\n"
        return prompt.replace("<start_of_image>", text), {"pixel_values": mx.array(frame)}
    if config["model_type"] == "idefics3":
        made = Idefics3ImageProcessorPil(**processor)(
            [[Image.open(PICTURE).convert("RGB")]], return_row_col_info=True, return_tensors="np"
        )
        text = get_image_prompt_string(
            made["rows"][0][0], made["cols"][0][0], 4, "<fake_token_around_image>", IMAGE, "<global-img>"
        )
        return prompt.replace(IMAGE, text), {"pixel_values": mx.array(made["pixel_values"])}
    return qwen_inputs(processor, prompt)


def tokenizer_json(name):
    """The tokenizer of testdata/golden, with the special tokens of a family."""
    text = (GOLDEN / "tiny_fp32/tokenizer.json").read_text()
    if name not in TOKENS:
        return text
    tokenizer = json.loads(text)
    kept = [token for token in tokenizer["added_tokens"] if token["id"] < 259]
    more = [kept[0] | {"id": 259 + i, "content": content} for i, content in enumerate(TOKENS[name])]
    return json.dumps(tokenizer | {"added_tokens": kept + more})


def qwen_inputs(processor, prompt):
    keys = {key: value for key, value in processor.items() if key != "image_processor_type"}
    made = Qwen3VLImageProcessor(**keys)(images=[Image.open(PICTURE)])
    grid = np.array(made["image_grid_thw"])
    prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * int(grid.prod() // 4))
    return prompt, {"pixel_values": mx.array(np.array(made["pixel_values"])), "image_grid_thw": mx.array(grid)}


def compute(model, ids, given):
    """Logits of the prompt, then greedy tokens and the logits that each was chosen from; features and positions."""
    cache = make_prompt_cache(model.language_model)
    read = model.get_input_embeddings(mx.array([ids]), mask=mx.ones((1, len(ids))), **given)
    rest = {key: value for key, value in read.to_dict().items() if value is not None}
    delta = int(rest.pop("rope_deltas", mx.array(0)).item())
    if rest.pop("attention_mask_4d", None) is not None:
        # mlx-vlm 0.7.10 has all tokens of a prompt see each other; in transformers, those of an image do.
        image = np.array(ids) == 262
        runs = np.cumsum(np.diff(image, prepend=False) != 0)
        sees = np.tri(len(ids), dtype=bool) | (image[:, None] & (runs[:, None] == runs[None]))
        if isinstance(model, paligemma.Model):
            sees[:] = True
        rest["mask"] = mx.array(sees)[None, None]

    def following(token, step):
        at = {"position_ids": mx.full((3, 1, 1), len(ids) + step + delta, mx.int32)} if "position_ids" in rest else {}
        return model.language_model(token, cache=cache, **at).logits

    made, gap = fixture.greedy(model.language_model(mx.array([ids]), cache=cache, **rest).logits, following)
    before = {"features": features(model, ids, given)}
    if "position_ids" in rest:
        before |= {"position_ids": rest["position_ids"].astype(mx.int32).reshape(3, -1), "rope_delta": mx.array([delta], mx.int32)}
    return before | made, gap


def features(model, ids, given):
    """What the tower makes of the image, with what goes to the first layers of the decoder beside it."""
    if "image_grid_thw" not in given:
        # What stands at the image tokens.
        places = np.flatnonzero(np.array(ids) == 262)
        made = model.get_input_embeddings(mx.array([ids]), mask=mx.ones((1, len(ids))), **given).inputs_embeds
        # Gemma's decoder multiplies what it is given.
        return made[0][mx.array(places)] * (8 if isinstance(model, gemma3.Model | paligemma.Model) else 1)
    made = model.vision_tower(given["pixel_values"], given["image_grid_thw"])
    if not isinstance(made, tuple):
        return made
    return mx.concatenate([made[0], *made[1]], axis=-1)


def packs(path, module):
    """What mlx-vlm's converter packs: no tower, not all that joins one to a decoder, and no router of experts."""
    kept = "vision" in path or "multi_modal_projector" in path or path.endswith("mlp.gate")
    return hasattr(module, "to_quantized") and not kept


def main():
    out, names = fixture.arguments(__doc__, FAMILIES)
    for name in names:
        config, processor = FAMILIES[name]["config"], FAMILIES[name]["processor"]
        model = build(config)
        fixture.randomise(model, sum(map(ord, name)) + SEEDS.get(name, 0), scale(name))
        tensors = dict(tree_flatten(model.parameters()))
        if name == "gemma3":
            # The head is the embedding, of which mlx-vlm has a copy.
            model.language_model.lm_head.weight = model.language_model.model.embed_tokens.weight
            tensors.pop("language_model.lm_head.weight")
        files = {
            "config.json": json.dumps(config | {"torch_dtype": "bfloat16"}, indent=1) + "\n",
            "preprocessor_config.json": json.dumps(processor, indent=1) + "\n",
            "tokenizer.json": tokenizer_json(name),
        }
        template = TEMPLATE.replace(WRAPPED, MARKERS.get(name, WRAPPED))
        if name.startswith("qwen3"):
            shown = "{% elif part.type == 'video' %}" + WRAPPED.replace("image", "video")
            template = template.replace(WRAPPED, WRAPPED + shown)
        if name == "paligemma":
            # What its processor writes; published checkpoints have no template.
            template = "<image><bos>{{ messages[0].content[1].text }}\n"

        def prepare(prompt):
            prompt, given = inputs(config, processor, prompt)
            return prompt, lambda ids: compute(model, ids, given)

        fixture.write(out, name, model, tensors, files, template, MESSAGES, prepare, packs)


if __name__ == "__main__":
    main()
