"""The files of a run: every row in each, whole after a kill, equal after a continuation."""

import csv
import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.config import Config
from detr_jax.config_forms import to_dict
from detr_jax.evaluation import plots
from detr_jax.training import logbook
from detr_jax.training.logbook import Logbook

TWELVE = [i / 100 for i in range(12)]


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Pictures cost time and are tested elsewhere: only count how often one would be drawn."""
    calls = []
    monkeypatch.setattr(plots, "training_curves", lambda rows, path: calls.append(len(rows)))
    return calls


def training_row(step):
    return {"step": step, "epoch": step / 10, "loss": np.float32(0.1) * step, "lr": 1e-4}


def unbroken(folder, steps):
    with Logbook(folder, Config(seed=1), steps=steps, terminal=False) as book:
        for step in range(1, steps + 1):
            book.write(training_row(step))
            if step % 4 == 0:
                book.write({"step": step, "coco_eval_bbox": TWELVE})


def jsonl(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def table(folder):
    return list(csv.DictReader((folder / "metrics.csv").open()))


def test_the_classes_are_a_line_of_their_own(tmp_path):
    with Logbook(tmp_path, Config(), steps=1, terminal=False) as book:
        book.write({"step": 1, "coco_eval_bbox": TWELVE, "AP_per_class": {"cat": 0.25, "dog": 0.75}})
    assert jsonl(tmp_path)[0]["AP_per_class"] == {"cat": 0.25, "dog": 0.75}
    assert "step 1  AP of the classes: dog 0.750, cat 0.250" in (tmp_path / "train.log").read_text()
    assert "AP_per_class" not in table(tmp_path)[0]


def test_rows_in_every_file(tmp_path):
    unbroken(tmp_path, 4)
    rows = jsonl(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 4]
    assert rows[0] == {"step": 1, "epoch": 0.1, "loss": 0.1, "lr": 1e-4}  # float32's 0.1 is written as 0.1
    assert rows[-1]["coco_eval_bbox"] == TWELVE
    assert [row["step"] for row in table(tmp_path)] == ["1", "2", "3", "4", "4"]
    assert table(tmp_path)[-1]["coco_eval_bbox/AP50"] == "0.01" and table(tmp_path)[0]["coco_eval_bbox/AP50"] == ""
    log = (tmp_path / "train.log").read_text()
    assert "step 3  epoch 0.30  loss 0.3" in log and "AP50 0.0100" in log
    assert json.loads((tmp_path / "config.json").read_text()) == to_dict(Config(seed=1))
    assert list((tmp_path / "tb").iterdir())


def test_continued_run_equals_an_unbroken_one(tmp_path):
    unbroken(tmp_path / "whole", 8)
    broken = tmp_path / "broken"
    unbroken(broken, 6)  # killed after step 6, its last checkpoint is of step 3
    with Logbook(broken, Config(seed=1), step=3, steps=8, terminal=False) as book:
        for step in range(4, 9):
            book.write(training_row(step))
            if step % 4 == 0:
                book.write({"step": step, "coco_eval_bbox": TWELVE})
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (broken / name).read_text() == (tmp_path / "whole" / name).read_text()
    starts = json.loads((broken / "run.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 3]
    assert starts[1]["packages"]["jax"] and starts[1]["devices"] and starts[1]["hosts"] == 1


def test_the_scores_are_those_of_the_log_whatever_has_become_of_it(tmp_path):
    unbroken(tmp_path, 9)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"\xff[\n7\n{}\n[1]\n" + b"".join(lines))
    with Logbook(tmp_path, Config(seed=1), step=7, steps=9, terminal=False) as book:
        assert book.scores == {4: TWELVE[0]}
        book.write({"step": 8, "coco_eval_bbox": TWELVE[::-1]})
        assert book.scores == {4: TWELVE[0], 8: TWELVE[-1]}
    path.unlink()
    with Logbook(tmp_path, Config(seed=1), step=7, steps=9, terminal=False) as book:
        assert book.scores == {}
    assert Logbook(tmp_path, Config(), steps=9, writes=False).scores == {}


def test_half_written_lines_are_repaired(tmp_path):
    unbroken(tmp_path, 3)
    for name in ("metrics.jsonl", "metrics.csv", "train.log"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text[: text.rstrip().rfind("step") + 9] if name != "metrics.csv" else text[:-4])
    with Logbook(tmp_path, Config(), step=3, steps=5, terminal=False) as book:
        book.write(training_row(4))
    assert [row["step"] for row in jsonl(tmp_path)] == [1, 2, 4]
    assert [row["step"] for row in table(tmp_path)] == ["1", "2", "4"]
    assert all(line.startswith("2") for line in (tmp_path / "train.log").read_text().splitlines())


def test_killed_process_leaves_every_row_it_wrote(tmp_path):
    program = (
        "import os, signal, sys; from detr_jax.config import Config; from detr_jax.training.logbook import Logbook\n"
        "book = Logbook(sys.argv[1], Config(), steps=3, terminal=False)\n"
        "book.write({'step': 1, 'loss': 2.0}); book.write({'step': 2, 'loss': 1.0, 'new': 5})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, timeout=60)
    assert jsonl(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "new": 5}]
    assert [row["new"] for row in table(tmp_path)] == ["", "5"]


def test_what_a_killed_process_left_half_written_goes_at_the_next_start(tmp_path):
    program = (
        "import os, signal, sys; from detr_jax import files\n"
        "with files.replacing(sys.argv[1]) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run/samples/step_00000020.png")]
    subprocess.run(command, capture_output=True, timeout=60)
    (left,) = (tmp_path / "run/samples").iterdir()
    assert "partial" in left.name
    unbroken(tmp_path / "run", 2)
    assert not left.exists()


def test_columns_grow_and_numbers_that_are_not_finite_are_null(tmp_path):
    with Logbook(tmp_path, Config(), steps=2, terminal=False) as book:
        book.write({"step": 1, "loss": jnp.float32(np.nan)})
        book.write({"step": 2, "loss": jnp.inf, "skipped": jnp.int32(1), "ids": [3, 4], "half": jnp.bfloat16(0.5)})
    strict = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in strict and "Infinity" not in strict
    assert jsonl(tmp_path) == [
        {"step": 1, "loss": None},
        {"step": 2, "loss": None, "skipped": 1, "ids": [3, 4], "half": 0.5},
    ]
    assert table(tmp_path)[0]["skipped"] == "" and table(tmp_path)[1]["skipped"] == "1"
    assert "loss nan" in (tmp_path / "train.log").read_text()


def test_curves_on_evaluations_and_at_the_end_but_not_more_often(tmp_path, drawn, monkeypatch):
    unbroken(tmp_path, 6)
    assert drawn == [5, 7]  # the evaluation at step 4, and close
    monkeypatch.setattr(logbook, "CURVES_EVERY", 0.0)
    monkeypatch.setattr(logbook, "CURVES_SHARE", 1e9)
    unbroken(tmp_path / "often", 3)
    assert drawn[2:] == [1, 2, 3, 3]


def test_other_processes_write_nothing(tmp_path):
    with Logbook(tmp_path / "run", Config(), steps=1, writes=False) as book:
        book.write({"step": 1, "loss": 1.0})
        book.say("hello")
    assert not (tmp_path / "run").exists()


def test_lines_without_a_terminal_and_a_bar_on_one(tmp_path, capsys):
    unbroken(tmp_path / "lines", 2)
    shown = capsys.readouterr()
    assert "step 1  epoch 0.10  loss 0.1" in shown.out and shown.err == ""
    with Logbook(tmp_path / "bar", Config(), steps=2, terminal=True) as book:
        book.write(training_row(1))
        book.write({"step": 2, "coco_eval_bbox": TWELVE})
    shown = capsys.readouterr()
    assert "loss 0.1" not in shown.out and "AP 0.0000" in shown.out and "2/2" in shown.err


def test_works_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(logbook, "tensorboardX", None)
    unbroken(tmp_path, 2)
    assert len(jsonl(tmp_path)) == 2 and not (tmp_path / "tb").exists()


def test_the_weights_are_recorded_with_their_start(tmp_path):
    unbroken(tmp_path, 2)
    with Logbook(tmp_path, Config(seed=1), step=2, steps=4, terminal=False, notes=["two images are alike"]) as book:
        book.record_weights(["r50.npz: all of it"], {"r50.npz": "abc"})
    starts = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert [start["weights_sha256"] for start in starts] == [{}, {"r50.npz": "abc"}]
    log = (tmp_path / "train.log").read_text()
    assert log.count("r50.npz: all of it") == 1
    assert "starts at step 0 of 2" in log and "continues at step 2 of 4" in log and "note: two images are alike" in log
    Logbook(tmp_path / "other", Config(), steps=1, writes=False).record_weights(
        ["r50.npz: all of it"], {"r50.npz": "abc"}
    )
    assert not (tmp_path / "other").exists()
