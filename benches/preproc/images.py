"""Writes the photographs of the benchmark: 4032x3024, 1920x1080 and 640x480, JPEG of quality 90 with 4:2:0.

usage: images.py FOLDER

No photograph of 12 megapixels comes with a package, so one is put together from small ones, at about the size they were
published in: each pixel then holds as much as one of a camera does, and the file has 3 MB, as such files have.
"""
import sys
from pathlib import Path

import skimage
import sklearn.datasets
from PIL import Image, ImageOps

SIZES = {"photo_12_megapixels.jpg": (4032, 3024), "photo_1080p.jpg": (1920, 1080), "photo_480p.jpg": (640, 480)}


def mosaic():
    """Eight photographs by eight; a photograph that comes again is mirrored every other time."""
    skimage_data = Path(skimage.__file__).parent / "data"
    sklearn_data = Path(sklearn.datasets.__file__).parent / "images"
    paths = [
        sklearn_data / "china.jpg", skimage_data / "coffee.png", skimage_data / "retina.jpg", skimage_data / "chelsea.png",
        skimage_data / "rocket.jpg", sklearn_data / "flower.jpg", skimage_data / "astronaut.png",
    ]
    photos = [Image.open(path).convert("RGB") for path in paths]
    tile = (504, 378)
    canvas = Image.new("RGB", (4032, 3024))
    for index in range(64):
        photo = ImageOps.fit(photos[index * 3 % len(photos)], tile, Image.Resampling.LANCZOS)
        photo = ImageOps.mirror(photo) if index // 7 % 2 else photo
        canvas.paste(photo, (index % 8 * tile[0], index // 8 * tile[1]))
    return canvas


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    image = mosaic()
    for name, size in SIZES.items():
        smaller = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
        smaller.save(folder / name, quality=90, subsampling=2)
        print(f"{name}: {size[0]}x{size[1]}, {(folder / name).stat().st_size} bytes")


main(Path(sys.argv[1]))
