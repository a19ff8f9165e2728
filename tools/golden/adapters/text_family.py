"""Write testdata/adapters/text: a low-rank adapter of testdata/families/llama, made and saved as mlx-lm's `lora` does, and what mlx-lm
computes with it in float32.

usage: text_family.py [--out testdata/adapters/text]

All linear layers of the decoder and its head are changed, B is noise. llama.safetensors has `input_ids`, `logits` of the prompt, `greedy`
and `greedy_logits` of eight tokens after it. The packages are those of tools/golden/families/text.py.
"""
import argparse
import json
import pathlib
import sys

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import save_config

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools/golden/families"))
import fixture  # noqa: E402
import text  # noqa: E402

LLAMA = ROOT / "testdata/families/llama"
PRODUCTS = [f"self_attn.{p}_proj" for p in "qkvo"] + [f"mlp.{p}_proj" for p in ("gate", "up", "down")] + ["lm_head"]
# As mlx-lm's `lora` writes its arguments, of which only some tell what an adapter is.
ARGUMENTS = {
    "adapter_path": "adapters",
    "batch_size": 4,
    "fine_tune_type": "lora",
    "lora_parameters": {"rank": 3, "dropout": 0.0, "scale": 10.0, "keys": PRODUCTS},
    "lr_schedule": None,
    "model": "llama",
    "num_layers": 2,
    "optimizer_config": {"adam": {}},
}


def fresh():
    model = text.build(json.loads((LLAMA / "config.json").read_text()))
    model.load_weights(str(LLAMA / "model.safetensors"))
    model.set_dtype(mx.float32)
    return model


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "testdata/adapters/text")
    a = p.parse_args()
    model = fresh()
    model.freeze()
    linear_to_lora_layers(model, ARGUMENTS["num_layers"], ARGUMENTS["lora_parameters"])
    mx.random.seed(5)
    noise = [(path, 0.05 * mx.random.normal(value.shape)) for path, value in tree_flatten(model.trainable_parameters())]
    assert len(noise) == 2 * (2 * 7 + 1), [path for path, _ in noise]
    folder = a.out / "llama"
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), dict(noise))
    save_config(ARGUMENTS, folder / "adapter_config.json")

    known = mx.load(str(LLAMA) + ".safetensors")
    ids = known["input_ids"][0].tolist()
    found, _ = text.compute(fresh(), ids)
    assert found["greedy"].tolist() == known["greedy"].tolist()
    found, gap = text.compute(load_adapters(fresh(), str(folder)), ids)
    assert found["greedy"].tolist() != known["greedy"].tolist()
    mx.save_safetensors(str(a.out / "llama.safetensors"), {"input_ids": known["input_ids"]} | found)
    off = float(mx.abs(found["logits"] - known["logits"]).max())
    print(f"llama: {found['greedy'].tolist()}, closest choice {gap:.1e}, logits off by {off:.2f}")


if __name__ == "__main__":
    main()
