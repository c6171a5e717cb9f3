"""AdamW with a learning rate per group of parameters and the schedules of the paper; a function of the step alone."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

Arrays = dict[str, jax.Array]
Schedule = Callable[[jax.Array | int], jax.Array]


def group_of(name: str) -> str:
    """The group a parameter belongs to: the backbone learns more slowly than the rest."""
    return "backbone" if name.startswith("backbone/") else "rest"


class LearningRates(NamedTuple):
    """Peak learning rate of each group."""

    rest: float
    backbone: float


def schedule(kind: str, total_steps: int, drop_step: int, warmup_steps: int = 0, floor: float = 0.01) -> Schedule:
    """Factor on the learning rates at a step, in [0, 1].

    'step' multiplies by 0.1 at every multiple of ``drop_step`` (torch's StepLR, as in the original); 'cosine' falls to
    ``floor`` at ``total_steps``; 'constant' stays at 1. A linear warm-up of ``warmup_steps`` comes first with all.
    """
    shapes = {
        "step": lambda step: 0.1 ** (step // drop_step).astype(jnp.float32),
        "cosine": lambda step: (
            floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(step / max(total_steps, 1), 0, 1)))
        ),
        "constant": lambda step: jnp.ones(()),
    }
    if kind not in shapes:
        raise ValueError(f"unknown schedule {kind!r}; choose from {', '.join(sorted(shapes))}")
    if kind == "step" and drop_step < 1:
        raise ValueError("drop_epoch must be 1 or more; choose 'constant' for a rate that never drops")

    def factor(step):
        step = jnp.asarray(step, jnp.int32)
        return shapes[kind](step) * jnp.minimum((step + 1) / max(warmup_steps, 1), 1.0)

    return factor


def _settled(arrays: Arrays) -> Arrays:
    """On a CPU each array is computed before anything made of it: then moments and parameters are renewed in place.

    Otherwise XLA computes the moments again for the parameters, from copies of the old ones.
    """
    one_by_one = partial(jax.tree.map, jax.lax.optimization_barrier)
    return jax.lax.platform_dependent(arrays, cpu=one_by_one, default=lambda arrays: arrays)


def _scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """optax's Adam, but for the bias correction: 1 - b2 ** t in float32 makes the first updates wrong by 1e-5."""
    plain = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def update(updates: Arrays, state: optax.ScaleByAdamState, params=None, *, finite: jax.Array | bool = True, **_):
        count = state.count + finite

        def averaged(decay: float, old: Arrays, new: Callable) -> Arrays:
            return {
                name: jnp.where(finite, decay * old[name] + (1 - decay) * new(gradient), old[name])
                for name, gradient in updates.items()
            }

        mu = _settled(averaged(b1, state.mu, lambda gradient: gradient))
        nu = _settled(averaged(b2, state.nu, jnp.square))
        first, second = (-jnp.expm1(count * math.log(b)) for b in (b1, b2))
        scaled = {name: (mu[name] / first) / (jnp.sqrt(nu[name] / second) + eps) for name in updates}
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(plain.init, update)


def adamw(
    rates: LearningRates, factor: Schedule, weight_decay: float, b2: float = 0.999
) -> optax.GradientTransformationExtraArgs:
    """torch's AdamW: decay acts on every parameter, biases and norms included, and is scaled by the group's rate.

    ``update`` takes ``finite``: where it is False the state stays as it was, and the updates are not to be used.
    """

    def scale_by_rate() -> optax.GradientTransformationExtraArgs:
        def update(updates: Arrays, state: optax.ScaleByScheduleState, params=None, *, finite=True, **_):
            now = factor(state.count)
            rate = rates._asdict()
            scaled = {name: -rate[group_of(name)] * now * update for name, update in updates.items()}
            return scaled, optax.ScaleByScheduleState(state.count + finite)

        return optax.GradientTransformationExtraArgs(
            lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update
        )

    return optax.chain(
        _scale_by_adam(b1=0.9, b2=b2, eps=1e-8), optax.add_decayed_weights(weight_decay), scale_by_rate()
    )


def clip(gradients: Arrays, max_norm: float) -> tuple[Arrays, jax.Array]:
    """Gradients scaled to a global norm of at most ``max_norm`` (0: as they are), and their norm before.

    As in torch the divisor is norm + 1e-6. optax's own clipping would compute the norm a second time for the log.
    """
    squares = [jnp.square(gradient) for gradient in gradients.values()]
    sums = [jnp.sum(values, axis=-1) if values.ndim > 1 else values for values in squares]
    # The barrier keeps XLA from one sum for each array: on a GPU a launch for a vector, two for a matrix.
    norm = jnp.sqrt(jnp.sum(jax.lax.optimization_barrier(jnp.concatenate(sums, axis=None))))
    if max_norm <= 0:
        return gradients, norm
    scale = jnp.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: gradient * scale for name, gradient in gradients.items()}, norm
