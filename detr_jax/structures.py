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
All records but ``Detections`` are NamedTuples, which JAX takes apart as pytrees.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, SupportsIndex, SupportsInt

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from detr_jax import drawing
from detr_jax.images.decoding import ImageLike, to_pixels

Array = jax.Array | np.ndarray


@functools.cache  # asked for with every image
def _label_of_id(ids: tuple[int, ...]) -> dict[int, int]:
    return {category_id: label for label, category_id in enumerate(ids)}


class Categories(NamedTuple):
    """The classes of a dataset. Contiguous labels 0..K-1 inside, the dataset's own ids and names outside."""

    ids: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping]) -> "Categories":
        """The classes of a table like COCO's, ``[{"id": 3, "name": "cat"}, ...]``, sorted by id."""
        rows = sorted(rows, key=lambda row: row["id"])
        return cls(tuple(row["id"] for row in rows), tuple(str(row.get("name", row["id"])) for row in rows))

    def to_rows(self) -> list[dict]:
        """The same table: the one form in which classes are written to files."""
        return [{"id": i, "name": name} for i, name in zip(self.ids, self.names, strict=True)]

    def ids_of_name(self, name: str) -> list[int]:
        """The ids of all classes of this name; usually one."""
        return [category_id for category_id, other in zip(self.ids, self.names, strict=True) if other == name]

    @property
    def label_of_id(self) -> dict[int, int]:
        """Contiguous label of every original category id."""
        return _label_of_id(self.ids)


class Bucket(NamedTuple):
    """A canvas of ``height`` x ``width`` pixels for images with up to ``targets`` objects each."""

    height: int
    width: int
    targets: int

    @property
    def area(self) -> int:
        """Pixels of the canvas."""
        return self.height * self.width


class Targets(NamedTuple):
    """The annotated objects of the images; slots past an image's last object are not ``valid`` and hold zeros."""

    boxes: Float[Array, "B T 4"]
    labels: Int[Array, "B T"]
    valid: Bool[Array, "B T"]


class View(NamedTuple):
    """How an image is looked at: flip, resize, crop, resize to ``size``. Of one image, or of many on a leading axis.

    A step that is not wanted changes nothing: ``resize`` to the image's own size, ``crop`` of all of it.
    """

    flip: Int[Array, "*n"]  # 1: mirrored left and right, 2: upside down, 3: both
    resize: Int[Array, "*n 2"]  # (height, width)
    crop: Int[Array, "*n 4"]  # (top, left, height, width), in pixels of the resized image
    size: Int[Array, "*n 2"]  # (height, width) of the result

    def take(self, rows: np.ndarray | slice | int) -> "View":
        """The views of these images (whatever selects from an array), or the view of one."""
        return View(*(field[rows] for field in self))


class Pixels(NamedTuple):
    """Images as their views show them: each fills the top left corner of its canvas, the rest is zero."""

    pixels: UInt8[Array, "B H W 3"]
    sizes: Int[Array, "B 2"]  # (height, width) of the image on its canvas; (0, 0) marks an empty row


class Photos(NamedTuple):
    """Images as they were read, with the views that the device still has to take (``ops/resample.py``)."""

    pixels: UInt8[Array, "B h w 3"]
    sizes: Int[Array, "B 2"]
    views: View
    canvas: tuple[int, int]  # (height, width) of the canvases that hold every view; static under jax.jit
    crop_max: int  # pixels: no side of a crop is longer, unless the crop is the whole image; static


class Features(NamedTuple):
    """What a frozen stage of the backbone makes of the images, computed beforehand."""

    features: Float[Array, "B h w C"]
    sizes: Int[Array, "B 2"]  # of the images in pixels, not of the features
    stage: int  # of the backbone: 1 for layer1, ...; static


Inputs = Pixels | Photos | Features  # what a batch holds of its images, and what the model takes


def _make_static(record: type, *names: str) -> None:
    """Makes these fields of a NamedTuple part of its structure: jax.jit compiles for their values."""
    arrays = [name for name in record._fields if name not in names]

    def flatten(values):
        keyed = [(jax.tree_util.GetAttrKey(name), getattr(values, name)) for name in arrays]
        return keyed, tuple(getattr(values, name) for name in names)

    jax.tree_util.register_pytree_with_keys(
        record, flatten, lambda static, leaves: record(**dict(zip((*arrays, *names), (*leaves, *static), strict=True)))
    )


