"""What the benchmark of the training step is made of; tests/test_benchmark.py runs it."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import detr, finetune
from detr_jax.batches.features import FeatureReader
from detr_jax.benchmarks import step
from detr_jax.config_forms import from_config_dict
from detr_jax.errors import UserError
from detr_jax.structures import Features


def test_canvases_are_counted_the_most_frequent_first():
    training = step.make_training(from_config_dict(detr.get_config("debug")))
    counts = step.count_canvases(training.plan, most=None)
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert sum(counts.values()) == step.PLANNED and set(counts) == set(training.plan.buckets)
    assert list(step.count_canvases(training.plan, most=1)) == list(counts)[:1]


def test_a_batch_must_be_divisible_by_the_devices():
    config = from_config_dict(detr.get_config("debug"))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=3))
    with pytest.raises(UserError, match="train.batch_size=3"):
        step.make_training(config)  # the tests have two devices


def test_where_features_are_cached_the_step_takes_features():
    config = from_config_dict(finetune.get_config("r18_c4"))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_queries=100))
    training = step.make_training(config)
    assert isinstance(training.reader, FeatureReader)
    batch = step.make_device_batch(training, training.plan.buckets[0], np.random.default_rng(0))
    assert isinstance(batch.inputs, Features) and batch.inputs.stage == 2
    network, bucket = training.recipe.network, training.plan.buckets[0]
    with_pixels, with_features = (
        step.sum_gigabytes(step.list_kept(network, config.freeze, 4, bucket, reader))
        for reader in (None, training.reader)
    )
    assert with_features == with_pixels  # frozen stages keep nothing, whether they are computed or cached


def test_size_in_memory():
    arrays = [jax.ShapeDtypeStruct((1000, 500), np.float32), jax.ShapeDtypeStruct((1000,), np.uint8)]
    assert step.sum_gigabytes(arrays) == pytest.approx(0.002001)
