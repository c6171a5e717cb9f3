"""Boxes with their names drawn on an image, and pictures side by side on one sheet."""

import colorsys
import os

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, PngImagePlugin

from detr_jax import files, names

READABLE = 320  # an image with a shorter long side is enlarged first: a name does not fit into 96 pixels
GAP = 4  # pixels between the cells of a grid

Picture = UInt8[np.ndarray, "_ _ 3"]  # of any height and width, which may differ within one call


def color(label: int) -> tuple[int, int, int]:
    """The RGB colour of a class, the same in every picture. Neighbours are a golden section of the hue circle apart."""
    hue = (0.58 + label * 0.618034) % 1.0
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.9, 0.75))[(label // 8) % 3]
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))


def draw_boxes(
    image: Picture, boxes_xyxy: Float[np.ndarray, "n 4"], texts: list[str], colors: list[int] | list[tuple]
) -> Picture:
    """A copy of ``image`` with a frame and a text for each box, the first box on top.

    Args:
      image: below 320 pixels it comes back enlarged by a whole number, so that texts can be read.
      boxes_xyxy: corners in pixels of ``image``; cut at its edge where they leave it, skipped when not finite.
      texts: what to write at each box, for instance ``"cat 0.98"``, made ``legible``; ``""`` writes nothing. Lines and
        letters grow with the picture, and a text that is wider than the picture is shortened before its last word.
      colors: of each box, a number that decides its colour, normally its class label; or RGB, 0 to 255.
    """
    enlarged = max(1, -(-READABLE // max(image.shape[:2])))
    canvas = Image.fromarray(image)
    canvas = canvas.resize((canvas.width * enlarged, canvas.height * enlarged), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    side = (canvas.width * canvas.height) ** 0.5
    line = max(2, round(side / 280))
    font_size = max(12, round(side / 45))

    limit = np.array([canvas.width, canvas.height] * 2)
    drawable = [
        (
            np.clip(np.round(box * enlarged), 0, limit).astype(int).tolist(),
            names.legible(text),
            one if isinstance(one, tuple) else color(one),
        )
        for box, text, one in zip(boxes_xyxy, texts, colors, strict=True)
        if np.isfinite(box).all()
    ]
    for (x0, y0, x1, y1), _, rgb in reversed(drawable):
        draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1 - 1), max(y0, y1 - 1)), outline=rgb, width=line)
    room = max(canvas.width - 2 * line - 1, 0), canvas.height
    fitted = [names.fit_text(text, font_size, *room) for _, text, _ in drawable]
    places: list[tuple[int, int, int, int]] = []
    for (box, _, _), (text, font) in zip(drawable, fitted, strict=True):
        places.append(_place(box, _patch_size(font, text, line), canvas.size, places))
    for (_, _, rgb), (text, font), (x0, y0, x1, y1) in reversed(list(zip(drawable, fitted, places, strict=True))):
        if text:
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=rgb)
            luminance = np.dot(rgb, (0.299, 0.587, 0.114))
            draw.text((x0 + line, y0), text, fill="black" if luminance > 128 else "white", font=font)
    return np.array(canvas)


def _patch_size(font, text, line) -> tuple[int, int]:
    """Width and height of the coloured patch behind a text; nothing for an empty text."""
    return (round(font.getlength(text)) + 2 * line, sum(font.getmetrics())) if text else (0, 0)


def _place(box, size, canvas_size, taken) -> tuple[int, int, int, int]:
    """Where a text goes: above its box, inside its top or bottom, or below; the first that covers no other."""
    (x0, y0, _, y1), (width, height) = box, size
    places = []
    for row in (y0 - height, y0, y1 - height, y1):
        x = max(0, min(x0, canvas_size[0] - width))
        y = max(0, min(row, canvas_size[1] - height))
        places.append((x, y, x + width, y + height))
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def grid(images: list[Picture], columns: int, cell: int = 320) -> Picture:
    """The pictures on one white sheet, row by row, each scaled into a square of ``cell`` pixels.

    Raises ValueError when there is none.
    """
    if not images:
        raise ValueError("a grid needs at least one picture")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (cell + GAP) - GAP, rows * (cell + GAP) - GAP), "white")
    for i, image in enumerate(images):
        picture = Image.fromarray(image)
        scale = cell / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        row, column = divmod(i, columns)
        sheet.paste(
            picture,
            (
                column * (cell + GAP) + (cell - picture.width) // 2,
                row * (cell + GAP) + (cell - picture.height) // 2,
            ),
        )
    return np.array(sheet)


def save(image: Picture, path: str | os.PathLike, software: str = "") -> None:
    """Writes a picture in the format of the suffix (.jpg, .png, ...), completely or not at all.

    ``software``: the program that made it; a PNG keeps its name.
    """
    text = PngImagePlugin.PngInfo()
    if software:
        text.add_text("Software", software)
    with files.replacing(path) as sibling:
        # Quality 92 without chroma subsampling: thin coloured lines and small texts stay sharp in a JPEG. A PNG of 12
        # million pixels takes 1.7 s at level 2, 8 s at Pillow's own level 6, which saves an eighth of the bytes.
        Image.fromarray(image).save(sibling, quality=92, subsampling=0, pnginfo=text, compress_level=2)
