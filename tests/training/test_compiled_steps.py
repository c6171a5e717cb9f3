"""When the programs of a run are compiled; the step is one that compiles at once."""

import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.batches.plan import TrainPlan
from detr_jax.structures import Batch, Bucket, Pixels, Targets
from detr_jax.training.compiled_steps import LOOK_AHEAD, CompiledSteps, coming_buckets
from detr_jax.training.step import TrainState

SMALL, WIDE, TALL, LARGE = Bucket(32, 32, 8), Bucket(32, 64, 8), Bucket(64, 32, 8), Bucket(64, 64, 8)
COMING = [WIDE, WIDE, SMALL, WIDE, LARGE, TALL, SMALL]  # canvases of the coming steps
BATCH = Batch(
    Pixels(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 2), np.int32)),
    Targets(np.zeros((1, 2, 4), np.float32), np.zeros((1, 2), np.int32), np.zeros((1, 2), bool)),
    np.zeros(1, np.int32),
)
ORDER = [LARGE, WIDE, SMALL, TALL]  # the largest, then as they are needed


def lower(state: TrainState, bucket: Bucket) -> jax.stages.Lowered:
    """Traces a step whose loss tells its number and its canvas."""

    def step(state, batch):
        return state._replace(step=state.step + 1), {"loss": (1 + state.step) * bucket.area}

    return jax.jit(step).lower(state, BATCH)


@pytest.fixture
def lines() -> list[str]:
    """What the steps say."""
    return []


@pytest.fixture
def steps(lines) -> CompiledSteps:
    return CompiledSteps(lower, lines.append)


@pytest.fixture
def state() -> TrainState:
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, (), {}, {}, (), {}, zero, zero)


def take(steps: CompiledSteps, state: TrainState, bucket: Bucket) -> float:
    """The loss of a step on this canvas."""
    _, metrics = steps(state, BATCH, bucket)
    return float(metrics["loss"])


def line_of(bucket: Bucket) -> str:
    """How the line begins that says that this canvas is compiled."""
    return f"compiled {bucket.height}x{bucket.width}, {bucket.targets} targets"


def compiled(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines]


def test_the_largest_comes_first_and_the_others_after_the_first_step(steps, state, lines):
    with steps.compile_ahead(state, COMING):
        assert compiled(lines) == [line_of(LARGE), line_of(WIDE)]
        assert [take(steps, state, bucket) for bucket in COMING] == [bucket.area for bucket in COMING]
    assert compiled(lines) == [line_of(bucket) for bucket in ORDER]  # each once, as it was needed


def test_a_canvas_that_nobody_expected(steps, state, lines):
    with steps.compile_ahead(state, [WIDE]):
        assert take(steps, state, TALL) == TALL.area
    assert compiled(lines) == [line_of(WIDE), line_of(TALL)]


def test_nothing_is_begun_after_the_end(steps, state, lines):
    before = set(threading.enumerate())
    with steps.compile_ahead(state, COMING):
        assert set(threading.enumerate()) - before
    for worker in (steps._tracer, steps._compiler):
        worker.shutdown(wait=True)
    assert len(lines) == 2 and not set(threading.enumerate()) - before


def test_on_a_gpu_all_come_before_the_first_step(steps, state, lines, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with steps.compile_ahead(state, COMING):
        assert compiled(lines) == [line_of(bucket) for bucket in ORDER]


def failing(name: str) -> CompiledSteps:
    """Steps that fail where a line begins like this."""

    def say(line: str) -> None:
        if name in line:
            raise MemoryError("too large")

    return CompiledSteps(lower, say)


def test_what_fails_beside_the_steps_shows_when_it_is_needed(state):
    steps = failing(line_of(SMALL))
    with steps.compile_ahead(state, COMING):
        for bucket in COMING[:2]:
            take(steps, state, bucket)
        with pytest.raises(MemoryError):
            take(steps, state, SMALL)


def test_what_does_not_fit_shows_before_the_first_step(state):
    with pytest.raises(MemoryError), failing(line_of(LARGE)).compile_ahead(state, COMING):
        raise AssertionError("a step was taken")


def test_a_run_that_is_done_compiles_nothing(steps, state, lines):
    with steps.compile_ahead(state, []):
        pass
    assert lines == []


def test_the_state_goes_from_step_to_step_and_each_canvas_has_one_program(steps, state, lines):
    with steps.compile_ahead(state, COMING):
        for number, bucket in enumerate(COMING):
            state, metrics = steps(state, BATCH, bucket)
            assert float(metrics["loss"]) == (1 + number) * bucket.area
            assert steps.compiled(state, bucket) is steps.compiled(state, bucket)
    assert int(state.step) == len(COMING) and len(lines) == len(ORDER)


class Plan(TrainPlan):
    """A plan of steps on these canvases, over and over."""

    def __init__(self):
        pass

    def __getitem__(self, step: int) -> SimpleNamespace:
        return SimpleNamespace(bucket=COMING[step % len(COMING)])


def test_the_coming_canvases_end_with_the_run_or_with_what_is_looked_ahead():
    assert coming_buckets(Plan(), 0, 3) == COMING[:3]
    assert coming_buckets(Plan(), 5, 9) == [TALL, SMALL, WIDE, WIDE]
    assert coming_buckets(Plan(), 9, 9) == []
    assert len(coming_buckets(Plan(), 5, 10**9)) == LOOK_AHEAD
