"""The state of a run: made at step 0, restored from a checkpoint, and as a checkpoint stores it."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from detr_jax import devices
from detr_jax.config import Config
from detr_jax.config_forms import to_dict
from detr_jax.errors import UserError
from detr_jax.inference.coco_heads import known_classes
from detr_jax.models import detr
from detr_jax.models.network import Arrays, Network
from detr_jax.structures import Categories
from detr_jax.training import optimizer
from detr_jax.training.calendar import Calendar
from detr_jax.training.step import Recipe, TrainState
from detr_jax.weights import checkpoints, sources


def trained_network(config: Config, categories: Categories) -> Network:
    """The network that a run trains."""
    return detr.network(config.model, len(categories.ids), dtype=config.dtype, remat=config.train.remat)


def make_recipe(config: Config, categories: Categories, calendar: Calendar, mesh: jax.sharding.Mesh) -> Recipe:
    """What the steps of a run are made of. Raises UserError when ``freeze`` names an array that does not exist."""
    network = trained_network(config, categories)
    for part in config.freeze:
        if not any(name.startswith(part) for name in network.shapes):
            raise UserError(f"freeze={config.freeze} names {part!r}, but no array of the model begins like that")
    numbers = optimizer.make_hyperparameters(
        config.optim,
        total_steps=calendar.total_steps,
        steps_per_epoch=calendar.steps_per_epoch,
        seed=config.seed,
    )
    return Recipe(config, network, numbers, categories, mesh)


def init_state(arrays: Arrays, recipe: Recipe) -> TrainState:
    """The state before step 0, for freshly initialised or loaded ``arrays``."""
    params, frozen = recipe.network.partition(arrays, recipe.config.freeze)
    zero = jnp.zeros([], jnp.int32)
    average = {name: array.copy() for name, array in params.items()} if recipe.config.train.average_decay else {}
    numbers = jax.tree.map(jnp.asarray, recipe.numbers)
    return TrainState(zero, numbers, params, frozen, recipe.tx.init(params), average, zero, zero)


def fresh_state(recipe: Recipe, arrays: Arrays) -> TrainState:
    """The state before step 0 with these arrays, and initial values for the names that are missing."""
    return init_state({**recipe.network.init(jax.random.key(recipe.config.seed)), **arrays}, recipe)


def state_shapes(recipe: Recipe) -> TrainState:
    """Shape, dtype and sharding of every array of a state."""
    state = jax.eval_shape(lambda: fresh_state(recipe, {}))
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        state,
        devices.state_sharding(recipe.mesh, state),
    )


def start_state(recipe: Recipe, say: Callable[[str], None] = print) -> tuple[TrainState, dict[str, str]]:
    """The state of step 0, with the weights that the settings name, and the sha256 of each of their files.

    ``say`` gets a report of what was loaded. Raises UserError when the weights cannot be loaded.
    """
    config, arrays, digests = recipe.config, {}, {}
    if config.init_from:
        weights = sources.load_weights(config.init_from, "init_from=", say)
        weights = weights._replace(categories=known_classes(weights))
        rows = fresh_class_rows(recipe.network, config.seed)
        fitting, report = sources.fit_detector(weights, recipe.network.shapes, rows, recipe.categories)
        digests[config.init_from] = weights.sha256
        say(f"weights from {config.init_from} ({weights.title}):\n{report}")
        arrays |= fitting
    backbone = {name for name in recipe.network.shapes if name.startswith("backbone/")}
    if config.model.backbone_weights and not backbone <= arrays.keys():
        weights = sources.load_weights(config.model.backbone_weights, sources.BACKBONE_FLAG, say)
        fitting, report = sources.fit_backbone(weights, recipe.network.shapes)
        digests[config.model.backbone_weights] = weights.sha256
        say(f"backbone weights from {config.model.backbone_weights} ({weights.title}):\n{report}")
        arrays = fitting | arrays
    shardings = devices.state_sharding(recipe.mesh, jax.eval_shape(lambda arrays: fresh_state(recipe, arrays), arrays))
    return jax.jit(lambda arrays: fresh_state(recipe, arrays), out_shardings=shardings)(arrays), digests


def fresh_class_rows(network: Network, seed: int) -> Arrays:
    """Initial values of the arrays that have a row for every class; the compiler leaves the rest of the model out."""
    names = sources.class_rows(network.shapes)
    return jax.jit(lambda key: {name: network.init(key)[name] for name in names})(jax.random.key(seed))


def restore_state(recipe: Recipe, folder: Path) -> TrainState:
    """The state of one of this run's checkpoints. Raises UserError when its arrays are others than the model's."""
    stored = store_state(state_shapes(recipe), recipe)
    model = checkpoints.read_arrays(folder, "model", stored.model)
    average = checkpoints.read_arrays(folder, "averaged", stored.averaged) if stored.averaged else {}
    params, frozen = recipe.network.partition(model, recipe.config.freeze)
    progress = checkpoints.read_arrays(folder, "progress", stored.progress)
    numbers = optimizer.Hyperparameters(**devices.replicate(recipe.numbers._asdict(), recipe.mesh))
    return TrainState(numbers=numbers, params=params, frozen=frozen, average=average, **progress)


def store_state(state: TrainState, recipe: Recipe) -> checkpoints.Stored:
    """The state as a checkpoint holds it."""
    progress = {name: getattr(state, name) for name in ("step", "optimizer", "skipped", "skipped_in_a_row")}
    info = {"config": to_dict(recipe.config), "categories": recipe.categories.to_rows()}
    return checkpoints.Stored({**state.params, **state.frozen}, state.average, progress, info)
