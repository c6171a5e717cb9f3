"""Preparing a dataset: exact bytes and annotations, and every way in which it can be refused."""

import errno
import io
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from detr_jax.datasets import prepare as builder, folders as coco_folder
from detr_jax.datasets.folders import Source
from detr_jax.errors import UserError


def picture(width=60, height=40, image_format="JPEG", rotation=None) -> bytes:
    image = Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8))
    exif = Image.Exif()
    if rotation:
        exif[0x0112] = rotation
    data = io.BytesIO()
    image.save(data, image_format, exif=exif)
    return data.getvalue()


def ground_truth() -> dict:
    """Three images in no order, one of them empty; ids with gaps; a crowd; a box without area; polygons."""
    return {
        "images": [
            {"id": 30, "file_name": "c.jpg", "height": 40, "width": 60},
            {"id": 10, "file_name": "a.png", "height": 40, "width": 60},
            {"id": 20, "file_name": "sub/ü.jpg", "height": 40, "width": 60},
        ],
        "annotations": [
            {"id": 8, "image_id": 30, "category_id": 12, "bbox": [1.123456789012345, 2.2, 10.3, 20.4], "iscrowd": 0},
            {"id": 9, "image_id": 10, "category_id": 3, "bbox": [0, 0, 5, 5], "segmentation": [[0, 0, 5, 0, 5, 5.01]]},
            {"id": 7, "image_id": 30, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1, "area": 81},
            {"id": 6, "image_id": 30, "category_id": 3, "bbox": [70, 0, 9, 9], "iscrowd": 0, "area": 81},
        ],
        "categories": [{"id": 12, "name": "tri"}, {"id": 3, "name": "circle"}],
    }


def write_source(root: Path, content: dict, files: dict[str, bytes] | None = None) -> Source:
    if files is None:
        files = {"c.jpg": picture(), "a.png": picture(image_format="PNG"), "sub/ü.jpg": picture()}
    for name, data in files.items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(data)
    (root / "instances.json").write_text(json.dumps(content))
    return Source(root / "images", root / "instances.json")


