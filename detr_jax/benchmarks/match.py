"""Matching, timed: the solvers of the package beside SciPy's on the costs that training meets."""

import statistics
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from detr_jax.benchmarks import coco_like, timing
from detr_jax.structures import Predictions, Targets
from detr_jax.training import matcher

# (costs, target slots): the published canvases have 64 slots, 100 for crowded images.
CASES = (("initial", 64), ("initial", 100), ("trained", 64), ("trained", 100), ("crowded", 100))


def _random_boxes(rng: np.random.Generator, *shape: int):
    """Boxes inside the image; most are small."""
    sides = np.exp(rng.uniform(np.log(0.03), np.log(0.9), (*shape, 2)))
    return np.concatenate([rng.uniform(sides / 2, 1 - sides / 2), sides], axis=-1)


def problems(
    kind: str, images: int, layers: int, slots: int, queries: int, seed: int
) -> tuple[Float[np.ndarray, "P T N"], Int[np.ndarray, " P"]]:
    """Costs of ``layers * images`` problems and their numbers of targets.

    ``initial``: every query says nearly the same, as fresh weights do. ``trained``: one query finds each object, some
    others find it less well, the rest see nothing. ``crowded``: every slot is taken and the costs are uniform in
    [0, 1). Raises ValueError for another kind.
    """
    rng = np.random.default_rng(seed)
    if kind == "crowded":
        cost = rng.random((layers * images, slots, queries), np.float32)
        return cost, np.full(layers * images, min(slots, queries), np.int32)
    counts = np.minimum(coco_like.counts(images, rng), min(slots, queries))
    valid = np.arange(slots)[None] < counts[:, None]
    wanted = np.where(valid[..., None], _random_boxes(rng, images, slots), 0)
    labels = np.where(valid, rng.integers(0, coco_like.CLASSES, (images, slots)), 0)
    shape, outputs = (layers, images, queries), coco_like.CLASSES + 1
    if kind == "initial":
        center = rng.normal(size=(layers, images, 1, 4)) * 0.3
        predicted = 1 / (1 + np.exp(-center - 0.1 * rng.normal(size=(*shape, 4))))
        logits = rng.normal(size=(layers, images, 1, outputs)) + 0.1 * rng.normal(size=(*shape, outputs))
    elif kind == "trained":
        # In a random order, as many queries as there are objects see one each, and as many again see it less well.
        order = rng.permuted(np.broadcast_to(np.arange(queries), shape), axis=-1)
        seen = np.where(
            order < counts[:, None], order, np.where(order < 2 * counts[:, None], order - counts[:, None], -1)
        )
        image = np.arange(images)[None, :, None]
        noise = np.where(order < counts[:, None], 0.01, 0.05)[..., None]
        found = np.clip(wanted[image, seen] + noise * rng.normal(size=(*shape, 4)), 0.01, 1)
        predicted = np.where(seen[..., None] >= 0, found, _random_boxes(rng, *shape))
        says = np.where(seen >= 0, labels[image, seen], coco_like.CLASSES)
        logits = rng.normal(size=(*shape, outputs)) + 6 * (says[..., None] == np.arange(outputs))
    else:
        raise ValueError(f"unknown costs {kind!r}; choose from initial, trained, crowded")
    cost = jax.jit(matcher.matching_cost)(
        Predictions(jnp.asarray(logits, jnp.float32), jnp.asarray(predicted, jnp.float32)),
        Targets(jnp.asarray(wanted, jnp.float32), jnp.asarray(labels, jnp.int32), jnp.asarray(valid)),
    )
    return np.asarray(cost).reshape(-1, slots, queries), np.tile(counts, layers)


def _scipy(cost, counts) -> list[tuple]:
    """SciPy's matching of each problem: (rows, columns)."""
    return [linear_sum_assignment(block[:count]) for block, count in zip(cost, counts, strict=True)]


def _gap(cost, counts, columns, best) -> float:
    """The largest difference between the total costs of our matchings and SciPy's."""
    columns, cost = np.asarray(columns), cost.astype(np.float64)
    totals = [
        (cost[p, np.arange(count), columns[p, :count]].sum(), cost[p][best[p]].sum()) for p, count in enumerate(counts)
    ]
    return float(max(abs(ours - theirs) for ours, theirs in totals))


def measure(
    images: int = 16,
    layers: int = 6,
    queries: int = 100,
    seed: int = 0,
    repeats: int = 7,
    cases: tuple[tuple[str, int], ...] = CASES,
) -> list[dict]:
    """Times every solver that this machine can run on every case, in turns with SciPy on the host.

    Each repeat has problems of its own, since one crowded image decides about the turns of a whole batch; its time is
    the least of three calls, which leaves out other jobs. Times are medians over the repeats, in microseconds per image
    and layer; ``spread`` holds the least and the most. SciPy is given the valid rows alone, without the copy to the
    host and the callback that it would need within a step.
    """
    names = [name for name in matcher.SOLVERS if name != "pallas" or jax.default_backend() == "gpu"]
    solvers = {name: jax.jit(matcher.SOLVERS[name]) for name in names}
    scale = 1e6 / (images * layers)
    rows = []
    for kind, slots in cases:
        seconds = {name: [] for name in ("scipy", *solvers)}  # of each repeat
        turns, gaps = {name: [] for name in solvers}, {name: [] for name in solvers}
        for repeat in range(repeats):
            cost, counts = problems(kind, images, layers, slots, queries, seed + repeat)
            given = jax.device_put((cost, counts))
            best = _scipy(cost, counts)
            for name, solver in solvers.items():  # which also compiles
                columns, made, _ = solver(*given)
                turns[name].append(int(made))
                gaps[name].append(_gap(cost, counts, columns, best))
            calls = {"scipy": partial(_scipy, cost, counts)} | {name: partial(solvers[name], *given) for name in names}
            for name, taken in timing.in_turns(calls, rounds=3, warm_up=0).items():
                seconds[name].append(taken.least * scale)
        for name in names:
            rows.append(
                {
                    "costs": kind,
                    "slots": slots,
                    "solver": name,
                    "us_per_image_layer": statistics.median(seconds[name]),
                    "spread": (min(seconds[name]), max(seconds[name])),
                    "scipy_us": statistics.median(seconds["scipy"]),
                    "turns": int(statistics.median(turns[name])),
                    "gap": max(gaps[name]),
                }
            )
    return rows
