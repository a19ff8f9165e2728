"""What transformers makes of videos for Qwen3-VL: frames, patches, prompts, positions, and logits in f32 on a CPU.

usage: qwen3.py FOLDER    writes qwen3_sampling.jsonl, qwen3_patches.jsonl and a safetensors file for each prompt

The model is testdata/families/qwen3_vl, whose tensors have the names and the layout of mlx-vlm. transformers 5.23.0
replaces `<|video_pad|>` alone, so that a pair of vision tokens stays around the times; transformers 4 and vLLM replace
the pair with it, as the model was trained. Prompts here are given to it without the pair, which comes to the same.
"""
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from logits import going_on
from preproc import frame, sha
from safetensors.numpy import save_file
from safetensors.torch import load_file
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.video_utils import VideoMetadata

MODEL = Path(__file__).resolve().parents[3] / "testdata/families/qwen3_vl"
PAIR = "<|vision_start|><|video_pad|><|vision_end|>"

# Images and videos as (frames, width, height, frames a second), and a text after them.
CASES = {
    "qwen3_video": ([("video", 5, 96, 128, 2.0)], "what moves?"),
    "qwen3_image_and_video": ([("image", 9, 90, 64, 0.0), ("video", 4, 128, 96, 3.0)], "compare"),
}


def sampling():
    cases = [(100, 25.0, 2.0, None, None), (3, 10.0, 2.0, None, None), (7, 1.0, 2.0, None, None), (2, 0.5, 2.0, None, None)]
    cases += [(9000, 29.97002997002997, 2.0, None, None), (300, 60.0, 0.5, 2, 8), (1, 30.0, 2.0, None, None)]
    draw = random.Random(9)
    rates = [0.5, 1.0, 10.0, 12.5, 23.976023976023978, 24.0, 25.0, 29.97002997002997, 30.0, 59.94005994005994, 120.0]
    for _ in range(300):
        bounds = draw.choice([(None, None), (None, draw.randrange(2, 40)), (draw.randrange(2, 12), draw.randrange(12, 900))])
        cases.append((draw.randrange(2, draw.choice([20, 200, 12000])), draw.choice(rates), draw.choice([0.25, 1.0, 2.0, 3.7, 24.0]), *bounds))
    for total, rate, wanted, least, most in cases:
        bounds = {key: value for key, value in [("min_frames", least), ("max_frames", most)] if value}
        processor = Qwen3VLVideoProcessor(**bounds)
        found = processor.sample_frames(VideoMetadata(total_num_frames=total, fps=rate), fps=wanted).tolist()
        times = Qwen3VLProcessor._calculate_timestamps(None, list(found), rate, 2)
        case = {"total": total, "fps": rate, "asked": wanted, "min": least, "max": most, "count": len(found)}
        short = lambda values: values if len(values) <= 8 else sha(",".join(map(str, values)).encode())
        yield case | {"indices": short(found), "times": short([f"{time:.1f}" for time in times])}


def patches():
    """As they are, enlarged and shrunk; a side below a feature; even and odd numbers of frames."""
    for frames, width, height, size in [
        (4, 64, 96, (4096, 200704)), (5, 64, 96, (4096, 200704)), (2, 20, 80, (4096, 200704)), (3, 320, 240, (4096, 100352)),
        (7, 640, 360, (4096, 200352)), (6, 90, 512, (4096, 50176)), (5, 100, 37, (400000, 800000)), (3, 64, 80, None), (8, 700, 400, None),
    ]:
        config = {"size": {"shortest_edge": size[0], "longest_edge": size[1]}} if size else {}
        video = np.stack([frame(index, width, height) for index in range(frames)])
        output = Qwen3VLVideoProcessor(**config)(videos=[video], do_sample_frames=False, return_tensors="np")
        case = {"frames": frames, "width": width, "height": height, "config": config, "grid": output["video_grid_thw"][0].tolist()}
        yield case | {"values": sha(np.ascontiguousarray(output["pixel_values_videos"], "<f4").tobytes())}


def load():
    config = json.loads((MODEL / "config.json").read_text())
    tensors = {}
    for name, value in load_file(MODEL / "model.safetensors").items():
        if name.endswith("patch_embed.proj.weight"):
            value = value.permute(0, 4, 1, 2, 3)
        name = name.replace("vision_tower.", "model.visual.").replace("language_model.model.", "model.language_model.")
        tensors[name] = value.to(torch.float32).contiguous()
    config = Qwen3VLConfig(**config)
    config._attn_implementation = "eager"
    model = Qwen3VLForConditionalGeneration(config).to(torch.float32).eval()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL)
    images = Qwen2VLImageProcessorPil.from_pretrained(MODEL)
    videos = Qwen3VLVideoProcessor.from_pretrained(MODEL)
    return model, Qwen3VLProcessor(images, tokenizer, videos, chat_template=tokenizer.chat_template)


@torch.no_grad()
def run(model, processor, media, text):
    parts = [{"type": kind} for kind, *_ in media] + [{"type": "text", "text": text}]
    prompt = processor.tokenizer.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False)
    assert prompt.count(PAIR) == sum(kind == "video" for kind, *_ in media), prompt
    images, videos, metadata = [], [], []
    for kind, count, width, height, fps in media:
        if kind == "image":
            images.append(Image.fromarray(frame(count, width, height)))
        else:
            videos.append(np.stack([frame(index, width, height) for index in range(count)]))
            metadata.append(VideoMetadata(total_num_frames=count, fps=fps, frames_indices=list(range(count))))
    given = {"videos": videos, "video_metadata": metadata, "do_sample_frames": False}
    inputs = processor(text=[prompt.replace(PAIR, "<|video_pad|>")], images=images or None, return_tensors="pt", **given)
    inputs.pop("attention_mask")
    grids = {key: inputs[key] for key in ["image_grid_thw", "video_grid_thw"] if key in inputs}
    positions, delta = model.model.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"], **grids)
    output = model(**inputs, position_ids=positions, use_cache=True)
    result = going_on(model, inputs["input_ids"][0].tolist(), positions, output)
    return result, {"prompt": processor.tokenizer.decode(result["input_ids"])}


def main(folder):
    for name, cases in [("sampling", sampling()), ("patches", patches())]:
        lines = [json.dumps(case, separators=(",", ":")) for case in cases]
        (folder / f"qwen3_{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    model, processor = load()
    for name, (media, text) in CASES.items():
        tensors, metadata = run(model, processor, media, text)
        print(name, len(tensors["input_ids"]), tensors["greedy"], repr(processor.tokenizer.decode(tensors["greedy"])))
        print(metadata["prompt"].replace("<|video_pad|>", "").replace("<|image_pad|>", ""))
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
