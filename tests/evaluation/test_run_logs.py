"""Logs of trainings, of whatever program, become the same few numbers."""

import json
import os

import numpy as np
import pytest
from tensorboardX import SummaryWriter

from detr_jax.errors import UserError
from detr_jax.evaluation.log_columns import column_name, known_columns
from detr_jax.evaluation.run_logs import distinguish, read_run, read_runs


def write_run(folder, rows: list[dict], settings: dict | None = None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if settings is not None:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


def our_rows(steps: int, every: int = 10) -> list[dict]:
    rows = [{"step": step, "epoch": step / 100, "loss": 10 / step, "images_per_second": 8.0, "lr": 1e-4}
            for step in range(every, steps + 1, every)]  # fmt: skip
    return [*rows, {"step": steps, "coco_eval_bbox": [0.3, 0.5, 0.25] + [0.1] * 9}]


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        ("train/loss", "loss"), ("total_loss", "loss"), ("train_loss", "loss"), ("val/loss", "test_loss"),
        ("eval_loss", "test_loss"), ("val/mAP", "AP"), ("bbox/AP", "AP"), ("metrics/mAP50-95(B)", "AP"),
        ("metrics/mAP50(B)", "AP50"), ("bbox/AP75", "AP75"), ("segm/AP", None), ("eval_map", "AP"), ("mAP_0.5", "AP50"),
        ("lr/pg0", "lr"), ("learning_rate", "lr"), ("train/box_loss", "box_loss"), ("loss_ce_0", None),
        ("val/box_loss", None), ("  Epoch", "epoch"), ("iteration", "step"), ("names", None),
    ],
)  # fmt: skip
def test_columns_are_known_under_the_names_of_many_programs(column, wanted):
    assert column_name(column) == wanted


def test_losses_of_the_original_are_the_unscaled_ones():
    row = known_columns({"train_loss": 9.0, "train_loss_bbox": 5.0, "train_loss_bbox_unscaled": 1.0, "epoch": 0,
                         "test_coco_eval_bbox": [-1, 0.5, "x"] + [0] * 9})  # fmt: skip
    assert row["loss"] == 9.0 and row["loss_bbox"] == 1.0 and row["epoch"] == 0.0
    assert "AP" not in row and row["AP50"] == 0.5 and row["AP75"] is None


def test_a_workdir(tmp_path):
    run = read_run(str(write_run(tmp_path / "a", our_rows(100), {"train": {"batch_size": 4, "steps": 200}})), "a")
    where, loss = run.points("step", "loss")
    np.testing.assert_allclose(where, range(10, 101, 10))
    np.testing.assert_allclose(loss, 10 / where)
    assert run.points("images", "AP").tolist() == [[400.0], [0.3]] and run.total_steps == 200 and run.notes == []
    assert run.points("hours", "loss")[0][-1] == pytest.approx(400 / 8 / 3600)


def test_rows_from_before_a_restart_are_left_out(tmp_path):
    rows = [{"step": step, "loss": 1.0} for step in (1, 2, 3, 4)] + [{"step": step, "loss": 2.0} for step in (3, 4, 5)]
    run = read_run(str(write_run(tmp_path, rows)), "a")
    assert run.points("step", "loss").tolist() == [[1, 2, 3, 4, 5], [1, 1, 2, 2, 2]]
    assert any("2 values that came before it are left out" in note for note in run.notes)


