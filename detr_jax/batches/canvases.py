"""Which of the few canvases each image goes on.

On one square canvas of 1344x1344, 70 % of the pixels would be padding; on the eight of ``config.COCO_BUCKETS`` about
20 % are. The training step is compiled once for each, so there are few.
"""

import numpy as np
from jaxtyping import Int

from detr_jax.errors import UserError
from detr_jax.structures import Bucket


def fit_buckets(
    sizes: Int[np.ndarray, "g m 2"], counts: Int[np.ndarray, "g m"], buckets: tuple[Bucket, ...]
) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, "g m 2"]]:
    """For g groups of m images: the bucket that each group goes to, and the sizes of its images there.

    The bucket is the smallest that holds every image of the group, in pixels and in targets; then no size changes. If
    there is none, it is the bucket that scales the images down the least, among those with room for their targets.

    Args:
      sizes: (height, width) of the images.
      counts: how many targets each image has.

    Returns:
      Indices into ``buckets``, and the sizes.

    Raises ValueError when an image has more targets than any bucket holds.
    """
    by_area = np.array(sorted(range(len(buckets)), key=lambda k: buckets[k].area))
    shapes = np.array(buckets)[by_area]  # [K 3]
    scales = np.minimum(shapes[:, :2] / sizes[..., None, :], 1.0).min(axis=-1)  # [g m K], 1 where the image fits
    has_room = counts.max(axis=1)[:, None] <= shapes[:, 2]  # [g K]
    if not has_room.any(axis=1).all():
        raise ValueError("an image has more targets than any bucket holds; call make_room first")
    best = np.where(has_room, scales.mean(axis=1), 0.0).argmax(axis=1)  # of equals the first, which is the smallest
    scale = np.take_along_axis(scales, best[:, None, None], axis=2)  # [g m 1]
    # 1200 * (800 / 1200) is 799.9999 in floating point; the small number keeps floor from making it 799.
    scaled = np.maximum(np.floor(sizes * scale + 1e-6), 1)
    return by_area[best], scaled.astype(sizes.dtype)


def make_room(
    buckets: tuple[Bucket, ...], counts: Int[np.ndarray, " M"], image_ids: Int[np.ndarray, " M"], queries: int
) -> tuple[Bucket, ...]:
    """The buckets with target slots for every image, and no more slots than the model has queries.

    Only the buckets with the most slots get more.

    Args:
      counts: how many targets each image has.

    Raises UserError when an image has more targets than there are queries: the model could not find them all.
    """
    needed, roomiest = int(counts.max(initial=0)), max(bucket.targets for bucket in buckets)
    if needed > queries:
        raise UserError(
            f"image {image_ids[np.argmax(counts)]} has {needed} objects but the model only {queries} queries, "
            f"so some could never be found; set model.num_queries={needed} or more"
        )
    return tuple(
        bucket._replace(targets=min(queries, max(needed, roomiest) if bucket.targets == roomiest else bucket.targets))
        for bucket in buckets
    )
