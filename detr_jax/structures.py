"""The records that travel through the program, and the one legend of axis letters.

Axes, the same letters in every annotation, comment and einsum:

    B  images in a batch            D  width of the transformer
    H W  pixels of the padded image A  attention heads
    h w  feature cells              F  width of the feed-forward layers
    S = h*w  encoder tokens         L  decoder layers
    N  object queries               T  target slots (padded)
    M  queries that get masks
    K  classes
    C  logits: K+1 with a softmax (the last one is "no object"), K with sigmoids
    3  RGB;  4  a box: (cx, cy, w, h) in [0, 1] of the real image, unless the name says
       ``_xyxy`` (corners) or ``_pixels`` (pixels of the original image)

Layout is NHWC for activations and HWIO for kernels. A mask is named for what True means (``valid``).
All records are NamedTuples: JAX walks them as pytrees without registration.
"""

import functools
from typing import NamedTuple, SupportsInt

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Array = jax.Array | np.ndarray


@functools.cache  # asked for with every image
def _label_of_id(ids: tuple[int, ...]) -> dict[int, int]:
    return {category_id: label for label, category_id in enumerate(ids)}


class Categories(NamedTuple):
    """The classes of a dataset. Contiguous labels 0..K-1 inside, the dataset's own ids and names outside."""

    ids: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def label_of_id(self) -> dict[int, int]:
        """Contiguous label of every original category id."""
        return _label_of_id(self.ids)


class Targets(NamedTuple):
    """What is really in the images; slots past an image's last object are not ``valid`` and hold zeros."""

    boxes: Float[Array, "B T 4"]
    labels: Int[Array, "B T"]
    valid: Bool[Array, "B T"]


class View(NamedTuple):
    """How an image is looked at: flip, resize, crop, resize to ``size``; for one image, or many along a leading axis.

    A step left out is a step that changes nothing: ``resize`` to the image's own size, ``crop`` of all of it.
    """

    flip: Int[Array, "*n"]  # 1: mirrored left and right, 2: upside down, 3: both
    resize: Int[Array, "*n 2"]  # (height, width)
    crop: Int[Array, "*n 4"]  # (top, left, height, width), in pixels of the resized image
    size: Int[Array, "*n 2"]  # (height, width) of the result

    def take(self, rows: np.ndarray | slice | int) -> "View":
        """The views of these images (whatever selects from an array), or the view of one."""
        return View(*(field[rows] for field in self))


class Batch(NamedTuple):
    """One step's input. The real image fills the top left corner of its canvas, the rest is zero.

    With ``views`` the canvas holds the image as it was read, and the step looks at it (``preprocess.seen``) first.
    """

    images: UInt8[Array, "B H W 3"]
    sizes: Int[Array, "B 2"]  # (height, width) of the real image inside the canvas; (0, 0) marks an empty row
    targets: Targets
    image_ids: Int[Array, " B"]  # ids of the dataset; -1 in an empty row
    views: View | None = None


class Predictions(NamedTuple):
    """What the model says of every query, after every decoder layer (the last layer is ``[-1]``)."""

    logits: Float[Array, "L B N C"]
    boxes: Float[Array, "L B N 4"]


class Noised(NamedTuple):
    """Objects of the images with noise on their boxes and labels, in G groups: what denoising queries start from."""

    boxes: Float[Array, "B G T 4"]
    labels: Int[Array, "B G T"]
    valid: Bool[Array, "B T"]  # of the targets, the same in every group


class Outputs(NamedTuple):
    """Everything that the model says; the first two are the ``Predictions`` of the object queries."""

    logits: Float[Array, "L B N C"]
    boxes: Float[Array, "L B N 4"]
    proposals: Predictions | None = None  # of the selected tokens of the encoder: [1 B N ...]
    denoised: Predictions | None = None  # of the noised objects, group after group: [L B G*T ...]


class Detections(NamedTuple):
    """What was found in one image: original pixels, best first, the dataset's own ids and names."""

    boxes_xyxy: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]  # contiguous
    categories: Categories

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.categories.names[label] for label in self.labels]

    def above(self, threshold: float) -> "Detections":
        """Only the detections that score at least ``threshold``."""
        keep = self.scores >= threshold
        return Detections(self.boxes_xyxy[keep], self.scores[keep], self.labels[keep], self.categories)

    def best(self, count: int) -> "Detections":
        """Only the first ``count`` detections."""
        return Detections(self.boxes_xyxy[:count], self.scores[:count], self.labels[:count], self.categories)

    def to_coco(self, image_id: SupportsInt) -> list[dict]:
        """Rows of the COCO results format (xywh in pixels, original category ids)."""
        return [
            {
                "image_id": int(image_id),
                "category_id": int(self.categories.ids[label]),
                "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                "score": float(score),
            }
            for (x0, y0, x1, y1), score, label in zip(
                np.asarray(self.boxes_xyxy, float), self.scores, self.labels, strict=True
            )
        ]
