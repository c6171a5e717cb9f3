"""Times the solvers of the matching beside SciPy's, on costs like those of a training."""

import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from detr_jax.benchmarks import coco_like, timing
from detr_jax.structures import Predictions, Targets
from detr_jax.training import matcher

# (costs, target slots): the published canvases have 64 slots; the two for crowded images have 100.
CASES = (("initial", 64), ("initial", 100), ("trained", 64), ("trained", 100), ("crowded", 100))


def _random_boxes(rng: np.random.Generator, *shape: int):
    """Boxes inside the image; most are small."""
    sides = np.exp(rng.uniform(np.log(0.03), np.log(0.9), (*shape, 2)))
    return np.concatenate([rng.uniform(sides / 2, 1 - sides / 2), sides], axis=-1)


def make_costs(
    kind: str, images: int, layers: int, slots: int, queries: int, seed: int
) -> tuple[Float[np.ndarray, "P T N"], Int[np.ndarray, " P"]]:
    """Cost matrices of P = ``layers * images`` matchings, and how many of their target slots are taken.

    ``initial``: all queries predict nearly the same, as with fresh weights. ``trained``: one query finds each object,
    another finds it less well, the rest see nothing. ``crowded``: every slot is taken, costs are uniform in [0, 1).

    Raises ValueError for another kind.
    """
    rng = np.random.default_rng(seed)
    if kind == "crowded":
        cost = rng.random((layers * images, slots, queries), np.float32)
        return cost, np.full(layers * images, min(slots, queries), np.int32)
    counts = np.minimum(coco_like.draw_counts(images, rng), min(slots, queries))
    valid = np.arange(slots)[None] < counts[:, None]
    wanted = np.where(valid[..., None], _random_boxes(rng, images, slots), 0)
    labels = np.where(valid, rng.integers(0, coco_like.CLASSES, (images, slots)), 0)
    shape, outputs = (layers, images, queries), coco_like.CLASSES + 1
    if kind == "initial":
        center = rng.normal(size=(layers, images, 1, 4)) * 0.3
        predicted = 1 / (1 + np.exp(-center - 0.1 * rng.normal(size=(*shape, 4))))
        logits = rng.normal(size=(layers, images, 1, outputs)) + 0.1 * rng.normal(size=(*shape, outputs))
    elif kind == "trained":
        # In random order: as many queries as there are objects see one each, as many again see it less well.
        order = rng.permuted(np.broadcast_to(np.arange(queries), shape), axis=-1)
        fainter = np.where(order < 2 * counts[:, None], order - counts[:, None], -1)
        object_of_query = np.where(order < counts[:, None], order, fainter)  # -1: none
        image = np.arange(images)[None, :, None]
        noise = np.where(order < counts[:, None], 0.01, 0.05)[..., None]
        found = np.clip(wanted[image, object_of_query] + noise * rng.normal(size=(*shape, 4)), 0.01, 1)
        predicted = np.where(object_of_query[..., None] >= 0, found, _random_boxes(rng, *shape))
        predicted_label = np.where(object_of_query >= 0, labels[image, object_of_query], coco_like.CLASSES)
        logits = rng.normal(size=(*shape, outputs)) + 6 * (predicted_label[..., None] == np.arange(outputs))
    else:
        raise ValueError(f"unknown costs {kind!r}; choose from initial, trained, crowded")
    cost = jax.jit(matcher.matching_cost)(
        Predictions(jnp.asarray(logits, jnp.float32), jnp.asarray(predicted, jnp.float32)),
        Targets(jnp.asarray(wanted, jnp.float32), jnp.asarray(labels, jnp.int32), jnp.asarray(valid)),
    )
    return np.asarray(cost).reshape(-1, slots, queries), np.tile(counts, layers)


def solve_with_scipy(cost, counts) -> list[tuple]:
    """SciPy's matching of each problem: (rows, columns)."""
    return [linear_sum_assignment(block[:count]) for block, count in zip(cost, counts, strict=True)]


def largest_gap(cost, counts, columns, best) -> float:
    """The largest difference between the total cost of a matching (``columns``) and of SciPy's (``best``)."""
    columns, cost = np.asarray(columns), cost.astype(np.float64)
    totals = [
        (cost[p, np.arange(count), columns[p, :count]].sum(), cost[p][best[p]].sum()) for p, count in enumerate(counts)
    ]
    return float(max(abs(ours - theirs) for ours, theirs in totals))


class Repeats(NamedTuple):
    """What the repeats of one case gave; SciPy has only times."""

    microseconds: dict[str, list[float]]  # of each way, an image and layer
    turns: dict[str, list[int]]
    gaps: dict[str, list[float]]


def time_solvers(solvers: dict[str, Callable], problems: Iterable[tuple[np.ndarray, np.ndarray]]) -> Repeats:
    """Solves each set of problems (costs, counts) with every solver and with SciPy, three times each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in ("scipy", *solvers)}
    turns: dict[str, list[int]] = {name: [] for name in solvers}
    gaps: dict[str, list[float]] = {name: [] for name in solvers}
    for cost, counts in problems:
        on_device = jax.device_put((cost, counts))
        best = solve_with_scipy(cost, counts)
        for name, solver in solvers.items():  # the first call also compiles
            columns, taken_turns, _ = solver(*on_device)
            turns[name].append(int(taken_turns))
            gaps[name].append(largest_gap(cost, counts, columns, best))
        calls = {"scipy": partial(solve_with_scipy, cost, counts)}
        calls |= {name: partial(solver, *on_device) for name, solver in solvers.items()}
        for name, taken in timing.time_in_turns(calls, rounds=3, warm_up=0).items():
            times[name].append(taken.least * 1e6 / len(cost))
    return Repeats(times, turns, gaps)


def measure(
    images: int = 16,
    layers: int = 6,
    queries: int = 100,
    seed: int = 0,
    repeats: int = 7,
    cases: tuple[tuple[str, int], ...] = CASES,
) -> list[dict]:
    """Times every solver that runs on this machine on every case, in turns with SciPy on the host.

    Each repeat solves other problems, because one crowded image decides about the turns of a whole batch. The time of a
    repeat is the least of three calls, which leaves out other load. Times are medians over the repeats, in microseconds
    per image and layer; ``spread`` holds the least and the most. SciPy gets the valid rows alone, without the copy to
    the host and the callback that it would need within a step.
    """
    names = [name for name in matcher.SOLVERS if name != "pallas" or jax.default_backend() == "gpu"]
    solvers = {name: jax.jit(matcher.SOLVERS[name]) for name in names}
    rows = []
    for kind, slots in cases:
        problems = (make_costs(kind, images, layers, slots, queries, seed + repeat) for repeat in range(repeats))
        found = time_solvers(solvers, problems)
        for name in names:
            times = found.microseconds[name]
            rows.append(
                {
                    "costs": kind,
                    "slots": slots,
                    "solver": name,
                    "us_per_image_layer": statistics.median(times),
                    "spread": (min(times), max(times)),
                    "scipy_us": statistics.median(found.microseconds["scipy"]),
                    "turns": int(statistics.median(found.turns[name])),
                    "gap": max(found.gaps[name]),
                }
            )
    return rows