def test_round_trip_is_exact(tmp_path):
    content = ground_truth()
    source = write_source(tmp_path / "raw", content)
    (summary,) = builder.prepare({"train": source}, tmp_path / "data", "cells").values()
    assert summary == builder.Summary(
        images=3, missing=0, empty=1, targets=2, crowd=1, degenerate=["annotation 6 of image 30"], classes=2
    )
    folder = tmp_path / "data/cells/1.0.0"
    assert (folder / "annotations_train.json").read_bytes() == source.annotations.read_bytes()
    assert json.loads((folder / "categories.json").read_text()) == [
        {"id": 3, "name": "circle"},
        {"id": 12, "name": "tri"},
    ]
    records = tfds.builder_from_directory(folder).as_data_source(
        "train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert [int(record["image/id"]) for record in records] == [10, 20, 30]
    for record in records:
        name = record["image/filename"].decode()
        assert record["image"] == (source.images / name).read_bytes()
        own = [row for row in content["annotations"] if row["image_id"] == record["image/id"]]
        assert json.loads(record["annotations"]) == own
    index = np.load(folder / "index_train.npz")
    assert index["image_ids"].tolist() == [10, 20, 30]
    assert index["target_counts"].tolist() == [1, 0, 1]
    assert index["sizes"].tolist() == [[40, 60]] * 3


def test_tfds_decodes_the_images_itself(tmp_path):
    builder.prepare({"val": write_source(tmp_path / "raw", ground_truth())}, tmp_path, "cells")
    assert tfds.builder_from_directory(tmp_path / "cells/1.0.0").as_data_source("val")[0]["image"].shape == (40, 60, 3)


def test_several_shards_hold_every_image_once(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SHARD_BYTES", 3000)
    builder.prepare({"val": write_source(tmp_path / "raw", ground_truth())}, tmp_path, "cells")
    assert len(list((tmp_path / "cells/1.0.0").glob("*.array_record*"))) == 3
    records = tfds.builder_from_directory(tmp_path / "cells/1.0.0").as_data_source("val")
    assert [int(record["image/id"]) for record in records] == [10, 20, 30]


def test_only_what_is_needed_need_be_there(tmp_path):
    content = {
        "images": [{"id": 0, "file_name": "/home/somebody/c.jpg"}],
        "annotations": [{"image_id": 0, "category_id": 0, "bbox": [50, 30, 20, 20]}],
        "categories": [{"id": 0, "name": "x"}],
    }
    builder.prepare({"train": write_source(tmp_path, content)}, tmp_path / "data", "cells")
    assert np.load(tmp_path / "data/cells/1.0.0/index_train.npz")["sizes"].tolist() == [[40, 60]]


@pytest.mark.parametrize(("stated", "kept"), [((40, 60), True), ((60, 40), True), ((40, 61), False)])
def test_sizes_may_be_those_of_the_exif_rotation(tmp_path, stated, kept):
    content = ground_truth() | {"images": [{"id": 30, "file_name": "c.jpg", "height": stated[0], "width": stated[1]}]}
    content["annotations"] = content["annotations"][:1]
    source = write_source(tmp_path, content, {"c.jpg": picture(rotation=6)})
    if kept:
        builder.prepare({"train": source}, tmp_path / "data", "cells")
        assert np.load(tmp_path / "data/cells/1.0.0/index_train.npz")["sizes"].tolist() == [list(stated)]
    else:
        with pytest.raises(UserError, match="its annotations say 61x40"):
            builder.prepare({"train": source}, tmp_path / "data", "cells")
        assert not (tmp_path / "data/cells").exists()


def changed(**changes) -> dict:
    return ground_truth() | changes


BAD = {
    "image missing": (
        ground_truth(),
        {"a.png": picture(), "c.jpg": picture()},
        "image file not found.*image 20.*--skip_missing",
    ),
    "no image": (ground_truth(), {"z.png": picture()}, "3 .*give the folder"),
    "no pictures": (
        ground_truth(),
        {"a.png": b"<html>", "c.jpg": picture(), "sub/ü.jpg": picture()},
        "a.png.*not an image",
    ),
    "empty file": (
        ground_truth(),
        {"a.png": b"", "c.jpg": picture(), "sub/ü.jpg": picture()},
        "a.png .image 10.*empty",
    ),
    "other size": (
        ground_truth(),
        {"a.png": picture(61), "c.jpg": picture(), "sub/ü.jpg": picture()},
        "61x40.*say 60x40",
    ),
    "strange image": (changed(images=ground_truth()["images"][1:]), None, "not listed: 3 .annotation 8 of image 30"),
    "strange category": (
        changed(categories=[{"id": 3, "name": "c"}]),
        None,
        "category that is not listed: 1 .annotation 8",
    ),
    "nothing annotated": (changed(annotations=[]), None, "lists no annotations"),
}


@pytest.mark.parametrize(("content", "files", "sentence"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, content, files, sentence):
    good = write_source(tmp_path / "good", ground_truth())
    with pytest.raises(UserError, match=sentence) as error:
        builder.prepare(
            {"train": good, "val": write_source(tmp_path / "bad", content, files)}, tmp_path / "data", "cells"
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data/cells").exists()


def test_missing_images_can_be_left_out(tmp_path):
    source = write_source(tmp_path, ground_truth(), {"c.jpg": picture()})
    (summary,) = builder.prepare({"train": source}, tmp_path, "cells", skip_missing=True).values()
    assert (summary.images, summary.missing, summary.targets) == (1, 2, 1)


def test_categories_of_the_splits_must_agree(tmp_path):
    other = changed(categories=[{"id": 12, "name": "tri"}, {"id": 3, "name": "disc"}])
    sources = {"train": write_source(tmp_path / "a", ground_truth()), "val": write_source(tmp_path / "b", other)}
    with pytest.raises(UserError, match="categories of train and val differ .3 'circle', 3 'disc'"):
        builder.prepare(sources, tmp_path, "cells")


def test_an_existing_dataset_is_only_replaced_on_request(tmp_path):
    sources = {"train": write_source(tmp_path / "raw", ground_truth())}
    builder.prepare(sources, tmp_path, "cells")
    before = (tmp_path / "cells/1.0.0/index_train.npz").stat().st_ino
    with pytest.raises(UserError, match="--overwrite"):
        builder.prepare(sources, tmp_path, "cells")
    bad = {"train": write_source(tmp_path / "bad", ground_truth(), {"a.png": b"", "c.jpg": b"", "sub/ü.jpg": b""})}
    with pytest.raises(UserError):
        builder.prepare(bad, tmp_path, "cells", overwrite=True)
    assert (tmp_path / "cells/1.0.0/index_train.npz").stat().st_ino == before
    builder.prepare(sources, tmp_path, "cells", overwrite=True)
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["1.0.0"]


def test_names_must_suit_tfds(tmp_path):
    with pytest.raises(UserError, match="lower case"):
        builder.prepare({}, tmp_path, "My-Cells")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write() failed: No space left on device")]
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, error):
    class FullDisk:
        def __init__(self, path, options):
            Path(path).write_bytes(b"some")

        def write(self, record):
            raise error

        def close(self):
            raise error

    monkeypatch.setattr(builder, "ArrayRecordWriter", FullDisk)
    with pytest.raises(UserError, match="is full: make room"):
        builder.prepare({"train": write_source(tmp_path / "raw", ground_truth())}, tmp_path / "data", "cells")
    assert not (tmp_path / "data/cells").exists()


def test_a_killed_preparation_leaves_no_dataset_and_does_not_hinder_the_next(tmp_path, monkeypatch):
    sources = {"train": write_source(tmp_path / "raw", ground_truth())}

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(builder.shutil, "copyfile", killed)
        patch.setattr(builder.shutil, "rmtree", lambda *args, **kwargs: None)  # SIGKILL: nobody tidies up
        with pytest.raises(KeyboardInterrupt):
            builder.prepare(sources, tmp_path, "cells")
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["1.0.0.incomplete"]
    builder.prepare(sources, tmp_path, "cells")
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["1.0.0"]


LAYOUTS = {
    "standard": ("annotations/instances_val2017.json", "val2017"),
    "images below": ("annotations/instances_val2017.json", "images/val2017"),
    "without year": ("annotations/instances_val.json", "images/val"),
    "Roboflow": ("valid/_annotations.coco.json", "valid"),
}


@pytest.mark.parametrize(("annotations", "images"), LAYOUTS.values(), ids=LAYOUTS)
def test_known_layouts_are_found(tmp_path, annotations, images):
    for path in (tmp_path / annotations, tmp_path / images / "a.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert coco_folder.find_sources(tmp_path) == {"val": Source(tmp_path / images, tmp_path / annotations)}


def test_unknown_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="neither annotations/.*nor train/.*--train_images"):
        coco_folder.find_sources(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        coco_folder.find_sources(tmp_path / "nope")
    with pytest.raises(UserError, match="is not a folder: give the one that holds the images"):
        source = write_source(tmp_path, ground_truth())
        coco_folder.open_source(source._replace(images=tmp_path / "nope"))
