"""Write testdata/kv_cache/expected.json: what mlx-vlm answers about testdata/scenes greedily in float32 while it
packs its keys and values, or keeps those of a window only.

usage: make.py --four-bit DIR [--out testdata/kv_cache]

DIR is the four-bit checkpoint that tools/golden/scenes/make.py describes; its requirements.txt is that of this script.
"""
import argparse
import importlib.metadata
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
MODEL = ROOT / "models/tiny-vl"
sys.path.insert(0, str(MODEL))
from reference import Reference  # noqa: E402

MAX_TOKENS = 96
# The prompt in one step: mlx-vlm would otherwise pack before it reads the last token, and draw the first word from packed keys.
PACKED = {f"kv{bits}": {"kv_bits": bits, "kv_group_size": 64, "quantized_kv_start": 0, "prefill_step_size": None} for bits in (8, 4)}
# Below the length of nearly every prompt, and between that of prompts and that of answers.
WINDOWS = {f"window{size}": {"max_kv_size": size} for size in (48, 120)}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--four-bit", type=pathlib.Path, required=True)
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "testdata/kv_cache")
    a = p.parse_args()
    scenes = ROOT / "testdata/scenes"
    cases = json.loads((scenes / "expected.json").read_text())["cases"]
    found = {case["name"]: {} for case in cases}
    for key, checkpoint, settings in (("full", MODEL / "full", PACKED | WINDOWS), ("4bit", a.four_bit, PACKED)):
        reference = Reference(checkpoint)
        for name, options in settings.items():
            for case in cases:
                images = [scenes / image for image in case["images"]]
                answer = reference.answer(case["prompt"], images, case["system"], MAX_TOKENS, **options)
                assert answer["prompt_token_ids"] == case["prompt_token_ids"], case["name"]
                kept = {field: answer[field] for field in ("token_ids", "stop_token_id", "text", "min_gap")}
                found[case["name"]].setdefault(key, {})[name] = kept
            changed = sum(found[c["name"]][key][name]["token_ids"] != c[key]["token_ids"] for c in cases)
            print(f"{key} {name}: {changed} of {len(cases)} answers are others than without")
    versions = {name: importlib.metadata.version(name) for name in ("mlx-vlm", "mlx", "transformers", "tokenizers")}
    document = {"made_with": versions, "dtype": "float32", "max_tokens": MAX_TOKENS}
    body = ",\n".join("  " + json.dumps({"name": name, **answers}) for name, answers in found.items())
    head = json.dumps(document, indent=1)[:-2]
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "expected.json").write_text(f'{head},\n "cases": [\n{body}\n ]\n}}\n')


if __name__ == "__main__":
    main()
