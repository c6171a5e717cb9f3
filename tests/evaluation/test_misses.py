"""Every object is in one group of each kind, and the groups are what their names say."""

import numpy as np

from detr_jax.evaluation.misses import group_misses
from tests.evaluation.random_results import pair_up, random_set


def of(objects: list[list[float]], labels: list[int] | None = None, found=None, size=(100, 200)) -> dict[str, dict]:
    """The groups of one image by kind and name: objects, found."""
    labels = labels or [1] * len(objects)
    rows = [
        {"id": n, "image_id": 1, "category_id": label, "bbox": box, "area": box[2] * box[3]}
        for n, (box, label) in enumerate(zip(objects, labels, strict=True))
    ]
    categories = [{"id": k, "name": str(k)} for k in range(1, 8)]
    pairing, classes = pair_up({"images": [{"id": 1}], "categories": categories, "annotations": rows}, [])
    found = np.array(found or [False] * len(objects))
    groups = group_misses(pairing, found, np.array([size], float), classes)
    table: dict[str, dict] = {}
    for group in groups:
        table.setdefault(group.kind, {})[group.name.split(" ")[0]] = (group.objects, group.found)
    return table


def test_sizes_are_those_of_coco():
    found = of([[0, 0, 31, 31], [0, 0, 32, 32], [0, 0, 95, 95], [0, 0, 96, 96]], found=[True, False, True, False])
    assert found["size"] == {"small": (1, 1), "medium": (2, 1), "large": (1, 0)}


def test_crowding_edges_and_shapes():
    boxes = [[50, 50, 20, 20], [55, 50, 20, 20], [69, 65, 20, 20], [150, 20, 10, 30], [0, 30, 30, 10]]
    found = of(boxes)
    assert {name: row[0] for name, row in found["crowding"].items()} == {"alone": 3, "near": 0, "overlapped": 2}
    assert {name: row[0] for name, row in found["edge"].items()} == {"inside": 4, "cut": 1}
    assert {name: row[0] for name, row in found["shape"].items()} == {"tall": 1, "compact": 3, "wide": 1}
    unknown = of(boxes, size=(np.inf, np.inf))["edge"]  # the file does not state the size
    assert unknown["cut"] == (1, 0)


def test_classes_by_frequency():
    labels = [1] + [2] * 2 + [3] * 5
    found = of([[0, 0, 9, 9]] * 8, labels, found=[False] * 3 + [True] * 5)
    assert found["frequency"] == {"rare": (1, 0), "middle": (2, 0), "frequent": (5, 5)}
    assert of([[0, 0, 9, 9]] * 8, [1] * 8)["frequency"] == {"all": (8, 0)}


def test_every_object_is_in_one_group_of_each_kind():
    pairing, classes = pair_up(*random_set(2))
    sizes = np.tile([[240.0, 320.0]], (60, 1))
    groups = group_misses(pairing, pairing.found, sizes, classes)
    for kind in {group.kind for group in groups}:
        rows = [group for group in groups if group.kind == kind]
        assert sum(group.objects for group in rows) == len(pairing.found)
        assert sum(group.reached for group in rows) == sum(group.found for group in rows) == pairing.found.sum()
    empty, classes = pair_up({**random_set(2)[0], "annotations": []}, [])
    assert not any(group.objects for group in group_misses(empty, empty.found, sizes, classes))
