"""Small objects in large photos: a photo is cut into tiles that overlap, and what is found in them is put together.

A detector shrinks a photo to the size that it works at; a tile is shrunk less, or not at all. The whole photo is looked
at as well, for objects that no tile holds.

Neighbouring views see the same objects, so what is found is merged. A box that ends at a cut is a piece: it goes where
another view shows the same object whole. Pieces of an object that no view shows whole are joined. Of two whole boxes
from different views the less likely one goes when their IoU is 0.5 or more and they are of one class. Boxes of one view
are never compared with each other.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as mask_api

from detr_jax.images.decoding import RGB
from detr_jax.structures import Detections

SAME = 0.5  # IoU from which two boxes are of one object
AT_A_CUT = 0.02  # of a tile's side: a box that ends so near to a cut is a piece
LEAST_AT_A_CUT = 2.0  # pixels

Boxes = Float[np.ndarray, "n 4"]  # corners in pixels of the photo


class Tiling(NamedTuple):
    """How photos are cut."""

    side: int  # of a tile, in pixels of the photo
    overlap: float = 0.2  # share of its side that a tile has in common with the next one, at least; below 1


def cut_windows(size: tuple[int, int], tiling: Tiling) -> Int[np.ndarray, "views 4"]:
    """The corners (x0, y0, x1, y1) of the views of a photo of ``size`` (height, width): all of it, then its tiles.

    Tiles are equally large and evenly spread. A photo that fits into one is looked at as a whole only.
    """
    height, width = size
    rows, columns = _starts(height, tiling), _starts(width, tiling)
    tiles = [
        (x, y, min(x + tiling.side, width), min(y + tiling.side, height)) for y, x in itertools.product(rows, columns)
    ]
    return np.array([(0, 0, width, height), *(tiles if len(tiles) > 1 else [])])


def _starts(length: int, tiling: Tiling) -> list[int]:
    room = max(length - tiling.side, 0)
    steps = int(np.ceil(room / max(tiling.side * (1 - tiling.overlap), 1)))
    return np.linspace(0, room, steps + 1).round().astype(int).tolist()


def detect_in_tiles(
    detect: Callable[[list[RGB]], list[Detections]],
    photo: RGB,
    tiling: Tiling,
    threshold: float | Float[np.ndarray, " K"] = 0.5,
) -> Detections:
    """What is found in a photo and in its tiles, in pixels of the photo, best first.

    Args:
      detect: a ``Detector``, or anything else that turns images into their detections.
      photo: upright pixels.
      threshold: least score, one for all classes or one for each label. What is below it is dropped before views are
        merged, so that an unlikely box takes no other one's place.
    """
    windows = cut_windows(photo.shape[:2], tiling)
    found = detect([np.ascontiguousarray(photo[y0:y1, x0:x1]) for x0, y0, x1, y1 in windows.tolist()])
    return merge_views([one.above(threshold) for one in found], windows)


def merge_views(found: list[Detections], windows: Int[np.ndarray, "views 4"]) -> Detections:
    """The detections of several views of one photo as those of the photo, each object once; best first.

    Args:
      found: for each view, in pixels of the view.
      windows: where in the photo they lie, as ``cut_windows`` gives them; the first one is the whole photo.
    """
    corners = [one.boxes_xyxy + np.tile(window[:2], 2) for one, window in zip(found, windows, strict=True)]
    of_view = [np.full(len(one), view) for view, one in enumerate(found)]
    seen = _Seen(
        np.concatenate(corners).astype(np.float64),
        np.concatenate([one.scores for one in found]),
        np.concatenate([one.labels for one in found]),
        np.concatenate(of_view),
    )
    seen = seen.take(np.argsort(-seen.scores, kind="stable"))
    is_cut = _cut_sides(seen, windows).any(axis=1)
    whole = _drop_repeated(seen.take(~is_cut))
    pieces = _drop_explained(seen.take(is_cut), whole, windows)
    joined = _join(pieces, windows)
    boxes, scores, labels, _ = (np.concatenate(pair) for pair in zip(whole, joined, strict=True))
    merged = Detections(boxes.astype(np.float32), scores, labels, found[0].categories)
    return merged.take(np.argsort(-scores, kind="stable"))


class _Seen(NamedTuple):
    """Boxes in the photo and the view that each was found in."""

    boxes: Boxes
    scores: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    views: Int[np.ndarray, " n"]

    def take(self, rows: np.ndarray) -> "_Seen":
        return _Seen(*(field[rows] for field in self))


def _cut_sides(seen: _Seen, windows: Int[np.ndarray, "views 4"]) -> Bool[np.ndarray, "n 4"]:
    """Which sides of each box end at an edge of their view, or beyond it, where the photo goes on."""
    edges = windows[seen.views]
    outwards = np.array([-1, -1, 1, 1])
    sides = np.tile(edges[:, 2:] - edges[:, :2], 2)
    near = (edges - seen.boxes) * outwards <= np.maximum(AT_A_CUT * sides, LEAST_AT_A_CUT)
    return near & (edges != windows[0])


def _drop_repeated(seen: _Seen) -> _Seen:
    """Each object once, given best first; boxes of one view are never taken for the same."""
    kept: list[int] = []
    for row in range(len(seen.scores)):
        rivals = [other for other in kept if seen.labels[other] == seen.labels[row]]
        rivals = [other for other in rivals if seen.views[other] != seen.views[row]]
        if not rivals or _overlap_with(seen.boxes[row], seen.boxes[rivals]).max() < SAME:
            kept.append(row)
    return seen.take(np.array(kept, int))


def _drop_explained(pieces: _Seen, whole: _Seen, windows: Int[np.ndarray, "views 4"]) -> _Seen:
    """The pieces but those that are what their view shows of a whole box, or the whole box itself.

    Part of an object may be taken for another class, and the box of a narrow part is not exact.
    """
    kept = []
    for row, cut in enumerate(_cut_sides(pieces, windows)):
        box, edges = pieces.boxes[row], windows[pieces.views[row]]
        others = whole.take(whole.views != pieces.views[row])
        alike = others.labels == pieces.labels[row]
        goes_on = (((others.boxes - edges) * (-1, -1, 1, 1) > 0) & cut).any(axis=1)
        shown = _clip(others.boxes, edges)
        same = alike & (_overlap_with(box, others.boxes) >= SAME)
        same |= goes_on & (_overlap_with(box, shown) >= SAME)
        same |= goes_on & alike & (_overlap_with(box, shown, of_smaller=True) >= SAME)
        kept.append(not same.any())
    return pieces.take(np.array(kept, bool))


def _join(pieces: _Seen, windows: Int[np.ndarray, "views 4"]) -> _Seen:
    """One box, with the best score, for pieces that are the same where both their views look."""
    groups: list[list[int]] = []
    for row in range(len(pieces.scores)):
        mine = [group for group in groups if any(_are_one(pieces, row, other, windows) for other in group)]
        groups = [group for group in groups if group not in mine]
        groups.append(sorted([row, *itertools.chain(*mine)]))
    groups.sort()
    boxes = [
        np.concatenate([pieces.boxes[group, :2].min(axis=0), pieces.boxes[group, 2:].max(axis=0)]) for group in groups
    ]
    first = pieces.take(np.array([group[0] for group in groups], int))
    return first._replace(boxes=np.array(boxes).reshape(-1, 4))


def _are_one(pieces: _Seen, one: int, other: int, windows: Int[np.ndarray, "views 4"]) -> bool:
    if pieces.labels[one] != pieces.labels[other] or pieces.views[one] == pieces.views[other]:
        return False
    shown = _clip(pieces.boxes[[one]], windows[pieces.views[other]])
    also = _clip(pieces.boxes[[other]], windows[pieces.views[one]])
    return bool(_overlap_with(shown[0], also)[0] >= SAME)


def _clip(boxes: Boxes, window: Int[np.ndarray, " 4"]) -> Boxes:
    """The part of each box that lies in a window; without area if there is none."""
    return np.clip(boxes, np.tile(window[:2], 2), np.tile(window[2:], 2))


def _overlap_with(box: Float[np.ndarray, " 4"], others: Boxes, of_smaller: bool = False) -> Float[np.ndarray, " n"]:
    """IoU of a box with each of the others, or the intersection as a share of the smaller one's area."""
    one, many = (
        np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1) for corners in (box[None], others)
    )
    if not len(many):
        return np.zeros(0)
    if not of_smaller:
        return mask_api.iou(one, many, [False] * len(many))[0]
    return np.maximum(mask_api.iou(one, many, [True] * len(many))[0], mask_api.iou(many, one, [True])[:, 0])
