"""What transformers makes of photographs with the configurations of vision-preproc's presets: presets.jsonl.

usage: presets.py FILE    once with requirements.txt, once with requirements-pillow12.txt; each adds its own sums
"""
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import PIL
from transformers.image_utils import load_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

ROOT = Path(__file__).resolve().parents[3]
CLASSES = {
    "CLIPImageProcessor": CLIPImageProcessorPil,
    "Idefics3ImageProcessor": Idefics3ImageProcessorPil,
    "LlavaImageProcessor": LlavaImageProcessorPil,
    "Qwen2VLImageProcessor": Qwen2VLImageProcessorPil,
    "SiglipImageProcessor": SiglipImageProcessorPil,
}
# Landscape, turned portrait, square, tiny, wide, tall, grey.
FILES = [
    "china.jpg", "flower_exif_6.jpg", "astronaut.webp", "astronaut_tiny.jpg", "hubble_panorama.jpg", "rocket_tall.gif",
    "camera.png",
]


def values(config, image):
    kind = CLASSES[config["image_processor_type"].removesuffix("Fast")]
    processor = kind(**{key: value for key, value in config.items() if key not in ("image_processor_type", "processor_class")})
    output = processor(images=image, return_tensors="np")
    result = np.asarray(output["pixel_values"])
    assert result.dtype == np.float32, result.dtype
    # Idefics3 has a dimension of images, and one of tiles in it.
    return result[0] if result.ndim == 5 else result


def main(path):
    pillow = "pillow" + PIL.__version__.split(".")[0]
    old = {}
    if path.exists():
        for line in path.read_text().splitlines():
            case = json.loads(line)
            old[case["preset"], case["file"]] = case
    lines = []
    for preset in sorted((ROOT / "crates/vision-preproc/src/presets").glob("*.json")):
        config = json.loads(preset.read_text())
        for file in FILES:
            found = values(config, load_image(str(ROOT / "testdata/preproc/photos" / file)))
            line = old.get((preset.stem, file), {"preset": preset.stem, "file": file, "shape": list(found.shape)})
            assert line["shape"] == list(found.shape)
            line[pillow] = hashlib.sha256(np.ascontiguousarray(found, "<f4")).hexdigest()[:16]
            lines.append(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


main(Path(sys.argv[1]))
