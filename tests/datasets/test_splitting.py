"""The validation split: groups together, classes spread, the same from the same seed."""

import numpy as np
import pytest

from detr_jax.datasets.splitting import split_instances
from detr_jax.errors import UserError


def make_instances(count: int, seed: int = 0) -> tuple[dict, np.ndarray]:
    """Images in groups of 1 to 3, with a common class, a usual one, and one that two groups show."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), random.integers(1, 4, count))[:count]
    images = [{"id": 10 * n, "file_name": f"{n:04}.jpg"} for n in range(count)]
    rows = []
    for n in range(count):
        shows = [1] * (n % 10 < 9) + [2] * (n % 3 == 0) + [3] * (groups[n] in (2, 5))
        rows += [{"id": len(rows) + i, "image_id": 10 * n, "category_id": one} for i, one in enumerate(shows)]
    categories = [{"id": n, "name": f"class {n}"} for n in (1, 2, 3)]
    return {"images": images, "annotations": rows, "categories": categories}, groups


def names(instances: dict) -> list[str]:
    return sorted(image["file_name"] for image in instances["images"])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_splits(seed, share):
    whole, groups = make_instances(400, seed)
    train, val, sentence = split_instances(whole, groups, share, seed)
    assert names(train) + names(val) != [] and sorted(names(train) + names(val)) == names(whole)
    assert len(train["annotations"]) + len(val["annotations"]) == len(whole["annotations"])
    of_name = dict(zip((image["file_name"] for image in whole["images"]), groups.tolist(), strict=True))
    assert not {of_name[name] for name in names(train)} & {of_name[name] for name in names(val)}
    assert len(val["images"]) / 400 == pytest.approx(share, abs=0.04)
    for one in (1, 2, 3):
        parts = [sum(row["category_id"] == one for row in part["annotations"]) for part in (train, val)]
        assert min(parts) > 0
        if one < 3:
            assert parts[1] / sum(parts) == pytest.approx(share, abs=0.06)
    assert f"{len(val['images'])} of 400 images become val by --split_seed={seed}" in sentence
    assert "classes: 3 of 3 in train, 3 in val" in sentence


def test_the_order_of_files_does_not_matter_but_the_seed_does():
    whole, groups = make_instances(200)
    val = names(split_instances(whole, groups, 0.2, 0)[1])
    order = np.random.default_rng(1).permutation(200)
    shuffled = whole | {"images": [whole["images"][n] for n in order], "annotations": whole["annotations"][::-1]}
    assert names(split_instances(shuffled, 7 - groups[order], 0.2, 0)[1]) == val
    assert names(split_instances(whole, groups, 0.2, 1)[1]) != val


def test_a_class_of_one_group_is_trained_on_and_named():
    whole, groups = make_instances(100)
    whole["annotations"] = [row for row in whole["annotations"] if row["category_id"] != 3]
    whole["annotations"].append({"id": 999, "image_id": 0, "category_id": 3})
    for seed in range(10):
        train, _, sentence = split_instances(whole, groups, 0.3, seed)
        assert any(row["category_id"] == 3 for row in train["annotations"])
        assert "3 of 3 in train, 2 in val (not 'class 3')" in sentence


@pytest.mark.parametrize("count", [2, 3, 5])
def test_few_images(count):
    whole, _ = make_instances(count)
    train, val, _ = split_instances(whole, np.arange(count), 0.2, 0)
    assert len(val["images"]) >= 1 and len(train["images"]) >= 1


def test_annotations_of_no_image_are_not_lost():
    whole, groups = make_instances(50)
    whole["annotations"].append({"id": 999, "image_id": 12345, "category_id": 1})
    train, val, _ = split_instances(whole, groups, 0.2, 0)
    assert [row["id"] for part in (train, val) for row in part["annotations"] if row["image_id"] == 12345] == [999]


def test_one_scene_cannot_be_split():
    whole, _ = make_instances(9)
    with pytest.raises(UserError, match="nearly the same.*--val_share=0"):
        split_instances(whole, np.zeros(9, int), 0.2, 0)
