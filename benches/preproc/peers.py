"""The peers in Python, each a worker that answers lines; worker.rs says what they mean.

usage: peers.py PEER
"""
import io
import os
import sys
import time
from pathlib import Path

# Before the libraries are loaded, since some read these then.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import PIL
from PIL import Image, ImageOps

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def smart_resize(height, width, max_pixels):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    return smart_resize(height, width, factor=28, min_pixels=3136, max_pixels=max_pixels)


def pillow():
    """What a user writes with Pillow and NumPy; the reference of the letterbox."""

    def letterbox(data, side):
        image = data if isinstance(data, Image.Image) else Image.open(io.BytesIO(data))
        image = image.convert("RGB")
        image = ImageOps.pad(image, (side, side), Image.Resampling.LANCZOS, (0, 0, 0))
        values = np.asarray(image, np.float32)
        values /= np.float32(255)
        values -= np.float32(0.5)
        values /= np.float32(0.5)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def fast(data, side):
        """Pillow's own way of reduced decoding."""
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (2 * side, 2 * side))
        return letterbox(image, side)

    return f"Pillow {PIL.__version__} and NumPy", {"letterbox": letterbox, "fast": fast}


def opencv():
    """Area averaging where it shrinks by much, which is the resize without aliasing that OpenCV has."""
    import cv2

    cv2.setNumThreads(1)

    def letterbox(data, side, flag=cv2.IMREAD_COLOR):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        height, width = image.shape[:2]
        scale = side / max(height, width)
        size = (round(width * scale), round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        left, top = (side - size[0]) // 2, (side - size[1]) // 2
        right, below = side - size[0] - left, side - size[1] - top
        image = cv2.copyMakeBorder(image, top, below, left, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        return cv2.dnn.blobFromImage(image, 1 / 127.5, mean=(127.5, 127.5, 127.5), swapRB=True)

    def fast(data, side):
        """The largest reduction that leaves twice the target, which the header tells."""
        longer = max(Image.open(io.BytesIO(data)).size)
        flags = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
        flag = next((flags[by] for by in flags if longer // by >= 2 * side), cv2.IMREAD_COLOR)
        return letterbox(data, side, flag)

    return f"OpenCV {cv2.__version__}, area", {"letterbox": letterbox, "fast": fast}


def torchvision():
    """Decoding and antialiased bicubic by torchvision, the rest by torch; Lanczos for tensors it has not."""
    import torch
    import torchvision
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)

    def resized(data, size):
        image = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        size = size(*image.shape[-2:])
        return functional.resize(image, list(size), interpolation=functional.InterpolationMode.BICUBIC, antialias=True)

    def letterbox(data, side):
        def fitted(height, width):
            scale = side / max(height, width)
            return round(height * scale), round(width * scale)

        image = resized(data, fitted)
        left, top = (side - image.shape[2]) // 2, (side - image.shape[1]) // 2
        out = torch.full((3, side, side), -1.0)
        out[:, top : top + image.shape[1], left : left + image.shape[2]] = image.float().div_(127.5).sub_(1)
        return out.numpy()

    mean = torch.from_numpy(CLIP_MEAN * 255)[:, None, None]
    std = torch.from_numpy(CLIP_STD * 255)[:, None, None]

    def qwen(data, max_pixels):
        image = resized(data, lambda height, width: smart_resize(height, width, max_pixels))
        image = image.float().sub_(mean).div_(std)
        height, width = image.shape[1] // 28, image.shape[2] // 28
        patches = image.view(3, height, 2, 14, width, 2, 14).permute(1, 4, 2, 5, 0, 3, 6)
        patches = patches.unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1)
        return patches.reshape(height * width * 4, 1176).numpy()

    return f"torchvision {torchvision.__version__.split('+')[0]} by hand", {"letterbox": letterbox, "qwen": qwen}


def transformers_pil():
    """The reference of the Qwen2.5-VL jobs."""
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return transformers_with(Qwen2VLImageProcessorPil, f"transformers {transformers.__version__}, Pillow")


def transformers_torch():
    import torch
    import transformers
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    torch.set_num_threads(1)
    return transformers_with(Qwen2VLImageProcessor, f"transformers {transformers.__version__}, torchvision")


def transformers_with(kind, name):
    from transformers.image_utils import load_image

    def qwen(data, max_pixels):
        processor = kind(size={"shortest_edge": 3136, "longest_edge": max_pixels})
        image = load_image(Image.open(io.BytesIO(data)))
        return np.asarray(processor(images=image, return_tensors="np")["pixel_values"])

    return name, {"qwen": qwen}


def mlx_vlm():
    import importlib.metadata

    from mlx_vlm.models.qwen3_vl.processing_qwen3_vl import Qwen3VLImageProcessor
    from mlx_vlm.utils import load_image

    def qwen(data, max_pixels):
        processor = Qwen3VLImageProcessor(
            patch_size=14, max_pixels=max_pixels, image_mean=CLIP_MEAN.tolist(), image_std=CLIP_STD.tolist()
        )
        return processor(load_image(io.BytesIO(data)))["pixel_values"]

    return f"mlx-vlm {importlib.metadata.version('mlx-vlm')}", {"qwen": qwen}


def memory_added(work):
    """Bytes by which the peak of the resident set passes what was resident before."""
    Path("/proc/self/clear_refs").write_text("5")

    def status(field):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def main(peer):
    # Libraries print as they load; the answers have standard output to themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        name, jobs = {
            "pillow": pillow, "opencv": opencv, "torchvision": torchvision, "transformers-pil": transformers_pil,
            "transformers-torch": transformers_torch, "mlx-vlm": mlx_vlm,
        }[peer]()
    except ImportError as error:
        print(f"missing {error}", file=answers)
        return
    print(f"ready {name}", file=answers)
    images = {}
    for line in sys.stdin:
        command, job, image, *rest = line.split()
        kind, _, number = job.partition(":")
        if kind not in jobs:
            print("no", file=answers)
            continue
        if image not in images:
            images[image] = Path(image).read_bytes()
        data, number = images[image], int(number)
        # The result of the run before is let go outside the time.
        result = None
        if command == "time":
            started = time.process_time_ns()
            result = jobs[kind](data, number)
            print("ok", time.process_time_ns() - started, file=answers)
        elif command == "write":
            result = np.ascontiguousarray(jobs[kind](data, number), dtype="<f4")
            result.tofile(rest[0])
            print("ok", result.nbytes, file=answers)
        elif command == "memory":
            print("ok", memory_added(lambda: jobs[kind](data, number)), file=answers)


main(sys.argv[1])