def test_gaps_and_a_half_written_last_line(tmp_path):
    write_run(tmp_path, [{"step": 1, "loss": 3.0}, {"step": 2, "loss": None}, {"step": 3, "loss": float("nan")}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    run = read_run(str(tmp_path), "a")
    assert run.points("step", "loss").tolist() == [[1.0], [3.0]]
    assert any("2 of 3 losses are not finite" in note for note in run.notes)


def test_damaged_lines_in_between_are_counted(tmp_path):
    write_run(tmp_path, [{"step": 1, "loss": 3.0}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('nonsense\n{"step": 3, "loss": 1.0}\n')
    run = read_run(str(tmp_path), "a")
    assert len(run.rows) == 2 and any("1 of 3 lines are damaged" in note for note in run.notes)


def test_event_files_say_the_same_as_the_rows(tmp_path):
    rows = our_rows(50)
    with SummaryWriter(str(tmp_path / "tb")) as writer:
        for row in rows[:-1]:
            for name in ("loss", "lr"):
                writer.add_scalar(f"train/{name}", row[name], row["step"])
        writer.add_scalar("coco_eval_bbox/AP", 0.3, 50)
    run = read_run(str(tmp_path), "a")
    other = read_run(str(write_run(tmp_path / "other", rows)), "b")
    for name in ("loss", "AP"):
        np.testing.assert_allclose(run.points("step", name), other.points("step", name), rtol=1e-6)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table(tmp_path, separator):
    lines = ["epoch,train/box_loss,metrics/mAP50-95(B),lr/pg0", "1,2.5,12.5,0.01", "2,1.5,25,"]
    (tmp_path / "results.csv").write_text("\ufeff" + "\r\n".join(lines).replace(",", separator))
    run = read_run(str(tmp_path), "a")
    assert run.points("epoch", "AP").tolist() == [[1, 2], [0.125, 0.25]] and "divided by 100" in run.notes[-1]
    assert run.points("epoch", "box_loss").tolist() == [[1, 2], [2.5, 1.5]]


def test_a_state_of_transformers(tmp_path):
    history = [{"step": 5, "epoch": 0.5, "loss": 2.0}, {"step": 10, "epoch": 1.0, "eval_loss": 1.5, "eval_map": 0.2}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    run = read_run(str(tmp_path), "a")
    assert run.points("step", "AP").tolist() == [[10], [0.2]]
    assert run.points("step", "test_loss").tolist() == [[10], [1.5]]


def test_a_real_log_of_the_original(real_data):
    run = read_run(str(real_data / "logs/detr_r50_finetune_300ep_log.txt"), "a")
    where, AP = run.points("epoch", "AP")
    assert where.tolist() == list(range(1, 301)) and round(AP[0], 3) == 0.007 and round(AP[-1], 3) == 0.645


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    assert distinguish(["runs/a", "runs/b"]) == ["a", "b"]
    assert distinguish(["x/a/run/metrics.jsonl", "x/b/run/metrics.jsonl"]) == ["a", "b"]
    for name in ("one", "two"):
        write_run(tmp_path / name, our_rows(20))
    runs, _ = read_runs([str(tmp_path)])
    assert [run.name for run in runs] == ["one", "two"]
    runs, _ = read_runs([f"first={tmp_path / 'one'}", str(tmp_path / "two")])
    assert [run.name for run in runs] == ["first", "two"]


def test_runs_without_rows_are_left_out(tmp_path):
    write_run(tmp_path / "one", our_rows(20))
    write_run(tmp_path / "new", [], {"train": {"batch_size": 1}})
    runs, notes = read_runs([str(tmp_path / "one"), str(tmp_path / "new")])
    assert [run.name for run in runs] == ["one"] and "has logged nothing yet" in notes[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "there is no log in"),
        (lambda folder: folder.write_text("hello\n"), "line 1 is no JSON object"),
        (lambda folder: folder.write_text('{"loss": 1}\n'), "counts neither steps nor epochs"),
        (lambda folder: folder.write_text(""), "has logged nothing yet"),
    ],
)
def test_what_is_no_log_is_one_sentence(tmp_path, make, words):
    make(tmp_path / "it")
    with pytest.raises(UserError, match=words):
        read_runs([os.fspath(tmp_path / "it")])


def test_a_log_at_a_url(tmp_path):
    import tests.object_store  # noqa: F401  registers store://

    write_run(tmp_path / "bucket/run", our_rows(30), {"train": {"batch_size": 2}})
    run = read_run(f"store://{tmp_path}/bucket/run", "a")
    assert run.points("images", "AP").tolist() == [[60.0], [0.3]]
