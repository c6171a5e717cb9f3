"""When a run's programs are compiled; the step itself is stood in for by one that compiles at once."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import of_session

from configs import detr
from detr_jax import program, sharding
from detr_jax.benchmarks import coco_like
from detr_jax.data.buckets import Bucket
from detr_jax.data.split import open_split
from detr_jax.training.step import TrainState
from detr_jax.training.trainer import Trainer


@pytest.fixture
def trainer(tmp_path_factory) -> Trainer:
    """A run with two images a step and many canvases, whose step adds up the pixels."""
    split = open_split(of_session(tmp_path_factory).data, "tiny", "train")
    config = program.plain(detr.get_config("r50"))
    config["data"] |= {"scales": (480, 640, 800), "crop_scales": (400, 500, 600)}
    config["train"] |= {"batch_size": 2, "steps": 40}
    config["model"] |= {"backbone_width": 8, "hidden_dim": 32, "feed_forward_dim": 32}
    trainer = Trainer(config, split)
    trainer._jitted = jax.jit(
        lambda state, batch, canvas: (state, {"loss": jnp.float32(canvas[0]) + batch.images.sum()}),
        static_argnames="canvas",
    )
    return trainer


@pytest.fixture
def state(trainer) -> TrainState:
    zero = jnp.zeros([], jnp.int32)
    return jax.device_put(TrainState(zero, {}, {}, {}, {}, zero, zero), sharding.replicated(trainer.mesh))


def line_of(bucket: Bucket) -> str:
    """How the line begins that says that this canvas is compiled."""
    return f"compiled {bucket.height}x{bucket.width}, {bucket.targets} targets"


def begins(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines]


def needed(trainer: Trainer) -> list[str]:
    """The lines of canvases in the order in which the steps need them, the largest first."""
    coming = [trainer.plan[k].bucket for k in range(40)]
    largest = max(coming, key=lambda bucket: (bucket.area, bucket.targets))
    return [line_of(bucket) for bucket in dict.fromkeys([largest, *coming])]


def step(trainer: Trainer, state: TrainState, number: int, say):
    bucket = trainer.plan[number].bucket
    batch = coco_like.batch(bucket, 2, 80, np.random.default_rng(0))
    batch = jax.device_put(batch, sharding.batch_sharding(trainer.mesh))
    return trainer.step(state, batch, bucket, say)


def test_the_largest_comes_first_and_the_others_after_the_first_step(trainer, state):
    lines, order = [], needed(trainer)
    assert len(order) >= 5
    at_once = list(dict.fromkeys([order[0], line_of(trainer.plan[0].bucket)]))
    with trainer.compile_ahead(state, 0, lines.append):
        assert begins(lines) == at_once
        step(trainer, state, 0, lines.append)
        for number in range(1, 40):
            step(trainer, state, number, lines.append)
    assert begins(lines) == order  # each once, as it was needed


def test_nothing_is_begun_after_the_end(trainer, state):
    lines, before = [], threading.active_count()
    with trainer.compile_ahead(state, 0, lines.append):
        begun = len(lines)
    for worker in (trainer._tracer, trainer._compiler):
        worker.shutdown(wait=True)
    assert len(lines) == begun and threading.active_count() <= before


def test_on_a_gpu_all_come_before_the_first_step(trainer, state, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    lines = []
    with trainer.compile_ahead(state, 0, lines.append):
        assert begins(lines) == needed(trainer)


def test_what_fails_beside_the_steps_shows_when_it_is_needed(trainer, state):
    def say(line: str) -> None:
        if line_of(trainer.plan[0].bucket) not in line and needed(trainer)[0] not in line:
            raise MemoryError(line)

    with pytest.raises(MemoryError), trainer.compile_ahead(state, 0, say):
        for number in range(40):
            step(trainer, state, number, say)


def test_a_run_that_is_done_compiles_nothing(trainer, state):
    lines = []
    with trainer.compile_ahead(state, 40, lines.append):
        pass
    assert lines == []
