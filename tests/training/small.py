"""A small model, its recipe and a batch of noise: what the tests of the training step and of its state share."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from configs import detr as configs
from detr_jax import devices
from detr_jax.config import Config
from detr_jax.config_forms import from_config_dict
from detr_jax.structures import Batch, Categories, Pixels, Targets
from detr_jax.training.calendar import Calendar
from detr_jax.training.state import make_recipe
from detr_jax.training.step import Recipe, train_step

CLASSES, SLOTS = 3, 4
CATEGORIES = Categories((1, 2, 3), ("cat", "dog", "cow"))
SETTINGS = {
    "model.backbone_width": 8,
    "model.last_stage": "layer2",
    "model.norm": "frozen_batch",
    "model.num_queries": 6,
    "model.dropout": 0.0,
    "optim.lr": 1e-3,
    "optim.lr_backbone": 1e-4,
    "optim.weight_decay": 1e-2,
    "optim.schedule": "constant",
    "train.average_decay": 0.9,
    "seed": 0,
}
FAST = {  # every option of the fast detector
    "model.anchors": True,
    "model.queries": "selected",
    "model.focus": True,
    "model.finer_memory": True,
    "model.denoising": 2,
    "model.class_scores": "sigmoid",
}
# Half the time to compile; the numbers are the same but for rounding.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


def make_config(changes: Mapping[str, Any] | None = None) -> Config:
    """The settings of the small model with some changed: {"model.dropout": 0.3, ...}."""
    config = configs.get_config("debug")
    config.update_from_flattened_dict({**SETTINGS, **(changes or {})})
    return from_config_dict(config)


def make_small_recipe(changes: Mapping[str, Any] | None = None, mesh: jax.sharding.Mesh | None = None) -> Recipe:
    """The recipe of the small model on a mesh; without one, on the first device."""
    calendar = Calendar(steps_per_epoch=50, total_steps=100, log_every=1, evaluate_every=100, save_every=100)
    one = devices.make_mesh(devices=jax.devices()[:1])
    return make_recipe(make_config(changes), CATEGORIES, calendar, mesh or one)._replace(mesh=mesh)


def compile_step(recipe: Recipe):
    """The jitted step (state, batch) -> (state, metrics); nothing is donated."""
    return jit(functools.partial(train_step, recipe=recipe))


def make_batch(counts=(1, 0, 4, 2), seed: int = 0) -> Batch:
    """Images of noise on canvases of 32 pixels, with so many objects each."""
    rng = np.random.default_rng(seed)
    images = len(counts)
    valid = np.arange(SLOTS)[None] < np.array(counts)[:, None]
    targets = Targets(
        np.where(valid[..., None], rng.uniform(0.2, 0.5, (images, SLOTS, 4)), 0).astype(np.float32),
        np.where(valid, rng.integers(0, CLASSES, valid.shape), 0).astype(np.int32),
        valid,
    )
    sizes = rng.integers(20, 33, (images, 2)).astype(np.int32)
    pixels = rng.integers(0, 256, (images, 32, 32, 3)).astype(np.uint8)
    return Batch(Pixels(pixels, sizes), targets, np.arange(images, dtype=np.int32))


def assert_close(one: dict, other: dict, relative: float) -> None:
    """Every array, to ``relative`` of its largest value (a sum in another order has no fixed error per element)."""
    assert one.keys() == other.keys()
    for name in one:
        scale = max(float(np.abs(other[name]).max()), 1e-2)
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=relative * scale, err_msg=name)


def assert_equal(one, other) -> None:
    """Bit for bit, also where both are NaN."""
    jax.tree.map(np.testing.assert_array_equal, one, other)
