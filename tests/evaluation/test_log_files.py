import json

import pytest
from tensorboardX import SummaryWriter

from detr_jax.errors import UserError
from detr_jax.evaluation import log_files
from detr_jax.evaluation.log_files import find_log, read_log


def rows_of(path):
    return read_log(find_log(path), str(path))[0]


def write_events(folder, steps, purge_step=None):
    with SummaryWriter(str(folder), purge_step=purge_step, filename_suffix=f".{purge_step}") as events:
        for step in steps:
            events.add_scalar("loss", 10 / step, step)
            if step % 2 == 0:
                events.add_scalar("coco_eval_bbox/AP", step / 100, step)


def test_event_files_are_read_without_what_a_killed_run_wrote_too_much(tmp_path):
    write_events(tmp_path / "tb", range(1, 9), 0)
    write_events(tmp_path / "tb", range(5, 11), purge_step=5)
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert rows[3]["loss"] == 2.5 and rows[3]["coco_eval_bbox/AP"] == pytest.approx(0.04) and "loss" in rows[4]


def test_a_damaged_event_file_gives_what_is_whole(tmp_path):
    write_events(tmp_path, range(1, 50))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    assert 40 < len(rows_of(tmp_path)) < 50
    file.write_bytes(b"no event at all" * 9)
    assert rows_of(tmp_path) == []


def test_event_files_ask_for_tensorboard(tmp_path, monkeypatch):
    write_events(tmp_path, [1])
    monkeypatch.setattr(log_files, "event_accumulator", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        rows_of(tmp_path)


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "a;b\n1;2\n", "a\tb\n1\t2\n", "\ufeff  a ,b\r\n1,2\r\n", "a,b\n1,2,3\n"]
)
def test_tables_with_any_separator(tmp_path, text):
    (tmp_path / "results.csv").write_text(text)
    assert rows_of(tmp_path) == [{"a": "1", "b": "2"}]


def test_lines_that_are_damaged(tmp_path):
    whole = [json.dumps({"step": step}) for step in range(3)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join([*whole, '{"step": 3, "lo']))
    assert read_log(path, "run") == ([{"step": step} for step in range(3)], [])  # it is being written
    path.write_text("\n".join([whole[0], "\0\0", *whole[1:]]))
    rows, notes = read_log(path, "run")
    assert len(rows) == 3 and notes == ["run: 1 of 4 lines are damaged and left out (line 2)"]
    path.write_text("")
    assert read_log(path, "run") == ([], [])


@pytest.mark.parametrize("name, text", [("a.txt", "hello\n"), ("a.txt", "[1]\n[2]\n"), ("trainer_state.json", "{}")])
def test_what_is_no_log_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} (is no log: line 1|has no log_history)"):
        rows_of(tmp_path / name)


def test_the_state_of_a_trainer_of_transformers(tmp_path):
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 1.0, "step": 5}]}))
    assert rows_of(tmp_path) == [{"loss": 1.0, "step": 5}]
