"""What an accelerator computes beside what the CPU computes: predictions, losses, gradients, and a hundred steps."""

import dataclasses
from functools import partial

import jax
import numpy as np

from detr_jax.benchmarks import coco_like
from detr_jax.config import Config
from detr_jax.datasets.coco import COCO_CATEGORIES
from detr_jax.models import detr
from detr_jax.models.network import Arrays
from detr_jax.structures import Batch, Bucket
from detr_jax.training import losses, optimizer
from detr_jax.training.state import init_state
from detr_jax.training.step import Recipe, compute_gradients, train_step


def relative_difference(found, wanted) -> float:
    """Norm of the difference over the norm of ``wanted``, over all arrays of the trees together, in float64."""
    found, wanted = (
        np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
        for tree in (found, wanted)
    )
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def make_recipe_without_dropout(config: Config, dtype: str) -> Recipe:
    """The recipe for a single device, at a constant learning rate."""
    model = dataclasses.replace(config.model, dropout=0.0)
    optim = dataclasses.replace(config.optim, schedule="constant", warmup_steps=0)
    config = dataclasses.replace(config, dtype=dtype, model=model, optim=optim)
    network = detr.network(model, coco_like.CLASSES, dtype=dtype, remat=config.train.remat)
    return Recipe(config, network, optimizer.make_hyperparameters(optim, seed=config.seed), COCO_CATEGORIES)


def make_start(config: Config, canvas: tuple[int, int], batch_size: int, seed: int) -> tuple[Arrays, Batch]:
    """Random weights, drawn on the CPU, and a made-up batch; both are numpy arrays."""
    batch = coco_like.make_batch(Bucket(*canvas, 64), batch_size, coco_like.CLASSES, np.random.default_rng(seed))
    network = make_recipe_without_dropout(config, "float32").network
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.device_get(jax.jit(network.init)(jax.random.key(seed))), batch


def compute_on(device: jax.Device, recipe: Recipe, arrays: Arrays, batch: Batch, precision: str | None):
    """((logits, boxes), total loss, gradients by name) of the whole batch."""
    arrays, batch = jax.device_put((arrays, batch), device)
    state = init_state(arrays, recipe)
    with jax.default_matmul_precision(precision):
        outputs = jax.jit(lambda arrays, batch: recipe.network.apply(arrays, batch.inputs)[:2])(arrays, batch)
        gradients, sums = jax.jit(partial(compute_gradients, recipe=recipe))(state, batch)
    total = losses.total_loss(sums.terms.values(), recipe.config.loss)
    return outputs, float(total), jax.device_get(gradients)


def measure(config: Config, canvas: tuple[int, int], batch_size: int, seed: int) -> list[dict]:
    """Relative differences to float32 on the CPU, with random weights and no dropout.

    A row for each precision: float32 with full products, as the device does them by default (TF32 on recent GPUs), and
    bfloat16. Predictions of bfloat16 differ by about 1e-2; its gradients may differ by much more where a match changes.
    """
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    arrays, batch = make_start(config, canvas, batch_size, seed)
    recipes = {dtype: make_recipe_without_dropout(config, dtype) for dtype in ("float32", "bfloat16")}
    wanted = compute_on(cpu, recipes["float32"], arrays, batch, "highest")
    rows = []
    for dtype, precision in (("float32", "highest"), ("float32", None), ("bfloat16", None)):
        found = compute_on(device, recipes[dtype], arrays, batch, precision)
        differences = map(relative_difference, found, wanted)
        finite = all(np.isfinite(gradient).all() for gradient in found[2].values())
        row = {"dtype": dtype, "products": precision or "default"}
        row |= dict(zip(("outputs", "loss", "gradients"), differences, strict=True))
        rows.append(row | {"finite": finite})
    return rows


def measure_curves(config: Config, canvas: tuple[int, int], batch_size: int, steps: int, seed: int) -> dict[str, float]:
    """How far the losses of so many steps on one batch are apart, between the device and the CPU.

    Returns the first and the last loss, and the largest relative difference over the first ten steps and over all.
    """
    arrays, batch = make_start(config, canvas, batch_size, seed)
    recipe = make_recipe_without_dropout(config, "float32")
    train = jax.jit(partial(train_step, recipe=recipe))
    curves = {}
    for device in (jax.devices("cpu")[0], jax.devices()[0]):
        state = init_state(jax.device_put(arrays, device), recipe)
        inputs, curve = jax.device_put(batch, device), []
        for _ in range(steps):
            state, metrics = train(state, inputs)
            curve.append(metrics["loss"])
        curves[device.platform] = np.array(jax.device_get(curve))
    on_cpu, on_device = curves["cpu"], curves[jax.devices()[0].platform]
    apart = np.abs(on_device - on_cpu) / on_cpu
    return {
        "first": float(on_device[0]),
        "last": float(on_device[-1]),
        "last_on_cpu": float(on_cpu[-1]),
        "apart_in_ten_steps": float(apart[:10].max()),
        "apart": float(apart.max()),
    }
