"""Preparing a dataset: exact bytes and annotations, and every way in which it can be refused."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from detr_jax.datasets import prepare, shards
from detr_jax.datasets.prepare import Summary, prepare_dataset
from detr_jax.errors import UserError
from tests.datasets.folder_of_images import ground_truth, make_image, write_folder


def test_round_trip_is_exact(tmp_path):
    content = ground_truth()
    source = write_folder(tmp_path / "raw", content)
    (summary,) = prepare_dataset({"train": source}, tmp_path / "data", "cells").values()
    copied, degenerate = summary.defects
    assert copied.count == 1 and "ü.jpg" in copied.where[0] and "c.jpg" in copied.where[0]
    assert degenerate.where == ("annotation 6 of image 30",)
    assert summary._replace(defects=[]) == Summary(
        images=3, missing=0, empty=1, targets=2, crowd=1, degenerate=1, classes=2, defects=[], notes=[]
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
    prepare_dataset({"val": write_folder(tmp_path / "raw", ground_truth())}, tmp_path, "cells")
    assert tfds.builder_from_directory(tmp_path / "cells/1.0.0").as_data_source("val")[0]["image"].shape == (40, 60, 3)


def test_several_shards_hold_every_image_once(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "SHARD_BYTES", 3000)
    prepare_dataset({"val": write_folder(tmp_path / "raw", ground_truth())}, tmp_path, "cells")
    assert len(list((tmp_path / "cells/1.0.0").glob("*.array_record*"))) == 3
    records = tfds.builder_from_directory(tmp_path / "cells/1.0.0").as_data_source("val")
    assert [int(record["image/id"]) for record in records] == [10, 20, 30]


def test_only_what_is_needed_need_be_there(tmp_path):
    content = {
        "images": [{"id": 0, "file_name": "/home/somebody/c.jpg"}],
        "annotations": [{"image_id": 0, "category_id": 0, "bbox": [50, 30, 20, 20]}],
        "categories": [{"id": 0, "name": "x"}],
    }
    prepare_dataset({"train": write_folder(tmp_path, content)}, tmp_path / "data", "cells")
    assert np.load(tmp_path / "data/cells/1.0.0/index_train.npz")["sizes"].tolist() == [[40, 60]]


@pytest.mark.parametrize(("stated", "kept"), [((40, 60), True), ((60, 40), True), ((40, 61), False)])
def test_sizes_may_be_those_of_the_exif_rotation(tmp_path, stated, kept):
    content = ground_truth() | {"images": [{"id": 30, "file_name": "c.jpg", "height": stated[0], "width": stated[1]}]}
    content["annotations"] = content["annotations"][:1]
    source = write_folder(tmp_path, content, {"c.jpg": make_image(rotation=6)})
    if kept:
        prepare_dataset({"train": source}, tmp_path / "data", "cells")
        assert np.load(tmp_path / "data/cells/1.0.0/index_train.npz")["sizes"].tolist() == [list(stated)]
    else:
        with pytest.raises(UserError, match="its annotations say 61x40"):
            prepare_dataset({"train": source}, tmp_path / "data", "cells")
        assert not (tmp_path / "data/cells").exists()


def changed(**changes) -> dict:
    return ground_truth() | changes


BAD = {
    "image missing": (
        ground_truth(),
        {"a.png": make_image(), "c.jpg": make_image()},
        "image file not found.*image 20.*--skip_missing",
    ),
    "no image": (ground_truth(), {"z.png": make_image()}, "3 .*give the folder"),
    "not images": (
        ground_truth(),
        {"a.png": b"<html>", "c.jpg": make_image(), "sub/ü.jpg": make_image()},
        "a.png.*not an image",
    ),
    "empty file": (
        ground_truth(),
        {"a.png": b"", "c.jpg": make_image(), "sub/ü.jpg": make_image()},
        "image 10 .*a.png.*empty",
    ),
    "other size": (
        ground_truth(),
        {"a.png": make_image(61), "c.jpg": make_image(), "sub/ü.jpg": make_image()},
        "61x40.*say 60x40",
    ),
    "strange image": (changed(images=ground_truth()["images"][1:]), None, "not listed: 3 .annotation 8 of image 30"),
    "strange category": (
        changed(categories=[{"id": 3, "name": "c"}]),
        None,
        "category that is not listed: 1 .annotation 8",
    ),
}


@pytest.mark.parametrize(("content", "files", "sentence"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, content, files, sentence):
    good = write_folder(tmp_path / "good", ground_truth())
    with pytest.raises(UserError, match=sentence) as error:
        prepare_dataset(
            {"train": good, "val": write_folder(tmp_path / "bad", content, files)}, tmp_path / "data", "cells"
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data/cells").exists()


def test_missing_images_can_be_left_out(tmp_path):
    source = write_folder(tmp_path, ground_truth(), {"c.jpg": make_image()})
    (summary,) = prepare_dataset({"train": source}, tmp_path, "cells", skip_missing=True).values()
    assert (summary.images, summary.missing, summary.targets) == (1, 2, 1)


def test_categories_of_the_splits_must_agree(tmp_path):
    other = changed(categories=[{"id": 12, "name": "tri"}, {"id": 3, "name": "disc"}])
    sources = {"train": write_folder(tmp_path / "a", ground_truth()), "val": write_folder(tmp_path / "b", other)}
    with pytest.raises(UserError, match="categories of train and val differ .3 'circle', 3 'disc'"):
        prepare_dataset(sources, tmp_path, "cells")


def test_an_existing_dataset_is_only_replaced_on_request(tmp_path):
    sources = {"train": write_folder(tmp_path / "raw", ground_truth())}
    prepare_dataset(sources, tmp_path, "cells")
    before = (tmp_path / "cells/1.0.0/index_train.npz").stat().st_ino
    with pytest.raises(UserError, match="--overwrite"):
        prepare_dataset(sources, tmp_path, "cells")
    bad = {"train": write_folder(tmp_path / "bad", ground_truth(), {"a.png": b"", "c.jpg": b"", "sub/ü.jpg": b""})}
    with pytest.raises(UserError):
        prepare_dataset(bad, tmp_path, "cells", overwrite=True)
    assert (tmp_path / "cells/1.0.0/index_train.npz").stat().st_ino == before
    prepare_dataset(sources, tmp_path, "cells", overwrite=True)
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["1.0.0"]


def test_names_must_suit_tfds(tmp_path):
    with pytest.raises(UserError, match="lower case"):
        prepare_dataset({}, tmp_path, "My-Cells")


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

    monkeypatch.setattr(shards, "ArrayRecordWriter", FullDisk)
    with pytest.raises(UserError, match="is full: make room"):
        prepare_dataset({"train": write_folder(tmp_path / "raw", ground_truth())}, tmp_path / "data", "cells")
    assert not (tmp_path / "data/cells").exists()


def test_a_killed_preparation_leaves_no_dataset_and_does_not_hinder_the_next(tmp_path, monkeypatch):
    sources = {"train": write_folder(tmp_path / "raw", ground_truth())}

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_checksums", killed)
        patch.setattr(prepare.shutil, "rmtree", lambda *args, **kwargs: None)  # SIGKILL: nobody tidies up
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset(sources, tmp_path, "cells")
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["1.0.0.incomplete"]
    prepare_dataset(sources, tmp_path, "cells")
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["1.0.0"]
