"""AdamW with a learning rate per group of parameters, and the schedules of the paper; a function of the step alone."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from detr_jax.config import OptimConfig
from detr_jax.ops.gradients import global_norm, materialize

Arrays = dict[str, jax.Array]
Schedule = Callable[[jax.Array | int], jax.Array]
COSINE_FLOOR = 0.01


def group_of(name: str) -> str:
    """The group a parameter belongs to: the backbone learns more slowly than the rest."""
    return "backbone" if name.startswith("backbone/") else "rest"


def make_schedule(optim: OptimConfig, total_steps: int, steps_per_epoch: int) -> Schedule:
    """The factor on the learning rates at a step, in [0, 1].

    'step' multiplies by 0.1 at every multiple of ``drop_epoch`` (torch's StepLR, as in the original), 'cosine' falls to
    1 % at ``total_steps``, 'constant' stays at 1. A linear warm-up multiplies all of them.
    """
    drop_step = optim.drop_epoch * steps_per_epoch

    def factor(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.int32)
        if optim.schedule == "step":
            decay = 0.1 ** (step // drop_step).astype(jnp.float32)
        elif optim.schedule == "cosine":
            progress = jnp.clip(step / max(total_steps, 1), 0, 1)
            decay = COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        else:
            decay = jnp.ones(())
        return decay * jnp.minimum((step + 1) / max(optim.warmup_steps, 1), 1.0)

    return factor


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


def make_optimizer(optim: OptimConfig, schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """torch's AdamW: decay acts on every parameter, biases and norms included, and is scaled by the group's rate.

    ``update`` takes ``finite``: where it is False the state stays as it was, and the updates are not to be used.
    """
    rates = {"rest": optim.lr, "backbone": optim.lr_backbone}

    def update(updates: Arrays, state: optax.ScaleByScheduleState, params=None, *, finite=True, **_):
        now = schedule(state.count)
        scaled = {name: -rates[group_of(name)] * now * update for name, update in updates.items()}
        return scaled, optax.ScaleByScheduleState(state.count + finite)

    scale_by_rate = optax.GradientTransformationExtraArgs(
        lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update
    )
    return optax.chain(
        _scale_by_adam(b1=0.9, b2=optim.b2, eps=1e-8), optax.add_decayed_weights(optim.weight_decay), scale_by_rate
    )


def clip_by_norm(gradients: Arrays, max_norm: float) -> tuple[Arrays, jax.Array]:
    """Gradients scaled to a global norm of at most ``max_norm`` (0: as they are), and their norm before.

    As in torch the divisor is norm + 1e-6. optax's own clipping would compute the norm a second time for the log.
    """
    norm = global_norm(gradients)
    if max_norm <= 0:
        return gradients, norm
    scale = jnp.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: gradient * scale for name, gradient in gradients.items()}, norm
