"""The few canvas shapes that training compiles for, and which images go on which.

Padding every image to 1344x1344 would make 70 % of the pixels padding; eight shapes chosen for DETR's augmentation
leave about 20 %. Each shape is compiled once, so the list is short and lives in the configuration.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from detr_jax.errors import UserError


class Bucket(NamedTuple):
    """A canvas of ``height`` x ``width`` pixels whose images hold up to ``targets`` objects each."""

    height: int
    width: int
    targets: int

    @property
    def area(self) -> int:
        """Pixels of the canvas."""
        return self.height * self.width


# Fitted to 60,000 draws of the augmentation over COCO's sizes, around the two that hold every image (long side 1333).
# Two target counts, not one: matching costs time per slot, and 64 hold all but a few of COCO's images (the most is 93).
COCO = (
    Bucket(576, 768, 64),
    Bucket(672, 896, 64),
    Bucket(736, 992, 64),
    Bucket(800, 1120, 64),
    Bucket(800, 1344, 100),
    Bucket(864, 640, 64),
    Bucket(1024, 800, 64),
    Bucket(1344, 800, 100),
)

# Twelve, fitted alike: 16.5 % padding instead of 21 %, for four compilations more.
COCO_12 = (
    Bucket(512, 640, 64),
    Bucket(576, 768, 64),
    Bucket(640, 864, 64),
    Bucket(704, 960, 64),
    Bucket(768, 1024, 64),
    Bucket(800, 1120, 64),
    Bucket(800, 1344, 100),
    Bucket(640, 576, 64),
    Bucket(768, 640, 64),
    Bucket(864, 736, 64),
    Bucket(1024, 800, 64),
    Bucket(1344, 800, 100),
)


def of_rows(rows: Sequence[Sequence[int]]) -> tuple[Bucket, ...]:
    """The buckets of a configuration. Raises UserError unless each is three positive whole numbers."""
    for row in rows:
        if len(row) != 3 or not all(isinstance(number, int) and number > 0 for number in row):
            raise UserError(
                f"--config.data.buckets has the row {tuple(row)}; each is (height, width, target slots), all above 0"
            )
    if not rows:
        raise UserError("--config.data.buckets is empty; give at least one (height, width, target slots)")
    return tuple(Bucket(*row) for row in rows)


def fit(
    sizes: Int[np.ndarray, "g m 2"], counts: Int[np.ndarray, "g m"], buckets: tuple[Bucket, ...]
) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, "g m 2"]]:
    """For g groups of m images: the bucket each group goes to, and the sizes its images have there.

    That is the smallest bucket which holds every member, in pixels and in targets, and then no size changes. Where
    there is none, it is the bucket that scales its members down the least, among those with room for their targets.

    Args:
        sizes: (height, width) of the images; counts: how many targets each has, at most the most a bucket holds.

    Returns:
        Indices into ``buckets``, and the sizes.
    """
    by_area = np.array(sorted(range(len(buckets)), key=lambda k: buckets[k].area))
    shapes = np.array(buckets)[by_area]  # [K 3]
    scales = np.minimum(shapes[:, :2] / sizes[..., None, :], 1.0).min(axis=-1)  # [g m K], 1 where the image fits
    has_room = counts.max(axis=1)[:, None] <= shapes[:, 2]  # [g K]
    if not has_room.any(axis=1).all():
        raise ValueError("an image has more targets than any bucket holds: make room first (with_room)")
    best = np.where(has_room, scales.mean(axis=1), 0.0).argmax(axis=1)  # the first, so the smallest, of equals
    scale = np.take_along_axis(scales, best[:, None, None], axis=2)  # [g m 1]
    scaled = np.maximum(np.floor(sizes * scale + 1e-6), 1)  # the small number undoes 799.9999 from 1200 * (800 / 1200)
    return by_area[best], scaled.astype(sizes.dtype)


def with_room(
    buckets: tuple[Bucket, ...], counts: Int[np.ndarray, " M"], image_ids: Int[np.ndarray, " M"], queries: int
) -> tuple[Bucket, ...]:
    """The buckets, with target slots for the fullest image (of ``counts``) and no more slots than the model's queries.

    Only the roomiest buckets grow. Raises UserError when an image has more targets than there are queries: some could
    never be found.
    """
    fullest = int(np.argmax(counts))
    needed, roomiest = int(counts[fullest]), max(bucket.targets for bucket in buckets)
    if needed > queries:
        raise UserError(
            f"image {image_ids[fullest]} has {needed} objects but the model only {queries} queries, "
            f"so some could never be found; set --config.model.num_queries={needed} or more"
        )
    return tuple(
        bucket._replace(targets=min(queries, max(needed, roomiest) if bucket.targets == roomiest else bucket.targets))
        for bucket in buckets
    )
