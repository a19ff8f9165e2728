"""Write testdata/hostile: small files that an image decoder must refuse, or survive, without much memory.

usage: hostile.py [--out testdata/hostile]

Needs Pillow (requirements.txt). testdata/hostile/README.md says what each file is.
"""
import argparse
import io
import pathlib
import struct
import zlib

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[3]
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind, data, crc=None):
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(width, height, data, header_crc=None, data_crc=None, color=2):
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header, header_crc) + chunk(b"IDAT", data, data_crc) + chunk(b"IEND", b"")


def rows(width, height):
    """Compressed rows of a grey-blue picture, each with filter 0."""
    return zlib.compress((b"\0" + bytes((90, 120, 160)) * width) * height, 9)


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def gradient(width, height):
    image = Image.new("RGB", (width, height))
    image.putdata([(x * 255 // width, y * 255 // height, (x * 7 + y * 11) % 256) for y in range(height) for x in range(width)])
    return image


def box(kind, data):
    return struct.pack(">I", len(data) + 8) + kind + data


def files():
    photo = gradient(96, 64)
    jpeg = encoded(photo, format="JPEG", quality=85)
    gif = encoded(photo.convert("P", palette=Image.Palette.ADAPTIVE, colors=32), format="GIF")
    webp = encoded(photo, format="WEBP", lossless=True)
    good = png(64, 48, rows(64, 48))
    return {
        "empty.png": b"",
        "text.png": b"This is a text file, whatever its name says.\n",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "header_only.jpg": jpeg[:20],
        "truncated.gif": gif[: len(gif) // 3],
        "truncated.webp": webp[: len(webp) // 2],
        "truncated.png": good[:-40],
        "signature_only.png": SIGNATURE,
        "bomb_60000x60000.png": png(60000, 60000, zlib.compress(b"\0" * 4096, 9)),
        "bomb_20000x20000.gif": b"GIF89a" + struct.pack("<HHBBB", 20000, 20000, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
                                + b"," + struct.pack("<HHHHB", 0, 0, 20000, 20000, 0) + b"\x02\x02\x44\x01\0;",
        "bomb_30000x30000.bmp": b"BM" + struct.pack("<IHHI", 58, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0) + b"\0" * 4,
        "zero_width.png": png(0, 48, rows(1, 48)),
        "bad_header_crc.png": png(64, 48, rows(64, 48), header_crc=0xDEADBEEF),
        "bad_data_crc.png": png(64, 48, rows(64, 48), data_crc=0xDEADBEEF),
        "bad_color_type.png": png(64, 48, rows(64, 48), color=5),
        "short_data.png": png(64, 48, rows(64, 20)),
        "thin_1x201.png": png(1, 201, rows(1, 201)),
        "thin_201x1.png": png(201, 1, rows(201, 1)),
        "thin_1x200.png": png(1, 200, rows(1, 200)),
        "picture.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"><rect width="64" height="48" fill="#5a78a0"/></svg>\n',
        "stub.heic": box(b"ftyp", b"heic" + struct.pack(">I", 0) + b"mif1heic") + box(b"meta", b"\0\0\0\0"),
        "stub.avif": box(b"ftyp", b"avif" + struct.pack(">I", 0) + b"avifmif1miaf") + box(b"meta", b"\0\0\0\0"),
    }


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "testdata/hostile")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for name, data in files().items():
        (a.out / name).write_bytes(data)
        print(f"{len(data):6} {name}")


if __name__ == "__main__":
    main()
