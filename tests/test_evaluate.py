"""The evaluation program as a user runs it: what it writes, in whose ids, and that the numbers are pycocotools'."""

import contextlib
import csv
import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.numpy import save_file

import detr_jax
from detr_jax.datasets.folders import find_splits
from detr_jax.datasets.prepare import prepare_dataset
from detr_jax.datasets.split import open_split
from detr_jax.structures import Bucket
from detr_jax.weights import torch_names
from tests.programs import QUERIES, Programs, assert_one_sentence

FILES = ("metrics.json", "per_class.csv", "predictions.json", "pr_curve.png")
OTHER_NAMES = {"circle": "disc", "rectangle": "rectangle", "triangle": "three corners"}


def prepare_other(programs: Programs) -> None:
    """The validation images with other names, ids and order of classes."""
    root = programs.folder / "other"
    shutil.copytree(programs.raw, root)
    for path in (root / "annotations").iterdir():
        table = json.loads(path.read_text())
        for annotation in table["annotations"]:
            annotation["category_id"] = 1000 - annotation["category_id"]
        for category in table["categories"]:
            category["id"], category["name"] = 1000 - category["id"], OTHER_NAMES[category["name"]]
        path.write_text(json.dumps(table))
    prepare_dataset(find_splits(root), programs.data, "other")


def prepare_background(programs: Programs) -> None:
    """The validation images without any object."""
    root = programs.folder / "background"
    shutil.copytree(programs.raw, root)
    path = root / "annotations/instances_val2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    prepare_dataset(find_splits(root), programs.data, "background")


@pytest.fixture(scope="module")
def evaluations(programs, tmp_path_factory):
    """Every command line of this file, run once: name -> (folder of the results, finished process)."""
    folder = tmp_path_factory.mktemp("evaluations")
    workdir = programs.trained
    prepare_other(programs)
    prepare_background(programs)
    (folder / "map.json").write_text(json.dumps({"circle": "disc", "triangle": "three corners"}))
    (folder / "none.json").write_text(json.dumps({"rectangle": "no such class"}))
    (folder / "typo.json").write_text(json.dumps({"cirkle": "disc"}))
    (folder / "text.json").write_text("circle = disc")
    shutil.copytree(workdir / "checkpoints/6", folder / "damaged/checkpoints/6")
    victim = max((folder / "damaged/checkpoints/6/model/d").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    other = (f"--workdir={workdir}", "--data_name=other")
    corrupted = f"--checkpoint={workdir}/checkpoints/6", "--corrupt=noise,jpeg", "--severity=1,5"
    commands = {
        "best": [f"--workdir={workdir}"],
        "ones": [f"--checkpoint={workdir}/checkpoints/6", "--batch_size=1"],
        "threes": [f"--checkpoint={workdir}/checkpoints/6", "--batch_size=3", "--min_ap=0"],
        "train": [f"--workdir={workdir}", "--split=train[:3]", "--min_ap=0.99"],
        "some names": [*other],
        "mapped": [*other, f"--class_map={folder}/map.json"],
        "no names": [*other, f"--class_map={folder}/none.json"],
        "background": [f"--workdir={workdir}", "--data_name=background"],
        "typo": [*other, f"--class_map={folder}/typo.json"],
        "not json": [*other, f"--class_map={folder}/text.json"],
        "no split": [f"--workdir={workdir}", "--split=test"],
        "no checkpoint": [f"--checkpoint={folder}/nowhere"],
        "empty workdir": [f"--workdir={folder}"],
        "damaged": [f"--workdir={folder}/damaged"],
        "corrupted": [*corrupted, "--batch_size=3"],
        "corrupted ones": [*corrupted, "--batch_size=1"],
        "fog": [f"--workdir={workdir}", "--corrupt=fog"],
        "nothing": [],
    }
    full = [
        [*arguments, *([] if name == "best" else [f"--output={folder / name}"])] for name, arguments in commands.items()
    ]
    done = dict(zip(commands, programs.run_all("evaluate", full), strict=True))
    return {name: (workdir / "eval/tiny-val" if name == "best" else folder / name, done[name]) for name in commands}


def predictions(evaluations, name: str) -> list[dict]:
    folder, done = evaluations[name]
    assert done.stderr == ""
    return json.loads((folder / "predictions.json").read_text())


def test_files_and_the_twelve_lines(evaluations):
    folder, done = evaluations["best"]
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert sum(" @[ IoU=" in line for line in done.stdout.splitlines()) == 12
    assert str(folder) in done.stdout
    (head,) = [n for n, line in enumerate(done.stdout.splitlines()) if line.split()[:2] == ["class", "AP"]]
    rows = [line.split() for line in done.stdout.splitlines()[head + 1 : head + 4]]
    assert {row[0] for row in rows} == {"circle", "rectangle", "triangle"}
    assert sum(int(row[-1]) for row in rows) == len(predictions(evaluations, "best"))
    with (folder / "per_class.csv").open() as file:
        assert [(row["id"], row["name"]) for row in csv.DictReader(file)] == [
            ("3", "circle"), ("7", "rectangle"), ("12", "triangle"),
        ]  # fmt: skip


def test_images_without_objects_score_nothing(evaluations):
    folder, done = evaluations["background"]
    assert done.returncode == 0 and "there is nothing to score: AP is -1" in done.stdout
    assert json.loads((folder / "metrics.json").read_text())["AP"] == -1


def test_numbers_are_those_of_pycocotools_on_the_written_file(programs, evaluations):
    folder, _ = evaluations["best"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(programs.raw / "annotations/instances_val2017.json"))
        scored = COCOeval(truth, truth.loadRes(str(folder / "predictions.json")), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    metrics = json.loads((folder / "metrics.json").read_text())
    np.testing.assert_allclose(metrics["coco_eval_bbox"], scored.stats, rtol=0, atol=1e-12)
    assert metrics["AP"] == metrics["coco_eval_bbox"][0]


def test_training_evaluates_alike(programs, evaluations):
    """The program and the loop give the same predictions for the same checkpoint."""
    at_six = json.loads((programs.trained / "eval/6/predictions.json").read_text())
    assert_alike(predictions(evaluations, "ones"), at_six)


def assert_alike(ours: list[dict], theirs: list[dict]) -> None:
    """The same detections, whatever their order within an image."""
    key = lambda row: (row["image_id"], -row["score"])  # noqa: E731
    ours, theirs = sorted(ours, key=key), sorted(theirs, key=key)
    assert [row["image_id"] for row in ours] == [row["image_id"] for row in theirs]
    assert [row["category_id"] for row in ours] == [row["category_id"] for row in theirs]
    for field, tolerance in (("bbox", 2e-3), ("score", 1e-5)):  # pixels; probability
        np.testing.assert_allclose([r[field] for r in ours], [r[field] for r in theirs], rtol=0, atol=tolerance)


def test_the_batch_size_changes_nothing(evaluations):
    assert_alike(predictions(evaluations, "ones"), predictions(evaluations, "threes"))


def test_the_canvas_changes_nothing(programs):
    """An image alone on a canvas that fits, and the same image among others on a larger one."""
    model = detr_jax.load(programs.trained, jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]))
    split = open_split(programs.data, "tiny", "val")
    larger = dataclasses.replace(model, data=dataclasses.replace(model.data, buckets=(Bucket(96, 128, 8),)))
    ours, theirs = (
        [row for i, found in which.over(split, size) for row in found.to_coco(int(split.image_ids[i]))]
        for which, size in ((model, 1), (larger, 3))
    )
    assert len(ours) == len(split) * QUERIES
    assert_alike(ours, theirs)


