"""Write testdata/families: for each text family a tiny checkpoint of random weights, and what mlx-lm computes
with it, as it is and packed to 4 bits.

usage: text.py [--out testdata/families] [NAME ..]

Needs mlx-lm 0.32.2 with MLX 0.32.4 and transformers 5.23.0, on a CPU. testdata/families/README.md describes what
is written.
"""
import argparse
import importlib
import json
import pathlib

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.models.cache import make_prompt_cache
from transformers import PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "testdata/golden/tiny_fp32"
STEPS = 8
# Where the first seed says one token only.
SEEDS = {"gemma3_text": 2}
# What most of them share; hidden sizes are groups of 64, so that everything can be packed.
COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "rms_norm_eps": 1e-6,
    "vocab_size": 272,
    "max_position_embeddings": 4096,
    "eos_token_id": 258,
    "torch_dtype": "bfloat16",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "qwen2": {"model_type": "qwen2", "rope_theta": 1e6, "tie_word_embeddings": True},
    "llama": {
        "model_type": "llama",
        "rope_theta": 500000.0,
        "rope_scaling": LLAMA3,
        "head_dim": 32,
        "tie_word_embeddings": False,
    },
    # As SmolLM2: tied, and no scaling.
    "llama_tied": {"model_type": "llama", "rope_theta": 100000.0, "tie_word_embeddings": True, "num_key_value_heads": 4},
    "qwen3": {"model_type": "qwen3", "rope_theta": 1e6, "head_dim": 32, "tie_word_embeddings": True},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "rope_theta": 1e6,
        "head_dim": 16,
        "tie_word_embeddings": False,
        "intermediate_size": 64,
        "moe_intermediate_size": 64,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [0],
        "norm_topk_prob": True,
    },
    "gemma3_text": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 3,
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "rope_theta": 1e6,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 7,
        "sliding_window_pattern": 3,
        "num_key_value_heads": 1,
    },
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello there"}]


def randomise(model, seed, gemma):
    """Fills every parameter with noise in bfloat16; norms are noise around what keeps their input."""
    mx.random.seed(seed)

    def fill(path, value):
        noise = mx.random.normal(value.shape)
        if "norm" in path and value.ndim == 1:
            value = 0.2 * noise + (0 if gemma else 1)
        elif value.ndim == 1:
            value = 0.2 * noise
        elif "embed" in path:
            value = (0.06 if gemma else 0.3) * noise
        else:
            value = noise * (1.5 / value.shape[-1] ** 0.5)
        return value.astype(mx.bfloat16)

    model.update(tree_map_with_path(fill, model.parameters()))


def build(config):
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    # What makes the head of a tied model go away.
    model.sanitize({} if config.get("tie_word_embeddings", True) else {"lm_head.weight": 0})
    return model


def greedy(model, ids):
    """Logits of the prompt, then greedy tokens and the logits that each was chosen from, in float32."""
    cache = make_prompt_cache(model)
    whole = logits = model(mx.array([ids]), cache=cache)
    tokens, rows = [], []
    for _ in range(STEPS):
        rows.append(logits[0, -1])
        tokens.append(int(mx.argmax(rows[-1]).item()))
        logits = model(mx.array([[tokens[-1]]]), cache=cache)
    rows = mx.stack(rows)
    top = mx.sort(rows, axis=-1)[:, -2:]
    return {"logits": whole, "greedy": mx.array(tokens, mx.int32), "greedy_logits": rows}, float((top[:, 1] - top[:, 0]).min())


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, default=ROOT / "testdata/families")
    arguments.add_argument("names", nargs="*", default=list(FAMILIES))
    arguments = arguments.parse_args()
    for name in arguments.names:
        config = COMMON | FAMILIES[name]
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        model = build(config)
        randomise(model, sum(map(ord, name)) + SEEDS.get(name, 0), config["model_type"].startswith("gemma"))
        mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        (folder / "tokenizer.json").write_bytes((GOLDEN / "tokenizer.json").read_bytes())
        about = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": TEMPLATE,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1) + "\n")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        prompt = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        expected = {"input_ids": mx.array([ids], mx.int32)}
        gaps = []
        for prefix in ["", "q4_"]:
            if prefix:
                # From bfloat16, as converters do; what they keep as floats is computed in float32.
                model.set_dtype(mx.bfloat16)
                nn.quantize(model, 64, 4, class_predicate=lambda path, m: hasattr(m, "to_quantized") and not path.endswith("mlp.gate"))
            model.set_dtype(mx.float32)
            run, gap = greedy(model, ids)
            expected |= {prefix + key: value for key, value in run.items()}
            gaps.append(gap)
        expected.pop("q4_logits")
        mx.save_safetensors(str(arguments.out / f"{name}.safetensors"), expected, {"prompt": prompt})
        size = sum(f.stat().st_size for f in folder.iterdir()) + (arguments.out / f"{name}.safetensors").stat().st_size
        print(name, f"{size / 1000:.0f} kB", len(ids), expected["greedy"].tolist(), expected["q4_greedy"].tolist(), "gaps", gaps)


if __name__ == "__main__":
    main()
