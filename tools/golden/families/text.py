"""Write testdata/families: for each text family a tiny checkpoint of random weights, and what mlx-lm computes
with it, as it is and packed to 4 bits.

usage: text.py [--out testdata/families] [NAME ..]

Needs mlx-lm 0.32.2 with MLX 0.32.4 and transformers 5.23.0, on a CPU. testdata/families/README.md describes what
is written.
"""
import importlib
import json

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

import fixture

# Where the first seed says one token only.
SEEDS = {"gemma": 2, "gemma3_text": 2}
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
    # With its own number of values in a head, as the larger of the two has.
    "gemma": {"model_type": "gemma", "head_dim": 32, "num_key_value_heads": 1, "rope_theta": 10000.0},
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


def scale(config):
    """Returns how large noise is: norms are noise around what keeps their input."""
    gemma = config["model_type"].startswith("gemma")

    def scaled(path, value, noise):
        if "norm" in path and value.ndim == 1:
            return 0.2 * noise + (0 if gemma else 1)
        if value.ndim == 1:
            return 0.2 * noise
        if "embed" in path:
            return (0.06 if gemma else 0.3) * noise
        return noise * (1.5 / value.shape[-1] ** 0.5)

    return scaled


def build(config):
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    # What makes the head of a tied model go away, where there is one.
    if hasattr(model, "sanitize"):
        model.sanitize({} if config.get("tie_word_embeddings", True) else {"lm_head.weight": 0})
    return model


def compute(model, ids):
    """Logits of the prompt, then greedy tokens and the logits that each was chosen from."""
    cache = make_prompt_cache(model)
    return fixture.greedy(model(mx.array([ids]), cache=cache), lambda token, _: model(token, cache=cache))


def packs(path, module):
    """What mlx-lm's converter packs: no router of experts."""
    return hasattr(module, "to_quantized") and not path.endswith("mlp.gate")


def main():
    out, names = fixture.arguments(__doc__, FAMILIES)
    for name in names:
        config = COMMON | FAMILIES[name]
        model = build(config)
        fixture.randomise(model, sum(map(ord, name)) + SEEDS.get(name, 0), scale(config))
        files = {
            "config.json": json.dumps(config, indent=1) + "\n",
            "tokenizer.json": (fixture.GOLDEN / "tiny_fp32/tokenizer.json").read_text(),
        }
        tensors = dict(tree_flatten(model.parameters()))

        def prepare(prompt):
            return prompt, lambda ids: compute(model, ids)

        fixture.write(out, name, model, tensors, files, TEMPLATE, MESSAGES, prepare, packs)


if __name__ == "__main__":
    main()
