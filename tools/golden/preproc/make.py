"""Writes testdata/preproc/formats: one small photograph in every format, and what Pillow and transformers make of it.

Usage: pip install -r requirements.txt; python make.py OUTPUT_FOLDER
The photograph is a part of china.jpg from scikit-learn (CC BY 2.0, see testdata/preproc/LICENCES.md).
"""
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & (2**64 - 1)
    return f"{value:016x}"


out = Path(sys.argv[1])
im = Image.fromarray(load_sample_image("china.jpg")).crop((200, 100, 301, 167))
grey = im.convert("L")
alpha = im.copy()
alpha.putalpha(grey)
palette = im.quantize(40)


def save(name, image, **options):
    image.save(out / name, **options)


for subsampling in range(3):
    for progressive in (False, True):
        name = f"jpeg_{subsampling}{'_progressive' if progressive else ''}.jpg"
        save(name, im, quality=88, subsampling=subsampling, progressive=progressive)
save("jpeg_grey.jpg", grey)
save("jpeg_cmyk.jpg", im.convert("CMYK"))
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x112] = orientation
    save(f"exif_{orientation}.jpg", im, exif=exif)
save("exif_8.png", im, exif=exif)
save("exif_8.webp", im, exif=exif)
for name, image in {
    "rgb": im, "rgba": alpha, "grey": grey, "grey_alpha": grey.convert("LA"), "bit": grey.convert("1"),
    "palette": palette, "palette_2": im.quantize(3), "palette_4": im.quantize(14),
    "grey_16": Image.fromarray(np.array(grey).astype(np.uint16) * 3),
}.items():
    save(f"png_{name}.png", image)
save("png_palette_transparent.png", palette, transparency=3)
save("webp.webp", im)
save("webp_alpha.webp", alpha)
save("webp_lossless.webp", im, lossless=True)
save("webp_lossless_alpha.webp", alpha, lossless=True, exact=True)
save("webp_animated.webp", im, save_all=True, append_images=[im.rotate(90)])
save("gif.gif", palette)
save("gif_grey.gif", grey)
save("gif_transparent.gif", palette, transparency=5)
for name, image in {"24": im, "32": alpha, "grey": grey, "palette": palette, "bit": grey.convert("1")}.items():
    save(f"bmp_{name}.bmp", image)

processor = Qwen2VLImageProcessorPil()
with open(out / "manifest.txt", "w") as manifest:
    for path in sorted(out.iterdir()):
        if path.name == "manifest.txt":
            continue
        # A fresh image, since transformers blends what still names a transparent colour; the crate drops alpha.
        rgb = Image.fromarray(np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB")))
        values = np.asarray(processor(images=rgb, return_tensors="np")["pixel_values"], dtype="<f4")
        print(path.name, rgb.width, rgb.height, fnv(rgb.tobytes()), fnv(values.tobytes()), file=manifest)
