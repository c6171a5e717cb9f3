"""Runs that are killed, damaged or not finite: nothing is lost, and they go on bit for bit."""

import itertools
import json
import random
import shutil
import time

import numpy as np
import pytest

from tests.programs import (
    arrays,
    assert_one_sentence,
    assert_same_state,
    last_logged,
    numbers,
    saved_steps,
    wait_for,
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
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
@pytest.mark.parametrize("log_every", [1, 7])
def test_numbers_that_are_not_finite_stop_the_run(programs, tmp_path, log_every):
    """After exactly so many steps in a row, whenever a row is logged; the same command goes on and ends there, too."""
    workdir = tmp_path / "run"
    more = ("--config.train.stop_after_skipped=3", "--config.train.steps=40", "--config.train.checkpoint_every=1")
    more += ("--config.train.eval_every=100", "--config.loss.bbox_weight=3e38", f"--config.train.log_every={log_every}")
    done = programs.run("train", *programs.training(workdir, *more))
    assert_one_sentence(done, "the last 3 steps", "not finite", "nan_report", "--config.optim.lr")
    reports = [json.loads(path.read_text()) for path in sorted((workdir / "nan_report").iterdir())]
    assert all(set(report["image_ids"]) <= set(range(1, 13)) for report in reports)
    skipped = [report["step"] for report in reports]
    runs = [len(list(run)) for _, run in itertools.groupby(skipped, key=lambda step: step - skipped.index(step))]
    assert runs[-1] == 3 and max(runs) == 3
    assert f"up to step {skipped[-1] + 1}," in done.stderr
    assert all(
        np.isfinite(array).all() for array in arrays(workdir / f"checkpoints/{saved_steps(workdir)[-1]}").values()
    )