def test_corruption_is_measured_beside_the_clean_figures(evaluations):
    """Clean figures are those without the flag to the last bit; the batch size changes no corruption."""
    folder, done = evaluations["corrupted"]
    assert done.returncode == 0 and done.stderr == "" and "Gaussian noise" in done.stdout
    assert (folder / "predictions.json").read_bytes() == (evaluations["threes"][0] / "predictions.json").read_bytes()
    tables = [
        json.loads((evaluations[name][0] / "robustness.json").read_text()) for name in ("corrupted", "corrupted ones")
    ]
    losses = [[row["AP50"] for row in table["corruptions"]] for table in tables]
    assert len(losses[0]) == 4 and losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert {"robustness.csv", "robustness.png", "corruptions.png"} <= {path.name for path in folder.iterdir()}


def test_original_ids_come_out(evaluations):
    rows = predictions(evaluations, "best")
    assert {row["category_id"] for row in rows} <= {3, 7, 12}
    assert {row["image_id"] for row in rows} == {1, 2, 3, 4}
    assert {row["image_id"] for row in predictions(evaluations, "train")} == {1, 2, 3}


def test_min_ap(evaluations):
    folder, done = evaluations["train"]
    assert done.returncode == 1 and "below --min_ap=0.99" in done.stdout
    assert (folder / "metrics.json").exists()  # the results are there to be looked at
    assert evaluations["threes"][1].returncode == 0  # --min_ap=0


def test_classes_are_matched_by_name(evaluations):
    _, done = evaluations["some names"]
    assert "circle, triangle" in done.stdout
    assert {row["category_id"] for row in predictions(evaluations, "some names")} <= {1000 - 7}
    mapped = predictions(evaluations, "mapped")
    back = [{**row, "category_id": 1000 - row["category_id"]} for row in mapped]
    assert_alike(back, predictions(evaluations, "best"))
    numbers = [
        json.loads((evaluations[name][0] / "metrics.json").read_text())["coco_eval_bbox"] for name in ("mapped", "best")
    ]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-12)


@pytest.mark.parametrize(
    "name, words",
    [
        ("no names", ["no class of the dataset", "disc", "--class_map"]),
        ("typo", ["cirkle"]),
        ("not json", ["text.json", "JSON"]),
        ("no split", ["'test'", "train, val"]),
        ("no checkpoint", ["nowhere", "does not exist"]),
        ("empty workdir", ["holds no checkpoint"]),
        ("damaged", ["damaged", "model/d/"]),
        ("nothing", ["--workdir", "--checkpoint"]),
        ("fog", ["--corrupt does not know 'fog'", "noise, shot, blur"]),
    ],
)
def test_mistakes_are_one_sentence(evaluations, name, words):
    folder, done = evaluations[name]
    assert_one_sentence(done, *words)
    assert name == "damaged" or not (folder / "metrics.json").exists()


def test_a_file_of_another_framework_is_evaluated_to_the_end(programs, tmp_path):
    arrays = {name: np.asarray(array) for name, array in detr_jax.load(programs.trained).arrays.items()}
    there = torch_names.to_there(arrays, torch_names.HUGGINGFACE)
    save_file({key: np.ascontiguousarray(tensor) for key, tensor in there.items()}, tmp_path / "model.safetensors")
    config = {"encoder_attention_heads": 4, "id2label": {"0": "circle", "1": "rectangle", "2": "triangle"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    data = ["--data_name=tiny", f"--data_dir={programs.data}", "--split=val"]
    source, output = f"--checkpoint={tmp_path}", f"--output={tmp_path}/out"
    done, lost = programs.run_all("evaluate", [[source, output, *data], [source, output]])
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    assert {row["category_id"] for row in json.loads((tmp_path / "out/predictions.json").read_text())} <= {3, 7, 12}
    assert_one_sentence(lost, "does not say what to evaluate on", "--data_name")
