"""What an accelerator computes beside what the CPU computes: predictions, losses, gradients, and a hundred steps."""

from functools import partial

import jax
import numpy as np

from detr_jax.inference import detector
from detr_jax.benchmarks import coco_like
from detr_jax.batches.canvases import Bucket
from detr_jax.structures import Batch
from detr_jax.training import losses, optimizer, step
from detr_jax.training.trainer import make_recipe


def _relative(found, wanted) -> float:
    """Norm of the difference over norm of what is wanted, all arrays together, in float64."""
    found, wanted = (
        np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
        for tree in (found, wanted)
    )
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _without_dropout(config: dict, dtype: str) -> dict:
    return config | {"dtype": dtype, "model": config["model"] | {"dropout": 0.0}}


def _one_step(config: dict, batch: Batch, arrays: dict, device: jax.Device, precision: str | None):
    """((logits, boxes), total loss, gradients by name) of the whole batch on a device."""
    network = detector.build_network(config, coco_like.CLASSES)
    recipe = make_recipe(config, 0, 1)
    arrays, batch = jax.device_put((arrays, batch), device)
    state = step.init_state(arrays, network, (), optimizer.adamw(optimizer.LearningRates(0, 0), lambda _: 1.0, 0), 0)
    with jax.default_matmul_precision(precision):
        outputs = jax.jit(lambda arrays, batch: network.apply(arrays, batch.images, batch.sizes)[:2])(arrays, batch)
        gradients, terms, *_ = jax.jit(partial(step.gradients, network=network, recipe=recipe))(state, batch)
    return outputs, float(losses.total(terms, recipe.loss_weights)), jax.device_get(gradients)


def measure(config: dict, canvas: tuple[int, int], batch_size: int, seed: int) -> list[dict]:
    """Relative differences to float32 on the CPU, random weights, no dropout.

    A row for each precision: float32 with full products, as the device does them by default (TF32 on recent GPUs), and
    bfloat16. Predictions of bfloat16 differ by about 1e-2; its gradients may differ by much more where a match changes.
    """
    rng = np.random.default_rng(seed)
    batch = coco_like.batch(Bucket(*canvas, 64), batch_size, coco_like.CLASSES, rng)
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    with jax.default_device(cpu):
        arrays = jax.jit(detector.build_network(config, coco_like.CLASSES).init)(jax.random.key(seed))
    arrays = jax.device_get(arrays)
    wanted = _one_step(_without_dropout(config, "float32"), batch, arrays, cpu, "highest")
    rows = []
    for dtype, precision in (("float32", "highest"), ("float32", None), ("bfloat16", None)):
        found = _one_step(_without_dropout(config, dtype), batch, arrays, device, precision)
        apart = dict(zip(("outputs", "loss", "gradients"), map(_relative, found, wanted), strict=True))
        finite = all(np.isfinite(gradient).all() for gradient in found[2].values())
        rows.append({"dtype": dtype, "products": precision or "default", **apart, "finite": finite})
    return rows


def curves(config: dict, canvas: tuple[int, int], batch_size: int, steps: int, seed: int) -> dict[str, float]:
    """Losses of so many steps on one batch, on the device and on the CPU: how far apart they are.

    Returns the first and last loss of each, and the largest relative difference over the first ten steps and over all.
    """
    config = _without_dropout(config, "float32")
    network, recipe = detector.build_network(config, coco_like.CLASSES), make_recipe(config, 0, 1)
    rates = optimizer.LearningRates(config["optim"]["lr"], config["optim"]["lr_backbone"])
    tx = optimizer.adamw(rates, optimizer.schedule("constant", steps, steps), config["optim"]["weight_decay"])
    batch = coco_like.batch(Bucket(*canvas, 64), batch_size, coco_like.CLASSES, np.random.default_rng(seed))
    train = jax.jit(partial(step.train_step, network=network, tx=tx, recipe=recipe))
    found = {}
    with jax.default_device(jax.devices("cpu")[0]):
        arrays = jax.device_get(jax.jit(network.init)(jax.random.key(seed)))
    for device in (jax.devices("cpu")[0], jax.devices()[0]):
        state = step.init_state(jax.device_put(arrays, device), network, (), tx, 0.0)
        inputs, curve = jax.device_put(batch, device), []
        for _ in range(steps):
            state, metrics = train(state, inputs)
            curve.append(metrics["loss"])
        found[device.platform] = np.array(jax.device_get(curve))
    here, there = found["cpu"], found[jax.devices()[0].platform]
    apart = np.abs(there - here) / here
    return {
        "first": float(there[0]),
        "last": float(there[-1]),
        "last_on_cpu": float(here[-1]),
        "apart_in_ten_steps": float(apart[:10].max()),
        "apart": float(apart.max()),
    }
