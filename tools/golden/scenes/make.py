"""Write testdata/scenes: seeded pictures, and what mlx-vlm answers about them greedily in float32.

usage: make.py --four-bit DIR [--out testdata/scenes]

DIR is the four-bit checkpoint that mlx-vlm's own converter makes of models/tiny-vl/full:
  mlx_vlm.convert --hf-path models/tiny-vl/full --mlx-path DIR -q --q-group-size 64 --q-bits 4
Install requirements.txt first. testdata/scenes/README.md describes what is written.
"""
import argparse
import importlib.metadata
import json
import pathlib
import random
import sys

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[3]
MODEL = ROOT / "models/tiny-vl"
sys.path.insert(0, str(MODEL))
import scenes  # noqa: E402
from reference import Reference  # noqa: E402

SEED = 20261
MAX_TOKENS = 256

# Height and width of one picture. Those in the first list need no resize; the others do, the last two to stay
# within the checkpoint's largest and smallest number of pixels.
GRID = [(224, 224), (224, 336), (336, 224), (168, 224), (224, 168), (280, 280), (224, 280), (280, 224), (168, 280), (168, 308),
        (196, 392), (392, 196), (336, 336)]
ODD = [(240, 320), (300, 201), (199, 333), (480, 640), (61, 90)]

# Kinds of question about one picture, in the order in which the sizes of GRID are handed out.
SINGLE = ["describe", "read", "count", "back", "color", "where", "describe", "read", "describe", "describe", "read", "color", "where"]
SINGLE_ODD = ["describe", "read", "describe", "describe", "count"]
# Two pictures: sizes of both, and whether the second is a second drawing of the first scene.
PAIRS = [((224, 224), (224, 224), False), ((224, 280), (224, 280), False), ((280, 224), (280, 224), True), ((168, 224), (168, 224), False),
         ((196, 392), (196, 392), False), ((224, 224), (224, 224), True), ((336, 224), (224, 336), False), ((168, 280), (250, 250), False)]
THREE = [(168, 224), (224, 168), (200, 200)]
FIELDS = ("rendered", "image_grid_thw", "prompt_token_ids")
TEXT = [
    ("Hello", None), ("Who are you?", None), ("What can you do?", None), ("Thanks", None), ("Hi!", "You are a helpful assistant."),
    ("Help me.", "You are tiny-vl."), ("What is the capital of France?", None),
    ("Cafe\u0301, \u540d\u524d \U0001f642: don't  stop\n\nhere 1234", None),  # decomposed accent, runs of spaces, digits
]


def pictures(out):
    """Draws every picture, and yields the cases without answers."""
    r, fonts = random.Random(SEED), scenes.load_fonts()

    def save(name, scene, size):
        noisy = 0 if size in ODD else 0.12  # noise makes a PNG large
        Image.fromarray(scenes.draw(scene, *size, r, fonts, noisy)).save(out / name, optimize=True)
        return name

    def scene_for(kind):
        while True:
            scene = scenes.random_scene(r)
            if scene[1] or kind not in ("color", "where", "describe"):
                return scene

    number = 0
    for size, kind in [*zip(GRID, SINGLE), *zip(ODD, SINGLE_ODD)]:
        number += 1
        scene = scene_for(kind)
        prompt, truth = scenes.ask_kind(scene, kind, r)
        name = f"{number:02}-{kind}"
        yield {"name": name, "kind": kind, "images": [save(f"{name}.png", scene, size)], "system": None, "prompt": prompt, "truth": truth}
    for first_size, second_size, same in PAIRS:
        number += 1
        first = scene_for("describe")
        second = first if same else scene_for("describe")
        _, truth = scenes.compare(first, second, r)
        name = f"{number:02}-compare"
        images = [save(f"{name}-1.png", first, first_size), save(f"{name}-2.png", second, second_size)]
        yield {"name": name, "kind": "compare", "images": images, "system": None, "prompt": "Compare these images.", "truth": truth}
    # Beyond what the model was trained on, for the engine's sake: three pictures, and a system prompt with a picture.
    number += 1
    images = [save(f"{number:02}-three-{i}.png", scene_for("describe"), size) for i, size in enumerate(THREE, 1)]
    yield {"name": f"{number:02}-three", "kind": "other", "images": images, "system": None, "prompt": "Compare these images.", "truth": None}
    number += 1
    scene = scene_for("describe")
    yield {"name": f"{number:02}-system", "kind": "other", "images": [save(f"{number:02}-system.png", scene, (224, 224))],
           "system": "Describe only what you see.", "prompt": "What do you see?", "truth": scenes.describe(scene)}
    for kind in ("read", "describe"):
        number += 1
        scene = scene_for(kind)
        prompt, truth = scenes.ask_kind(scene, kind, r)
        name = f"{number:02}-{kind}"
        yield {"name": name, "kind": kind, "images": [save(f"{name}.png", scene, (224, 224))], "system": None, "prompt": prompt, "truth": truth}
    for prompt, system in TEXT:
        number += 1
        truth = next((answer for questions, answer in scenes.CHAT if prompt in questions), None)
        yield {"name": f"{number:02}-text", "kind": "text", "images": [], "system": system, "prompt": prompt, "truth": truth}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--four-bit", type=pathlib.Path, required=True)
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "testdata/scenes")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    cases = list(pictures(a.out))
    for key, checkpoint in (("full", MODEL / "full"), ("4bit", a.four_bit)):
        reference = Reference(checkpoint)
        for case in cases:
            images = [a.out / name for name in case["images"]]
            answer = reference.answer(case["prompt"], images, case["system"], MAX_TOKENS)
            end = [] if answer["stop_token_id"] is None else [answer["stop_token_id"]]
            forced = reference.forced_tokens(answer["prompt_token_ids"], answer["token_ids"], images)
            expected = answer["token_ids"] + end
            assert forced[: len(expected)] == expected, f"{case['name']}: the cached and the uncached pass disagree"
            for field in FIELDS:
                value = answer.pop(field)
                assert case.setdefault(field, value) == value, f"{case['name']}: {field} depends on the checkpoint"
            case[key] = answer
        gaps = sorted(case[key]["min_gap"] for case in cases)
        print(f"{key}: {sum(g < 1e-3 for g in gaps)} of {len(gaps)} cases have a gap below 1e-3; smallest {gaps[:5]}")
    versions = {name: importlib.metadata.version(name) for name in ("mlx-vlm", "mlx", "transformers", "tokenizers", "Pillow", "numpy", "matplotlib")}
    document = {"made_with": versions, "dtype": "float32", "max_tokens": MAX_TOKENS, "stop_token_ids": reference.stop_ids, "cases": cases}
    # One case a line: readable in a diff, and no line per token.
    body = ",\n".join("  " + json.dumps(case) for case in cases)
    head = json.dumps({k: v for k, v in document.items() if k != "cases"}, indent=1)[:-2]
    (a.out / "expected.json").write_text(f'{head},\n "cases": [\n{body}\n ]\n}}\n')


if __name__ == "__main__":
    main()
