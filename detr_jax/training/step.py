"""One training step as a pure function of (state, batch); everything random follows from the step number."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from detr_jax.ops import resample as preprocess
from detr_jax.models.network import Arrays, Network
from detr_jax.structures import Batch
from detr_jax.ops import assignment
from detr_jax.training import losses, matcher, optimizer
from detr_jax.training.class_loss import ClassLoss
from detr_jax.training.denoising import noised
from detr_jax.weights.sources import LABELS


class TrainState(NamedTuple):
    """Everything that a checkpoint must hold to go on bit for bit."""

    step: jax.Array
    params: Arrays  # trained
    frozen: Arrays
    optimizer: optax.OptState
    average: Arrays  # exponential moving average of ``params``; empty when it is off
    skipped: jax.Array  # steps left out because a number was not finite
    skipped_in_a_row: jax.Array

    @property
    def best_params(self) -> Arrays:
        """The arrays to evaluate with: averaged ones where there are any."""
        return {**self.params, **self.average, **self.frozen}


class Recipe(NamedTuple):
    """The settings of a step; all are fixed when it is compiled."""

    cost_weights: matcher.CostWeights
    loss_weights: losses.LossWeights
    class_loss: ClassLoss
    auxiliary: bool  # losses after every decoder layer, not only the last
    normalizer_groups: int  # see losses.normalizers
    clip_norm: float
    accum_steps: int
    average_decay: float  # of the moving average; 0 is off
    seed: int
    denoising_groups: int = 0  # 0: no denoising
    cached_stage: int = 0  # of the backbone, whose features the batches hold instead of pixels; 0: pixels
    solver: assignment.Solver = assignment.solve  # of the matching
    crop_max: int = 0  # pixels, of a side of the crops that are made of photos as they were read


def init_state(arrays: Arrays, network: Network, freeze: tuple[str, ...], tx, average_decay: float) -> TrainState:
    """The state before step 0, for freshly initialised or loaded ``arrays``."""
    params, frozen = network.partition(arrays, freeze)
    zero = jnp.zeros([], jnp.int32)
    average = {name: array.copy() for name, array in params.items()} if average_decay else {}
    return TrainState(zero, params, frozen, tx.init(params), average, zero, zero)


def _micro_batches(batch: Batch, count: int) -> Batch:
    """[B ...] -> [count B/count ...], every micro-batch strided over the batch so that no image changes its device."""
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)


def gradients(state: TrainState, batch: Batch, network: Network, recipe: Recipe, mesh=None, canvas=None):
    """Gradient of the loss over the whole batch, and sums for the log.

    Returns:
      (gradients by name, {loss name: [L]}, losses.Errors, matcher figures). Terms of the encoder's proposals end in
      ``_enc``, those of noised objects in ``_dn``. With ``accum_steps`` > 1 they are those of
      one big batch: terms are divided by counts of the whole batch and added up.
    """
    class_loss = recipe.class_loss
    # 'rbg' is the hardware generator: cheaper than threefry, and dropout is asked for a dozen times a layer.
    step_key = jax.random.fold_in(jax.random.key(recipe.seed, impl="rbg"), state.step)

    def loss(params: Arrays, images: Batch, index):
        images = preprocess.seen(images, canvas, recipe.crop_max)
        key = jax.random.fold_in(step_key, index)
        noise = None
        if recipe.denoising_groups:
            noise_key = jax.random.fold_in(key, 0)
            num_classes = network.shapes[LABELS].shape[0]
            noise = noised(images.targets, recipe.denoising_groups, num_classes, noise_key)
        arrays = {**params, **state.frozen}
        outputs = network.apply(arrays, images.images, images.sizes, key, noise, recipe.cached_stage)
        layers = losses.layers_of(outputs, recipe.auxiliary)
        num_queries = layers.logits.shape[2]
        divisors = losses.normalizers(batch.targets, num_queries, class_loss, recipe.normalizer_groups)
        matches = matcher.match(layers, images.targets, recipe.cost_weights, mesh, class_loss, recipe.solver)
        terms = losses.losses(layers, images.targets, matches.query_of_target, divisors, class_loss)
        if outputs.proposals is not None:
            terms = losses.apart(terms, "_enc", 1)
        if outputs.denoised is not None:
            denoised = losses.counted(outputs.denoised, recipe.auxiliary)
            denoised = losses.denoising_losses(denoised, images.targets, divisors.objects, class_loss)
            terms |= {f"{name}_dn": values for name, values in denoised.items()}
        figures = {"matcher_turns": jnp.max(matches.turns), "matcher_nonfinite": jnp.sum(matches.nonfinite)}
        errors = losses.errors(layers, images.targets, matches.query_of_target, class_loss)
        return losses.total(terms, recipe.loss_weights), (terms, errors, figures)

    def one(images: Batch, index):
        grads, logged = jax.grad(loss, has_aux=True)(state.params, images, index)
        return grads, *logged

    if recipe.accum_steps == 1:
        return one(batch, 0)
    parts = _micro_batches(batch, recipe.accum_steps)
    first = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts), 0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
    indices = jnp.arange(recipe.accum_steps)

    def add(sums, part):
        return jax.tree.map(jnp.add, sums, one(*part)), None

    return lax.scan(add, zeros, (parts, indices))[0]


def log_names(terms: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """{'loss_ce': [L]} -> the original's names: 'loss_ce_0' ... for the auxiliary layers, 'loss_ce' for the last."""
    named = {}
    for name, values in terms.items():
        for layer in range(values.shape[0]):
            last = layer == values.shape[0] - 1
            named[name if last else f"{name}_{layer}"] = values[layer]
    return named


