"""Trackers: rows are sent on, a run that goes on is one run there, and no fault of theirs ends a training."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from detr_jax.config import Config, TrainConfig
from detr_jax.errors import UserError
from detr_jax.training.logbook import Logbook
from detr_jax.training.trackers import check_tracker, open_tracker


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package; ``.runs`` has what was asked and ``.logged`` what was sent."""
    module = ModuleType("wandb")
    module.__spec__ = SimpleNamespace()
    module.runs, module.logged, module.finished = [], [], 0

    def init(**asked):
        module.runs.append(asked)

        def finish():
            module.finished += 1

        log = lambda numbers, step: module.logged.append((step, numbers))  # noqa: E731
        return SimpleNamespace(id=asked["id"] or "first", log=log, finish=finish)

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_rows_are_sent_and_a_run_that_goes_on_is_the_same_run(wandb, tmp_path):
    config = Config(train=TrainConfig(tracker="wandb"))
    with Logbook(tmp_path, config, steps=2, terminal=False) as book:
        book.write({"step": 1, "loss": 2.0, "note": "text"})
        book.write({"step": 1, "coco_eval_bbox": [i / 100 for i in range(12)], "AP_per_class": {"cat": 0.5}})
    assert wandb.logged[0] == (1, {"loss": 2.0}) and wandb.logged[1][1]["coco_eval_bbox/AP50"] == 0.01
    assert wandb.runs[0]["config"]["optim.lr"] == 1e-4 and wandb.runs[0]["id"] is None and wandb.finished == 1
    with Logbook(tmp_path, config, step=1, steps=2, terminal=False):
        pass
    assert wandb.runs[1]["id"] == "first" and json.loads((tmp_path / "tracker.json").read_text()) == {"wandb": "first"}


def test_a_fault_is_told_once_and_the_run_goes_on(wandb, tmp_path):
    said = []
    tracker = open_tracker("wandb", tmp_path, {}, said.append)
    wandb.logged = None
    for step in range(3):
        tracker.write(step, {"loss": 1.0})
    tracker.close()
    assert said == [
        "train.tracker=wandb fails ('NoneType' object has no attribute 'append'); the run goes on without it"
    ]


def test_a_tracker_that_does_not_begin_is_refused(wandb, tmp_path):
    def init(**asked):
        raise RuntimeError("no api key\nsee the manual")

    wandb.init = init
    with pytest.raises(UserError, match="^train.tracker=wandb cannot begin: no api key; set"):
        open_tracker("wandb", tmp_path, {}, print)


def test_a_missing_package_is_named_before_anything_else(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_tracker("")
    with pytest.raises(UserError, match="train.tracker=mlflow needs its package: pip install mlflow;"):
        check_tracker("mlflow")
