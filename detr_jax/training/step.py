"""One training step as a pure function of (state, batch); everything random follows from the step number."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from detr_jax.config import Config
from detr_jax.models.network import Arrays, Network
from detr_jax.structures import Batch, Categories, Predictions, Targets
from detr_jax.training import losses, matcher, optimizer
from detr_jax.training.class_loss import ClassLoss, make_class_loss
from detr_jax.training.denoising import add_noise


class TrainState(NamedTuple):
    """What a step changes; a checkpoint holds all of it to go on bit for bit."""

    step: jax.Array
    numbers: optimizer.Hyperparameters  # of the settings: the only part that no checkpoint holds
    params: Arrays  # trained
    frozen: Arrays
    optimizer: optax.OptState
    average: Arrays  # exponential moving average of ``params``; empty when it is off
    skipped: jax.Array  # steps left out because a number was not finite
    skipped_in_a_row: jax.Array

    @property
    def arrays(self) -> Arrays:
        """The arrays to evaluate with: averaged where there is an average."""
        return {**self.params, **self.average, **self.frozen}


class Recipe(NamedTuple):
    """What a training step is made of; all but the ``numbers``, which start a state, is fixed when it is compiled."""

    config: Config
    network: Network
    numbers: optimizer.Hyperparameters
    categories: Categories
    mesh: jax.sharding.Mesh | None = None

    @property
    def tx(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer."""
        return optimizer.make_optimizer(self.config.optim.b2, self.config.optim.schedule)

    @property
    def class_loss(self) -> ClassLoss:
        """What class scores cost in the matching and in the loss."""
        return make_class_loss(self.config)

    @property
    def normalizer_groups(self) -> int:
        """Into how many groups the batch is cut for the class term's divisor; see ``losses.make_normalizers``."""
        return self.mesh.size if self.mesh is not None and self.config.loss.normalizer == "per_device" else 1


class Sums(NamedTuple):
    """Figures of a batch for the log; those of micro-batches add up to those of the whole batch."""

    terms: dict[str, losses.Terms]  # "" for the decoder, "_enc" for the encoder's proposals, "_dn" for noised objects
    errors: losses.Errors  # the encoder's proposals are the first layer, where there are any
    matcher_turns: jax.Array
    matcher_nonfinite: jax.Array


def rows_with_image(batch: Batch) -> jax.Array:
    """[B]: False in the rows of images that could not be decoded; these count nothing."""
    return batch.inputs.sizes[:, 0] > 0


def split_batch(batch: Batch, count: int) -> Batch:
    """[B ...] -> [count B/count ...]. Each micro-batch is strided over the batch, so no image changes its device."""
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)


def score_layers(
    layers: Predictions, targets: Targets, present: jax.Array, normalizers: losses.Normalizers, recipe: Recipe
) -> tuple[losses.Terms, losses.Errors, matcher.Matches]:
    """Matches every layer, and the terms and counts that follow; rows [B] that are not ``present`` count nothing."""
    config, class_loss, queries = recipe.config, recipe.class_loss, layers.logits.shape[2]
    solver = matcher.SOLVERS[config.train.matcher]
    matches = matcher.match(layers, targets, config.loss, class_loss, recipe.mesh, solver)
    counted = jnp.broadcast_to(present[:, None], (present.shape[0], queries))
    terms = losses.set_losses(layers, targets, matches.query_of_target, normalizers, class_loss, counted)
    errors = losses.count_errors(layers, targets, matches.query_of_target, class_loss, present)
    return terms, errors, matches


def batch_loss(
    params: Arrays, frozen: Arrays, part: Batch, whole: Batch, key: jax.Array, recipe: Recipe
) -> tuple[jax.Array, Sums]:
    """The loss of a (micro-)batch, divided by the counts of the ``whole`` batch, and what the log wants to know."""
    config, class_loss = recipe.config, recipe.class_loss
    noised, groups = None, config.model.denoising
    if groups:
        noised = add_noise(part.targets, groups, len(recipe.categories.ids), jax.random.fold_in(key, 0))
    predictions = recipe.network.apply({**params, **frozen}, part.inputs, key, noised)
    layers = losses.stack_layers(predictions, config.loss.auxiliary)
    present, queries = rows_with_image(part), layers.logits.shape[2]
    normalizers = losses.make_normalizers(
        whole.targets, queries, class_loss, recipe.normalizer_groups, rows_with_image(whole)
    )
    all_terms, errors, matches = score_layers(layers, part.targets, present, normalizers, recipe)
    terms = {"": all_terms}
    if predictions.proposals is not None:
        terms = {"_enc": jax.tree.map(lambda x: x[:1], all_terms), "": jax.tree.map(lambda x: x[1:], all_terms)}
    if predictions.denoised is not None:
        denoised = losses.keep_layers(predictions.denoised, config.loss.auxiliary)
        terms["_dn"] = losses.denoising_losses(denoised, part.targets, normalizers.objects, class_loss)
    sums = Sums(terms, errors, jnp.max(matches.turns), jnp.sum(matches.nonfinite))
    return losses.total_loss(terms.values(), config.loss), sums


