"""Several processes evaluate, predict and start as one does; the first one speaks and writes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import detr_jax
from detr_jax.train import train
from detr_jax.weights import torch_names
from tests.programs import QUERIES, Programs, assert_close_losses, finish, rows, said

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_once")]
LEARNS = {  # enough of the fast detector to find some objects after 120 steps
    "model.queries": "selected",
    "model.anchors": True,
    "model.class_scores": "sigmoid",
    "model.position_temperature": 20.0,
    "model.decoder_layers": 1,
    "model.dropout": 0.0,
    "loss.class_weight": 2.0,
    "loss.class_cost": 2.0,
    "optim.lr": 2e-3,
    "optim.lr_backbone": 1e-3,
    "optim.clip_norm": 1.0,
    "train.batch_size": 4,
    "train.steps": 120,
    "train.eval_every": 120,
    "train.checkpoint_every": 120,
    "train.log_every": 60,
    "data.val_split": "train[:11]",
}


@pytest.fixture(scope="module")
def learned(programs, tmp_path_factory) -> Path:
    """The workdir of a run whose AP is not 0."""
    workdir = tmp_path_factory.mktemp("learned") / "run"
    train(programs.config(LEARNS), workdir)
    return workdir


def run_hosts(programs: Programs, count: int, verb: str, *arguments: object) -> list[str]:
    """What the first of so many processes printed; the others at most introduce themselves, and all of them succeed."""
    outputs = [finish(process, 300) for process in programs.start_hosts(count, verb, *arguments)]
    assert [status for status, _, _ in outputs] == [0] * count, outputs
    for number, (_, out, err) in enumerate(outputs[1:], start=1):
        assert not [line for line in said(out) + said(err) if not line.startswith(f"process {number} of {count}: ")]
    return said(outputs[0][1])


@pytest.fixture(scope="module")
def alone(programs, learned, tmp_path_factory) -> list[float]:
    """The twelve numbers of one process."""
    output = tmp_path_factory.mktemp("alone")
    done = programs.run("evaluate", f"--workdir={learned}", f"--output={output}", "--batch_size=4")
    assert done.returncode == 0, done.stderr
    numbers = json.loads((output / "metrics.json").read_text())["coco_eval_bbox"]
    assert numbers[0] > 0.03 and numbers[1] > 0.1, numbers
    return numbers


@pytest.mark.parametrize("count", [2, 3])
def test_evaluate(programs, learned, alone, tmp_path, count):
    """11 images in batches of 4, or of 6 for three devices: the last one is not full."""
    lines = run_hosts(programs, count, "evaluate", f"--workdir={learned}", f"--output={tmp_path}", "--batch_size=4")
    assert sum(" @[ IoU=" in line for line in lines) == 12 and "on 11 images" in lines[-1]
    assert json.loads((tmp_path / "metrics.json").read_text())["coco_eval_bbox"] == alone
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert {row["image_id"] for row in predictions} == set(range(1, 12))


def test_predict_with_a_foreign_file(programs, tmp_path):
    arrays = {name: np.asarray(array) for name, array in detr_jax.load(programs.trained).arrays.items()}
    there = torch_names.to_there(arrays, torch_names.HUGGINGFACE)
    save_file({key: np.ascontiguousarray(tensor) for key, tensor in there.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"encoder_attention_heads": 4}')
    val = [f"--checkpoint={tmp_path}", f"--input={programs.raw}/val2017/*[123].jpg", "--threshold=0", "--draw"]
    done = programs.run("predict", *val, f"--output={tmp_path}/one")
    assert done.returncode == 0, done.stderr
    lines = run_hosts(programs, 2, "predict", *val, f"--output={tmp_path}/two", "--format=coco", "--images=none")
    assert lines.pop(0).startswith(f"{tmp_path}/two/prelabels_coco: train: 3 images, ")
    assert len(lines) == 2 and f"{3 * QUERIES} detections above 0.0 in 3 images" in lines[1]
    assert lines[0].startswith("3 images in ")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "000001.png", "000002.png", "000003.png", "predictions.json", "prelabels_coco",
    ]  # fmt: skip
    one, two = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("one", "two"))
    for field in ("image_id", "category_id", "file_name"):
        assert [row[field] for row in one] == [row[field] for row in two]
    np.testing.assert_allclose([row["bbox"] for row in one], [row["bbox"] for row in two], rtol=0, atol=2e-3)
    np.testing.assert_allclose([row["score"] for row in one], [row["score"] for row in two], rtol=0, atol=1e-5)


def test_init_from_a_workdir(programs, tmp_path):
    """The best checkpoint is damaged: another one is used, which the first process says."""
    source = Path(shutil.copytree(programs.trained, tmp_path / "source", symlinks=True))
    best = (source / "checkpoints/best").resolve()
    (best / "info/metadata").write_text("{")
    more = ("--config.model.dropout=0.0", f"--config.init_from={source}", "--config.seed=5", "--config.train.steps=2")
    lines = run_hosts(programs, 2, "train", *programs.training(tmp_path / "two", *more))
    (line,) = [line for line in lines if "damaged" in line]
    assert re.search(rf"{best.name} \(info/metadata .*; checkpoint \d is used instead", line)
    assert any(re.search(r"loaded +\d+ arrays", line) for line in lines)
    done = programs.run("train", *programs.training(tmp_path / "one", *more), JAX_NUM_CPU_DEVICES=2)
    assert done.returncode == 0, done.stderr
    assert_close_losses(tmp_path / "one", tmp_path / "two", 1e-5)
    assert rows(tmp_path / "two")[0]["loss"] != rows(programs.trained)[0]["loss"]


def test_a_refusal_reaches_every_process(programs, tmp_path):
    workdir = Path(shutil.copytree(programs.trained, tmp_path / "run", symlinks=True))
    for step in (3, 6):
        (workdir / f"checkpoints/{step}/info/metadata").write_text("{")
    before = sorted(workdir.rglob("*"))
    for process in programs.start_hosts(2, "train", *programs.training(workdir)):
        status, out, err = finish(process, 300)
        assert status == 1 and "is damaged: 6 (info/metadata has changed" in err and "3 (info" in err, err
        assert len(said(err)) == 1 and len(said(out)) == 1  # the latter introduces the process
    assert sorted(workdir.rglob("*")) == before
