"""Measure tiny-vl's accuracy on fresh scenes whose answers are known exactly.

usage: evaluate.py make DIR [--count 200] [--seed 20260801] [--kind KIND] [--text]
       evaluate.py run DIR CHECKPOINT [--out ANSWERS]       answer with mlx-vlm in float32
       evaluate.py ask DIR ANSWERS -- COMMAND...            answer with any program, one call per case
       evaluate.py score DIR ANSWERS

`make` writes the pictures and cases.json, an array of {name, kind, images, prompt, truth}; with --kind all cases are of
one kind, with --text all pictures have text.
`ask` appends `--image PATH` per picture and `--prompt TEXT` to the command, for instance
`abstractllm generate --json --model models/tiny-vl/full`, and keeps the last JSON object it prints.
ANSWERS has one JSON object a line; `score` reads its "text" (or "answer") and finds the case by "name", or by
the line's number where there is none.

`make` needs the packages of tools/golden/scenes/requirements.txt, `run` mlx-vlm as well; `ask` and `score` need Python alone.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys

KINDS = ["describe", "read", "compare", "count", "back", "color", "where"]
# Of every twenty cases. Half of what is asked is about the whole picture, where a mistake is easiest.
SHARES = ["describe"] * 5 + ["read"] * 4 + ["compare"] * 3 + ["count", "back", "color", "where"] * 2
SIZES = [(224, 224), (224, 336), (336, 224), (168, 224), (224, 168), (280, 280), (224, 280), (280, 224), (168, 280), (168, 308),
         (196, 392), (392, 196)]


def make(a):
    import random

    from PIL import Image

    import scenes
    r, fonts = random.Random(a.seed), scenes.load_fonts()
    a.dir.mkdir(parents=True, exist_ok=True)
    cases = []
    for number in range(a.count):
        kind, size = a.kind or SHARES[number % len(SHARES)], r.choice(SIZES)
        fits = lambda scene: (scene[1] or kind not in ("color", "where")) and (scene[2] is not None or not a.text)
        draw = lambda: next(scene for scene in iter(lambda: scenes.random_scene(r), None) if fits(scene))
        scene = draw()
        drawn = [scene]
        if kind == "compare":
            drawn.append(scene if r.random() < 0.2 else draw())
            prompt, truth = scenes.compare(*drawn, r)
        else:
            prompt, truth = scenes.ask_kind(scene, kind, r)
        images = []
        for i, s in enumerate(drawn):
            images.append(f"{number:03}-{i}.png")
            Image.fromarray(scenes.draw(s, *size, r, fonts)).save(a.dir / images[-1])
        cases.append({"name": f"{number:03}-{kind}", "kind": kind, "images": images, "prompt": prompt, "truth": truth})
    (a.dir / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


def load_cases(folder):
    return json.loads((folder / "cases.json").read_text())


def run(a):
    from reference import Reference
    reference = Reference(a.checkpoint)
    answers = []
    for case in load_cases(a.dir):
        answer = reference.answer(case["prompt"], [a.dir / name for name in case["images"]])
        answers.append({"name": case["name"], "text": answer["text"], "min_gap": answer["min_gap"]})
    if a.out:
        a.out.write_text("".join(json.dumps(x) + "\n" for x in answers))
    report(a.dir, answers)
    print(f"{sum(x['min_gap'] < 1e-3 for x in answers)} answers had a step whose best two logits differ by less than 1e-3")


def ask(a):
    with a.answers.open("w") as out:
        for case in load_cases(a.dir):
            command = [*a.command, *(x for name in case["images"] for x in ("--image", str(a.dir / name))), "--prompt", case["prompt"]]
            printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            answer = last_object(printed)
            answer["name"] = case["name"]
            out.write(json.dumps(answer) + "\n")
            out.flush()
    score(a)


def last_object(printed):
    """The last JSON object in what a program printed, on one line or over several."""
    try:
        return json.loads(printed)
    except json.JSONDecodeError:
        return json.loads([line for line in printed.splitlines() if line.startswith("{")][-1])


def score(a):
    report(a.dir, [json.loads(line) for line in a.answers.read_text().splitlines() if line.strip()])


def unquoted(text):
    return re.sub(r'"[^"]*"', '""', text)


def report(folder, answers):
    """Exact matches per kind, and matches when the quoted words are left out of both."""
    cases = load_cases(folder)
    named = {answer.get("name", cases[i]["name"]): answer for i, answer in enumerate(answers[: len(cases)])}
    print("| question | cases | exact | exact but for the words read |\n|---|---|---|---|")
    totals = [0, 0, 0]
    for kind in KINDS:
        rows = [(case, named.get(case["name"])) for case in cases if case["kind"] == kind]
        texts = [(case["truth"], "" if answer is None else answer.get("text", answer.get("answer", "")).strip()) for case, answer in rows]
        counts = [len(texts), sum(t == x for t, x in texts), sum(unquoted(t) == unquoted(x) for t, x in texts)]
        totals = [x + y for x, y in zip(totals, counts)]
        print("| {} | {} | {} | {} |".format(kind, *counts))
    print("| all | {} | {} | {} |".format(*totals))
    if len(named) < len(cases):
        print(f"{len(cases) - len(named)} cases have no answer and count as wrong")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = p.add_subparsers(dest="mode", required=True)
    for name in ("make", "run", "ask", "score"):
        m = modes.add_parser(name)
        m.add_argument("dir", type=pathlib.Path)
        if name == "make":
            m.add_argument("--count", type=int, default=200)
            m.add_argument("--seed", type=int, default=20260801)
            m.add_argument("--kind", choices=KINDS)
            m.add_argument("--text", action="store_true")
        elif name == "run":
            m.add_argument("checkpoint", type=pathlib.Path)
            m.add_argument("--out", type=pathlib.Path)
        else:
            m.add_argument("answers", type=pathlib.Path)
    own, command = sys.argv[1:], []
    if "--" in own:
        own, command = own[: own.index("--")], own[own.index("--") + 1 :]
    a = p.parse_args(own)
    a.command = command
    if (a.mode == "ask") != bool(command):
        p.error("`ask`, and only `ask`, takes a command after `--`")
    {"make": make, "run": run, "ask": ask, "score": score}[a.mode](a)


if __name__ == "__main__":
    main()
