"""Scale, canvases and target slots from the images themselves, where the settings say ``data.buckets=auto``.

``data.scales`` and ``data.max_size`` then say how many pixels an image may have: as many as a photo of 4:3 has under
them. Every host and every start computes the same from the same dataset.
"""

import dataclasses
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from detr_jax.batches import augmentation
from detr_jax.batches.plan import ImageTable
from detr_jax.config import Config, DataConfig
from detr_jax.config_check import stride
from detr_jax.structures import Bucket, View

MOST = 6  # canvases; the training step is compiled once for each
MORE = 8  # as many where MOST leave more than ENOUGH of padding
ENOUGH = 0.18
GOOD = 0.12  # share of padding at which no further canvas is worth its compilation
GAIN = 0.01  # of that share, which a further canvas must save
DRAWN = 30_000  # views to choose the canvases by
LOOKED_AT = 1_000  # images whose objects are measured
RARE = 1.5  # what an augmented view costs that fits nowhere and is scaled down, in areas of the largest canvas
STRETCH = 2.0  # long side by short side; rare images that are longer are scaled down to it
NEAR = 0.06  # a scale that differs less from the one in the settings stays as it is
SMALL_SHARE = 0.05  # of the objects, that may be smaller than what the model sees


@runtime_checkable
class ImagesWithBoxes(ImageTable, Protocol):
    """An ``ImageTable`` whose rows have ``boxes_xyxy_pixels``: a ``Split``."""

    def __getitem__(self, row: int): ...


class Fit(NamedTuple):
    """What was chosen."""

    config: Config  # with the choices in it
    padding: float  # share of the canvases' pixels
    small: float  # share of the objects that are smaller there than what the decoder reads; 0 if no boxes are known
    notes: list[str]  # for the user; none if nothing was chosen


