"""Damage that knows the structure of what it damages: annotation files, images, files of weights."""

import copy
import io
import json
import random

import numpy as np
from PIL import Image
from safetensors.numpy import save

ODD = [
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, -1e308, 2**63, 2**80, float("nan"), float("inf"), "", " ",
    "7", "1e3", "nan", "ä", "猫", "$x_{1}$", "a\nb", "\x00", "../../etc/passwd",
    "/etc/passwd", "x" * 5000, [], [1], {}, {"a": 1},
]  # fmt: skip


def sound_annotations(names: list[str]) -> dict:
    """Annotations of images with these file names, 40 x 32 pixels each."""
    images = [{"id": i, "file_name": name, "height": 32, "width": 40} for i, name in enumerate(names, start=1)]
    annotations = [
        {"id": 10 * image["id"] + k, "image_id": image["id"], "category_id": 1 + k, "bbox": [2 + k, 3, 10, 9],
         "area": 80.5, "iscrowd": 0}
        for image in images
        for k in range(2)
    ]  # fmt: skip
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


def damage_annotations(table: dict, rng: random.Random) -> bytes:
    """A few changes of entries and fields, then perhaps of the text."""
    table = copy.deepcopy(table)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        key = rng.choice(list(table))
        entries = table[key]
        if not isinstance(entries, list) or not entries or rng.random() < 0.08:
            table[key] = copy.deepcopy(rng.choice(ODD))
            continue
        place = rng.randrange(len(entries))
        entry, kind = entries[place], rng.random()
        if not isinstance(entry, dict) or kind < 0.08:
            entries[place] = copy.deepcopy(rng.choice(ODD))
        elif kind < 0.16:
            entries.append(copy.deepcopy(entry))
        elif kind < 0.2:
            del entries[place]
        elif entry and kind < 0.36:
            del entry[rng.choice(list(entry))]
        elif kind < 0.5 and isinstance(entry.get("bbox"), list) and entry["bbox"]:
            entry["bbox"][rng.randrange(len(entry["bbox"]))] = copy.deepcopy(rng.choice(ODD))
        elif entry:
            entry[rng.choice(list(entry))] = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(table, ensure_ascii=rng.random() < 0.5).encode()
    return _damage_text(text, rng) if rng.random() < 0.25 else text


def _damage_text(text: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(text))
    return rng.choice(
        [
            text[:place],
            text[:place] + bytes([rng.randrange(256)]) + text[place + 1 :],
            text + b" x",
            text + text,
            b"\xef\xbb\xbf" + text,
            text.decode().encode("utf-16"),
            text[:-1] + b', "images": []}',
            text.replace(b"[", b"[" * 3000, 1),
            b'{"images": ' + b"[" * 200_000,
        ]
    )


def sound_image(kind: str, rng: random.Random) -> bytes:
    """A small image file of this format and a random mode."""
    modes = {
        "JPEG": ("RGB", "L", "CMYK"),
        "PNG": ("RGB", "RGBA", "P", "L", "1", "I;16"),
        "GIF": ("P",),
        "BMP": ("RGB",),
        "TIFF": ("RGB", "L", "1", "YCbCr"),
    }
    mode = rng.choice(modes.get(kind, ("RGB",)))
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (32, 40, 3), np.uint8)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels)
    image = image if mode == "I;16" else image.convert(mode)
    options = {"progressive": rng.random() < 0.5} if kind == "JPEG" else {}
    if kind == "TIFF":
        kinds = ("group3", "group4") if mode == "1" else (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        options = {"compression": rng.choice(kinds)}
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def damage_bytes(data: bytes, rng: random.Random, head: int = 200) -> bytes:
    """Flipped bytes (mostly near the start, where headers are), cuts, runs of zeros, repetitions, tails."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not data:
            break
        place = rng.randrange(min(len(data), head) if rng.random() < 0.6 else len(data))
        kind = rng.random()
        if kind < 0.5:
            data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind < 0.65:
            del data[place:]
        elif kind < 0.75:
            data[place : place + rng.randrange(1, 64)] = b"\x00" * rng.randrange(1, 64)
        elif kind < 0.85:
            data[place : place + 4] = b"\xff\xff\xff\xff"
        else:
            data += data[place : place + 500] + b"tail"
    return bytes(data)


def sound_weights(kind: str) -> bytes:
    """A few arrays of a ResNet-18, as .npz or .safetensors."""
    rng = np.random.default_rng(0)
    shapes = {
        "conv1.weight": (8, 3, 7, 7),
        "bn1.weight": (8,),
        "layer1.0.bn1.weight": (8,),
        "layer1.0.conv1.weight": (8, 8, 3, 3),
    }
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    if kind == "safetensors":
        return save(arrays)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