@partial(jax.jit, static_argnames=("tx", "decay"))  # of its own: traced once, not for every canvas
def _renewed(state: TrainState, grads: Arrays, finite: jax.Array, tx: optax.GradientTransformation, decay: float):
    """Parameters, optimizer and average after a step; as they were, unless it is ``finite``."""
    updates, opt_state = tx.update(grads, state.optimizer, state.params, finite=finite)
    params = jax.tree.map(lambda old, update: jnp.where(finite, old + update, old), state.params, updates)
    average = {
        name: jnp.where(finite, decay * old + (1 - decay) * params[name], old) for name, old in state.average.items()
    }
    return params, opt_state, average


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    network: Network,
    tx: optax.GradientTransformation,
    recipe: Recipe,
    mesh=None,
    canvas: tuple[int, int] | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step; returns the new state and scalars for the log.

    ``canvas`` is the (height, width) on which images are looked at, for batches with views.

    If the loss or the gradient norm is not finite, parameters, optimizer and average stay as they were, and the step is
    counted: one bad batch costs one step, not a run.
    """
    grads, terms, errors, figures = gradients(state, batch, network, recipe, mesh, canvas)
    total = losses.total(terms, recipe.loss_weights)
    grads, norm = optimizer.clip(grads, recipe.clip_norm)
    # With a finite norm the updates are finite too: the squares that Adam sums are below the norm's, and the trainer
    # refuses absurd learning rates. So nothing has to look at them.
    finite = jnp.isfinite(total) & jnp.isfinite(norm)
    params, opt_state, average = _renewed(state, grads, finite, tx, recipe.average_decay)
    skipped = (~finite).astype(jnp.int32)
    figures_of_errors = errors.figures()
    metrics = {
        "loss": total,
        **log_names(terms),
        "class_error": figures_of_errors["class_error"],
        **log_names({"cardinality_error": figures_of_errors["cardinality_error"]}),
        "grad_norm": norm,
        **figures,
        "skipped": skipped,
    }
    new_state = TrainState(
        state.step + 1,
        params,
        state.frozen,
        opt_state,
        average,
        state.skipped + skipped,
        jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    return new_state, metrics
