"""A prepared dataset guards itself: what is damaged is one sentence that says how to make it again."""

import json
import shutil

import numpy as np
import pytest

from detr_jax.datasets import checksums, prepare, shapes
from detr_jax.datasets.inspection import inspect_split
from detr_jax.datasets.prepare import prepare_dataset
from detr_jax.datasets.split import Split, find_damage, open_split
from detr_jax.errors import UserError
from tests.datasets.folder_of_images import ground_truth, make_image, write_folder

SHARD = "shapes-train.array_record-00001-of-00003"
AGAIN = "make the dataset again with rm -r .* && python -m detr_jax.dataset shapes --name=shapes --data_dir="


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("guarded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "SHARD_BYTES", 10_000)
        shapes.prepare(root, "shapes", shapes.Settings(train=9, val=2, size=64))
    return root


@pytest.fixture
def data(original, tmp_path):
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


def use(data, **options) -> Split:
    split = open_split(data, "shapes", "train", **options)
    assert [split[row].image_id for row in range(len(split))] == split.image_ids.tolist()
    split.ground_truth()
    return split


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 4
    path.write_bytes(content)


def test_a_sound_dataset_lists_every_file(data):
    use(data)
    folder = data / "shapes/1.0.0"
    listed = json.loads((folder / "checksums.json").read_text())["files"]
    assert listed.keys() == {path.name for path in folder.iterdir()} - {"checksums.json"}
    assert find_damage(data, "shapes") == []


@pytest.mark.parametrize(
    "name", ["index_train.npz", "annotations_train.json", "categories.json", "features.json", SHARD]
)
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_file_is_named_when_it_is_first_used(data, name, damage):
    path = data / "shapes/1.0.0" / name
    if damage == "flipped":
        flip(path)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.unlink()
    with pytest.raises(
        UserError, match=f"(?s){name if damage != 'missing' else ''}.*make the dataset again with"
    ) as error:
        use(data)
    assert "\n" not in str(error.value) and "shapes/1.0.0" in str(error.value)
    if name == SHARD:
        assert "with images 4 to 6 of split train of the dataset shapes" in str(error.value)
    assert any(name in found for found in find_damage(data, "shapes")) or name == "features.json"


def test_a_large_shard_is_read_only_where_it_is_used(data, monkeypatch):
    monkeypatch.setattr(checksums, "READ_AT_ONCE", 1000)
    flip(data / "shapes/1.0.0" / SHARD, 0.04)
    split = open_split(data, "shapes", "train")
    with pytest.raises(UserError, match=f"record of image [4-6] is damaged .*{SHARD} of split train.*{AGAIN}"):
        [split[row] for row in range(len(split))]
    (damage,) = find_damage(data, "shapes")
    assert SHARD in damage and "was changed or damaged" in damage
    found = inspect_split(open_split(data, "shapes", "train", verify=False))
    assert found.defects[0].count in (1, 2, 3) and found.defects[0].stops


def test_a_record_of_another_image_is_not_taken(data):
    folder = data / "shapes/1.0.0"
    columns = dict(np.load(folder / "index_train.npz"))
    columns["positions"] = columns["positions"][::-1]
    np.savez(folder / "index_train.npz", **columns)
    listed = json.loads((folder / "checksums.json").read_text())
    (folder / "checksums.json").unlink()
    checksums.write_checksums(folder, listed["command"], {})
    split = open_split(data, "shapes", "train")
    with pytest.raises(UserError, match="the record of image 1 is that of image 9 in shapes-train"):
        split[0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": {}}', '{"files": {"a": 1}, "command": "x"}', "[" * 5000])
def test_the_list_itself_may_be_damaged(data, text):
    (data / "shapes/1.0.0/checksums.json").write_text(text)
    with pytest.raises(UserError, match="checksums.json is missing or damaged.*dataset prepare --name=shapes"):
        use(data)


def test_the_command_is_the_one_that_made_it(tmp_path):
    source = write_folder(tmp_path / "my photos", ground_truth(), {"c.jpg": make_image()})
    prepare_dataset({"train": source}, tmp_path, "cells", skip_missing=True)
    command = json.loads((tmp_path / "cells/1.0.0/checksums.json").read_text())["command"]
    assert command == (
        f"python -m detr_jax.dataset prepare --name=cells --data_dir={tmp_path} "
        f"'--train_images={source.images}' '--train_annotations={source.annotations}' --skip_missing --overwrite"
    )
