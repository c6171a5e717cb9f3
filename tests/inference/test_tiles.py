"""Tiles: where they lie, how boxes at their seams are merged, and what they are good for."""

import cv2
import numpy as np
import pytest

from detr_jax.inference.tiles import Tiling, cut_windows, detect_in_tiles, merge_views
from detr_jax.structures import Categories, Detections

CLASSES = Categories((3, 7), ("red", "green"))
CUT = Tiling(100, 0.2)
SIDE = 100  # pixels that ``find_squares`` works at


def detections(*rows: tuple) -> Detections:
    """Of rows (x0, y0, x1, y1, score, label)."""
    table = np.array(rows, float).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4], table[:, 5].astype(int), CLASSES)


def find_squares(views: list[np.ndarray]) -> list[Detections]:
    """A detector that shrinks each image to 100 pixels, and finds what is coloured there over at least 4x4 pixels."""
    found = []
    for view in views:
        scale = min(1.0, SIDE / max(view.shape[:2]))
        small = cv2.resize(view, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        rows = []
        for label in (0, 1):
            parts = cv2.connectedComponentsWithStats((small[..., label] > 128).astype(np.uint8))[2][1:]
            rows += [
                (x / scale, y / scale, (x + w) / scale, (y + h) / scale, 0.6 + min(w * h, 999) / 5000, label)
                for x, y, w, h, _ in parts.tolist()
                if min(w, h) >= 4
            ]
        found.append(detections(*rows))
    return found


def photo_with(boxes: list[tuple], size: tuple[int, int] = (600, 900)) -> np.ndarray:
    photo = np.zeros((*size, 3), np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        photo[y0:y1, x0:x1, number % 2] = 255
    return photo


def rows_of(found: Detections) -> set[tuple]:
    return {(*(round(side) for side in one.box_xyxy), one.label) for one in found}


@pytest.mark.parametrize("size", [(101, 100), (600, 900), (250, 70), (1234, 999)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_tiles_cover_the_photo_and_overlap(size, overlap):
    whole, *tiles = cut_windows(size, Tiling(100, overlap)).tolist()
    assert whole == [0, 0, size[1], size[0]]
    seen = np.zeros(size, bool)
    for x0, y0, x1, y1 in tiles:
        assert (x1 - x0, y1 - y0) == (min(100, size[1]), min(100, size[0])) and min(x0, y0) >= 0
        seen[y0:y1, x0:x1] = True
    assert seen.all()
    for starts in ({x0 for x0, *_ in tiles}, {y0 for _, y0, *_ in tiles}):
        steps = np.diff(sorted(starts))
        assert (steps <= round(100 * (1 - overlap)) + 1).all() and (not len(steps) or np.ptp(steps) <= 1)


def test_a_photo_that_fits_into_a_tile_is_not_cut():
    assert cut_windows((100, 60), CUT).tolist() == [[0, 0, 60, 100]]
    photo = photo_with([(5, 5, 30, 30)], (100, 60))
    assert detect_in_tiles(find_squares, photo, CUT) == find_squares([photo])[0]


def test_recall_on_small_objects_rises():
    """Squares of 12 pixels are 1.3 pixels in the whole photo at the detector's size, and 12 in a tile."""
    rng = np.random.default_rng(0)
    places = [(x, y) for x in range(10, 880, 30) for y in range(10, 580, 30)]
    small = [(*places[i], places[i][0] + 12, places[i][1] + 12) for i in rng.permutation(len(places))[:80]]
    photo = photo_with(small)
    wanted = {(*box, number % 2) for number, box in enumerate(small)}
    assert len(find_squares([photo])[0]) == 0
    assert rows_of(detect_in_tiles(find_squares, photo, CUT)) == wanted  # each once, none cut, none besides


def test_objects_of_every_size_are_found_once():
    """Smaller than the overlap, larger than it, larger than a tile, and across many seams."""
    boxes = [(70, 70, 90, 90), (150, 20, 240, 130), (300, 50, 560, 420), (600, 500, 612, 512), (780, 10, 830, 590)]
    found = detect_in_tiles(find_squares, photo_with(boxes), CUT)
    assert len(found) == len(boxes)
    for number, box in enumerate(boxes):
        (near,) = [one for one in found if np.abs(np.subtract(one.box_xyxy, box)).max() <= 9]
        assert near.label == number % 2
    assert (np.diff(found.scores) <= 0).all()


WINDOWS = np.array([(0, 0, 180, 100), (0, 0, 100, 100), (80, 0, 180, 100)])


@pytest.mark.parametrize(
    "whole, left, right, wanted",
    [
        # cut in the left tile, whole in the right one: the whole box stays, whatever the scores
        ([], [(85, 10, 100, 30, 0.9, 0)], [(5, 10, 35, 30, 0.6, 0)], [(85, 10, 115, 30, 0)]),
        # the piece was taken for another class
        ([], [(85, 10, 100, 30, 0.9, 1)], [(5, 10, 35, 30, 0.6, 0)], [(85, 10, 115, 30, 0)]),
        # the box of the piece is not exact
        ([], [(85, 5, 99, 40, 0.9, 0)], [(5, 10, 35, 30, 0.6, 0)], [(85, 10, 115, 30, 0)]),
        # whole in the photo only
        ([(40, 10, 150, 60, 0.6, 0)], [(40, 10, 100, 60, 0.9, 0)], [(0, 10, 70, 60, 0.8, 0)], [(40, 10, 150, 60, 0)]),
        # whole nowhere: the pieces are joined
        ([], [(40, 10, 100, 60, 0.7, 0)], [(0, 11, 70, 59, 0.8, 0)], [(40, 10, 150, 60, 0)]),
        # two of one class side by side, one in each tile
        ([], [(60, 10, 90, 60, 0.7, 0)], [(12, 10, 40, 60, 0.8, 0)], [(60, 10, 90, 60, 0), (92, 10, 120, 60, 0)]),
        # whole in both tiles
        ([], [(84, 10, 96, 30, 0.7, 0)], [(4, 10, 17, 30, 0.8, 0)], [(84, 10, 97, 30, 0)]),
        # of two classes: both stay
        ([], [(84, 10, 96, 30, 0.7, 0)], [(4, 10, 17, 30, 0.8, 1)], [(84, 10, 96, 30, 0), (84, 10, 97, 30, 1)]),
        # one view may show two objects in nearly the same place
        ([], [(10, 10, 50, 50, 0.7, 0), (12, 10, 50, 52, 0.6, 0)], [], [(10, 10, 50, 50, 0), (12, 10, 50, 52, 0)]),
        # a piece that no other view explains stays, also beside a whole object before it
        ([], [(20, 10, 100, 90, 0.7, 0), (50, 40, 70, 60, 0.6, 0)], [], [(20, 10, 100, 90, 0), (50, 40, 70, 60, 0)]),
        # another view's small object in front of a large piece does not explain it
        ([(50, 40, 70, 60, 0.6, 0)], [(20, 10, 100, 90, 0.7, 0)], [], [(20, 10, 100, 90, 0), (50, 40, 70, 60, 0)]),
        # at the edge of the photo nothing is cut
        ([], [(0, 10, 30, 30, 0.7, 0)], [(80, 10, 100, 30, 0.8, 0)], [(0, 10, 30, 30, 0), (160, 10, 180, 30, 0)]),
        ([], [], [], []),
    ],
)
def test_boxes_at_a_seam(whole, left, right, wanted):
    merged = merge_views([detections(*whole), detections(*left), detections(*right)], WINDOWS)
    assert rows_of(merged) == set(wanted) and len(merged) == len(wanted)
    assert merged.boxes_xyxy.dtype == np.float32 and merged.categories == CLASSES


def test_an_unlikely_box_takes_no_other_ones_place():
    views = [[], [(40, 10, 100, 60, 0.7, 0)], [(0, 10, 20, 60, 0.2, 0)]]
    found = iter([[detections(*rows) for rows in views]])
    photo = np.zeros((100, 180, 3), np.uint8)
    assert rows_of(detect_in_tiles(lambda _: next(found), photo, CUT, 0.5)) == {(40, 10, 100, 60, 0)}
    found = iter([[detections(*rows) for rows in views]])
    by_class = np.array([0.8, 0.1])
    assert len(detect_in_tiles(lambda _: next(found), photo, CUT, by_class)) == 0
