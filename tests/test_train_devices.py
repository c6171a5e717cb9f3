"""One run on one device, on two, and in two processes; in micro-batches, and with images resized by the step."""

import json
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.programs import (
    BROKEN,
    Programs,
    arrays,
    assert_close_losses,
    assert_same_state,
    evaluations,
    finish,
    last_logged,
    rows,
    saved_steps,
    wait_for,
)

LONG = ("--config.train.steps=400", "--config.train.log_every=1", "--config.train.eval_every=1000")
pytestmark = pytest.mark.usefixtures("leaves_nothing_running")


@pytest.mark.slow
def test_accumulation_gives_the_same_parameters(programs, tmp_path):
    more = ("--config.model.dropout=0.0", "--config.train.eval_every=6")
    programs.go_on(tmp_path / "one", *more)
    programs.go_on(tmp_path / "two", "--config.train.accum_steps=2", *more)
    one, two = (arrays(tmp_path / name / "checkpoints/6") for name in ("one", "two"))
    for name, array in one.items():
        if name.startswith("model"):
            np.testing.assert_allclose(array, two[name], rtol=0, atol=1e-5, err_msg=name)


def start_hosts(programs: Programs, workdir: Path, count: int, *more: str) -> list[subprocess.Popen]:
    """The processes of one run, a device each."""
    return programs.start_hosts(count, "train", *programs.training(workdir, *more))


def finish_all(processes: list[subprocess.Popen], seconds: float) -> list[tuple[int, str, str]]:
    """What ``finish`` tells of each, without JAX's greetings; after ``seconds`` they are killed."""
    timer = threading.Timer(seconds, lambda: [process.kill() for process in processes])
    timer.start()
    ended = [finish(process, seconds + 10) for process in processes]
    timer.cancel()
    return [(status, *(_without_greetings(text) for text in texts)) for status, *texts in ended]


def _without_greetings(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("[Gloo]"))


@pytest.mark.slow
def test_one_device_two_devices_two_processes(programs, tmp_path):
    more = ("--config.model.dropout=0.0",)
    programs.go_on(tmp_path / "one", *more)
    done = programs.run("train", *programs.training(tmp_path / "two", *more), JAX_NUM_CPU_DEVICES=2)
    assert done.returncode == 0, done.stderr
    ended = finish_all(start_hosts(programs, tmp_path / "hosts", 2, *more), 800)
    assert [(status, err) for status, _, err in ended] == [(0, "")] * 2
    assert_close_losses(tmp_path / "one", tmp_path / "two", 1e-5)
    assert_close_losses(tmp_path / "two", tmp_path / "hosts", 1e-6)
    np.testing.assert_allclose(evaluations(tmp_path / "two"), evaluations(tmp_path / "hosts"), atol=1e-6)
    (line,) = ended[1][1].splitlines()
    assert line.startswith("process 1 of 2: host ") and line.endswith(" images a step")
    (start,) = json.loads((tmp_path / "hosts/run.json").read_text())["starts"]
    assert start["hosts"] == 2 and len(rows(tmp_path / "hosts")) == 8

    # what two processes wrote, one process continues
    assert "continues at step 6 of 8" in programs.go_on(tmp_path / "hosts", *more, "--config.train.steps=8")
    programs.go_on(tmp_path / "one", *more, "--config.train.steps=8")
    assert_close_losses(tmp_path / "one", tmp_path / "hosts", 1e-5)


@pytest.mark.slow
def test_two_processes_with_a_broken_image(programs, tmp_path):
    """Each names it once, in the log of the first; the losses are those of one process."""
    settings = programs.broken | {"model.dropout": 0.0, "train.log_every": 1, "train.steps": 12, "train.eval_every": 12}
    more = [f"--config.{name}={value}" for name, value in settings.items()]
    done = programs.run("train", *programs.training(tmp_path / "one", *more), JAX_NUM_CPU_DEVICES=2)
    assert done.returncode == 0, done.stderr
    for process in start_hosts(programs, tmp_path / "hosts", 2, *more):
        status, _, err = finish(process, 800)
        assert status == 0, err
    assert_close_losses(tmp_path / "one", tmp_path / "hosts", 1e-6)
    one, hosts = ((tmp_path / name / "bad_images.jsonl").read_text() for name in ("one", "hosts"))
    assert one == hosts and json.loads(hosts)["image_id"] == BROKEN
    assert (tmp_path / "hosts/train.log").read_text().count("left out: ") == 1
    assert sum(row["broken_images"] for row in rows(tmp_path / "hosts") if "loss" in row) == 2


