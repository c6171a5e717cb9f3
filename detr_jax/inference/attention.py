"""Where a detector looks: the attention of its last layers for what it has found.

The decoder's is the attention of a detection's query into the image. The encoder's is the self-attention of the cell
under the centre of the detection's box: what the encoder takes to belong to it. Both are means over the heads.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from detr_jax.structures import AttentionWeights, Detections

WATCHED = 6  # detections of an image, the best ones


class Spread(NamedTuple):
    """How the attention of n detections is spread over the cells of one image; padding is cut off."""

    weights: Float[np.ndarray, "n h w"]  # each map sums to 1
    cells: tuple[float, float]  # (rows, columns) that the image takes up; of the last ones it may fill a part only

    def take(self, rows: np.ndarray | slice) -> "Spread":
        """Only the maps of these detections."""
        return self._replace(weights=self.weights[rows])

    def over_pixels(self, number: int, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        """One map, interpolated between the centres of the cells, for the image at this (height, width)."""
        (rows, columns), (height, width) = self.cells, size
        cells = Image.fromarray(np.ascontiguousarray(self.weights[number], np.float32))
        return np.asarray(cells.resize((width, height), Image.Resampling.BILINEAR, box=(0, 0, columns, rows)))


class Attended(NamedTuple):
    """Where the model looks for some detections of one image."""

    detections: Detections
    decoder: Spread
    encoder: Spread | None  # None: the model has no encoder layer

    def above(self, threshold: float | Float[np.ndarray, " K"]) -> "Attended":
        """Only that of detections that score at least ``threshold`` (see ``Detections.above``), or else of the best."""
        rows = np.flatnonzero(self.detections.reach(threshold))
        rows = rows if len(rows) else np.arange(1)
        encoder = None if self.encoder is None else self.encoder.take(rows)
        return Attended(self.detections.take(rows), self.decoder.take(rows), encoder)


def make_attention(
    detections: Detections, decoder: AttentionWeights, encoder: AttentionWeights | None, place: int
) -> Attended:
    """The attention for the best detections of the image at this place of a batch.

    Args:
      detections: of this image, best first.
      decoder, encoder: for the best ``WATCHED`` detections of every image, as ``DETR.with_attention`` gives them.
    """
    spreads = [None if weights is None else _spread(weights, place) for weights in (decoder, encoder)]
    return Attended(detections.best(len(spreads[0].weights)), *spreads)


def _spread(weights: AttentionWeights, place: int) -> Spread:
    rows, columns = np.asarray(weights.cells[place], float).round(3).tolist()  # a quotient: exact but for the last bits
    mean = np.asarray(weights.values[place], np.float32).mean(axis=0)
    return Spread(mean[:, : int(np.ceil(rows)), : int(np.ceil(columns))], (rows, columns))
