"""Letterboxed photographs by Pillow and NumPy: testdata/preproc/letterbox.jsonl.

usage: letterbox.py FILE    once with requirements.txt, once with requirements-pillow12.txt; each adds its own sums

`pad` is `PIL.ImageOps.pad`, except that an image need not be enlarged. `values` rescales as transformers does: in f64,
rounded to f32 once; mean and std follow in f32.
"""
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[3]
FILTERS = {"box": 4, "bilinear": 2, "hamming": 5, "bicubic": 3, "lanczos": 1}
FILES = [
    "china.jpg", "flower_exif_6.jpg", "astronaut_tiny.jpg", "hubble_panorama.jpg", "rocket_tall.gif", "camera.png",
    "retina_12_megapixels.jpg",
]
CANVASES = [(448, 448), (1024, 1024), (336, 224), (31, 97)]
# Zero to one; minus one to one; that of CLIP.
NORMALISATIONS = [
    ([0, 0, 0], [1, 1, 1]),
    ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
]
COLORS = [(0, 0, 0), (122, 116, 104), (255, 0, 114)]


def pad(image, size, method, color, enlarge):
    if enlarge or image.width > size[0] or image.height > size[1]:
        return ImageOps.pad(image, size, method, color)
    out = Image.new("RGB", size, color)
    out.paste(image, (round((size[0] - image.width) * 0.5), round((size[1] - image.height) * 0.5)))
    return out


def values(image, mean, std):
    rescaled = (np.asarray(image).astype(np.float64) * (1 / 255)).astype(np.float32)
    return (rescaled - np.array(mean, np.float32)) / np.array(std, np.float32)


def digest(data):
    return hashlib.sha256(np.ascontiguousarray(data)).hexdigest()[:16]


class Sized:
    """Stands in for an image, so that `ImageOps.contain` gives a size without pixels."""

    mode = "RGB"

    def __init__(self, width, height):
        self.width, self.height = self.size = (width, height)

    def resize(self, size, **_):
        return Sized(*size)


def placements():
    """The fitted sizes of 20 000 random shapes, as width, height, left, top."""
    state, rows = 1, []
    while len(rows) < 20_000:
        shape = []
        for _ in range(4):
            state = (state * 1_664_525 + 1_013_904_223) & 0xFFFF_FFFF
            shape.append((state >> 20) + 1)
        fitted = ImageOps.contain(Sized(*shape[:2]), shape[2:])
        size = fitted.size
        # Pillow lets a side become zero; this crate keeps a pixel.
        size = (max(size[0], 1), max(size[1], 1))
        left, top = round((shape[2] - size[0]) * 0.5), round((shape[3] - size[1]) * 0.5)
        rows.append((*size, left, top))
    return digest(np.array(rows, "<u4"))


def main(path):
    pillow = "pillow" + PIL.__version__.split(".")[0]
    old = {}
    if path.exists():
        for line in path.read_text().splitlines():
            case = json.loads(line)
            old[json.dumps(case["case"])] = case
    lines = [{"case": "geometry", "sum": placements()}]
    turn = 0
    for file in FILES:
        image = ImageOps.exif_transpose(Image.open(ROOT / "testdata/preproc/photos" / file)).convert("RGB")
        for canvas in CANVASES:
            for name in ("lanczos", list(FILTERS)[turn % 4]):
                mean, std = NORMALISATIONS[turn % 3]
                color, enlarge = COLORS[turn // 3 % 3], turn % 2 == 0
                turn += 1
                case = {
                    "file": file, "canvas": canvas, "filter": name, "color": color, "enlarge": enlarge, "mean": mean,
                    "std": std,
                }
                padded = pad(image, canvas, FILTERS[name], color, enlarge)
                hwc = values(padded, mean, std)
                line = old.get(json.dumps(case), {"case": case})
                line[pillow] = {"rgb": digest(padded), "hwc": digest(hwc), "chw": digest(hwc.transpose(2, 0, 1))}
                lines.append(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


main(Path(sys.argv[1]))
