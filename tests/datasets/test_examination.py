"""Looking at images: each file and each header is read once, and equal content is found whatever it is called."""

from pathlib import Path

import pytest

from detr_jax.datasets.defects import LEAKED
from detr_jax.datasets.examination import SAMPLES, Sighting, Sightings
from detr_jax.datasets.inspection import inspect_folder, inspect_split
from detr_jax.datasets.prepare import prepare_dataset
from detr_jax.datasets.split import open_split
from detr_jax.images import decoding
from tests.datasets.folder_of_images import ground_truth, make_image, write_folder

FILES = {"a.png": make_image(image_format="PNG"), "c.jpg": make_image(), "sub/ü.jpg": make_image() + b"tail"}


@pytest.mark.parametrize("quick", [False, True])
def test_every_file_and_header_is_read_once(tmp_path, monkeypatch, quick):
    read, headers = [], []
    read_bytes, read_header = Path.read_bytes, decoding.read_header
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    monkeypatch.setattr(decoding, "read_header", lambda image: headers.append(image) or read_header(image))
    folder = write_folder(tmp_path / "raw", ground_truth(), FILES)
    prepare_dataset({"train": folder}, tmp_path, "cells", quick=quick)
    assert sorted(read) == ["a.png", "c.jpg", "ü.jpg"] and sorted(headers) == sorted(FILES.values())


def test_content_is_compared_where_samples_are_equal(tmp_path):
    files = {name: bytearray(30 * SAMPLES) for name in "abcde"}
    for name in "bd":
        files[name][10 * SAMPLES + 1] = 1  # between two samples
    files["e"][-1] = 1
    sightings = Sightings()
    seen = {}
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        seen[name] = sightings.find(bytes(content), Sighting("train", name, path)).name
    assert seen == {"a": "a", "b": "b", "c": "a", "d": "b", "e": "e"}


def test_one_picture_in_two_splits(tmp_path):
    train = write_folder(tmp_path / "train", ground_truth(), FILES)
    val = write_folder(tmp_path / "val", ground_truth(), FILES | {"c.jpg": make_image() + b"other"})
    prepare_dataset({"train": train, "val": val}, tmp_path, "cells")
    folders, splits = Sightings(), Sightings()
    of_folders = [inspect_folder(folder, name, folders) for name, folder in (("train", train), ("val", val))]
    of_splits = [inspect_split(open_split(tmp_path, "cells", name), splits) for name in ("train", "val")]
    for (_, *of_train), (leaked, *_) in ([one.defects for one in both] for both in (of_folders, of_splits)):
        assert leaked.kind == LEAKED and leaked.count == 2 and not leaked.stops
        assert leaked.where[0].endswith(" of train") and LEAKED not in [defect.kind for defect in of_train]
