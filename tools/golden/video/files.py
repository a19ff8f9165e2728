"""Small video files, and what other decoders make of them: files.jsonl.

usage: files.py FOLDER
"""
import hashlib
import json
import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageSequence

WIDTH, HEIGHT = 64, 48


def picture(index, width=WIDTH, height=HEIGHT):
    """A gradient with a square that moves."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    frame = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, index * 8 % 256)], -1).astype(np.uint8)
    left = index * 2 % (width - 12)
    frame[10:22, left:left + 12] = (255, 255, 0)
    return frame


def mp4(path, frames, rate, options, width=WIDTH, height=HEIGHT, container_options=None):
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"threads": "1", **options}
        for index in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index, width, height), format="rgb24")))
        container.mux(stream.encode())


def sha(data):
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()[:16]


def of_av(path):
    pixels = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate)
        for frame in container.decode(stream):
            pixels.append(frame.to_ndarray(format="rgb24"))
    # Each 8th pixel: colours are made in more than one way, so that they are compared within a bound.
    return {"fps": rate, "frames": len(pixels), "size": [pixels[0].shape[1], pixels[0].shape[0]],
            "pixels": [frame[4::16, 4::16].reshape(-1).tolist() for frame in pixels[::5]]}


def of_pillow(path):
    frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(path))]
    made = {"frames": len(frames), "size": [frames[0].shape[1], frames[0].shape[0]], "sums": [sha(frame) for frame in frames]}
    if path.suffix == ".webp":
        # Frames laid over others are compared within a bound.
        made["pixels"] = [frame[4::16, 4::16].reshape(-1).tolist() for frame in frames]
    return made


def main(folder):
    # Frames that refer to later ones; two groups; no such frames; an edge that is cut off.
    mp4(folder / "bframes.mp4", 30, 10, {"preset": "slow", "crf": "20", "bf": "3", "g": "12"})
    mp4(folder / "baseline.mp4", 7, 25, {"profile": "baseline", "crf": "20", "g": "3"}, 50, 36)
    images = [Image.fromarray(picture(index)) for index in range(6)]
    # Pillow stores what changes; with transparency in between.
    images[0].save(folder / "moving.gif", save_all=True, append_images=images[1:], duration=[100, 200, 100, 100, 50, 50], loop=0)
    for name, disposal in [("background", 2), ("previous", 3)]:
        layers = []
        for index in range(5):
            layer = Image.new("RGBA", (WIDTH, HEIGHT))
            layer.paste((200, 40 * index, 30, 255), (5 * index, 4 * index, 5 * index + 20, 4 * index + 16))
            layers.append(layer)
        layers[0].save(folder / f"{name}.gif", save_all=True, append_images=layers[1:], duration=80, loop=0, disposal=disposal)
    images[0].save(folder / "moving.webp", save_all=True, append_images=images[1:], duration=100, lossless=True)
    layers[0].save(folder / "layers.webp", save_all=True, append_images=layers[1:], duration=100, lossless=True)
    lines = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".mp4":
            lines.append({"file": path.name, **of_av(path)})
        elif path.suffix in (".gif", ".webp"):
            lines.append({"file": path.name, **of_pillow(path)})
    (folder / "files.jsonl").write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
