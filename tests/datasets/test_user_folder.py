"""A user's folder in any format becomes a prepared dataset, with one command, once."""

import json
from pathlib import Path

import pytest

from detr_jax.datasets import shapes
from detr_jax.datasets.conversion import convert_folder
from detr_jax.datasets.folders import find_splits
from detr_jax.datasets.split import open_split, split_names
from detr_jax.datasets.user_folder import FolderOptions, choose_name, opened_root, prepare_folder
from detr_jax.errors import UserError

SETTINGS = shapes.Settings(train=30, val=8, size=48)


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("user") / "coco"
    shapes.write(root, SETTINGS)
    return root


def targets(data: Path, name: str, split: str) -> dict[str, list]:
    opened = open_split(data, name, split)
    names = opened.categories.names
    return {
        Path(record.file_name).name.replace("_val", ""): [  # renamed where one folder holds all
            (names[label], *box)
            for label, box in zip(record.labels, record.boxes_xyxy_pixels.round(3).tolist(), strict=True)
        ]
        for record in (opened[row] for row in range(len(opened)))
    }


@pytest.mark.parametrize("to", ["voc", "yolo", "csv"])
def test_every_format_is_trained_on_alike(coco, tmp_path, to):
    convert_folder(find_splits(coco), to, tmp_path / "own", "copy")
    prepared = prepare_folder(tmp_path / "own", "own", tmp_path / "data")
    prepare_folder(coco, "coco", tmp_path / "data")
    assert prepared.is_new and prepared.notes[0].startswith("read as")
    assert prepared.summaries["train"].defects == [] and prepared.summaries["val"].images == 8
    for split in ("train", "val"):
        assert targets(tmp_path / "data", "own", split) == targets(tmp_path / "data", "coco", split)


def test_a_folder_without_validation_is_split_and_prepared_once(coco, tmp_path):
    convert_folder({"train": find_splits(coco)["train"]}, "yolo", tmp_path / "own", "copy")
    prepared = prepare_folder(tmp_path / "own", "own", tmp_path / "own/data")  # the data lie in the folder itself
    assert "of 30 images become val by --split_seed=0" in prepared.notes[-1]
    assert sorted(split_names(tmp_path / "own/data", "own")) == ["train", "val"]
    again = prepare_folder(tmp_path / "own", "own", tmp_path / "own/data")
    assert not again.is_new and "has not changed" in again.notes[0]
    with pytest.raises(UserError, match="with --val_share=0.2: pass --overwrite"):
        prepare_folder(tmp_path / "own", "own", tmp_path / "own/data", FolderOptions(val_share=0.5))
    label = next((tmp_path / "own/labels/train").glob("*.txt"))
    label.write_text("0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(UserError, match="before it changed: pass --overwrite"):
        prepare_folder(tmp_path / "own", "own", tmp_path / "own/data")
    assert prepare_folder(tmp_path / "own", "own", tmp_path / "own/data", overwrite=True).is_new
    command = json.loads((tmp_path / "own/data/own/1.0.0/checksums.json").read_text())["command"]
    assert command.endswith(f"--name=own --data_dir={tmp_path}/own/data --root={tmp_path}/own --overwrite")


def test_coco_without_validation_is_split_too(coco, tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").symlink_to(coco / "train2017")
    source = coco / "annotations/instances_train2017.json"
    (tmp_path / "annotations/instances_train2017.json").write_bytes(source.read_bytes())
    with opened_root(tmp_path) as opened:
        parts = [json.loads(opened.splits[split].annotations.read_text()) for split in ("train", "val")]
    rows = sorted((row for part in parts for row in part["annotations"]), key=lambda row: row["id"])
    assert rows == sorted(json.loads(source.read_text())["annotations"], key=lambda row: row["id"])
    with opened_root(tmp_path, FolderOptions(val_share=0)) as opened:
        assert list(opened.splits) == ["train"] and opened.splits["train"].annotations.parent.parent == tmp_path


def test_a_dataset_is_named_after_its_folder(coco, tmp_path):
    def name(folder: str) -> str:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        return choose_name(tmp_path / folder, tmp_path / "data")

    assert [name(one) for one in ("Blood cells (v2)", "2017", "été", "shapes")] == [
        "blood_cells_v2", "photos_2017", "t", "photos_shapes",
    ]  # fmt: skip
    assert name("cells") == "cells"
    for parent in ("a", "b"):  # two folders of one name
        convert_folder(find_splits(coco), "yolo", tmp_path / parent / "cells", "copy")
    prepare_folder(tmp_path / "a/cells", name("a/cells"), tmp_path / "data")
    assert (name("a/cells"), name("b/cells"), name("cells")) == ("cells", "cells_2", "cells_2")


def test_two_formats_and_none(coco, tmp_path):
    convert_folder(find_splits(coco), "voc", tmp_path / "own", "copy")
    convert_folder(find_splits(coco), "csv", tmp_path / "csv", "none")
    (tmp_path / "own/boxes.csv").write_bytes((tmp_path / "csv/annotations.csv").read_bytes())
    with (
        pytest.raises(UserError, match="Pascal VOC and CSV: choose with --format=voc or --format=csv"),
        opened_root(tmp_path / "own"),
    ):
        pass
    with opened_root(tmp_path / "own", FolderOptions("csv")) as opened:
        assert opened.format == "csv" and sorted(opened.splits) == ["train", "val"]
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.docx").touch()
    for folder, sentence in (
        ("none", r"holds 1 \.docx files, but neither annotations/.*--train_images"),
        ("x", "no folder|not a"),
    ):
        with pytest.raises(UserError, match=sentence), opened_root(tmp_path / folder):
            pass


def test_defects_stop_and_name_file_and_line(coco, tmp_path):
    convert_folder(find_splits(coco), "yolo", tmp_path / "own", "copy")
    label = sorted((tmp_path / "own/labels/train").glob("*.txt"))[0]
    label.write_text("9 0.5 0.5 0.5 0.5\n0 0.5 0.5 -0.001 0.5\n")
    with pytest.raises(UserError, match=f"class that has no name: 1 .labels/train/{label.name}, line 1: class 9"):
        prepare_folder(tmp_path / "own", "own", tmp_path / "data")
    label.write_text("0 0.5 0.5 -0.001 0.5\n")
    with pytest.raises(UserError, match=f"negative width.*labels/train/{label.name}, line 1"):
        prepare_folder(tmp_path / "own", "own", tmp_path / "data")
    assert not (tmp_path / "data/own").exists()
