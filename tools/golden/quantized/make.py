"""Write testdata/golden/quantized: what mlx-vlm's converter makes of testdata/golden/tiny_fp32 in every mode
and recipe, and what mlx-vlm computes with it about one image.

usage: make.py [--out testdata/golden/quantized]

Needs mlx-vlm 0.7.10 with MLX 0.32.2, on a CPU. testdata/golden/README.md describes what is written.
"""
import argparse
import contextlib
import io
import json
import pathlib
import tempfile

import mlx.core as mx
import mlx.nn as nn
from mlx_vlm.convert import convert
from mlx_vlm.models.cache import make_prompt_cache
from mlx_vlm.utils import load

ROOT = pathlib.Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "testdata/golden"
STEPS = 8
CASES = {
    "affine2": {"q_bits": 2, "q_group_size": 32},
    "affine3": {"q_bits": 3, "q_group_size": 64},
    "affine5": {"q_bits": 5, "q_group_size": 32},
    "affine6": {"q_bits": 6, "q_group_size": 64},
    "affine8": {"q_bits": 8, "q_group_size": 32},
    "mxfp4": {"q_bits": None, "q_group_size": None, "q_mode": "mxfp4"},
    "mxfp8": {"q_bits": None, "q_group_size": None, "q_mode": "mxfp8"},
    "nvfp4": {"q_bits": None, "q_group_size": None, "q_mode": "nvfp4"},
    "mixed_3_6": {"q_bits": 4, "q_group_size": 64, "quant_predicate": "mixed_3_6"},
}


class InFloat32(nn.Module):
    """Packed embeddings of the modes of floats come out in bfloat16, exactly; what follows is to be float32."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def __call__(self, ids):
        return self.table(ids).astype(mx.float32)


def greedy(folder, case):
    """Greedy tokens after the prompt of `case`, and the logits that each was chosen from, in float32."""
    model, _ = load(str(folder))
    inner = model.language_model.model
    inner.embed_tokens = InFloat32(inner.embed_tokens)
    cache = make_prompt_cache(model.language_model)
    tokens, rows = [], []
    logits = model(case["input_ids"], case["pixel_values"], None, cache=cache, image_grid_thw=case["image_grid_thw"]).logits
    for _ in range(STEPS):
        row = logits[0, -1].astype(mx.float32)
        rows.append(row)
        tokens.append(int(mx.argmax(row).item()))
        logits = model.language_model(mx.array([[tokens[-1]]]), cache=cache).logits
    rows = mx.stack(rows)
    top = mx.sort(rows, axis=-1)[:, -2:]
    return tokens, rows, float((top[:, 1] - top[:, 0]).min())


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, default=GOLDEN / "quantized")
    out = arguments.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    case = mx.load(str(GOLDEN / "one_image.safetensors"))
    with tempfile.TemporaryDirectory() as temporary:
        for name, how in CASES.items():
            folder = pathlib.Path(temporary) / name
            with contextlib.redirect_stdout(io.StringIO()):
                convert(str(GOLDEN / "tiny_fp32"), str(folder), quantize=True, **how)
            tensors = mx.load(str(folder / "model.safetensors"))
            packed = {key.removesuffix(".scales") for key in tensors if key.endswith(".scales")}
            kept = {key: value for key, value in tensors.items() if key.rpartition(".")[0] in packed and not key.endswith(".bias")}
            tokens, rows, gap = greedy(folder, case)
            kept |= {"greedy": mx.array(tokens, mx.int32), "greedy_logits": rows}
            config = json.loads((folder / "config.json").read_text())
            metadata = {"quantization": json.dumps(config["quantization"]), "tensors": str(len(tensors))}
            mx.save_safetensors(str(out / f"{name}.safetensors"), kept, metadata)
            print(name, tokens, f"smallest gap {gap:.4f}")


if __name__ == "__main__":
    main()
