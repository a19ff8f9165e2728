"""Pillow's five resampling filters on noise of random shapes: testdata/preproc/resample.txt.

usage: resample.py FILE    once with requirements.txt, once with requirements-pillow12.txt; each adds its own column

A line is: filter, source width and height, target width and height, and the first 16 digits of the SHA-256 of the
result's `[h, w, 3]` bytes by Pillow 12 and by Pillow 13. `noise` is the source of a line; tests make the same.
"""
import hashlib
import random
import sys
from pathlib import Path

import PIL
from PIL import Image

FILTERS = {"box": 4, "bilinear": 2, "hamming": 5, "bicubic": 3, "lanczos": 1}
# One side kept, one pixel, and extreme factors, besides the random shapes.
SHAPES = [
    (31, 17, 31, 40), (31, 17, 9, 17), (31, 17, 31, 17), (1, 1, 13, 7), (13, 7, 1, 1), (500, 3, 2, 90), (3, 500, 90, 2),
    (640, 480, 28, 21), (2, 2, 101, 99),
]


def noise(width, height):
    """Bytes of a linear congruential generator, seeded with the shape: the top eight bits of each state."""
    state = width * 65_536 + height
    data = bytearray()
    for _ in range(width * height * 3):
        state = (state * 1_664_525 + 1_013_904_223) & 0xFFFF_FFFF
        data.append(state >> 24)
    return Image.frombytes("RGB", (width, height), bytes(data))


def main(path):
    version = int(PIL.__version__.split(".")[0])
    old = {}
    if path.exists():
        for line in path.read_text().splitlines():
            *shape, by_12, by_13 = line.split(" ")
            old[tuple(shape)] = {12: by_12, 13: by_13}
    side = random.Random(13)
    shapes = SHAPES + [tuple(int(2 ** side.uniform(0, 8)) for _ in range(4)) for _ in range(40)]
    sources = {shape: noise(*shape[:2]) for shape in shapes}
    with path.open("w") as file:
        for name, value in FILTERS.items():
            for shape in shapes:
                key = (name, *map(str, shape))
                sums = old.get(key, {12: "-", 13: "-"})
                result = sources[shape].resize(shape[2:], value).tobytes()
                sums[version] = hashlib.sha256(result).hexdigest()[:16]
                print(*key, sums[12], sums[13], file=file)


main(Path(sys.argv[1]))
