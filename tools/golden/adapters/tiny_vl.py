"""Write testdata/adapters/tiny-vl: two low-rank adapters of models/tiny-vl/full, made and saved by mlx-vlm, and what mlx-vlm answers
in float32 with each and with none, for the model in full and in 4 bits.

usage: tiny_vl.py [--out testdata/adapters/tiny-vl]

B is filled with noise that is small enough for words to stay words. expected.json has one entry for each question.
tools/golden/scenes/requirements.txt is that of this script.
"""
import argparse
import json
import pathlib
import sys

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_vlm.trainer.peft import get_peft_model, load_adapters, save_adapter

ROOT = pathlib.Path(__file__).resolve().parents[3]
TINY_VL = ROOT / "models/tiny-vl"
SCENES = ROOT / "testdata/scenes"
sys.path.insert(0, str(TINY_VL))
from reference import Reference  # noqa: E402

# Layers, products, rank, noise and seed.
ADAPTERS = {
    "words": ([f"language_model.model.layers.{i}.self_attn.{p}" for i in (1, 3) for p in ("q_proj", "v_proj", "o_proj")]
              + ["language_model.model.layers.2.mlp.gate_proj", "language_model.model.layers.3.mlp.down_proj"], 2, 0.3, 8),
    "eyes": (["vision_tower.blocks.2.attn.qkv", "vision_tower.blocks.5.attn.proj", "vision_tower.merger.mlp.2"], 2, 0.5, 2),
}
QUESTIONS = [
    {"name": "describe", "images": ["01-describe.png"], "prompt": "Describe this image."},
    {"name": "read", "images": ["02-read.png"], "prompt": "What does the text say?"},
    {"name": "compare", "images": ["19-compare-1.png", "19-compare-2.png"], "prompt": "Compare these images."},
    {"name": "text", "images": [], "prompt": "Who are you?"},
]
MAX_TOKENS = 48


def make(out, name):
    products, rank, noise, seed = ADAPTERS[name]
    model = get_peft_model(Reference(TINY_VL / "full").model, products, rank=rank, alpha=2.0 * rank, dropout=0.0, verbose=False)
    mx.random.seed(seed)
    values = []
    for path, value in tree_flatten(model.trainable_parameters()):
        kind = path.split(".")[-1]
        assert kind in ("lora_a", "lora_b"), path
        drawn = mx.random.normal(value.shape) * (value.shape[0] ** -0.5 if kind == "lora_a" else noise)
        values.append((path, drawn.astype(mx.float16).astype(mx.float32)))
    model.load_weights(values, strict=False)
    save_adapter(model, out / name / "adapters.safetensors")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "testdata/adapters/tiny-vl")
    a = p.parse_args()
    entries = []
    for name in ADAPTERS:
        make(a.out, name)
    for checkpoint in ("full", "4bit"):
        for adapter in (None, *ADAPTERS):
            reference = Reference(TINY_VL / checkpoint)
            if adapter is not None:
                load_adapters(reference.model, a.out / adapter)
                reference.model.eval()
            for question in QUESTIONS:
                images = [SCENES / image for image in question["images"]]
                found = reference.answer(question["prompt"], images, max_tokens=MAX_TOKENS)
                entries.append({"checkpoint": checkpoint, "adapter": adapter, "question": question["name"],
                                "token_ids": found["token_ids"], "text": found["text"], "min_gap": round(found["min_gap"], 6)})
                print(checkpoint, adapter, question["name"], round(found["min_gap"], 4), repr(found["text"]))
    (a.out / "expected.json").write_text(json.dumps(
        {"mlx_vlm": "0.7.10", "max_tokens": MAX_TOKENS, "questions": QUESTIONS, "answers": entries}, indent=1) + "\n")


if __name__ == "__main__":
    main()