def compute_gradients(state: TrainState, batch: Batch, recipe: Recipe) -> tuple[Arrays, Sums]:
    """Gradient of the loss over the whole batch, by name, and sums for the log.

    With ``accum_steps`` > 1 both are those of one big batch: terms are divided by counts of the whole batch and added.
    """
    config = recipe.config
    # 'rbg' is the hardware generator: cheaper than threefry, and dropout is asked for a dozen times a layer.
    step_key = jax.random.fold_in(jax.random.key(state.numbers.seed, impl="rbg"), state.step)
    differentiate = jax.grad(batch_loss, has_aux=True)

    def of_part(part: Batch, index) -> tuple[Arrays, Sums]:
        return differentiate(state.params, state.frozen, part, batch, jax.random.fold_in(step_key, index), recipe)

    count = config.train.accum_steps
    if count == 1:
        return of_part(batch, 0)
    parts = split_batch(batch, count)
    shapes = jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], parts), 0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(sums, part):
        return jax.tree.map(jnp.add, sums, of_part(*part)), None

    return lax.scan(add, zeros, (parts, jnp.arange(count)))[0]


def name_layers(name: str, values: jax.Array) -> dict[str, jax.Array]:
    """[L] values under the original's names: 'loss_ce_0', ... for the auxiliary layers, 'loss_ce' for the last."""
    last = values.shape[0] - 1
    return {name if layer == last else f"{name}_{layer}": values[layer] for layer in range(last + 1)}


def name_figures(sums: Sums) -> dict[str, jax.Array]:
    """The sums as scalars by their names in the log."""
    named = {}
    for suffix, terms in sums.terms.items():
        for term, values in terms._asdict().items():
            named |= name_layers(f"{term}{suffix}", values)
    cardinality = sums.errors.cardinality_error
    if "_enc" in sums.terms:
        named["cardinality_error_enc"], cardinality = cardinality[0], cardinality[1:]
    named |= {"class_error": sums.errors.class_error} | name_layers("cardinality_error", cardinality)
    return named | {"matcher_turns": sums.matcher_turns, "matcher_nonfinite": sums.matcher_nonfinite}


@partial(jax.jit, static_argnames=("tx", "decay"))  # jitted separately so that it is traced once for all canvases
def update_state(state: TrainState, grads: Arrays, finite: jax.Array, tx: optax.GradientTransformation, decay: float):
    """(parameters, optimizer's state, average) after a step; unchanged where it is not ``finite``."""
    updates, opt_state = tx.update(grads, state.optimizer, state.params, numbers=state.numbers, finite=finite)
    params = jax.tree.map(lambda old, update: jnp.where(finite, old + update, old), state.params, updates)
    average = {
        name: jnp.where(finite, decay * old + (1 - decay) * params[name], old) for name, old in state.average.items()
    }
    return params, opt_state, average


def train_step(state: TrainState, batch: Batch, recipe: Recipe) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step; returns the new state and scalars for the log.

    If the loss or the gradient norm is not finite, parameters, optimizer and average stay as they were and the step is
    counted as skipped: one bad batch costs one step, not a run.
    """
    config = recipe.config
    grads, sums = compute_gradients(state, batch, recipe)
    total = losses.total_loss(sums.terms.values(), config.loss)
    grads, norm = optimizer.clip_by_norm(grads, config.optim.clip_norm)
    # A finite norm gives finite updates: the squares that Adam sums are below the norm's, and config_check refuses
    # learning rates that could overflow. So the updates need no check of their own.
    finite = jnp.isfinite(total) & jnp.isfinite(norm)
    params, opt_state, average = update_state(state, grads, finite, recipe.tx, config.train.average_decay)
    skipped = (~finite).astype(jnp.int32)
    broken = jnp.sum(~rows_with_image(batch)).astype(jnp.int32)
    metrics = {"loss": total, **name_figures(sums), "grad_norm": norm, "skipped": skipped, "broken_images": broken}
    new_state = TrainState(
        step=state.step + 1,
        numbers=state.numbers,
        params=params,
        frozen=state.frozen,
        optimizer=opt_state,
        average=average,
        skipped=state.skipped + skipped,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    return new_state, metrics
