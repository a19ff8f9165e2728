"""What transformers makes of videos before the model: which frames, their patches, and the positions of tokens.

usage: preproc.py FOLDER    writes sampling.jsonl, patches.jsonl and positions.jsonl
"""
import hashlib
import itertools
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2VLConfig, Qwen2VLVideoProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel
from transformers.video_utils import VideoMetadata


def sha(data):
    return hashlib.sha256(data).hexdigest()[:16]


def sampling():
    """Numbers of frames and of frames a second, with and without bounds; many at random."""
    cases = [(100, 25.0, 2.0, None, None), (3, 10.0, 2.0, None, None), (7, 1.0, 2.0, None, None), (2, 0.5, 2.0, None, None)]
    cases += [(9000, 29.97002997002997, 2.0, None, None), (300, 60.0, 0.5, 2, 8), (50, 30.0, 30.0, None, None)]
    draw = random.Random(8)
    rates = [0.5, 1.0, 10.0, 12.5, 23.976023976023978, 24.0, 25.0, 29.97002997002997, 30.0, 59.94005994005994, 120.0]
    for _ in range(500):
        bounds = draw.choice([(None, None), (None, draw.randrange(2, 40)), (draw.randrange(2, 12), draw.randrange(12, 900))])
        cases.append((draw.randrange(2, draw.choice([20, 200, 12000])), draw.choice(rates), draw.choice([0.25, 1.0, 2.0, 3.7, 24.0]), *bounds))
    processor = Qwen2VLVideoProcessor()
    for total, rate, wanted, least, most in cases:
        metadata = VideoMetadata(total_num_frames=total, fps=rate)
        try:
            found = processor.sample_frames(metadata, fps=wanted, min_frames=least, max_frames=most).tolist()
        except ZeroDivisionError:
            # Of bounds that leave less than a patch nothing is left.
            continue
        # torch.arange may give one more, which is behind the last frame.
        assert all(index < total for index in found[:-1])
        found = found[:-1] if found[-1] >= total else found
        metadata.frames_indices = found
        case = {"total": total, "fps": rate, "asked": wanted, "min": least, "max": most, "count": len(found)}
        case["sampled_fps"] = metadata.sampled_fps
        case["indices"] = found if len(found) <= 8 else sha(",".join(map(str, found)).encode())
        yield case


def frame(index, width, height):
    """A frame that a test can make as well: all in integers."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    planes = [(x * 5 + y * 3 + index * 17 + c * 41 + x * y * (c + 1) // 7) % 256 for c in range(3)]
    return np.stack(planes, -1).astype(np.uint8)


def patches():
    """Videos that are not resized, are enlarged, shrunk, and shrunk a lot; even and odd numbers of frames."""
    for frames, width, height, size in [
        (4, 56, 84, (3136, 200704)), (5, 56, 84, (3136, 200704)), (1, 84, 56, (3136, 200704)), (2, 64, 80, (3136, 200704)),
        (5, 100, 37, (3136, 200704)), (3, 320, 240, (3136, 50176)), (4, 640, 360, (3136, 50176)), (2, 90, 512, (3136, 50176)),
        (3, 64, 80, None), (2, 1300, 700, None),
    ]:
        size = size and {"shortest_edge": size[0], "longest_edge": size[1]}
        processor = Qwen2VLVideoProcessor(**({"size": size} if size else {}))
        video = np.stack([frame(index, width, height) for index in range(frames)])
        output = processor(videos=[video], return_tensors="np")
        values = output["pixel_values_videos"]
        assert values.dtype == np.float32
        config = {"size": size} if size else {}
        case = {"frames": frames, "width": width, "height": height, "config": config, "grid": output["video_grid_thw"][0].tolist()}
        yield case | {"values": sha(np.ascontiguousarray(values, "<f4").tobytes())}


class Model:
    """As much of a model as positions need."""

    def __init__(self, model, config, rate=None):
        self.config, self.model = config, model
        if rate:
            config.vision_config.tokens_per_second = rate

    def positions(self, parts, seconds):
        """Of texts (lengths), images and videos (grids)."""
        kinds = {"text": 0, "image": 1, "video": 2}
        tokens = [kinds[kind] for kind, what in parts for _ in range(what if kind == "text" else what[0] * what[1] * what[2] // 4)]
        grids = lambda wanted: torch.tensor([what for kind, what in parts if kind == wanted]) if wanted in dict(parts) else None
        given = {"second_per_grid_ts": torch.tensor(seconds)} if seconds else {}
        ids = torch.zeros(1, len(tokens), dtype=torch.long)
        found, delta = self.model.get_rope_index(
            self, ids, torch.tensor([tokens]), image_grid_thw=grids("image"), video_grid_thw=grids("video"), **given)
        return found[:, 0].tolist(), int(delta)

    def get_vision_position_ids(self, *args, **kwargs):
        return self.model.get_vision_position_ids(self, *args, **kwargs)


def positions():
    """Prompts whose last video is followed by text.

    Where time goes further than rows and columns, transformers 5 has the text go on from rows and columns. In
    arXiv:2409.12191, section 2.1, and in transformers 4 and vLLM, it goes on from the largest position; `text` says
    whether that makes no difference.
    """
    for rate, fps, t, (h, w) in itertools.product([2, 4], [0.5, 1.0, 2.0, 3.0, 4.0, 7.3, 24.0], [1, 2, 5], [(4, 6), (12, 20)]):
        yield positions_of(rate, [2.0 / fps], [("text", 3), ("video", (t, h, w)), ("text", 4)])
    yield positions_of(2, [1.0, 0.3], [("text", 2), ("video", (2, 4, 8)), ("text", 1), ("image", (1, 8, 4)), ("text", 2), ("video", (3, 8, 12)), ("text", 2)])
    for t in [1, 2, 5]:
        yield positions_of(None, [], [("text", 3), ("video", (t, 4, 6)), ("text", 4)])


def positions_of(rate, seconds, parts):
    model = Model(Qwen2_5_VLModel, Qwen2_5_VLConfig(), rate) if rate else Model(Qwen2VLModel, Qwen2VLConfig())
    found, delta = model.positions(parts, seconds)
    start, same = 0, True
    for kind, what in parts:
        if kind == "text":
            # Whether the text before it begins after all that was before.
            same = same and (start == 0 or found[0][start] == max(max(axis[:start]) for axis in found) + 1)
            start += what
        else:
            start += what[0] * what[1] * what[2] // 4
    return {"rate": rate, "seconds": seconds, "parts": parts, "text": same, "axes": found, "delta": delta}


def main(folder):
    for name, cases in [("sampling", sampling()), ("patches", patches()), ("positions", positions())]:
        lines = [json.dumps(case, separators=(",", ":")) for case in cases]
        (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
