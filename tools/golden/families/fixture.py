"""What the scripts of this folder share: a tiny checkpoint of random weights with its tokenizer, and what a reference
computes with it, as it is and packed to 4 bits.
"""
import argparse
import json
import pathlib

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path
from transformers import PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "testdata/golden"
STEPS = 8


def arguments(about, families):
    """Returns the folder to write into, and the names of the families that are asked for."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "testdata/families")
    parser.add_argument("names", nargs="*", default=list(families))
    found = parser.parse_args()
    return found.out, found.names


def randomise(model, seed, scale):
    """Fills every parameter with noise in bfloat16, which `scale` makes as large as its place needs."""
    mx.random.seed(seed)

    def fill(path, value):
        return scale(path, value, mx.random.normal(value.shape)).astype(mx.bfloat16)

    model.update(tree_map_with_path(fill, model.parameters()))


def greedy(logits, following):
    """Greedy tokens after a prompt with these `logits`, and the logits that each was chosen from, in float32;
    `following(token, step)` are those after a token. Returns also how near the closest choice was.
    """
    whole, tokens, rows = logits, [], []
    for step in range(STEPS):
        rows.append(logits[0, -1])
        tokens.append(int(mx.argmax(rows[-1]).item()))
        logits = following(mx.array([[tokens[-1]]]), step)
    rows = mx.stack(rows)
    top = mx.sort(rows, axis=-1)[:, -2:]
    made = {"logits": whole, "greedy": mx.array(tokens, mx.int32), "greedy_logits": rows}
    return made, float((top[:, 1] - top[:, 0]).min())


def write(out, name, model, tensors, files, template, messages, prepare, packs):
    """Writes the checkpoint `name` of `tensors` and `files`, texts by their names, and what `model` says.

    `prepare` takes the prompt, and returns it as the model reads it and a function of token ids that returns values by
    name and how near the closest choice was. `packs` tells which layers become 4 bits.
    """
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "mlx"})
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": template,
    }
    for file, text in (files | {"tokenizer_config.json": json.dumps(about, indent=1) + "\n"}).items():
        (folder / file).write_text(text)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    prompt, compute = prepare(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    expected = {"input_ids": mx.array([ids], mx.int32)}
    gaps = []
    for prefix in ["", "q4_"]:
        if prefix:
            # From bfloat16, as converters do; what they keep as floats is computed in float32.
            model.set_dtype(mx.bfloat16)
            nn.quantize(model, 64, 4, class_predicate=packs)
        model.set_dtype(mx.float32)
        made, gap = compute(ids)
        expected |= {prefix + key: value for key, value in made.items()}
        gaps.append(gap)
    # The rest is the same for both, or is not compared.
    for key in ["logits", "features", "position_ids", "rope_delta"]:
        expected.pop("q4_" + key, None)
    mx.save_safetensors(str(out / f"{name}.safetensors"), expected, {"prompt": prompt})
    size = sum(f.stat().st_size for f in folder.iterdir()) + (out / f"{name}.safetensors").stat().st_size
    print(name, f"{size / 1000:.0f} kB", len(ids), expected["greedy"].tolist(), expected["q4_greedy"].tolist(), "gaps", gaps)
