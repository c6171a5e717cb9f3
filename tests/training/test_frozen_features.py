"""Training from kept features: the same predictions as from pixels."""

import jax
import numpy as np

from detr_jax.batches.inputs import PixelReader
from detr_jax.batches.pipeline import load_batch
from detr_jax.batches.plan import TrainPlan
from detr_jax.config import DataConfig
from detr_jax.structures import Bucket, Features
from detr_jax.training.frozen_features import make_feature_reader
from detr_jax.training.state import init_state
from tests.batches.stored import make_images
from tests.training.small import jit, make_small_recipe

DATA = DataConfig(scales=(64,), max_size=144, crop=0.0, buckets=(Bucket(96, 144, 9), Bucket(144, 96, 9)))


def test_predictions_from_kept_features_equal_those_from_pixels():
    changes = {"model.last_stage": "layer3", "train.cache_features": "layer2"}
    recipe = make_small_recipe({**changes, "freeze": ("backbone/layer2",)})
    rng = np.random.default_rng(0)
    arrays = {
        name: array + rng.normal(0, 0.02, array.shape).astype(np.float32)
        for name, array in recipe.network.init(jax.random.key(0)).items()
    }
    state, images = init_state(arrays, recipe), make_images()
    reader = make_feature_reader(recipe, state, DATA.buckets[0])
    plan = TrainPlan(images, DATA, batch_size=4, seed=0)
    for step in range(4):
        kept, seen = load_batch(images, plan[step], reader), load_batch(images, plan[step], PixelReader())
        assert isinstance(kept.inputs, Features) and kept.inputs.stage == 2
        np.testing.assert_array_equal(kept.inputs.sizes, seen.inputs.sizes)
        np.testing.assert_array_equal(kept.targets.boxes, seen.targets.boxes)
        wanted, found = (jit(recipe.network.apply)(arrays, batch.inputs) for batch in (seen, kept))
        # Rounded to float16: a part in two thousand of every feature.
        assert np.abs(found.logits - wanted.logits).max() < 0.02 * np.abs(wanted.logits).max()
        np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.01)
