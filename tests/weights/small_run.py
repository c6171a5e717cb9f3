"""Checkpoints of a run of almost nothing: what the tests of checkpoints and of their damage share."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

from detr_jax.config import Config, DataConfig
from detr_jax.config_forms import to_dict
from detr_jax.structures import Categories
from detr_jax.weights.checkpoints import Checkpoints, Stored

CONFIG = Config(seed=1, data=DataConfig(scales=(96,), threads=1))
CATEGORIES = Categories((1, 7), ("a", "b"))


def make_stored(seed: int, averaged: bool = False) -> Stored:
    rng = np.random.default_rng(seed)
    arrays = {
        "backbone/layer1/0/conv1/kernel": rng.normal(size=(3, 3, 4, 8)).astype(np.float32),
        "class_head/bias": np.array([np.nan, -0.0, np.inf, 1e-42], np.float32),  # bits, not numbers
        "class_head/kernel": rng.normal(size=(8, 4)).astype(np.float32),
    }
    model = {name: jnp.asarray(array) for name, array in arrays.items()}
    average = {"class_head/kernel": model["class_head/kernel"] * 0.5} if averaged else {}
    progress = {"step": jnp.int32(seed), "optimizer": optax.adam(1e-3).init(model), "skipped": jnp.int32(3)}
    return Stored(model, average, progress, {"config": to_dict(CONFIG), "categories": CATEGORIES.to_rows()})


def write(
    folder: Path,
    steps: dict[int, float | None],
    keep: int = 10,
    averaged: bool = False,
    log: dict[int, float] | None = None,
) -> None:
    """Saves these steps with the AP of each; ``log`` holds that of earlier starts. Even steps have to be evaluated."""
    with Checkpoints(folder, keep, log, evaluates=lambda step: step % 2 == 0) as saved:
        for step, score in steps.items():
            if score is not None:
                saved.record(step, score)
            saved.save(step, make_stored(step, averaged))
