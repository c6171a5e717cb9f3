"""When the programs of a run are compiled; the step is one that compiles at once."""

import threading

import jax
import jax.numpy as jnp
import pytest

from detr_jax.batches.canvases import Bucket
from detr_jax.training.compiled_steps import CompiledSteps

SMALL, WIDE, TALL, LARGE = Bucket(32, 32, 8), Bucket(32, 64, 8), Bucket(64, 32, 8), Bucket(64, 64, 8)
COMING = [WIDE, WIDE, SMALL, WIDE, LARGE, TALL, SMALL]  # canvases of the coming steps
ORDER = [LARGE, WIDE, SMALL, TALL]  # the largest, then as they are needed


@pytest.fixture
def steps() -> CompiledSteps:
    def lower(shapes, bucket: Bucket):
        return jax.jit(lambda state: (state, {"loss": state["x"] * bucket.area})).lower(shapes)

    return CompiledSteps(lower)


@pytest.fixture
def state() -> dict:
    return {"x": jnp.ones(())}


def take(steps: CompiledSteps, state: dict, bucket: Bucket, say) -> float:
    """The loss of a step on this canvas."""
    _, metrics = steps.get(state, bucket, say)(state)
    steps.begun(metrics)
    return float(metrics["loss"])


def line_of(bucket: Bucket) -> str:
    """How the line begins that says that this canvas is compiled."""
    return f"compiled {bucket.height}x{bucket.width}, {bucket.targets} targets"


def compiled(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines]


def test_the_largest_comes_first_and_the_others_after_the_first_step(steps, state):
    lines = []
    with steps.ahead(state, COMING, lines.append):
        assert compiled(lines) == [line_of(LARGE), line_of(WIDE)]
        assert [take(steps, state, bucket, lines.append) for bucket in COMING] == [bucket.area for bucket in COMING]
    assert compiled(lines) == [line_of(bucket) for bucket in ORDER]  # each once, as it was needed


def test_a_canvas_that_nobody_expected(steps, state):
    lines = []
    with steps.ahead(state, [WIDE], lines.append):
        assert take(steps, state, TALL, lines.append) == TALL.area
    assert compiled(lines) == [line_of(WIDE), line_of(TALL)]


def test_nothing_is_begun_after_the_end(steps, state):
    lines, before = [], set(threading.enumerate())
    with steps.ahead(state, COMING, lines.append):
        assert set(threading.enumerate()) - before
    for worker in (steps._tracer, steps._compiler):
        worker.shutdown(wait=True)
    assert len(lines) == 2 and not set(threading.enumerate()) - before


def test_on_a_gpu_all_come_before_the_first_step(steps, state, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    lines = []
    with steps.ahead(state, COMING, lines.append):
        assert compiled(lines) == [line_of(bucket) for bucket in ORDER]


def test_what_fails_beside_the_steps_shows_when_it_is_needed(steps, state):
    def say(line: str) -> None:
        if line_of(SMALL) in line:
            raise MemoryError("too large")

    with steps.ahead(state, COMING, say):
        for bucket in COMING[:2]:
            take(steps, state, bucket, say)
        with pytest.raises(MemoryError):
            take(steps, state, SMALL, say)


def test_what_does_not_fit_shows_before_the_first_step(steps, state):
    def say(line: str) -> None:
        if line_of(LARGE) in line:
            raise MemoryError("too large")

    with pytest.raises(MemoryError), steps.ahead(state, COMING, say):
        raise AssertionError("a step was taken")


def test_a_run_that_is_done_compiles_nothing(steps, state):
    lines = []
    with steps.ahead(state, [], lines.append):
        pass
    assert lines == []
