"""AdamW with a learning rate per group of parameters, and the schedules of the paper; a function of the step alone."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from detr_jax.config import OptimConfig
from detr_jax.ops.gradients import global_norm, materialize

Arrays = dict[str, jax.Array]
Schedule = Callable[[jax.Array | int], jax.Array]
Number = jax.Array | np.ndarray
COSINE_FLOOR = 0.01


class Hyperparameters(NamedTuple):
    """Numbers that a compiled step takes as arguments: one program serves runs of any seed, rate and length."""

    seed: Number
    lr: Number
    lr_backbone: Number
    weight_decay: Number
    warmup_steps: Number
    drop_steps: Number  # between two drops of the step schedule
    total_steps: Number


def make_hyperparameters(
    optim: OptimConfig, *, total_steps: int = 1, steps_per_epoch: int = 1, seed: int = 0
) -> Hyperparameters:
    """Those of a run of so many steps; the lengths matter to the schedules alone."""
    rates = optim.lr, optim.lr_backbone, optim.weight_decay
    lengths = optim.warmup_steps, optim.drop_epoch * steps_per_epoch, total_steps
    return Hyperparameters(
        np.asarray(seed, np.uint32),
        *(np.asarray(rate, np.float32) for rate in rates),
        *(np.asarray(length, np.int32) for length in lengths),
    )


def group_of(name: str) -> str:
    """The group a parameter belongs to: the backbone learns more slowly than the rest."""
    return "backbone" if name.startswith("backbone/") else "rest"


def rate_factor(kind: str, numbers: Hyperparameters, step: jax.Array | int) -> jax.Array:
    """The factor on the learning rates at a step, in [0, 1].

    The ``kind`` 'step' multiplies by 0.1 at every multiple of ``drop_steps`` (torch's StepLR, as in the original),
    'cosine' falls to 1 % at ``total_steps``, 'constant' stays at 1. A linear warm-up multiplies all of them.
    """
    step = jnp.asarray(step, jnp.int32)
    if kind == "step":
        decay = 0.1 ** (step // numbers.drop_steps).astype(jnp.float32)
    elif kind == "cosine":
        progress = jnp.clip(step / jnp.maximum(numbers.total_steps, 1), 0, 1)
        decay = COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    else:
        decay = jnp.ones(())
    return decay * jnp.minimum((step + 1) / jnp.maximum(numbers.warmup_steps, 1), 1.0)


def make_schedule(optim: OptimConfig, total_steps: int, steps_per_epoch: int) -> Schedule:
    """The factor on the learning rates of a run, as a function of the step."""
    numbers = make_hyperparameters(optim, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    return functools.partial(rate_factor, optim.schedule, numbers)


def _scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """optax's Adam but for the bias correction: in float32, 1 - b2 ** t makes the first updates wrong by 1e-5."""
    plain = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def update(updates: Arrays, state: optax.ScaleByAdamState, params=None, *, finite: jax.Array | bool = True, **_):
        count = state.count + finite

        def average(decay: float, old: Arrays, new: Callable) -> Arrays:
            return {
                name: jnp.where(finite, decay * old[name] + (1 - decay) * new(gradient), old[name])
                for name, gradient in updates.items()
            }

        mu = materialize(average(b1, state.mu, lambda gradient: gradient))
        nu = materialize(average(b2, state.nu, jnp.square))
        first, second = (-jnp.expm1(count * math.log(b)) for b in (b1, b2))
        scaled = {name: (mu[name] / first) / (jnp.sqrt(nu[name] / second) + eps) for name in updates}
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(plain.init, update)


@functools.cache  # one object for equal arguments: compiled functions know it again
def make_optimizer(b2: float, schedule: str) -> optax.GradientTransformationExtraArgs:
    """torch's AdamW: decay acts on every parameter, biases and norms included, and is scaled by the group's rate.

    ``update`` takes ``numbers``, the ``Hyperparameters``, and ``finite``: where it is False the state stays as it was,
    and the updates are not to be used.
    """
    adam = _scale_by_adam(b1=0.9, b2=b2, eps=1e-8)

    def init(params: Arrays):
        return adam.init(params), optax.ScaleByScheduleState(jnp.zeros([], jnp.int32))

    def update(gradients: Arrays, state, params: Arrays, *, numbers: Hyperparameters, finite=True):
        updates, adam_state = adam.update(gradients, state[0], finite=finite)
        now = rate_factor(schedule, numbers, state[1].count)
        rates = {"rest": numbers.lr, "backbone": numbers.lr_backbone}
        scaled = {
            name: -rates[group_of(name)] * now * (update + numbers.weight_decay * params[name])
            for name, update in updates.items()
        }
        return scaled, (adam_state, optax.ScaleByScheduleState(state[1].count + finite))

    return optax.GradientTransformationExtraArgs(init, update)


def clip_by_norm(gradients: Arrays, max_norm: float) -> tuple[Arrays, jax.Array]:
    """Gradients scaled to a global norm of at most ``max_norm`` (0: as they are), and their norm before.

    As in torch the divisor is norm + 1e-6. optax's own clipping would compute the norm a second time for the log.
    """
    norm = global_norm(gradients)
    if max_norm <= 0:
        return gradients, norm
    scale = jnp.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: gradient * scale for name, gradient in gradients.items()}, norm
