"""Images go on the smallest canvas that holds them, with room for their targets."""

import numpy as np
import pytest

from detr_jax.batches.canvases import fit_buckets, make_room
from detr_jax.config import COCO_BUCKETS
from detr_jax.errors import UserError
from detr_jax.structures import Bucket


def test_the_smallest_canvas_is_chosen():
    rng = np.random.default_rng(0)
    sizes, counts = rng.integers(300, 1345, (500, 2)), rng.integers(0, 100, 500)
    chosen, scaled = fit_buckets(sizes[:, None], counts[:, None], COCO_BUCKETS)
    for row, ((height, width), count) in enumerate(zip(sizes, counts, strict=True)):
        holding = [b for b in COCO_BUCKETS if b.height >= height and b.width >= width and b.targets >= count]
        if holding:
            assert COCO_BUCKETS[chosen[row]] == min(holding, key=lambda b: b.area)
            assert scaled[row, 0].tolist() == [height, width]
        else:
            roomy = [b for b in COCO_BUCKETS if b.targets >= count]
            scale = max(min(b.height / height, b.width / width) for b in roomy)
            assert abs(scaled[row, 0] - np.array([height, width]) * scale).max() <= 1
            assert (scaled[row, 0] <= COCO_BUCKETS[chosen[row]][:2]).all()


def test_mixed_orientations_share_a_canvas():
    chosen, scaled = fit_buckets(np.array([[[800, 1333], [1333, 800]]]), np.zeros((1, 2), int), COCO_BUCKETS)
    assert COCO_BUCKETS[chosen[0]] == (800, 1344, 100)
    assert scaled.tolist() == [[[800, 1333], [800, 480]]]
    chosen, scaled = fit_buckets(np.array([[[480, 640], [640, 480]]]), np.zeros((1, 2), int), COCO_BUCKETS)
    assert COCO_BUCKETS[chosen[0]] == (864, 640, 64) and scaled.tolist() == [[[480, 640], [640, 480]]]


def test_room_for_crowded_images():
    ids, counts = np.array([7, 8, 9]), np.array([3, 150, 20])
    buckets = (Bucket(64, 64, 32), Bucket(64, 96, 100), Bucket(96, 64, 100))
    assert [b.targets for b in make_room(buckets, counts, ids, 200)] == [32, 150, 150]
    assert [b.targets for b in make_room(buckets, counts[:1], ids[:1], 20)] == [20, 20, 20]
    with pytest.raises(UserError, match="image 8 has 150 objects .* 100 queries.*model.num_queries=150"):
        make_room(buckets, counts, ids, 100)
    with pytest.raises(ValueError, match="more targets"):
        fit_buckets(np.array([[[64, 64]]]), np.array([[101]]), buckets)
