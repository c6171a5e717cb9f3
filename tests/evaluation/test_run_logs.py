import json

import numpy as np
import pytest

import tests.object_store  # noqa: F401  registers store://
from detr_jax.errors import UserError
from detr_jax.evaluation.run_logs import distinguish, read_run, read_runs


def write_run(folder, rows, batch_size=4, steps=100):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"seed": 1, "optim": {"lr": 0.1}, "train": {"batch_size": batch_size, "steps": steps}}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


ROWS = [
    {"step": 10, "epoch": 0.5, "loss": 8.0, "images_per_second": 4.0},
    {"step": 20, "epoch": 1.0, "loss": None, "images_per_second": 2.0},
    {"step": 20, "coco_eval_bbox": [0.25, 0.5, 0.2, *[-1.0] * 9]},
    {"step": 30, "coco_eval_bbox": [-1.0] * 12},
]


def test_a_workdir_has_every_axis(tmp_path):
    run = read_run(str(write_run(tmp_path / "run", ROWS)), "run")
    assert run.points("step", "AP").tolist() == [[20.0], [0.25]] and run.points("epoch", "AP")[0] == [1.0]
    assert run.points("images", "loss").tolist() == [[40.0], [8.0]] and run.points("images", "AP")[0] == [80.0]
    # ten steps of four images at 4 a second, then ten at 2
    np.testing.assert_allclose(run.points("hours", "AP")[0], (10 + 20) / 3600)
    assert run.total_steps == 100 and run.settings["optim.lr"] == 0.1 and run.settings["seed"] == 1
    assert run.notes == [f"{tmp_path / 'run'}: 1 of 2 losses are not finite; the curve has gaps there"]


def test_a_workdir_at_a_url_reads_alike(tmp_path):
    folder = write_run(tmp_path / "run", ROWS)
    here, there = read_run(str(folder), "run"), read_run(f"store://{folder}", "run")
    assert there.rows == here.rows and there.settings == here.settings
    with pytest.raises(UserError, match="there is no log at store://"):
        read_run(f"store://{tmp_path}/nothing", "run")


def test_a_real_log_of_the_original(real_data):
    path = real_data / "logs" / "detr_r50_finetune_300ep_log.txt"
    run = read_run(str(path), "original")
    epochs, AP = run.points("epoch", "AP")
    logged = [json.loads(line) for line in path.read_text().splitlines()]
    assert epochs.tolist() == list(range(1, 301)) and not run.has("step")
    assert AP.tolist() == [row["test_coco_eval_bbox"][0] for row in logged]
    assert run.points("epoch", "loss")[1].tolist() == [row["train_loss"] for row in logged]
    assert run.points("epoch", "loss_bbox")[1].tolist() == [row["train_loss_bbox_unscaled"] for row in logged]
    assert "lr (train_lr)" in run.notes[0]


def test_a_table_of_ultralytics(tmp_path):
    (tmp_path / "results.csv").write_text(
        "epoch,time,train/box_loss,metrics/mAP50-95(B),val/box_loss\n1,36,2.5,0.1,3\n2,72,2.0,0.2,3\n"
    )
    run = read_run(str(tmp_path), "yolo")
    assert run.points("epoch", "AP").tolist() == [[1, 2], [0.1, 0.2]]
    assert run.points("hours", "box_loss").tolist() == [[0.01, 0.02], [2.5, 2.0]]
    assert run.notes[0].endswith("epoch, box_loss (train/box_loss), AP (metrics/mAP50-95(B)); not drawn: val/box_loss")


def test_lines_of_detectron2_that_was_continued(tmp_path):
    lines = [{"iteration": i, "total_loss": 10.0 - i, "bbox/AP": 30.0 + i} for i in (0, 1, 2, 3, 2, 3, 4)]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    run = read_run(str(tmp_path), "d2")
    assert run.points("step", "AP").tolist() == [[0, 1, 2, 3, 4], [0.3, 0.31, 0.32, 0.33, 0.34]]
    assert any("continued" in note and "4 values" in note for note in run.notes)
    assert any("AP in percent" in note for note in run.notes)


def test_runs_get_short_names(tmp_path):
    assert distinguish(["/x/a", "/x/b/metrics.jsonl", "/x/c/tb"]) == ["a", "b", "c"]
    assert distinguish(["/x/a/run", "/x/b/run"]) == ["a", "b"]
    assert distinguish(["/x/lr=1/seed=0", "/x/lr=1/seed=1", "/x/lr=2/seed=0"]) == [
        "lr=1/seed=0",
        "lr=1/seed=1",
        "lr=2/seed=0",
    ]
    assert distinguish(["/x/run", "/x/run/run"]) == ["run", "run/run"]
    assert distinguish(["logs/theirs.txt"]) == ["theirs"] and distinguish([]) == []


def test_a_folder_stands_for_the_runs_in_it(tmp_path):
    write_run(tmp_path / "all" / "lr=1", ROWS)
    write_run(tmp_path / "all" / "lr=2", ROWS)
    write_run(tmp_path / "all" / "lr=3", [])
    (tmp_path / "all" / "curves").mkdir()
    runs, notes = read_runs([str(tmp_path / "all"), f"mine={tmp_path / 'all' / 'lr=1'}"])
    assert [run.name for run in runs] == ["lr=1", "lr=2", "mine"]
    assert len(notes) == 1 and "lr=3 has logged nothing yet" in notes[0]


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    run = write_run(tmp_path / "run", ROWS)
    (tmp_path / "empty").mkdir()
    (tmp_path / "wide.csv").write_text("loss,AP\n1,2\n")
    odd = {"does not exist": "nothing", "there is no log": "empty", "neither steps nor epochs": "wide.csv"}
    for sentence, name in odd.items():
        with pytest.raises(UserError, match=sentence):
            read_runs([str(tmp_path / name)])
    with pytest.raises(UserError, match="two runs are named"):
        read_runs([f"a={run}", f"a={run}"])
    with pytest.raises(UserError, match="two runs are named run"):
        read_runs([str(run), str(run)])
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="nothing to draw: .* has logged nothing yet"):
        read_runs([str(run)])


def test_rows_without_an_epoch_and_numbers_that_are_none(tmp_path):
    lines = [{"train_loss": 3.0, "epoch": 0}, {"train_loss": 2.0}, {"train_loss": 1.0, "epoch": None}]
    (tmp_path / "log.txt").write_text("\n".join(map(json.dumps, lines)))
    assert read_run(str(tmp_path), "log").points("epoch", "loss").tolist() == [[1.0], [3.0]]
    (tmp_path / "log.txt").write_text('{"step": 1, "loss": "high"}')
    with pytest.raises(UserError, match="no numbers that can be drawn .its columns are step, loss"):
        read_runs([str(tmp_path)])