_make_static(Photos, "canvas", "crop_max")
_make_static(Features, "stage")


class Batch(NamedTuple):
    """One step's input."""

    inputs: Inputs
    targets: Targets
    image_ids: Int[Array, " B"]  # ids of the dataset; -1 in an empty row


class Predictions(NamedTuple):
    """What the model says of every query after every decoder layer; the last layer is ``[-1]``."""

    logits: Float[Array, "L B N C"]
    boxes: Float[Array, "L B N 4"]
    proposals: "Predictions | None" = None  # of the tokens that the encoder selects: [1 B N ...]
    denoised: "Predictions | None" = None  # of noised objects, group after group: [L B G*T ...]


class AttentionWeights(NamedTuple):
    """How much M queries or cells attend to each cell of their image; in each head 1 in all, and 0 on padding."""

    values: Float[Array, "B A M h w"]
    cells: Float[Array, "B 2"]  # (rows, columns) that the image takes up; the last ones need not be whole


class Noised(NamedTuple):
    """Objects of the images with noise on their boxes and labels, in G groups: what denoising queries start from."""

    boxes: Float[Array, "B G T 4"]
    labels: Int[Array, "B G T"]
    valid: Bool[Array, "B T"]  # of the targets, the same in every group


class Detection(NamedTuple):
    """One object that was found."""

    box_xyxy: tuple[float, float, float, float]  # corners in pixels of the image
    score: float
    label: int  # contiguous
    name: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """What was found in one image: pixels of the image, best first, the dataset's own ids and names.

    ``len`` counts the detections, iterating yields a ``Detection`` for each, ``detections[0]`` is the best one.
    Not a pytree: JAX never sees it.
    """

    boxes_xyxy: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]  # contiguous
    categories: Categories

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: SupportsIndex) -> Detection:
        label = int(self.labels[index])
        box = tuple(float(side) for side in self.boxes_xyxy[index])
        return Detection(box, float(self.scores[index]), label, self.categories.names[label])

    def __iter__(self) -> Iterator[Detection]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        arrays = ("boxes_xyxy", "scores", "labels")
        same = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in arrays)
        return same and self.categories == other.categories

    __hash__ = None  # arrays can change

    def __repr__(self) -> str:
        if not len(self):
            return "0 detections"
        shown = [
            f"{one.name} {one.score:.2f} at ({', '.join(f'{x:.0f}' for x in one.box_xyxy)})" for one in self.best(5)
        ]
        more = [f"and {len(self) - len(shown)} more"] if len(self) > len(shown) else []
        return f"{len(self)} detection{'s' if len(self) > 1 else ''}: {', '.join([*shown, *more])}"

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.categories.names[label] for label in self.labels]

    def take(self, rows: np.ndarray | slice) -> "Detections":
        """Only these detections: indices, a mask or a slice."""
        return Detections(self.boxes_xyxy[rows], self.scores[rows], self.labels[rows], self.categories)

    def above(self, threshold: float | Float[np.ndarray, " K"]) -> "Detections":
        """Only the detections that score at least ``threshold``: one for all classes, or one for each label."""
        return self.take(self.reach(threshold))

    def reach(self, threshold: float | Float[np.ndarray, " K"]) -> Bool[np.ndarray, " n"]:
        """Which of the detections ``above`` keeps."""
        least = threshold[self.labels] if isinstance(threshold, np.ndarray) else threshold
        return self.scores >= least

    def best(self, count: int) -> "Detections":
        """Only the first ``count`` detections."""
        return self.take(slice(count))

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

    def draw(self, image: ImageLike) -> Image.Image:
        """The image with every box, its name and score: a Pillow image, which notebooks show and ``.save`` writes.

        Draw ``detections.above(0.5)`` to leave out the unlikely ones.

        Args:
          image: the same that was given to the detector: a path, the bytes of a file, a Pillow image or an array. One
            below 320 pixels comes back enlarged by a whole number, so that the names can be read.

        Raises UserError when the image cannot be read.
        """
        texts = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)]
        pixels = to_pixels(image)
        return Image.fromarray(drawing.draw_boxes(pixels, self.boxes_xyxy, texts, self.labels.tolist()))
