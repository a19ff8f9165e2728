"""Photographs in testdata/preproc/photos, and what the references make of them.

usage: photos.py make FOLDER      write the photographs (needs requirements.txt)
       photos.py record FOLDER    add this environment's values to FOLDER/expected.jsonl

`record` runs once with requirements.txt (Pillow 13) and once with requirements-pillow12.txt: the two order the passes
of a resize differently. The two libraries rescale differently, so each has its own values.
LICENCES.md says where each photograph comes from and who made it.
"""
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

# Small, the default of the code, and that of the published checkpoints.
MAX_PIXELS = (200_704, 1_003_520, 12_845_056)


def make(folder):
    import matplotlib
    import skimage
    import sklearn.datasets

    skimage_data = Path(skimage.__file__).parent / "data"
    sklearn_data = Path(sklearn.datasets.__file__).parent / "images"
    matplotlib_data = Path(matplotlib.get_data_path()) / "sample_data"

    def source(name):
        return Image.open(skimage_data / name)

    def save(name, image, **options):
        image.save(folder / name, **options)

    # As they are distributed, byte for byte.
    for original in (
        sklearn_data / "china.jpg", sklearn_data / "flower.jpg", matplotlib_data / "grace_hopper.jpg",
        skimage_data / "rocket.jpg", skimage_data / "retina.jpg", skimage_data / "chelsea.png",
        skimage_data / "camera.png",
    ):
        (folder / original.name).write_bytes(original.read_bytes())

    flower = Image.open(sklearn_data / "flower.jpg")
    exif = Image.Exif()
    # Stored lying on its side: to be turned clockwise by a quarter.
    exif[0x112] = 6
    save("flower_exif_6.jpg", flower.transpose(Image.Transpose.ROTATE_90), quality=80, exif=exif)
    save("coffee_progressive.jpg", source("coffee.png"), quality=90, subsampling=0, progressive=True)
    save("coffee_portrait.webp", source("coffee.png").crop((150, 0, 450, 400)), lossless=True)
    save("astronaut.webp", source("astronaut.png"), quality=85)
    save("astronaut_small.png", source("astronaut.png").crop((190, 70, 251, 115)))
    save("astronaut_tiny.jpg", source("astronaut.png").crop((216, 92, 233, 105)), quality=95)
    save("hubble_panorama.jpg", source("hubble_deep_field.jpg").crop((0, 300, 1000, 430)), quality=85, subsampling=1)
    save("hubble_tall.webp", source("hubble_deep_field.jpg").crop((400, 0, 530, 872)), quality=80)
    save("rocket_tall.gif", source("rocket.jpg").crop((240, 0, 400, 427)).quantize(256))
    save("brick.bmp", source("brick.png").crop((0, 0, 320, 240)))
    save("chelsea.bmp", source("chelsea.png").crop((60, 60, 261, 210)))
    # No photograph of 12 megapixels was at hand, so a smaller one is enlarged: the size is real, the detail is not.
    large = source("retina.jpg").crop((0, 176, 1411, 1235)).resize((4032, 3024), Image.Resampling.LANCZOS)
    save("retina_12_megapixels.jpg", large, quality=75)


def processors():
    """For each library, a function from (path, max_pixels) to (`[P, 1176]` f32, `[t, h, w]`)."""
    from mlx_vlm.models.qwen3_vl.processing_qwen3_vl import Qwen3VLImageProcessor
    from mlx_vlm.utils import load_image as load_mlx_vlm
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, load_image
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    def transformers(path, max_pixels):
        processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": max_pixels})
        return processor(images=load_image(str(path)), return_tensors="np")

    def mlx_vlm(path, max_pixels):
        # What mlx-vlm passes for Qwen2.5-VL: it has one class for Qwen2-VL to Qwen3-VL.
        processor = Qwen3VLImageProcessor(
            patch_size=14, max_pixels=max_pixels, image_mean=OPENAI_CLIP_MEAN, image_std=OPENAI_CLIP_STD
        )
        return processor(load_mlx_vlm(path))

    return load_image, {"transformers": transformers, "mlx-vlm": mlx_vlm}


def summary(values):
    """SHA-256 of the values as little-endian bytes, and five of them with their flat positions."""
    flat = np.ascontiguousarray(values).reshape(-1)
    last = flat.size - 1
    places = [0, last // 3, last // 2, last * 2 // 3, last]
    return {
        "sha256": hashlib.sha256(flat.astype(flat.dtype.newbyteorder("<"), copy=False)).hexdigest(),
        "samples": [[place, flat[place].item()] for place in places],
    }


def record(folder):
    load_image, references = processors()
    pillow = int(PIL.__version__.split(".")[0])
    path = folder / "expected.jsonl"
    old = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    lines = [line for line in old if line["pillow"] != pillow]
    for file in sorted(set(folder.iterdir()) - {path}):
        rgb = load_image(str(file))
        size = {"width": rgb.width, "height": rgb.height}
        lines.append({"file": file.name, "pillow": pillow, "step": "rgb", **size, **summary(np.asarray(rgb))})
        for max_pixels in MAX_PIXELS:
            for library, process in references.items():
                output = process(file, max_pixels)
                values = np.asarray(output["pixel_values"])
                assert values.dtype == np.float32, values.dtype
                grid = np.asarray(output["image_grid_thw"])[0].tolist()
                step = {"step": library, "max_pixels": max_pixels, "grid": grid}
                lines.append({"file": file.name, "pillow": pillow, **step, **summary(values)})
    # A stable sort: the lines of a file and version stay in the order of the steps.
    lines.sort(key=lambda line: (line["file"], line["pillow"]))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    {"make": make, "record": record}[sys.argv[1]](Path(sys.argv[2]))
