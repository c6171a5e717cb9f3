"""The matcher: its costs written out, and what it does over a mesh; tests/ops holds the solvers."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

from detr_jax.ops import assignment_kernel
from detr_jax.structures import Predictions, Targets
from detr_jax.training import matcher


def predictions_and_targets(layers=3, images=4, queries=12, slots=6, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    predictions = Predictions(
        jnp.asarray(rng.normal(size=(layers, images, queries, classes + 1)), jnp.float32),
        jnp.asarray(rng.uniform(0.1, 0.9, (layers, images, queries, 4)), jnp.float32),
    )
    counts = np.array([0, slots, 3, 1])[:images]
    valid = np.arange(slots)[None] < counts[:, None]
    targets = Targets(
        jnp.asarray(np.where(valid[..., None], rng.uniform(0.2, 0.6, (images, slots, 4)), 0), jnp.float32),
        jnp.asarray(np.where(valid, rng.integers(0, classes, (images, slots)), 0), jnp.int32),
        jnp.asarray(valid),
    )
    return predictions, targets


def test_cost_equals_the_formula_written_out():
    predictions, targets = predictions_and_targets()
    cost = np.asarray(matcher.matching_cost(predictions, targets))
    logits, boxes = np.asarray(predictions.logits, np.float64), np.asarray(predictions.boxes, np.float64)
    for layer, image, slot, query in [(0, 1, 5, 3), (2, 2, 0, 11), (1, 3, 0, 0)]:
        p = np.exp(logits[layer, image, query]) / np.exp(logits[layer, image, query]).sum()
        a, b = boxes[layer, image, query], np.asarray(targets.boxes[image, slot], np.float64)
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = [
            (c[0] - c[2] / 2, c[1] - c[3] / 2, c[0] + c[2] / 2, c[1] + c[3] / 2) for c in (a, b)
        ]
        inter = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
        union = a[2] * a[3] + b[2] * b[3] - inter
        hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
        giou = inter / union - (hull - union) / hull
        wanted = 5 * np.abs(a - b).sum() - p[int(targets.labels[image, slot])] - 2 * giou
        np.testing.assert_allclose(cost[layer, image, slot, query], wanted, atol=1e-5)


def test_sharded_equals_unsharded_without_collectives():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    predictions, targets = predictions_and_targets()
    whole = matcher.match(predictions, targets)
    sharded = jax.jit(lambda p, t: matcher.match(p, t, mesh=mesh))
    batch = jax.NamedSharding(mesh, jax.P("data"))
    layers_batch = jax.NamedSharding(mesh, jax.P(None, "data"))
    inputs = jax.device_put(predictions, layers_batch), jax.device_put(targets, batch)
    np.testing.assert_array_equal(sharded(*inputs).query_of_target, whole.query_of_target)
    compiled = sharded.lower(*inputs).compile().as_text()
    assert not any(word in compiled for word in ("all-reduce", "all-gather", "collective-permute"))


def test_no_gradient_flows_through():
    predictions, targets = predictions_and_targets()
    gradient = jax.grad(
        lambda boxes: jnp.sum(matcher.match(predictions._replace(boxes=boxes), targets).query_of_target * 1.0)
    )(predictions.boxes)
    assert not np.any(gradient)


def test_sharded_kernel_lowers_for_a_gpu():  # what interprets kernels here does not know of shards
    gpu = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    mesh = AbstractMesh((2,), ("data",), (AxisType.Auto,), abstract_device=gpu)
    sharded = jax.jit(lambda p, t: matcher.match(p, t, mesh=mesh, solver=assignment_kernel.solve))
    shapes = jax.eval_shape(predictions_and_targets)
    with use_abstract_mesh(mesh):
        lowered = sharded.trace(*shapes).lower(lowering_platforms=("cuda",))
    assert "xla.gpu.triton" in lowered.as_text()
