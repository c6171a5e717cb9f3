"""Training from Python, ``train(config, workdir)``: it goes on bit for bit, says what it started from once, and refuses
to lose anything."""

import hashlib
import json
import re
import shutil
import signal
from pathlib import Path

import jax
import pytest

from detr_jax import devices
from detr_jax import train as train_program
from detr_jax.config_forms import to_dict
from detr_jax.datasets.folders import find_splits
from detr_jax.datasets.prepare import prepare_dataset
from detr_jax.errors import UserError
from detr_jax.structures import Categories
from detr_jax.train import find_start, train
from detr_jax.training import time_budget
from detr_jax.training.calendar import make_calendar
from detr_jax.training.lock import WorkdirLock
from detr_jax.training.state import make_recipe, restore_state, store_state
from detr_jax.weights import checkpoints, finding
from tests.programs import (
    assert_close_losses,
    assert_same_state,
    evaluations,
    numbers,
    rows,
    saved_steps,
)

pytestmark = pytest.mark.usefixtures("compile_once")
SHORT = {"train.steps": 4, "train.log_every": 1, "train.checkpoint_every": 2, "train.eval_every": 4}


@pytest.fixture(scope="module")
def unbroken(programs, tmp_path_factory, compile_once):
    """The workdir of four steps in one go."""
    workdir = tmp_path_factory.mktemp("in_process") / "unbroken"
    train(programs.config(SHORT), workdir)
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


def test_a_run_ends_when_ap_has_not_risen_and_stays_ended(programs, tmp_path):
    """Every step scores 0 here, so the second evaluation is the first that does not rise."""
    config = programs.config(SHORT | {"train.eval_every": 1, "train.patience": 1})
    for _ in range(2):
        assert train(config, tmp_path / "run")
        assert saved_steps(tmp_path / "run")[-1] == 2
    assert "AP has not risen in the last 1 evaluations" in (tmp_path / "run/train.log").read_text()
    assert "The training ended early" in (tmp_path / "run/REPORT.md").read_text()


def test_minutes_become_steps_that_a_run_keeps(programs, tmp_path, monkeypatch):
    """The parts are really timed; the times that count are chosen: six steps fit, and later others would."""
    seconds, real = [1000.0], time_budget.time_run

    def time_run(*parts):
        measured = real(*parts)
        assert 0 < measured.step < 60 and 0 < measured.evaluation < 60 and measured.once == 0
        return time_budget.Times(seconds[0], 0.0, 1.0)

    monkeypatch.setattr(train_program, "time_run", time_run)
    config = programs.config(SHORT | {"train.minutes": 120.0, "train.steps": 0})
    train(config, tmp_path / "run")
    made = json.loads((tmp_path / "run/config.json").read_text())["train"]
    assert made["steps"] == saved_steps(tmp_path / "run")[-1] == 6 and made["minutes"] == 120.0
    seconds[0] = 10.0
    train(config, tmp_path / "run")  # done already
    assert saved_steps(tmp_path / "run")[-1] == 6
    assert (tmp_path / "run/train.log").read_text().count("--config.train.minutes=120 with 1e+03 s a step") == 1


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
    assert Path(finding.find_checkpoint(tmp_path / "run")).name == "4"
    train(programs.config(SHORT | data | {"train.steps": 6}), tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run") if "coco_eval_bbox" in row] == [2, 4, 6]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_in_the_workdir_is_refused(programs, unbroken):
    with WorkdirLock(unbroken):
        before = content(unbroken)
        with pytest.raises(UserError, match=f"{unbroken} is in use by process"):
            train(programs.config(SHORT | {"train.steps": 6}), unbroken)
        assert content(unbroken) == before
    assert not (unbroken / "run.lock").exists()


def test_with_every_checkpoint_damaged_nothing_starts(programs, unbroken, tmp_path):
    workdir = Path(shutil.copytree(unbroken, tmp_path / "run", symlinks=True))
    for step in (2, 4):
        (workdir / f"checkpoints/{step}/checksums.json").write_text("[]")
    before = content(workdir)
    for _ in range(2):
        with pytest.raises(UserError, match=r"every checkpoint in .* is damaged: 4 \(.*, 2 \("):
            train(programs.config(SHORT), workdir)
        assert content(workdir) == before


@pytest.mark.slow
def test_the_best_outlives_the_log(programs, tmp_path):
    """All steps score 0 here: the first is the best."""
    often = {"train.log_every": 1, "train.checkpoint_every": 1, "train.eval_every": 1, "train.keep": 1}
    kept, lost = tmp_path / "kept", tmp_path / "lost"
    train(programs.config(often | {"train.steps": 3}), kept)
    assert saved_steps(kept) == [1, 3]
    (kept / "checkpoints/best").unlink()
    shutil.copytree(kept, lost, symlinks=True)
    (lost / "metrics.jsonl").write_bytes(b"\xff[\n7\n{}\n")
    for workdir in (kept, lost):
        train(programs.config(often | {"train.steps": 5}), workdir)
    assert saved_steps(kept) == [1, 5] and saved_steps(lost) == [1, 3, 5]
    assert (kept / "checkpoints/best").resolve().name == "1"


@pytest.mark.slow
def test_resumes_with_another_fsdp(programs, unbroken, tmp_path, monkeypatch):
    """Arrays that every device held whole are split over two, and put together again; not a bit changes."""
    monkeypatch.setattr(devices, "SMALLEST_SHARDED", 2048)
    workdir = tmp_path / "run"
    train(programs.config(SHORT | {"train.steps": 2}), workdir)
    for fsdp, step in ((2, 2), (1, 4)):
        config = programs.config(SHORT | {"train.fsdp": fsdp, "train.steps": step + 2})
        assert find_start(workdir, config) == (step, config)
        folder = workdir / f"checkpoints/{step}"
        categories = Categories.from_rows(checkpoints.read_info(folder)["categories"])
        recipe = make_recipe(config, categories, make_calendar(config.train, 6), devices.make_mesh(fsdp))
        state = restore_state(recipe, folder)
        assert any(not array.is_fully_replicated for array in jax.tree.leaves(state.optimizer)) == (fsdp == 2)
        with checkpoints.Checkpoints(tmp_path / f"again{step}/checkpoints", keep=1) as again:
            again.save(step, store_state(state, recipe))
        assert_same_state(tmp_path / f"again{step}", workdir, step)
        train(config, workdir)
    whole = Path(shutil.copytree(unbroken, tmp_path / "whole", symlinks=True))
    train(programs.config(SHORT | {"train.steps": 6}), whole)
    assert_close_losses(workdir, whole, 1e-5)
