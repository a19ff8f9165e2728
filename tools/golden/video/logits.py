"""What transformers makes of videos with models/tiny-vl/full, in f32 on a CPU.

usage: logits.py FOLDER    writes a safetensors file for each case
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from preproc import frame
from safetensors.numpy import save_file
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil, Qwen2VLVideoProcessor

MODEL = Path(__file__).resolve().parents[3] / "models/tiny-vl/full"
TOKENS = 8
# Rows of logits that are kept, beside the last one.
STRIDE = 16

# What is said: images and videos as (frames, width, height, frames a second), and a text after them.
CASES = {
    "four_frames": ([("video", 4, 112, 140, 2.0)], "What color is the background?"),
    "five_frames": ([("video", 5, 196, 168, 2.0)], "How many shapes are there?"),
    "image_and_video": ([("image", 9, 140, 112, 0.0), ("video", 4, 112, 140, 4.0)], "Compare these images."),
    # A frame every two seconds: time goes further than rows and columns.
    "slow": ([("video", 6, 112, 112, 0.5)], "Read the text."),
}


def prompt(tokenizer, media, text):
    parts = [{"type": kind} for kind, *_ in media] + [{"type": "text", "text": text}]
    return tokenizer.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False)


def after_the_largest(model, ids, types, seconds, grids):
    """Positions as of arXiv:2409.12191, section 2.1, and transformers 4: what follows begins after the largest.

    They are those of transformers 5 for each part by itself, one after the other.
    """
    parts, start, at = [], 0, 0
    grids = {kind: iter(found) for kind, found in grids.items()}
    seconds = iter(seconds)
    while at < len(types):
        end = at
        while end < len(types) and types[end] == types[at]:
            end += 1
        kind, given = types[at], {}
        if kind == 1:
            given = {"image_grid_thw": torch.tensor([next(grids[1])])}
        if kind == 2:
            given = {"video_grid_thw": torch.tensor([next(grids[2])]), "second_per_grid_ts": torch.tensor([next(seconds)])}
        found, _ = model.model.get_rope_index(torch.tensor([ids[at:end]]), torch.tensor([types[at:end]]), **given)
        parts.append(found + start)
        start, at = int(parts[-1].max()) + 1, end
    return torch.cat(parts, -1)


@torch.no_grad()
def going_on(model, ids, positions, output):
    """A prompt, what the model made of it (`output`), and the tokens that it goes on with."""
    result = {
        "input_ids": np.array(ids, np.int32),
        "position_ids": positions[:, 0].numpy().astype(np.int32),
        "logits": torch.cat([output.logits[0, ::STRIDE], output.logits[0, -1:]]).numpy(),
    }
    greedy, next_position = [], int(positions.max()) + 1
    for _ in range(TOKENS):
        greedy.append(int(output.logits[0, -1].argmax()))
        position = torch.full((3, 1, 1), next_position)
        next_position += 1
        output = model(input_ids=torch.tensor([greedy[-1:]]), position_ids=position, past_key_values=output.past_key_values)
    result["greedy"] = np.array(greedy, np.int32)
    return result


@torch.no_grad()
def run(model, tokenizer, media, text):
    images, videos = Qwen2VLImageProcessorPil.from_pretrained(MODEL), Qwen2VLVideoProcessor.from_pretrained(MODEL)
    inputs, grids, seconds = {}, {1: [], 2: []}, []
    for kind, count, width, height, fps in media:
        if kind == "image":
            output = images(images=[Image.fromarray(frame(count, width, height))], return_tensors="pt")
            inputs["pixel_values"], inputs["image_grid_thw"] = output["pixel_values"], output["image_grid_thw"]
            grids[1].append(output["image_grid_thw"][0].tolist())
        else:
            video = np.stack([frame(index, width, height) for index in range(count)])
            output = videos(videos=[video], return_tensors="pt")
            inputs["pixel_values_videos"], inputs["video_grid_thw"] = output["pixel_values_videos"], output["video_grid_thw"]
            grids[2].append(output["video_grid_thw"][0].tolist())
            seconds.append(videos.temporal_patch_size / fps)
    short = tokenizer(prompt(tokenizer, media, text), add_special_tokens=False)["input_ids"]
    tokens = {model.config.image_token_id: 1, model.config.video_token_id: 2}
    left = {kind: iter(found) for kind, found in grids.items()}
    ids, types = [], []
    for token in short:
        kind = tokens.get(token, 0)
        count = int(np.prod(next(left[kind]))) // 4 if kind else 1
        ids += [token] * count
        types += [kind] * count
    positions = after_the_largest(model, ids, types, seconds, grids)
    theirs, _ = model.model.get_rope_index(
        torch.tensor([ids]), torch.tensor([types]), image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs.get("video_grid_thw"), second_per_grid_ts=torch.tensor(seconds))
    output = model(input_ids=torch.tensor([ids]), position_ids=positions, use_cache=True, **inputs)
    result = going_on(model, ids, positions, output)
    same = torch.equal(theirs, positions)
    return result, {"prompt": prompt(tokenizer, media, text), "transformers_5_positions": json.dumps(same)}


def main(folder):
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for name, (media, text) in CASES.items():
        tensors, metadata = run(model, tokenizer, media, text)
        print(name, len(tensors["input_ids"]), tensors["greedy"], repr(tokenizer.decode(tensors["greedy"])), metadata["transformers_5_positions"])
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
