"""Draw the two sample pictures of the README (see requirements.txt in tools/golden/scenes)."""
import pathlib
import random
import sys

from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import scenes  # noqa: E402

SAMPLES = {
    "scene.png": (3, ("white", [(1, 0, "circle", "red", "large"), (1, 2, "star", "blue", "small")], "Hello")),
    "second.png": (3, ("cyan", [(0, 1, "triangle", "yellow", "large"), (1, 2, "square", "purple", "small")], "Rust")),
}

for name, (seed, scene) in SAMPLES.items():
    font = scenes.load_fonts()[:1]
    Image.fromarray(scenes.draw(scene, 336, 336, random.Random(seed), font, 0)).save(HERE / name, optimize=True)
    print(name, scenes.describe(scene))
