"""A crash of native code: one sentence, a file with the details, and nothing lost of what was said before."""

import os
import re
import subprocess
import sys
import time

import pytest

from detr_jax import crashes
from detr_jax.errors import UserError
from tests.programs import REPOSITORY

HEARTBEAT = (
    "The following tasks are unhealthy (stopped sending heartbeats):\n{}\n"
    "The tasks have crashed. RPC: /tensorflow.CoordinationService/ the distributed service"
)


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs the code between the beginning and the end of a program."""
    begin = "import os, sys, time\nfrom detr_jax.crashes import NativeMessages\nwith NativeMessages() as native:\n"
    lines = [f"    {line}" for line in code.strip().splitlines()]
    return subprocess.run(
        [sys.executable, "-c", begin + "\n".join(lines)],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_abort_is_one_sentence_and_a_file(tmp_path):
    done = run("os.write(2, b'std::bad_alloc\\nat 0x1\\nat 0x2\\n'); os.abort()", TMPDIR=str(tmp_path))
    (path,) = tmp_path.glob("crash-*.txt")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: the memory of this machine is exhausted;") and done.stderr.count("\n") == 1
    assert str(path) in done.stderr
    assert path.read_text().startswith("std::bad_alloc\nat 0x1\nat 0x2\n") and "most recent call" in path.read_text()


def test_native_messages_are_passed_on():
    done = run(f"os.write(2, b'native\\n'); time.sleep({2.5 * crashes.DELAY}); os.write(1, b'later\\n')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "later\n", "native\n")


def test_what_was_passed_on_is_not_the_crash(tmp_path):
    code = f"os.write(2, b'out of memory\\n'); time.sleep({2.5 * crashes.DELAY}); os.write(2, b'odd\\n'); os.abort()"
    done = run(code, TMPDIR=str(tmp_path))
    first, second = done.stderr.splitlines()
    assert first == "out of memory" and second.startswith("error: native code crashed;")
    assert next(tmp_path.glob("crash-*.txt")).read_text().startswith("odd\n")


def test_at_the_end_nothing_is_missing_and_everything_is_as_before():
    done = run("os.write(2, b'native\\n'); print('python', file=sys.stderr)")
    assert done.returncode == 0 and sorted(done.stderr.splitlines()) == ["native", "python"]


def test_python_speaks_at_once():
    code = "print('python', file=sys.stderr); os._exit(3)"
    done = run(code)
    assert (done.returncode, done.stderr) == (3, "python\n")


def test_storage_threads_say_nothing_of_a_save_that_failed():
    code = """
class Loud(str):
    def __del__(self):
        raise RuntimeError(str(self))
Loud("Event loop is closed")
Loud("something else")
"""
    done = run(code)
    assert done.returncode == 0 and "something else" in done.stderr and "Event loop" not in done.stderr


@pytest.mark.parametrize(
    ("said", "explained"),
    [
        (HEARTBEAT.format("2"), "lost contact with process 2 of this run; see what that process printed"),
        (HEARTBEAT.format("1, 2"), "lost contact with process 1, 2 of this run"),
        ("Task 3 heartbeat timeout", "lost contact with process 3 of"),
        ("Failed to send RPC to coordination service", "lost contact with process 0 of this run"),
        ("Gloo all-reduce failed: Connection closed by peer", "lost contact with another process"),
        ("E1 RESOURCE_EXHAUSTED: x", "the memory of this machine is exhausted; lower data.threads"),
        ("Check failed: x > 0", "native code crashed; run it again"),
    ],
)
def test_explanations(said, explained):
    sentence = crashes.explain(said)
    assert sentence.startswith(explained) and "\n" not in sentence


def test_the_error_of_a_lost_process_waits_for_its_name(monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(UserError, match="lost contact with another process"), crashes.explain_lost_process():
        raise RuntimeError("Gloo AllReduce failed: Connection reset by peer")
    assert waited == [crashes.NAMING_SECONDS]


def test_another_error_stays_what_it_is():
    with pytest.raises(ValueError, match=re.escape("shapes (2,) and (3,)")), crashes.explain_lost_process():
        raise ValueError("shapes (2,) and (3,)")


@pytest.mark.parametrize("said", ["Task 3 heartbeat timeout", "Gloo all-reduce failed: Connection closed by peer"])
def test_a_process_lost_while_all_are_asked_to_stop_is_no_crash(said, tmp_path):
    code = f"""
from detr_jax import crashes
with crashes.after_loss(lambda: print('farewell') or 0):
    os.write(2, b'{said}\\n'); os.abort()
"""
    done = run(code, TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "farewell\n", "")
    assert not list(tmp_path.glob("crash-*.txt"))


@pytest.mark.parametrize("said", [HEARTBEAT.format(1), "std::bad_alloc"])
def test_what_is_no_loss_or_was_not_asked_for_is_a_crash(said, tmp_path):
    status = None if "heartbeats" in said else 0
    code = f"""
from detr_jax import crashes
with crashes.after_loss(lambda: {status}):
    os.write(2, {said.encode()!r} + b'\\n'); os.abort()
"""
    done = run(code, TMPDIR=str(tmp_path))
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stdout == ""


def test_what_only_frightens_is_left_out():
    lines = [
        "W1127 22:34:23.435919     442 preemption_notifier.cc:90] SIGTERM caught at 2026-11-27T22:34:23+00:00",
        "E1127 22:34:23.435919     442 slow_operation_alarm.cc:73]",
        "********************************",
        "[Compiling module jit_step] Very slow compile? If you want to file a bug, run with envvar",
        "W1127 22:34:23.435919     442 other.cc:90] something else",
    ]
    done = run(f"os.write(2, {chr(10).join(lines).encode()!r} + b'\\n')")
    assert done.returncode == 0 and done.stderr == f"{lines[-1]}\n"
