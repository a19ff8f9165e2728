"""Write testdata/adapters: low-rank adapters of the tiny checkpoints of testdata/golden, made and saved by mlx-vlm, and what it
answers with each in float32.

usage: make.py [--out testdata/adapters]

Each folder has adapter_config.json and adapters.safetensors as mlx-vlm writes them, B filled with noise so that answers are
others. CASE.safetensors has `vision_features`, `logits` (of the last four tokens of the prompt), `greedy` and `greedy_logits` of
the case `one_image` with it. tools/golden/scenes/requirements.txt is that of this script.
"""
import argparse
import pathlib

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_vlm.trainer.peft import get_peft_model, load_adapters, save_adapter
from mlx_vlm.utils import load

ROOT = pathlib.Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "testdata/golden"
STEPS = 8
# Products, rank, alpha, and whether in the older layout.
ADAPTERS = {
    "language": (None, 4, 8.0, False),
    "some": (["q_proj", "v_proj", "down_proj"], 2, 6.0, False),
    "older": (None, 3, 2.0, True),
    "tower": (["vision_tower.blocks.1.attn.qkv", "vision_tower.blocks.3.mlp.down_proj", "vision_tower.merger.mlp.0",
               "language_model.model.layers.1.self_attn.o_proj"], 4, 8.0, False),
}


def fresh(checkpoint):
    model, _ = load(str(GOLDEN / checkpoint))
    model.set_dtype(mx.float32)
    return model


def make(out, name, seed):
    products, rank, alpha, legacy = ADAPTERS[name]
    model = get_peft_model(fresh("tiny_fp32"), products, rank=rank, alpha=alpha, dropout=0.0, legacy=legacy, verbose=False)
    mx.random.seed(seed)
    noise = []
    for path, value in tree_flatten(model.trainable_parameters()):
        assert path.split(".")[-1] in ("lora_a", "lora_b", "A", "B"), path
        noise.append((path, (0.2 * mx.random.normal(value.shape)).astype(mx.float32)))
    model.load_weights(noise, strict=False)
    save_adapter(model, out / name / "adapters.safetensors")


def answer(model, case):
    """Greedy tokens of `model` after the prompt of `case`, read whole at each step, with nothing kept between steps."""
    ids, grid = case["input_ids"], case["image_grid_thw"]
    tokens, rows, last = [], [], None
    for _ in range(STEPS):
        whole = mx.concatenate([ids, mx.array([tokens], mx.int32).reshape(1, -1)], 1)
        language = model.language_model
        language._position_ids = language._rope_deltas = None
        embedded = model.get_input_embeddings(whole, case["pixel_values"], image_grid_thw=grid)
        logits = language(whole, embedded.inputs_embeds, position_ids=embedded.position_ids, rope_deltas=embedded.rope_deltas).logits
        last = logits[0, -4:] if last is None else last
        rows.append(logits[0, -1])
        tokens.append(int(mx.argmax(rows[-1]).item()))
    rows = mx.stack(rows)
    top = mx.sort(rows, axis=-1)[:, -2:]
    features = model.vision_tower(case["pixel_values"], grid, output_hidden_states=False)
    return {"vision_features": features, "logits": last, "greedy": mx.array(tokens, mx.int32), "greedy_logits": rows}, float(
        (top[:, 1] - top[:, 0]).min())


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "testdata/adapters")
    a = p.parse_args()
    for checkpoint, case in (("tiny_fp32", "one_image"), ("tiny_q4", "q4_one_image")):
        inputs = mx.load(str(GOLDEN / f"{case}.safetensors"))
        found, _ = answer(fresh(checkpoint), inputs)
        assert found["greedy"].tolist() == inputs["greedy"].tolist(), case
        for seed, name in enumerate(ADAPTERS):
            if checkpoint == "tiny_fp32":
                make(a.out, name, seed)
            model = load_adapters(fresh(checkpoint), a.out / name)
            model.eval()
            found, gap = answer(model, inputs)
            mx.save_safetensors(str(a.out / f"{name}-{checkpoint}.safetensors"), found)
            off = float(mx.abs(found["greedy_logits"][0] - inputs["greedy_logits"][0]).max())
            print(f"{name} {checkpoint}: {found['greedy'].tolist()}, closest choice {gap:.1e}, first logits off by {off:.2f}")


if __name__ == "__main__":
    main()
