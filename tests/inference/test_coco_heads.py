"""What the rows of published class heads mean."""

import jax
import numpy as np
import pytest

from detr_jax.errors import UserError
from detr_jax.inference.coco_heads import known_classes
from detr_jax.inference.detector import rebuild_network
from detr_jax.structures import Categories
from detr_jax.weights import sources, torch_names
from detr_jax.weights.sources import Weights, load_weights
from tests.weights.small_models import PANOPTIC, assert_equal, random_arrays, small_model, write


@pytest.mark.parametrize("layout", PANOPTIC)
def test_mask_models_are_recognised_with_their_heads_and_classes(layout, tmp_path):
    arrays = random_arrays(small_model(masks=True, heads=8), 250)
    weights = load_weights(write(tmp_path / "anything.bin", torch_names.to_there(arrays, PANOPTIC[layout])))
    assert not weights.unused
    assert_equal(weights.arrays, arrays)
    _, model, categories = rebuild_network(weights)
    assert model.masks and model.heads == 8
    named = dict(zip(*categories, strict=True))
    assert [named[row] for row in (1, 90, 92, 200)] == ["person", "toothbrush", "banner", "rug-merged"]
    assert named[12] == "class 12" and len(named) == 250


@pytest.mark.parametrize("rows, row_of_dog", [(80, 16), (91, 18), (250, 18), (7, None)])
def test_published_heads_are_known_by_their_rows(rows, row_of_dog, tmp_path):
    """COCO's id of dog is 18, and it is the 17th of the 80 classes."""
    random = np.random.default_rng(0)
    head = {"class_head/kernel": random.normal(size=(4, rows + 1)), "class_head/bias": random.normal(size=rows + 1)}
    weights = Weights(path=tmp_path, title="a test", arrays=head)
    weights = weights._replace(categories=known_classes(weights))
    fresh = {"class_head/kernel": np.full((4, 3), 7.0), "class_head/bias": np.full(3, 7.0)}
    shapes = {name: jax.ShapeDtypeStruct(array.shape, np.float32) for name, array in fresh.items()}
    categories = Categories((1, 2), ("dog", "unicorn"))
    if row_of_dog is None:
        with pytest.raises(UserError, match="nothing in"):
            sources.fit_detector(weights, shapes, fresh, categories)
        return
    found, report = sources.fit_detector(weights, shapes, fresh, categories)
    theirs = head["class_head/bias"]
    np.testing.assert_array_equal(found["class_head/bias"], [theirs[row_of_dog], 7.0, theirs[-1]])
    assert report.partly == list(sources.HEAD)
