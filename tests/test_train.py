"""The training program as a user runs it: what it writes, that it goes on bit for bit, what it says to bad input."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest

from detr_jax.datasets.folders import find_splits
from detr_jax.datasets.prepare import prepare_dataset
from tests.programs import (
    Programs,
    assert_one_sentence,
    assert_same_state,
    numbers,
    rows,
)

ORIGINAL_KEYS = {"loss", "loss_ce", "loss_bbox", "loss_giou", "loss_ce_0", "loss_bbox_0", "loss_giou_0"}
ORIGINAL_KEYS |= {"class_error", "cardinality_error", "cardinality_error_0", "lr", "grad_norm", "epoch"}
OUR_KEYS = {"images_per_second", "data_wait", "skipped", "broken_images", "matcher_turns", "matcher_nonfinite"}


def assert_fresh(workdir: Path) -> None:
    """Nothing was written, but for compiled programs."""
    assert not workdir.exists() or {path.name for path in workdir.iterdir()} <= {"cache"}


def test_the_whole_workdir(programs):
    workdir = programs.trained
    wanted = "config.json run.json train.log metrics.jsonl metrics.csv curves.png tb checkpoints/3 checkpoints/6"
    for name in wanted.split():
        assert (workdir / name).exists(), name
    for step in (3, 6):
        for name in ("metrics.json", "per_class.csv", "predictions.json", "pr_curve.png"):
            assert (workdir / "eval" / str(step) / name).stat().st_size > 0, name
        assert (workdir / f"samples/step_{step:08d}.png").stat().st_size > 1000
    best = (workdir / "checkpoints/best").resolve()
    scores = {row["step"]: row["coco_eval_bbox"][0] for row in rows(workdir) if "coco_eval_bbox" in row}
    assert best.parent == workdir / "checkpoints" and scores[int(best.name)] == max(scores.values())
    assert not list(workdir.rglob("*.partial*")) and not list(workdir.rglob("*orbax-checkpoint-tmp*"))
    assert not (workdir / "cache").exists()  # JAX_COMPILATION_CACHE_DIR is used instead
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["num_queries"] == 10 and config["train"]["steps"] == 6
    assert [start["step"] for start in json.loads((workdir / "run.json").read_text())["starts"]] == [0]
    assert (workdir / "stderr").read_text() == ""


def test_rows_have_the_keys_of_the_original(programs):
    found = rows(programs.trained)
    training = [row for row in found if "loss" in row]
    assert [row["step"] for row in training] == [1, 2, 3, 4, 5, 6]
    for row in training:
        assert row.keys() >= ORIGINAL_KEYS | OUR_KEYS
        assert all(math.isfinite(value) for value in row.values())
        parts = sum(row[f"loss_ce{a}"] + 5 * row[f"loss_bbox{a}"] + 2 * row[f"loss_giou{a}"] for a in ("", "_0"))
        assert row["loss"] == pytest.approx(parts, rel=1e-5)
    evaluations = [row for row in found if "coco_eval_bbox" in row]
    assert [(row["step"], len(row["coco_eval_bbox"])) for row in evaluations] == [(3, 12), (6, 12)]
    with (programs.trained / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [int(row["step"]) for row in table] == [1, 2, 3, 3, 4, 5, 6, 6]


def test_resumed_equals_unbroken_and_another_config_is_refused(programs, tmp_path):
    workdir = tmp_path / "run"
    first, second, again, other = programs.run_all(
        "train",
        [
            programs.training(workdir, "--config.train.steps=3"),
            programs.training(workdir),
            programs.training(workdir),  # finished: nothing is left to do
            programs.training(workdir, "--config.seed=7", "--config.optim.lr=0.5", "--config.train.log_every=2"),
        ],
    )
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert_same_state(workdir, programs.trained, 6)
    assert numbers(workdir) == numbers(programs.trained)
    assert "continues at step 3 of 6" in second.stdout
    assert again.returncode == 0, again.stderr
    assert_one_sentence(other, "seed was 42 and is now 7", "optim.lr was 0.0001 and is now 0.5", str(workdir))
    assert "log_every" not in other.stderr
    assert numbers(workdir) == numbers(programs.trained)  # the last two changed nothing


def test_a_folder_is_prepared_and_trained_on(programs, tmp_path):
    more = (f"--data={programs.raw}", f"--config.data.dir={tmp_path}", "--config.data.buckets=auto")
    arguments = [word for word in programs.training(tmp_path / "run") if "data.buckets" not in word]
    first, second = programs.run_all("train", [[*arguments, *more]] * 2)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "--data is the dataset --config.data.name=raw" in first.stdout and "train: 12 images" in first.stdout
    assert 'padding: --config.data.buckets="((64, 64, 8),)"' in first.stdout
    assert "has not changed since" in second.stdout and "train: 12 images" not in second.stdout
    assert_same_state(tmp_path / "run", programs.trained, 6)
    assert json.loads((tmp_path / "run/config.json").read_text())["data"]["buckets"] == [[64, 64, 8]]


def prepare_without_objects(programs: Programs, name: str) -> None:
    """The tiny dataset with crowds only, which do not train."""
    root = programs.folder / name
    shutil.copytree(programs.raw, root)
    for path in (root / "annotations").iterdir():
        table = json.loads(path.read_text())
        crowds = [{**annotation, "iscrowd": 1} for annotation in table["annotations"]]
        path.write_text(json.dumps(table | {"annotations": crowds}))
    prepare_dataset(find_splits(root), programs.data, name)


LAYER4 = ("--config.model.last_stage=layer4", "--config.model.heads=8")  # what a mask head stands on
BAD_INPUT = {  # arguments -> words of the sentence
    "no folder": (["--data=/none/photos"], ["/none/photos"]),
    "dataset": (["--config.data.name=nothing"], ["'nothing'", "tiny", "dataset prepare"]),
    "split": (["--config.data.train_split=test"], ["'test'", "train, val"]),
    "empty slice": (["--config.data.val_split=val[50:]"], ["val[50:]", "4 images"]),
    "queries": (["--config.model.num_queries=2"], ["image 1 has 3 objects", "--config.model.num_queries=3"]),
    "batch": (
        ["--config.train.accum_steps=3"],
        ["--config.train.batch_size=2", "--config.train.accum_steps=3", "multiple of 3"],
    ),
    "batch 0": (["--config.train.batch_size=0"], ["batch_size=0"]),
    "no objects": (["--config.data.name=bare"], ["bare", "train", "object"]),
    "freeze": (["--config.freeze=('backbon3',)"], ["'backbon3'", "backbone", "transformer"]),
    "weights": (
        ["--config.model.norm=frozen_batch", "--config.model.backbone_weights=/none/r50.npz"],
        ["/none/r50.npz does not exist"],
    ),
    "weights of another norm": (
        ["--config.model.backbone_weights=/none/r50.npz"],
        ["/none/r50.npz", "--config.model.norm=frozen_batch"],
    ),
    "init_from": (["--config.init_from=/none/run"], ["/none/run"]),
    "backbone": (["--config.model.backbone=resnet19"], ["resnet19", "resnet18"]),
    "norm": (["--config.model.norm=batch"], ["batch", "group"]),
    "last stage": (["--config.model.last_stage=layer9"], ["layer9"]),
    "heads": (["--config.model.heads=5"], ["--config.model.heads=5", "--config.model.hidden_dim=32"]),
    "masks": (
        ["--config.model.masks=True", *LAYER4],
        ["masks cannot be trained", "--config.freeze=\"('mask_head',)\""],
    ),
    "masks of a C4": (["--config.model.masks=True"], ["--config.model.last_stage=layer4", "not layer3"]),
    "heads of masks": (["--config.model.masks=True", *LAYER4, "--config.model.heads=4"], ["heads in eights"]),
    "positions": (["--config.model.position_embedding=fourier"], ["fourier", "sine"]),
    "dropout": (["--config.model.dropout=2.0"], ["dropout", "2.0"]),
    "dtype": (["--config.dtype=float17"], ["dtype", "float17"]),
    "schedule": (["--config.optim.schedule=steps"], ["schedule", "steps", "cosine"]),
    "learning rate": (["--config.optim.lr=inf"], ["--config.optim.lr=inf", "from 0 to 1"]),
    "clipping": (["--config.optim.clip_norm=nan"], ["--config.optim.clip_norm=nan"]),
    "weight decay": (["--config.optim.weight_decay=-0.1"], ["--config.optim.weight_decay=-0.1"]),
    "normalizer": (["--config.loss.normalizer=mine"], ["mine", "global"]),
    "matcher": (["--config.train.matcher=mine"], ["mine", "loop", "pallas"]),
    "matcher without a GPU": (["--config.train.matcher=pallas"], ["GPU", "loop"]),
    "resize": (["--config.data.resize=gpu"], ["--config.data.resize=gpu", "host, fast, device"]),
    "accumulate 0": (["--config.train.accum_steps=0"], ["accum_steps"]),
    "fsdp": (["--config.train.fsdp=3"], ["fsdp=3", "1 devices"]),
    "extra word": (["more"], ["'more'"]),
    "freeze before all files": (
        [
            "--config.freeze=('backbon3',)",
            "--config.data.name=nothing",
            "--config.model.norm=frozen_batch",
            "--config.model.backbone_weights=/none/r50.npz",
        ],
        ["--config.freeze=", "'backbon3'", "backbone/conv1", "transformer/decoder"],
    ),
    "freeze everything": (
        ["--config.freeze=('backbone','input_projection','transformer','query_positions','class_head','box_head')"],
        ["--config.freeze=", "nothing to train"],
    ),
    "canvas": (
        ["--config.data.max_size=80"],
        ["--config.data.buckets", "64x80", "64x64", "--config.data.max_size=64"],
    ),
    "denoising": (["--config.model.denoising=2"], ["--config.model.denoising=2", "--config.model.anchors=True"]),
    "selected queries": (["--config.model.queries=selected"], ["queries=selected", "--config.model.anchors=True"]),
    "kept features": (
        ["--config.train.cache_features=layer2"],
        ["--config.train.cache_features=layer2", '--config.freeze="(', "'backbone/layer2'"],
    ),
    "class scores": (["--config.model.class_scores=focal"], ["--config.model.class_scores=focal", "sigmoid"]),
    "split that ends too early": (
        ["--config.data.train_split=train["],
        ["--config.data.train_split=train[", "train[:100]"],
    ),
    "words that contradict": (["--config=configs/detr.py:r50,r101"], ["r50 and r101", "contradict"]),
    "unknown word": (["--config=configs/detr.py:r5O"], ["'r5O'", "r50_dc5"]),
    # words go in any order: both are understood, and it is the data that is missing
    "fast,debug": (["--config=configs/detr.py:fast,debug", "--config.data.name=nothing"], ["'nothing'"]),
    "debug,fast": (["--config=configs/detr.py:debug,fast", "--config.data.name=nothing"], ["'nothing'"]),
    "workdir is a file": (["--workdir=LICENSE"], ["--workdir=LICENSE", "folder"]),
}


@pytest.fixture(scope="module")
def answers(programs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    prepare_without_objects(programs, "bare")
    commands = []
    for name, (arguments, _) in BAD_INPUT.items():
        config, *others = programs.training(folder / name)
        if arguments[0].startswith("--config="):
            config, *arguments = arguments
        commands.append([config, *others, *arguments])
    return folder, dict(zip(BAD_INPUT, programs.run_all("train", commands), strict=True))


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_sentence(answers, name):
    folder, done = answers
    assert_one_sentence(done[name], *BAD_INPUT[name][1])
    assert_fresh(folder / name)
