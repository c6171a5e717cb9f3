"""What may go wrong in a long run: signals, steps that are not finite, too little memory, a hang."""

import json
import os
import signal
import subprocess
import sys

import jax
import pytest

from detr_jax.errors import UserError
from detr_jax.training import guard


def test_a_signal_is_noticed_and_a_second_one_interrupts():
    before = signal.getsignal(signal.SIGTERM)
    with guard.StopSignal() as stop:
        assert not stop(1) and not stop.received()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop(2) and stop.received()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_every_skipped_step_has_its_file(tmp_path):
    rows = [{"step": 3, "image_ids": [1, 2], "loss": float("nan")}, {"step": 12, "image_ids": [4], "loss": 1.0}]
    guard.report_skipped(rows, tmp_path / "nan_report")
    names = sorted(path.name for path in (tmp_path / "nan_report").iterdir())
    assert names == ["step_00000003.json", "step_00000012.json"]
    assert json.loads((tmp_path / "nan_report" / names[1]).read_text()) == rows[1]
    guard.report_skipped([], tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_too_many_skipped_steps_end_the_run(tmp_path):
    guard.check_skipped(2, 3, tmp_path)
    with pytest.raises(UserError, match="the last 3 steps had a loss or gradient that is not finite .*lower optim.lr"):
        guard.check_skipped(3, 3, tmp_path)


def test_too_little_memory_is_one_sentence():
    advice = "out of memory .*try, in this order, dtype=bfloat16, train.accum_steps=2"
    with pytest.raises(UserError, match=advice), guard.explain_out_of_memory():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes\nmore")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), guard.explain_out_of_memory():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


@pytest.mark.parametrize("minutes, status", [(0.005, 1), (0, 0)])
def test_a_hang_ends_the_process_unless_that_is_switched_off(minutes, status):
    program = (
        "import sys, time; from detr_jax.training import guard\n"
        "with guard.watch_progress(float(sys.argv[1])):\n"
        "    time.sleep(1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(minutes)], capture_output=True, text=True, timeout=120)
    assert done.returncode == status and ("Timeout" in done.stderr) == bool(status), done.stderr
