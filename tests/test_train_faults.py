"""Runs that are stopped, killed, damaged or not finite: nothing is lost, and they go on bit for bit."""

import json
import random
import shutil
import signal
import time

import numpy as np
import pytest

from tests.programs import (
    Programs,
    arrays,
    assert_one_sentence,
    assert_same_state,
    finish,
    last_logged,
    numbers,
    of_session,
    rows,
    saved_steps,
    wait_for,
)


@pytest.fixture
def programs(tmp_path_factory) -> Programs:
    return of_session(tmp_path_factory)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_goes_on_bit_for_bit(programs, tmp_path, number):
    more = ("--config.train.steps=300", "--config.train.log_every=1", "--config.train.eval_every=300")
    more += ("--config.train.checkpoint_every=1000",)
    process = programs.start("train", *programs.training(tmp_path / "run", *more))
    wait_for(lambda: last_logged(tmp_path / "run") >= 5)
    process.send_signal(number)
    asked = time.monotonic()
    status, out, err = finish(process)
    assert status == 0, err
    assert time.monotonic() - asked < 15
    (stopped_at,) = saved_steps(tmp_path / "run")
    assert 5 <= stopped_at < 300 and f"stopped after step {stopped_at} as asked" in out
    assert f"continues at step {stopped_at}" in programs.go_on(tmp_path / "run", *more)
    programs.go_on(tmp_path / "unbroken", *more)
    assert_same_state(tmp_path / "run", tmp_path / "unbroken", 300)
    assert numbers(tmp_path / "run") == numbers(tmp_path / "unbroken")


@pytest.mark.slow
def test_stopped_during_an_evaluation(programs, tmp_path):
    """The evaluation is broken off, and made up for once by the next start."""
    more = ("--config.data.val_split=train", "--config.train.batch_size=1", "--config.train.checkpoint_every=1000")
    process = programs.start("train", *programs.training(tmp_path / "run", *more))
    wait_for(
        lambda: last_logged(tmp_path / "run") >= 3
    )  # step 3 is logged, then it is evaluated; compiling takes seconds
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 0, err
    assert saved_steps(tmp_path / "run")[-1] == 3
    programs.go_on(tmp_path / "run", *more)
    programs.go_on(tmp_path / "run", *more)
    programs.go_on(tmp_path / "unbroken", *more)
    assert_same_state(tmp_path / "run", tmp_path / "unbroken", 6)
    assert numbers(tmp_path / "run") == numbers(tmp_path / "unbroken")


@pytest.mark.slow
def test_stopped_during_the_last_evaluation(programs, tmp_path):
    """As above, at the end: the evaluation is made up for once, takes part in the choice of the best, and is kept."""
    more = ("--config.train.steps=3", "--config.train.checkpoint_every=1000")
    process = programs.start("train", *programs.training(tmp_path / "run", *more))
    wait_for(lambda: last_logged(tmp_path / "run") >= 3)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0
    for _ in range(2):
        programs.go_on(tmp_path / "run", *more)
        assert [row["step"] for row in rows(tmp_path / "run") if "coco_eval_bbox" in row] == [3]
    assert (tmp_path / "run/checkpoints/best").resolve().name == "3"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_a_random_time(programs, tmp_path, seed):
    more = ("--config.train.steps=60", "--config.train.checkpoint_every=1", "--config.train.eval_every=20")
    process = programs.start("train", *programs.training(tmp_path / "run", *more))
    wait_for(lambda: last_logged(tmp_path / "run") >= 1)
    time.sleep(random.Random(seed).uniform(0, 8))
    process.kill()
    process.communicate()
    programs.go_on(tmp_path / "run", *more)
    unbroken = programs.folder / "sixty"
    if not unbroken.exists():
        programs.go_on(unbroken, *more)
    assert_same_state(tmp_path / "run", unbroken, 60)
    assert numbers(tmp_path / "run") == numbers(unbroken)
    best = (tmp_path / "run/checkpoints/best").resolve()
    assert best.name == (unbroken / "checkpoints/best").resolve().name and (best / "info").is_dir()
    assert not list((tmp_path / "run").rglob("*tmp*")) and not list((tmp_path / "run").rglob("*.partial*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "item",
    ["model/d", "progress/d", "info", "model", "checksums.json"],
)
def test_a_damaged_checkpoint_is_set_aside(programs, tmp_path, item):
    workdir = tmp_path / "run"
    shutil.copytree(programs.trained, workdir, symlinks=True)
    where = workdir / "checkpoints/6" / item
    files = [where] if where.is_file() else [path for path in where.iterdir() if path.is_file()]
    victim = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert "checkpoint 6 is damaged" in programs.go_on(workdir)
    assert (workdir / "checkpoints/damaged-6").is_dir()
    assert_same_state(workdir, programs.trained, 6)
    assert numbers(workdir) == numbers(programs.trained)


@pytest.mark.slow
def test_numbers_that_are_not_finite_stop_the_run(programs, tmp_path):
    workdir = tmp_path / "run"
    more = ("--config.train.stop_after_skipped=3", "--config.train.steps=40", "--config.train.checkpoint_every=1")
    more += ("--config.train.eval_every=100", "--config.loss.bbox_weight=3e38")
    done = programs.run("train", *programs.training(workdir, *more))
    assert_one_sentence(done, "the last 3 steps", "not finite", "nan_report", "--config.optim.lr")
    reports = [json.loads(path.read_text()) for path in sorted((workdir / "nan_report").iterdir())]
    assert len(reports) >= 3 and all(set(report["image_ids"]) <= set(range(1, 13)) for report in reports)
    assert all(
        np.isfinite(array).all() for array in arrays(workdir / f"checkpoints/{saved_steps(workdir)[-1]}").values()
    )
