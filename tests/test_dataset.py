"""The dataset program as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from detr_jax.datasets import shapes

REPOSITORY = Path(__file__).parents[1]


def dataset(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "detr_jax.dataset", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    shapes.write(folder / "raw", shapes.Settings(train=10, val=4, size=48))
    return folder


def read_truth(folder, split="train"):
    return json.loads((folder / f"raw/annotations/instances_{split}2017.json").read_text())


def table(truth) -> list[str]:
    """The lines that the table of classes should have."""
    lines = [f"  {'id':>6} {'class':<24} {'boxes':>9}"]
    for row in truth["categories"]:
        lines.append(f"  {row['id']:>6} {row['name']:<24} {count_boxes(truth, row['id']):>9}")
    return lines


def count_boxes(truth, category_id) -> int:
    return sum(one["category_id"] == category_id for one in truth["annotations"])


def test_prepare_show_stats_check(folder):
    data = ("--name=cells", f"--data_dir={folder}")
    done = dataset("prepare", *data, f"--root={folder}/raw")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar where there is no terminal
    truth = read_truth(folder)
    assert done.stdout.splitlines()[0].startswith("train: 10 images (")
    assert f", 0 missing, {len(truth['annotations'])} boxes, 0 crowds, 0 degenerate boxes" in done.stdout

    done = dataset("show", *data, "--n=4", f"--output={folder}/grid.png")
    assert done.returncode == 0, done.stderr
    assert min(Image.open(folder / "grid.png").size) > 300

    done = dataset("stats", *data, "--split=train", "--config=configs/finetune.py:r18_c4")
    assert "padding: --config.data.scales=" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr
    circles = sum(row["category_id"] == 3 for row in truth["annotations"])
    assert done.stdout.splitlines()[3].split()[:3] == ["3", "circle", str(circles)]

    done = dataset("check", *data)
    assert done.returncode == 0 and "train: 0 defects" in done.stdout, done.stderr


@pytest.mark.parametrize("prepared", [False, True])
def test_check_says_what_it_looked_at(folder, tmp_path, prepared):
    where = [f"--root={folder}/raw"]
    if prepared:
        where = ["--name=seen", f"--data_dir={tmp_path}"]
        assert dataset("prepare", *where, f"--root={folder}/raw").returncode == 0
    done = dataset("check", *where)
    assert done.returncode == 0 and done.stderr == ""
    expected = []
    for split, images in (("train", 10), ("val", 4)):
        truth = read_truth(folder, split)
        expected += [f"{split}: checked {images} images, {len(truth['annotations'])} boxes, 3 classes"]
        unused = [row["name"] for row in truth["categories"] if not count_boxes(truth, row["id"])]
        notes = [f"{split}: note: {len(unused)} of 3 classes have no box here ({', '.join(map(repr, unused))})"]
        expected += [*table(truth), *notes[: len(unused)], f"{split}: 0 defects, 0 that stop training"]
    assert done.stdout.splitlines() == [*expected, "nothing stops training"]


def test_check_names_each_defect_and_fails(folder, tmp_path):
    truth = read_truth(folder)
    truth["annotations"][0]["category_id"] = 99
    truth["annotations"][1]["bbox"] = [500, 0, 5, 5]  # outside: left out, but no reason to stop
    (tmp_path / "bad.json").write_text(json.dumps(truth))
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((folder / "raw/train2017").iterdir())[1:]:
        (images / path.name).write_bytes(path.read_bytes())
    (images / "000002.jpg").write_bytes((images / "000002.jpg").read_bytes()[:600])
    done = dataset("check", f"--train_images={images}", f"--train_annotations={tmp_path}/bad.json")
    assert done.returncode == 1
    assert "category 99" in done.stdout
    assert "image file not found" in done.stdout and "000001.jpg" in done.stdout
    assert "image 2 (" in done.stdout and "000002.jpg" in done.stdout
    assert ", 3 that stop training" in done.stdout
    assert done.stdout.splitlines()[-1] == "training would stop on 3 of these: correct them first"
    truth["annotations"][0]["category_id"] = 3
    (tmp_path / "bad.json").write_text(json.dumps(truth))
    images = folder / "raw/train2017"
    done = dataset("check", f"--train_images={images}", f"--train_annotations={tmp_path}/bad.json")
    assert done.returncode == 0
    assert "box without area in the image, not trained on: 1 (annotation 2 of image 1)" in done.stdout
    assert "train: 1 defect, 0 that stop training" in done.stdout


def test_check_fails_where_the_splits_have_other_classes(folder, tmp_path):
    truth = read_truth(folder, "val")
    truth["categories"][0]["name"] = "disc"
    (tmp_path / "other.json").write_text(json.dumps(truth))
    raw = folder / "raw"
    train = (f"--train_images={raw}/train2017", f"--train_annotations={raw}/annotations/instances_train2017.json")
    done = dataset("check", *train, f"--val_images={raw}/val2017", f"--val_annotations={tmp_path}/other.json")
    assert done.returncode == 1
    assert "the categories of train and val differ (3 'circle', 3 'disc')" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "verb"),
        (("prepare", "--name=x", "--root=/nowhere"), "--root=/nowhere is not a folder"),
        (("prepare", "--name=x", "--train_images=/nowhere"), "--train_annotations is missing"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence):
    done = dataset(*arguments)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and sentence in done.stderr and done.stderr.count("\n") == 1
