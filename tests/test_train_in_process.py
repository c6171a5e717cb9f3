"""Training from Python, ``train(config, workdir)``: it goes on bit for bit, and says what it started from once."""

import hashlib
import json
import re
import shutil
import signal

import pytest

from detr_jax.config_forms import to_dict
from detr_jax.datasets.folders import find_splits
from detr_jax.datasets.prepare import prepare_dataset
from detr_jax.errors import UserError
from detr_jax.train import train
from detr_jax.weights.checkpoints import find_checkpoint
from tests.programs import Programs, assert_same_state, evaluations, numbers, of_session, rows

pytestmark = pytest.mark.usefixtures("compile_once")
SHORT = {"train.steps": 4, "train.log_every": 1, "train.checkpoint_every": 2, "train.eval_every": 4}


@pytest.fixture
def programs(tmp_path_factory) -> Programs:
    return of_session(tmp_path_factory)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, compile_once):
    """The workdir of four steps in one go."""
    workdir = tmp_path_factory.mktemp("in_process") / "unbroken"
    train(of_session(tmp_path_factory).config(SHORT), workdir)
    return workdir


def test_resumed_equals_unbroken(programs, unbroken, tmp_path):
    assert [row["step"] for row in rows(unbroken) if "loss" in row] == [1, 2, 3, 4]
    assert json.loads((unbroken / "config.json").read_text()) == to_dict(programs.config(SHORT))
    workdir = tmp_path / "broken"
    train(programs.config(SHORT | {"train.steps": 2}), workdir)
    assert [row["step"] for row in rows(workdir)] == [1, 2, 2]  # everything is due after the last step
    train(programs.config(SHORT), str(workdir))
    assert_same_state(workdir, unbroken, 4)
    assert numbers(workdir)[3:] == numbers(unbroken)[2:] and numbers(workdir)[:2] == numbers(unbroken)[:2]
    assert [start["step"] for start in json.loads((workdir / "run.json").read_text())["starts"]] == [0, 2]


def test_a_run_that_is_done_changes_nothing(programs, unbroken):
    before = numbers(unbroken), sorted(path.name for path in (unbroken / "checkpoints").iterdir())
    train(programs.config(SHORT), unbroken)
    assert before == (numbers(unbroken), sorted(path.name for path in (unbroken / "checkpoints").iterdir()))


def test_weights_are_reported_once_and_recorded(programs, unbroken, tmp_path):
    workdir = tmp_path / "run"
    more = {"init_from": str(unbroken), "seed": 1}
    train(programs.config(SHORT | more | {"train.steps": 2}), workdir)
    log = (workdir / "train.log").read_text()
    assert len(re.findall(r"loaded +\d+ arrays", log)) == 1 and log.count(f"weights from {unbroken}") == 1
    checkpoint = (unbroken / "checkpoints/best").resolve()
    digest = hashlib.sha256((checkpoint / "checksums.json").read_bytes()).hexdigest()
    train(programs.config(SHORT | more), workdir)  # goes on from its own checkpoint
    starts = json.loads((workdir / "run.json").read_text())["starts"]
    assert [start["weights_sha256"] for start in starts] == [{str(unbroken): digest}, {}]
    assert len(re.findall(r"loaded +\d+ arrays", (workdir / "train.log").read_text())) == 1


def test_other_settings_are_refused_and_nothing_is_changed(programs, unbroken):
    before = numbers(unbroken), len(json.loads((unbroken / "run.json").read_text())["starts"])
    with pytest.raises(UserError, match=r"seed was 42 and is now 7; optim\.lr was 0\.0001 and is now 0\.5"):
        train(programs.config(SHORT | {"seed": 7, "optim.lr": 0.5, "train.log_every": 2}), unbroken)
    assert before == (numbers(unbroken), len(json.loads((unbroken / "run.json").read_text())["starts"]))


def test_handlers_of_signals_come_back(programs, unbroken):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    train(programs.config(SHORT), unbroken)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def test_the_last_row_is_an_evaluation(unbroken):
    assert len(evaluations(unbroken)) == 1 and "coco_eval_bbox" in rows(unbroken)[-1]


def test_a_validation_split_without_objects_scores_nothing(programs, tmp_path):
    """Background is data as any other: training goes on, and the newest checkpoint is the one to use."""
    folder = tmp_path / "raw"
    shutil.copytree(programs.raw, folder)
    annotations = folder / "annotations/instances_val2017.json"
    annotations.write_text(json.dumps(json.loads(annotations.read_text()) | {"annotations": []}))
    prepare_dataset(find_splits(folder), tmp_path, "background")
    data = {"data.name": "background", "data.dir": str(tmp_path), "train.steps": 4, "train.eval_every": 2}
    train(programs.config(SHORT | data), tmp_path / "run")
    assert "note: the ground truth has no objects" in (tmp_path / "run/train.log").read_text()
    assert evaluations(tmp_path / "run") == [[-1] * 12] * 2
    assert find_checkpoint(tmp_path / "run").name == "4"
    train(programs.config(SHORT | data | {"train.steps": 6}), tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run") if "coco_eval_bbox" in row] == [2, 4, 6]
