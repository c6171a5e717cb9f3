"""One run on one device, on two, and in two processes; in micro-batches, and with images resized by the step."""

import json
import signal
import socket
import subprocess
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
    of_session,
    rows,
    saved_steps,
    wait_for,
)

LONG = ("--config.train.steps=400", "--config.train.log_every=1", "--config.train.eval_every=1000")


@pytest.fixture
def programs(tmp_path_factory) -> Programs:
    return of_session(tmp_path_factory)


@pytest.mark.slow
def test_accumulation_gives_the_same_parameters(programs, tmp_path):
    more = ("--config.model.dropout=0.0", "--config.train.eval_every=6")
    programs.go_on(tmp_path / "one", *more)
    programs.go_on(tmp_path / "two", "--config.train.accum_steps=2", *more)
    one, two = (arrays(tmp_path / name / "checkpoints/6") for name in ("one", "two"))
    for name, array in one.items():
        if name.startswith("model"):
            np.testing.assert_allclose(array, two[name], rtol=0, atol=1e-5, err_msg=name)


def start_two(programs: Programs, workdir: Path, *more: str) -> list[subprocess.Popen]:
    """Two processes of one run, a device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": 2, "JAX_NUM_CPU_DEVICES": 1}
    arguments = programs.training(workdir, *more)
    return [programs.start("train", *arguments, JAX_PROCESS_ID=process, **hosts) for process in (0, 1)]


@pytest.mark.slow
def test_one_device_two_devices_two_processes(programs, tmp_path):
    more = ("--config.model.dropout=0.0",)
    programs.go_on(tmp_path / "one", *more)
    done = programs.run("train", *programs.training(tmp_path / "two", *more), JAX_NUM_CPU_DEVICES=2)
    assert done.returncode == 0, done.stderr
    for process in start_two(programs, tmp_path / "hosts", *more):
        status, out, err = finish(process, 400)
        assert status == 0, err
    assert_close_losses(tmp_path / "one", tmp_path / "two", 1e-5)
    assert_close_losses(tmp_path / "two", tmp_path / "hosts", 1e-6)
    np.testing.assert_allclose(evaluations(tmp_path / "two"), evaluations(tmp_path / "hosts"), atol=1e-6)
    ours = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
    assert ours == []  # the second process says nothing
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
    for process in start_two(programs, tmp_path / "hosts", *more):
        status, _, err = finish(process, 400)
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
def test_two_processes_stop_together(programs, tmp_path):
    """One of them is told to stop; both stop after the same step."""
    processes = start_two(programs, tmp_path / "run", *LONG)
    try:
        wait_for(lambda: last_logged(tmp_path / "run") >= 5)
        processes[1].send_signal(signal.SIGTERM)
        for process in processes:
            status, out, err = finish(process, 30)
            assert status == 0, err
        assert len(saved_steps(tmp_path / "run")) >= 1 and last_logged(tmp_path / "run") < 400
    finally:
        for process in processes:
            process.kill()