def fit_to_images(config: Config, images: ImageTable, others: ImageTable | None = None) -> Fit:
    """The settings with what ``data.buckets=auto`` leaves open; as they are if it names canvases.

    ``scales``, ``max_size`` and the lengths of crops keep their proportions; ``model.num_queries`` is raised if an
    image has more objects than that.

    Args:
      images: what is trained on.
      others: what is evaluated on; its images fit the canvases, too.
    """
    if config.data.buckets:
        return Fit(config, 0.0, 0.0, [])
    multiple = max(stride(config.model), 16)
    sizes = images.sizes if others is None else np.concatenate([images.sizes, others.sizes])
    data = _scaled(config.data, sizes, multiple)
    stands = bool(np.median(sizes[:, 0] - sizes[:, 1]) > 0)
    limit = sorted((max(data.scales), data.max_size), reverse=stands)
    still = np.append(_evaluation_views(data, sizes).size, [limit], axis=0)
    canvases, padding = choose_canvases(_draw_views(data, images.sizes).size, still, multiple)
    counts = images.target_counts
    data = dataclasses.replace(data, buckets=_with_slots(canvases, counts))
    model, most_objects = config.model, int(counts.max(initial=0))
    if most_objects > model.num_queries:
        model = dataclasses.replace(model, num_queries=-(-most_objects * 5 // 40) * 10)
    chosen = dataclasses.replace(config, data=data, model=model)
    cell = stride(model) // (2 if model.finer_memory else 1)
    small, enlarge = _measure_objects(images, data, cell)
    notes = [f"chosen from the images, {padding:.0%} of the canvases is padding: {as_settings(config, chosen)}"]
    if small > SMALL_SHARE:
        advice = _advise_larger_images(max(config.data.scales), enlarge)
        notes.append(
            f"{small:.0%} of the objects are under {cell} pixels there, which is less than the model sees; {advice}"
        )
    return Fit(chosen, padding, small, notes)


def choose_canvases(
    sizes: Int[np.ndarray, "n 2"], limits: Int[np.ndarray, "m 2"], multiple: int
) -> tuple[list[tuple[int, int]], float]:
    """Few canvases (height, width) on which images of these sizes have little padding, and its share of the pixels.

    A further canvas is taken while padding is above ``GOOD`` and it saves ``GAIN``. The choice is a greedy one,
    improved by exchanging one canvas at a time: a k-median problem.

    Args:
      sizes: of the images of training; rare ones may fit nowhere.
      limits: sizes that must fit as they are.
      multiple: of which the sides of canvases are.
    """
    every = np.concatenate([sizes, limits])
    unique, inverse = np.unique(-(-every // multiple) * multiple, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    mass = np.bincount(inverse[: len(sizes)], minlength=len(unique)) / len(sizes)
    must_fit = np.bincount(inverse[len(sizes) :], minlength=len(unique)) > 0
    used = float(sizes.prod(axis=1).mean())
    candidates = np.stack(np.meshgrid(*map(np.unique, unique.T), indexing="ij"), axis=-1).reshape(-1, 2)
    areas = candidates.prod(axis=1).astype(float)
    holds = (candidates[:, None] >= unique).all(axis=-1)  # [C n]
    cost = np.where(holds, areas[:, None], areas.max() * np.where(must_fit, 1e9, RARE))
    weights = mass + 1e-7 * must_fit
    # A search that begins with nothing may end with one huge canvas for the widest and the tallest images.
    wide, tall = (unique[must_fit & where] for where in (unique[:, 1] >= unique[:, 0], unique[:, 0] > unique[:, 1]))
    holders = [int(np.flatnonzero((candidates == one.max(axis=0)).all(axis=1))[0]) for one in (wide, tall) if len(one)]
    starts = [[], holders]
    best: tuple[list[int], float] = ([], 1.0)
    for count in range(1, MORE + 1):
        chosen = _choose(cost, weights, count, starts)
        padding = 1 - used / float((mass * cost[chosen].min(axis=0)).sum())
        if not best[0] or padding < best[1] - GAIN:
            best = chosen, padding
        if best[1] <= (GOOD if count < MOST else ENOUGH):
            break
    picked = sorted(best[0], key=lambda index: areas[index])
    return [(int(h), int(w)) for h, w in candidates[picked]], max(best[1], 0.0)


def _choose(
    cost: Float[np.ndarray, "C n"], weights: Float[np.ndarray, " n"], count: int, starts: list[list[int]]
) -> list[int]:
    """The best of the searches that begin with ``starts``."""
    found = []
    for start in starts:
        chosen = start[:count]
        while len(chosen) < count:
            chosen.append(_next(cost, weights, chosen))
        before: list[int] = []
        while chosen != before:
            before = list(chosen)
            for k in range(count):
                chosen[k] = _next(cost, weights, chosen[:k] + chosen[k + 1 :])
        found.append(list(dict.fromkeys(chosen)))
    return min(found, key=lambda chosen: float(cost[chosen].min(axis=0) @ weights))


def _next(cost: Float[np.ndarray, "C n"], weights: Float[np.ndarray, " n"], chosen: list[int]) -> int:
    """The candidate that is best beside those that are chosen."""
    if chosen:
        cost = np.minimum(cost, cost[chosen].min(axis=0))
    return int((cost @ weights).argmin())


def _scaled(data: DataConfig, sizes: Int[np.ndarray, "M 2"], multiple: int) -> DataConfig:
    """Lengths such that an image of the dataset's usual shape has the pixels that the settings allow."""
    largest = max(data.scales)
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    shapes = long / short
    budget = largest * min(data.max_size, largest * 4 / 3)
    scale = min((budget / np.median(shapes)) ** 0.5, 2.0 * float(np.median(short)))
    factor = 1.0 if abs(scale / largest - 1) < NEAR else scale / largest
    usual = data.max_size / largest
    if np.quantile(shapes, 0.9) > usual:
        usual = max(usual, min(float(np.quantile(shapes, 0.98)), max(STRETCH, float(np.median(shapes)))))

    def scaled(length: int) -> int:
        return length if factor == 1.0 else max(multiple, round(length * factor / multiple) * multiple)

    scales = tuple(sorted({scaled(length) for length in data.scales}))
    data = dataclasses.replace(data, scales=scales, max_size=round(max(scales) * max(usual, 1.0)))
    # A canvas must hold the short and the long side that settings name; so they name those that occur.
    occurring = _evaluation_views(data, sizes).size
    shorter = min(max(scales), int(occurring.min(axis=1).max()))
    return dataclasses.replace(
        data,
        scales=tuple(sorted({min(scale, shorter) for scale in scales})),
        max_size=max(int(occurring.max()), shorter),
        crop_scales=tuple(sorted({scaled(length) for length in data.crop_scales})),
        crop_min=scaled(data.crop_min),
        crop_max=scaled(data.crop_max),
    )


def _draw_views(data: DataConfig, sizes: Int[np.ndarray, "M 2"]) -> View:
    rows = np.arange(max(DRAWN, len(sizes))) % len(sizes)
    rows = rows[np.linspace(0, len(rows) - 1, DRAWN).round().astype(int)]
    rng = np.random.Generator(np.random.PCG64(0))
    return augmentation.views(sizes[rows], rng.random((len(rows), augmentation.DRAWS)), data)


def _evaluation_views(data: DataConfig, sizes: Int[np.ndarray, "M 2"]) -> View:
    return augmentation.views(sizes, np.zeros((len(sizes), augmentation.DRAWS)), augmentation.evaluation_settings(data))


def _with_slots(canvases: list[tuple[int, int]], counts: Int[np.ndarray, " M"]) -> tuple[Bucket, ...]:
    """Target slots: for every image on a canvas that no other contains, for nearly all on the rest."""
    most, usual = (max(8, -(-int(np.ceil(np.quantile(counts, q))) // 8) * 8) for q in (1.0, 0.998))

    def is_contained(one: tuple[int, int]) -> bool:
        return any(other != one and other[0] >= one[0] and other[1] >= one[1] for other in canvases)

    return tuple(Bucket(*canvas, usual if is_contained(canvas) else most) for canvas in canvases)


def _measure_objects(images: ImageTable, data: DataConfig, cell: int) -> tuple[float, float]:
    """The share of objects smaller than ``cell`` on the canvas, and how often larger the images would have to be."""
    if not isinstance(images, ImagesWithBoxes):
        return 0.0, 1.0
    rows = np.unique(np.linspace(0, len(images.sizes) - 1, LOOKED_AT).round().astype(int))
    shown = _evaluation_views(data, images.sizes[rows]).size
    sides = []
    for row, factor in zip(rows.tolist(), shown[:, 0] / images.sizes[rows, 0], strict=True):
        boxes = np.asarray(images[row].boxes_xyxy_pixels, float).reshape(-1, 4)
        sides.append(factor * ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) ** 0.5)
    side = np.concatenate(sides)
    if not len(side):
        return 0.0, 1.0
    return float((side < cell).mean()), max(1.0, cell / max(float(np.quantile(side, SMALL_SHARE)), 1e-3))


def as_settings(before: Config, chosen: Config) -> str:
    """What was chosen, as settings that can be typed."""
    data, words = chosen.data, []
    for name in ("scales", "max_size", "crop_scales", "crop_min", "crop_max", "buckets"):
        value = getattr(data, name)
        if value != getattr(before.data, name) and (data.crop or not name.startswith("crop")):
            value = tuple(map(tuple, value)) if name == "buckets" else value
            words.append(f'data.{name}="{value}"' if isinstance(value, tuple) else f"data.{name}={value}")
    if chosen.model.num_queries != before.model.num_queries:
        words.append(f"model.num_queries={chosen.model.num_queries}")
    return " ".join(words)


def _advise_larger_images(scale: int, enlarge: float) -> str:
    wanted = -(-int(scale * min(enlarge, 4.0)) // 32) * 32
    settings = f'data.scales="({wanted},)" data.max_size={round(wanted * 4 / 3)}'
    return f"{settings} shows them larger, in {(wanted / scale) ** 2:.1f} times the time"
