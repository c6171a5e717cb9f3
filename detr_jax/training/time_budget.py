"""How many steps fit into ``train.minutes``: a few steps and images are timed before the run begins.

The lengths that follow are settings like any others: checkpoints hold them, and a run that goes on keeps them.
"""

import dataclasses
import math
import time
from typing import NamedTuple

import jax
import numpy as np

from detr_jax import devices, hosts
from detr_jax.batches.inputs import Reader
from detr_jax.batches.pipeline import Pipeline, to_device
from detr_jax.batches.plan import TrainPlan
from detr_jax.config import Config
from detr_jax.datasets.split import Split
from detr_jax.errors import UserError
from detr_jax.training.compiled_steps import CompiledSteps, coming_buckets
from detr_jax.training.step import Recipe, TrainState
from detr_jax.training.validation import Validation

FEWEST, MOST = 6, 60  # steps that are timed
SHARE = 0.03  # of the budget, that timing them may take
EVALUATIONS = 5  # of a run, or as many as take ...
EVALUATIONS_SHARE = 0.15  # ... this share of the time
KEPT = 0.95  # of the time that is left, for steps that turn out slower
ENDING = 5.0  # seconds for the last checkpoint and the curves
WARM_UP = 0.1  # of a run, at most
FIRST_VIEWS = 2  # of an image, mirrored or not, whose features are computed once


class Times(NamedTuple):
    """Seconds that the parts of a run take."""

    step: float
    once: float  # what only the first epochs have to compute
    evaluation: float


def time_steps(
    steps: CompiledSteps, state: TrainState, plan: TrainPlan, split: Split, reader: Reader, recipe: Recipe
) -> tuple[float, float]:
    """Seconds of a step on the usual canvas, data included, and what all views together take once.

    The state is used up.
    """
    coming = coming_buckets(plan, 0, 10**9)
    for bucket in dict.fromkeys(coming):
        steps.compiled(state, bucket)
    usual = float(np.mean([bucket.area for bucket in coming]))
    part, threads = (jax.process_index(), jax.process_count()), recipe.config.data.threads
    seconds, count = [], FEWEST
    for _ in range(3):  # to find out how many to take; with what is kept still to be computed; with it kept
        areas, began = [plan[step].bucket.area for step in range(count)], time.monotonic()
        with Pipeline(split, plan, 0, count, part=part, threads=threads, reader=reader) as pipeline:
            for step, (batch, _) in enumerate(to_device(pipeline, devices.batch_sharding(recipe.mesh))):
                state, metrics = steps(state, batch, plan[step].bucket)
                jax.block_until_ready(metrics)
        seconds.append((time.monotonic() - began) / sum(areas) * usual)
        enough = SHARE / 2 * 60 * recipe.config.train.minutes / seconds[0]
        count = hosts.from_first_host(lambda enough=enough: max(FEWEST, min(MOST, int(enough))))
    new = count - FEWEST  # steps of the second pass whose features had to be computed
    if not recipe.config.train.cache_features or not new:
        return seconds[2], 0.0
    views = FIRST_VIEWS * len(split.image_ids) / plan.batch_size
    return seconds[2], max(seconds[1] - seconds[2], 0.0) * count / new * max(views - count, 0.0)


def time_run(
    steps: CompiledSteps,
    state: TrainState,
    plan: TrainPlan,
    split: Split,
    reader: Reader,
    recipe: Recipe,
    validation: Validation,
) -> Times:
    """Times a few steps of training on ``split``, and some images of an evaluation. The state is used up."""
    evaluation = validation.time(state)
    step, once = time_steps(steps, state, plan, split, reader, recipe)
    return Times(step, once, evaluation)


def fit_to_minutes(config: Config, times: Times, spent: float, steps_per_epoch: int) -> Config:
    """The settings with the steps that fit, some evaluations among them, and a schedule that ends with them.

    Args:
      spent: seconds since the run was started.

    Raises UserError when not a single step fits.
    """
    left = KEPT * (60 * config.train.minutes - spent) - ENDING - times.once
    evaluations = max(1, min(EVALUATIONS, int(EVALUATIONS_SHARE * left / max(times.evaluation, 1e-6))))
    steps = int((left - evaluations * times.evaluation) / times.step)
    if steps < 1:
        needed = (spent + (ENDING + times.once + times.evaluation + 100 * times.step) / KEPT) / 60
        raise UserError(
            f"train.minutes={config.train.minutes:g} is too short: starting took {spent:.0f} s, an evaluation takes "
            f"{times.evaluation:.0f} s and a step {times.step:.2g} s; for a hundred steps give it {math.ceil(needed)}"
        )
    every = -(-steps // min(evaluations, steps))
    warm_up = min(config.optim.warmup_steps, int(WARM_UP * steps))
    drop = max(1, round(steps / steps_per_epoch * config.optim.drop_epoch / config.train.epochs))
    return _with_lengths(config, (steps, every, every), (warm_up, drop))


def keep_lengths(config: Config, begun: Config | None) -> Config:
    """The settings with the lengths that the same budget gave a run when it began."""
    if not config.train.minutes or begun is None or begun.train.minutes != config.train.minutes:
        return config
    train, optim = begun.train, begun.optim
    lengths = train.steps, train.eval_every, train.checkpoint_every
    return _with_lengths(config, lengths, (optim.warmup_steps, optim.drop_epoch))


def _with_lengths(config: Config, lengths: tuple[int, int, int], schedule: tuple[int, int]) -> Config:
    """With these steps in all, between evaluations and between checkpoints; of warm-up, and epochs between drops."""
    steps, evaluate, save = lengths
    warm_up, drop = schedule
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, warmup_steps=warm_up, drop_epoch=drop),
        train=dataclasses.replace(config.train, steps=steps, eval_every=evaluate, checkpoint_every=save),
    )


def describe_lengths(config: Config, times: Times) -> str:
    """What was measured and chosen, as settings that can be typed."""
    train, optim = config.train, config.optim
    drops = f" optim.drop_epoch={optim.drop_epoch}" if optim.schedule == "step" else ""
    return (
        f"train.minutes={train.minutes:g} with {times.step:.2g} s a step and {times.evaluation:.1f} s an evaluation: "
        f"train.steps={train.steps} train.eval_every={train.eval_every} "
        f"train.checkpoint_every={train.checkpoint_every} optim.warmup_steps={optim.warmup_steps}{drops}"
    )
