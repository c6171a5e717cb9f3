"""The synthetic set: the same from the same seed, boxes and masks where the shapes are."""

import json

import numpy as np
import pytest
from pycocotools import mask as rle

from detr_jax.datasets import coco_stream, shapes
from detr_jax.datasets.folders import find_splits
from detr_jax.datasets.inspection import inspect_folder
from detr_jax.errors import UserError
from detr_jax.images.decoding import decode

ALL = shapes.Settings(train=60, val=10, size=64, classes=6, max_objects=6)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes") / "coco"
    shapes.write(root, ALL)
    return root


def test_an_image_depends_on_seed_split_and_index_only():
    one = shapes.draw_scene(ALL, "train", 7)
    again = shapes.draw_scene(ALL._replace(train=1000), "train", 7)
    np.testing.assert_array_equal(one.image, again.image)
    assert one.labels == again.labels
    for other in (
        shapes.draw_scene(ALL, "train", 8),
        shapes.draw_scene(ALL, "val", 7),
        shapes.draw_scene(ALL._replace(seed=1), "train", 7),
    ):
        assert (one.image != other.image).any()


def test_the_same_seed_writes_the_same_files(root, tmp_path):
    shapes.write(tmp_path / "again", ALL)
    files = sorted(path.relative_to(root) for path in root.rglob("*.*"))
    assert len(files) == 72
    assert all((root / path).read_bytes() == (tmp_path / "again" / path).read_bytes() for path in files)


@pytest.mark.parametrize("outline", shapes.OUTLINES, ids=shapes.CATEGORIES.names)
def test_every_outline_fills_its_box(outline):
    coverage = shapes._coverage(outline * (20, 12) + (30, 25), 50, 60)
    rows, columns = np.flatnonzero(coverage.max(axis=1) > 0.5), np.flatnonzero(coverage.max(axis=0) > 0.5)
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    np.testing.assert_allclose(box, [10, 13, 50, 37], atol=2)  # tips are thinner than half a pixel
    x, y = outline.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2 * 20 * 12  # the shoelace formula
    assert coverage.sum() == pytest.approx(area, rel=0.06)


def test_masks_lie_in_their_boxes_and_do_not_overlap():
    overlapping = 0
    for index in range(60):
        scene = shapes.draw_scene(ALL, "train", index)
        assert scene.visible.sum(axis=0).max(initial=0) <= 1
        for (x0, y0, x1, y1), visible in zip(scene.boxes_xyxy_pixels, scene.visible, strict=True):
            assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64
            rows, columns = np.nonzero(visible)
            assert rows.min() >= np.floor(y0) and rows.max() < np.ceil(y1)
            assert columns.min() >= np.floor(x0) and columns.max() < np.ceil(x1)
        for i in range(len(scene.labels)):
            for j in range(i):
                overlap = shapes._overlap(tuple(scene.boxes_xyxy_pixels[i]), tuple(scene.boxes_xyxy_pixels[j]))
                assert overlap <= shapes.OVERLAP
                overlapping += overlap > 0
    assert overlapping > 5


def test_the_folder_is_coco_with_gapped_ids_empty_images_and_masks(root):
    truth = json.loads((root / "annotations/instances_train2017.json").read_text())
    assert [row["id"] for row in truth["categories"]] == [3, 7, 12, 20, 21, 40]
    assert {row["category_id"] for row in truth["annotations"]} == {3, 7, 12, 20, 21, 40}
    assert len({row["image_id"] for row in truth["annotations"]}) < len(truth["images"]) == 60
    for row in truth["annotations"]:
        assert rle.decode(row["segmentation"]).sum() == row["area"] > 0
    folder = find_splits(root)["train"]
    inspection = inspect_folder(folder)
    assert inspection.defects == [] and inspection.images == 60
    assert inspection.boxes.sum() == len(truth["annotations"])
    columns = coco_stream.scan(folder.annotations)
    assert coco_stream.tally(columns, columns.sizes).is_target.all()
    assert decode((root / "train2017/000001.jpg").read_bytes()).shape == (64, 64, 3)


def test_prepare_makes_it_once(tmp_path):
    settings = shapes.Settings(train=4, val=2, size=32)
    shapes.prepare(tmp_path, settings=settings)
    before = (tmp_path / "shapes/1.0.0").stat().st_mtime_ns
    shapes.prepare(tmp_path, settings=settings)
    assert (tmp_path / "shapes/1.0.0").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="choose another name"):
        shapes.prepare(tmp_path, settings=settings._replace(seed=1))


@pytest.mark.parametrize("settings", [{"classes": 7}, {"train": 0}, {"size": 8}, {"max_objects": 0}, {"seed": -1}])
def test_what_cannot_be_drawn_is_refused(tmp_path, settings):
    with pytest.raises(UserError, match=f"--{next(iter(settings))}=.* cannot be drawn"):
        shapes.write(tmp_path / "new", shapes.Settings(**settings))
    assert not (tmp_path / "new").exists()


def test_an_existing_folder_is_left_alone(root):
    with pytest.raises(UserError, match="exists already"):
        shapes.write(root, ALL)