@pytest.mark.slow
def test_photos_resized_by_the_step(programs, tmp_path):
    """Near the run whose images the host resized, the same again after a stop, on two devices as on one."""
    more = ("--config.model.dropout=0.0", "--config.data.resize=device")
    programs.go_on(tmp_path / "host", more[0])
    programs.go_on(tmp_path / "device", *more)
    programs.go_on(tmp_path / "stopped", *more, "--config.train.steps=3")
    assert "continues at step 3" in programs.go_on(tmp_path / "stopped", *more)
    assert_same_state(tmp_path / "stopped", tmp_path / "device", 6)
    assert_close_losses(tmp_path / "host", tmp_path / "device", 1e-2)
    done = programs.run("train", *programs.training(tmp_path / "two", *more), JAX_NUM_CPU_DEVICES=2)
    assert done.returncode == 0, done.stderr
    assert_close_losses(tmp_path / "two", tmp_path / "device", 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "asked"),
    [(signal.SIGTERM, [1]), (signal.SIGINT, [0, 1, 2])],
    ids=["TERM at one", "INT at all"],
)
def test_three_processes_stop_together(programs, tmp_path, number, asked):
    """Whoever is asked: all stop after the same step, save it once, and go on bit for bit."""
    more = (*LONG, "--config.train.batch_size=3", "--config.train.steps=30")
    processes = start_hosts(programs, tmp_path / "run", 3, *more)
    wait_for(lambda: last_logged(tmp_path / "run") >= 5)
    begin = time.monotonic()
    for index in asked:
        processes[index].send_signal(number)
    ended = finish_all(processes, 60)
    assert time.monotonic() - begin < 40
    assert [(status, err) for status, _, err in ended] == [(0, "")] * 3
    stopped_at = saved_steps(tmp_path / "run")[-1]
    assert 5 <= stopped_at < 30 and f"step {stopped_at} is saved" in ended[0][1]
    assert [len(out.splitlines()) for _, out, _ in ended[1:]] == [1, 1]
    ended = finish_all(start_hosts(programs, tmp_path / "run", 3, *more), 600)
    assert [(status, err) for status, _, err in ended] == [(0, "")] * 3
    assert f"continues at step {stopped_at}" in ended[0][1]
    unbroken = programs.folder / "three processes"
    if not unbroken.exists():
        finish_all(start_hosts(programs, unbroken, 3, *more), 600)
    assert_same_state(tmp_path / "run", unbroken, 30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "victim"), [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGSTOP, 2)], ids=["0", "1", "stalled"]
)
def test_a_lost_process_is_named_by_the_others(programs, tmp_path, number, victim):
    processes = start_hosts(programs, tmp_path / "run", 3, *LONG, "--config.train.batch_size=3")
    wait_for(lambda: last_logged(tmp_path / "run") >= 5)
    begin = time.monotonic()
    processes[victim].send_signal(number)
    others = [process for process in processes if process is not processes[victim]]
    ended = finish_all(others, 80)
    seconds = time.monotonic() - begin
    processes[victim].kill()
    processes[victim].communicate()
    assert seconds < 45
    for status, out, err in ended:
        assert status == 1 and len(err.splitlines()) == 1 and "Traceback" not in out + err, err
        assert err.startswith(f"error: lost contact with process {victim} of this run; "), err


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named(programs, tmp_path):
    (first, second) = start_hosts(programs, tmp_path / "run", 2)
    second.kill()
    second.communicate()
    ((status, out, err),) = finish_all([first], 120)
    assert (status, out) == (1, "") and len(err.splitlines()) == 1
    assert err.startswith("error: process 1 of 2 (counted from 0) did not come to 127.0.0.1:")
    assert not (tmp_path / "run").exists()
