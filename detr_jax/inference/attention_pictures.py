"""Pictures of attention like figures 3 and 6 of the paper: for each detection its box, and where the model looked."""

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from detr_jax import drawing, names
from detr_jax.images.decoding import RGB
from detr_jax.inference.attention import Attended, Spread

PANEL = 400  # pixels of a photo's longer side
NARROWEST = 300  # pixels: room for a caption above a narrow photo
MARGIN, FONT = 12, 14
# From nothing to the most, evenly spaced: ever brighter, so that it reads the same without colours.
COLORS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], float)
DIMMED = 0.8  # brightness of the grey photo below the colours
FAINTEST, STRONGEST = 0.15, 0.85  # share of the colour in a pixel where nothing is looked at, and where the most is
INK, PAPER, WHITE = (30, 30, 30), (246, 246, 246), (255, 255, 255)
DECODER, ENCODER = "decoder, from its query", "encoder, from the cell at +"


def draw_attention(photo: RGB, attention: Attended) -> RGB:
    """A sheet with a row for each detection: its box, the decoder's attention, and the encoder's if there is one.

    Every map is scaled to its brightest cell; the caption says which share of the attention that cell has.

    Args:
      photo: upright, the one that ``attention`` is of.
    """
    small = _scale(photo)
    boxes = attention.detections.boxes_xyxy * (small.shape[1] / photo.shape[1])
    rows = []
    for number, (box, one) in enumerate(zip(boxes, attention.detections, strict=True)):
        framed = drawing.draw_boxes(small, box[None], [""], [one.label])
        panels = [_caption(framed, f"{one.name} {one.score:.2f}")]
        panels.append(_panel(small, attention.decoder, number, box, DECODER))
        if attention.encoder is not None:
            panels.append(_panel(small, attention.encoder, number, box, ENCODER))
        rows.append(np.hstack(panels))
    return np.vstack([*rows, _legend(rows[0].shape[1])])


def _scale(photo: RGB) -> RGB:
    """The photo with a longer side of ``PANEL`` pixels."""
    height, width = photo.shape[:2]
    scale = PANEL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resampling = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    return np.array(Image.fromarray(photo).resize(size, resampling))


def _panel(small: RGB, spread: Spread, number: int, box: Float[np.ndarray, " 4"], title: str) -> RGB:
    """The photo below one map, with the box, and for the encoder its centre."""
    heat = spread.over_pixels(number, small.shape[:2])
    canvas = Image.fromarray(_paint(small, heat / max(heat.max(), 1e-12)))
    draw = ImageDraw.Draw(canvas)
    if np.isfinite(box).all():
        draw.rectangle([*np.minimum(box[:2], box[2:]).tolist(), *np.maximum(box[:2], box[2:]).tolist()], outline=WHITE)
        x, y = ((box[:2] + box[2:]) / 2).tolist()
        for width, color in ((5, INK), (2, WHITE)) if title == ENCODER else ():
            draw.line((x - 8, y, x + 8, y), color, width)
            draw.line((x, y - 8, x, y + 8), color, width)
    return _caption(np.array(canvas), f"{title}: up to {spread.weights[number].max():.1%} in a cell")


def _paint(photo: RGB, heat: Float[np.ndarray, "H W"]) -> RGB:
    """The photo in grey, with a colour over it for a heat from 0 to 1."""
    grey = DIMMED * (photo @ np.array([0.299, 0.587, 0.114]))[..., None]
    share = (FAINTEST + (STRONGEST - FAINTEST) * heat)[..., None]
    return ((1 - share) * grey + share * _colors(heat)).round().astype(np.uint8)


def _colors(heat: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n 3"]:
    stops = np.linspace(0, 1, len(COLORS))
    return np.stack([np.interp(heat, stops, channel) for channel in COLORS.T], axis=-1)


def _caption(panel: RGB, text: str) -> RGB:
    """The panel on paper, in the middle below its text."""
    height, width = panel.shape[:2]
    sheet = Image.new("RGB", (max(width, NARROWEST) + MARGIN, height + FONT + 2 * MARGIN), PAPER)
    text, font = names.fit_text(names.legible(text), FONT, sheet.width - MARGIN, 2 * FONT)
    draw = ImageDraw.Draw(sheet)
    draw.text((sheet.width / 2, MARGIN + FONT / 2), text, INK, font, anchor="mm")
    sheet.paste(Image.fromarray(panel), ((sheet.width - width) // 2, FONT + 2 * MARGIN))
    return np.array(sheet)


def _legend(width: int) -> RGB:
    """What the colours mean."""
    sheet = Image.new("RGB", (width, FONT + 3 * MARGIN), PAPER)
    bar = np.tile(_colors(np.linspace(0, 1, 160)), (FONT, 1, 1)).round().astype(np.uint8)
    middle, top = width // 2, int(1.5 * MARGIN)
    sheet.paste(Image.fromarray(bar), (middle - 80, top))
    draw = ImageDraw.Draw(sheet)
    for x, text, anchor in ((middle - 88, "no attention", "rm"), (middle + 88, "the most in this map", "lm")):
        draw.text((x, top + FONT / 2), text, INK, names.font_of(text, FONT), anchor=anchor)
    return np.array(sheet)
