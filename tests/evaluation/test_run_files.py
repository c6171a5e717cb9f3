"""A workdir is read as it is, whichever start or file of it is missing."""

import json

from detr_jax.evaluation.run_files import read_run_files
from tests.evaluation.made_up_run import COMMAND, MadeUpRun

LOG = """2026-03-01 10:00:00  starts at step 0 of 300: train --a
2026-03-01 10:00:01  weights from x (a detector):
  loaded            75 arrays
2026-03-01 10:10:00  step 100  loss 4
2026-03-01 10:10:01  stopped as asked; step 100 is saved, and this goes on from there: train --a
2026-03-02 09:00:00  continues at step 100 of 400: train --b
2026-03-02 10:00:00  step 400  loss 2
"""


def test_sessions_and_what_was_loaded(tmp_path):
    run = MadeUpRun(tmp_path / "run")
    (run.folder / "train.log").write_text(LOG)
    (run.folder / "run.json").write_text(json.dumps({"starts": [{"host": "a"}, {"host": "b"}]}))
    found = read_run_files(run.folder)
    first, second = found.sessions
    assert (first.step, first.total_steps, first.command, first.seconds) == (0, 300, "train --a", 601)
    assert first.last_words.startswith("stopped") and [one.record["host"] for one in found.sessions] == ["a", "b"]
    assert found.seconds == 601 + 3600 and found.total_steps == 400 and not found.is_finished
    assert found.loaded == ["weights from x (a detector):\n  loaded            75 arrays"]


def test_starts_without_their_lines_in_the_log(tmp_path):
    run = MadeUpRun(tmp_path / "run")
    start = {"time": "2026-02-28T10:00:00+00:00", "step": 7, "command": "train --first"}
    starts = json.loads((run.folder / "run.json").read_text())["starts"]
    (run.folder / "run.json").write_text(json.dumps({"starts": [start, *starts]}))
    first, second = read_run_files(run.folder).sessions
    assert (first.step, first.command, first.seconds) == (7, "train --first", None)
    assert second.command == COMMAND and second.record["host"] == "lab"
    (run.folder / "run.json").unlink()
    (alone,) = read_run_files(run.folder).sessions
    assert alone.record == {} and alone.seconds == 25 * 60


def test_the_best_evaluation_is_that_of_the_best_checkpoint(tmp_path):
    run = MadeUpRun(tmp_path / "run")
    found = read_run_files(run.folder)
    assert max(one.AP for one in found.evaluations) == found.best.AP
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints/best").symlink_to("100")
    assert read_run_files(run.folder).best.step == 100


def test_numbers_that_are_none_are_no_evaluations(tmp_path):
    run = MadeUpRun(tmp_path / "run")
    rows = [
        {"step": 1, "coco_eval_bbox": None},
        {"step": 2, "coco_eval_bbox": [0.1, 0.2]},
        {"step": None},
        {"step": "3"},
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_run_files(run.folder)
    assert found.evaluations == [] and found.best is None and found.last_step == 2
