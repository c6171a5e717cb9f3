"""A run put together from plain settings: data plan, model, optimizer, devices; and its state, on disk and back."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from detr_jax.inference import detector
from detr_jax import devices
from detr_jax.batches import augmentation
from detr_jax.batches.canvases import Bucket, of_rows, with_room
from detr_jax.batches.inputs import Pictures, chosen
from detr_jax.batches.plan import TrainPlan
from detr_jax.datasets.split import Split
from detr_jax.models.network import Network
from detr_jax.errors import UserError
from detr_jax.structures import Batch, Targets, View
from detr_jax.training import optimizer, step
from detr_jax.training.class_loss import Focal, Softmax
from detr_jax.training.compiled_steps import CompiledSteps, Say
from detr_jax.batches.features import FeatureCache, checked_stage
from detr_jax.training.losses import LossWeights
from detr_jax.training.matcher import SOLVERS, CostWeights
from detr_jax.weights import checkpoints, sources

LOOK_AHEAD = 1000  # steps whose canvases are compiled before the first step
NORMALIZERS = ("global", "per_device")
# Of the optimizer's settings, the values with which a finite gradient is a finite update: step.train_step relies on it.
RANGES = {
    "lr": (0, 1),
    "lr_backbone": (0, 1),
    "weight_decay": (0, 1),
    "b2": (0.5, 0.999999),
    "clip_norm": (0, 1e6),
}


def make_plan(config: dict, split: Split) -> TrainPlan:
    """Which images make up each step. Raises UserError when an image has more objects than the model has queries."""
    data = config["data"]
    settings = augmentation.Augmentation(*(data[key] for key in augmentation.Augmentation._fields))
    augmentation.checked(settings)
    buckets = with_room(
        of_rows(data["buckets"]),
        split.target_counts,
        split.image_ids,
        config["model"]["num_queries"],
    )
    return TrainPlan(
        split.image_ids, split.sizes, split.target_counts, settings, buckets, config["train"]["batch_size"],
        config["seed"],
    )  # fmt: skip


def make_recipe(config: dict, cached_stage: int, devices: int) -> step.Recipe:
    """The settings of a training step. Raises UserError for words that are not known, or not to this machine."""
    model, loss, train = config["model"], config["loss"], config["train"]
    if loss["normalizer"] not in NORMALIZERS:
        raise UserError(f"--config.loss.normalizer is {loss['normalizer']!r}; choose from {', '.join(NORMALIZERS)}")
    if train["matcher"] not in SOLVERS:
        raise UserError(f"--config.train.matcher is {train['matcher']!r}; choose from {', '.join(SOLVERS)}")
    if train["matcher"] == "pallas" and jax.default_backend() != "gpu":
        raise UserError(f"--config.train.matcher=pallas needs a GPU and this is a {jax.default_backend()}; choose loop")
    return step.Recipe(
        cost_weights=CostWeights(loss["class_cost"], loss["bbox_cost"], loss["giou_cost"]),
        loss_weights=LossWeights(loss["class_weight"], loss["bbox_weight"], loss["giou_weight"]),
        class_loss=Focal() if model["class_scores"] == "sigmoid" else Softmax(loss["no_object_weight"]),
        denoising_groups=model["denoising"],
        cached_stage=cached_stage,
        solver=SOLVERS[train["matcher"]],
        crop_max=config["data"]["crop_max"] if config["data"]["crop"] else 0,
        auxiliary=loss["auxiliary"],
        normalizer_groups=devices if loss["normalizer"] == "per_device" else 1,
        clip_norm=config["optim"]["clip_norm"],
        accum_steps=train["accum_steps"],
        average_decay=train["average_decay"],
        seed=config["seed"],
    )


def check_optimizer(optim: dict) -> None:
    """Raises UserError for a number that the optimizer cannot work with."""
    for name, (least, most) in RANGES.items():
        if not least <= optim[name] <= most:  # "not a number" is not either
            raise UserError(f"--config.optim.{name} is {optim[name]}; choose a number from {least} to {most}")


def check_batch_size(batch_size: int, accum_steps: int, devices: int) -> None:
    """Raises UserError unless the batch can be cut into equal parts."""
    unit = devices * max(accum_steps, 1)
    if accum_steps < 1 or batch_size < 1 or batch_size % unit:
        raise UserError(
            f"--config.train.batch_size={batch_size} cannot be split over {devices} devices and "
            f"accum_steps={accum_steps}; make it a multiple of {unit}"
        )


def refuse_to_train_masks(network: Network, freeze: tuple[str, ...]) -> None:
    """Raises UserError unless a mask head, for which there is no loss yet, is frozen."""
    if any(name.startswith("mask_head/") and not name.startswith(freeze) for name in network.shapes):
        raise UserError(
            "masks cannot be trained yet; add --config.freeze=\"('mask_head',)\" to train the boxes of this model alone"
        )


class Trainer:
    """The training step of a run, compiled once per canvas, and the ways to make, store and restore its state.

    Args:
      devices: to train on; None is all there are. For those that are not here it can only be ``lowered``.
    """

    def __init__(self, config: dict, split: Split, devices: Sequence[jax.Device] | None = None):
        train, optim = config["train"], config["optim"]
        self.config, self.categories = config, split.categories
        self.batch_size = train["batch_size"]
        self.mesh = devices.make_mesh(train["fsdp"], devices)
        check_batch_size(self.batch_size, train["accum_steps"], self.mesh.size)
        check_optimizer(optim)
        self.plan = make_plan(config, split)
        self.steps_per_epoch = self.plan.steps_per_epoch
        self.total_steps = train["steps"] or train["epochs"] * self.steps_per_epoch

        self.network = detector.build_network(config, len(self.categories.ids))
        refuse_to_train_masks(self.network, tuple(config["freeze"]))
        try:
            drop_step = optim["drop_epoch"] * self.steps_per_epoch
            self.rate_factor = optimizer.schedule(optim["schedule"], self.total_steps, drop_step, optim["warmup_steps"])
        except ValueError as error:
            raise UserError(f"--config.optim.schedule: {error}") from error
        rates = optimizer.LearningRates(optim["lr"], optim["lr_backbone"])
        self._tx = optimizer.adamw(rates, self.rate_factor, optim["weight_decay"], optim["b2"])
        trained, _ = self.network.partition(self.network.shapes, tuple(config["freeze"]))
        resize = config["data"]["resize"]
        cached_stage = checked_stage(train["cache_features"], self.plan.settings, list(trained), resize)
        self._recipe = make_recipe(config, cached_stage, self.mesh.size)
        self._jitted = jax.jit(
            partial(step.train_step, network=self.network, tx=self._tx, recipe=self._recipe, mesh=self.mesh),
            donate_argnums=0,
            static_argnames="canvas",
        )
        self._steps = CompiledSteps(self._lowered)
        self.sources: dict[str, str] = {}  # sha256 of the weights that the run started from
        self.pictures: Pictures = chosen(resize, split.sizes)  # what the batches hold of the images

    def _make_state(self, arrays: dict) -> step.TrainState:
        """A state of step 0 with these arrays, and fresh ones for the names that are missing."""
        fresh = self.network.init(jax.random.key(self.config["seed"]))
        return step.init_state(
            {**fresh, **arrays}, self.network, tuple(self.config["freeze"]), self._tx, self._recipe.average_decay
        )

    def _fresh_head(self) -> dict[str, jax.Array]:
        """Initial values of what has a row for every class; the compiler leaves the rest of the model out."""
        key = jax.random.key(self.config["seed"])
        names = sources.class_rows(self.network.shapes)
        return jax.jit(lambda key: {name: self.network.init(key)[name] for name in names})(key)

    def start(self, say: Say) -> step.TrainState:
        """The state of step 0: fresh, or with the weights that the settings name.

        Raises UserError when these cannot be loaded or ``freeze`` names no part of the model.
        """
        arrays, weights, init_from = {}, self.config["model"]["backbone_weights"], self.config["init_from"]
        if weights:
            source = sources.read(weights, "--config.model.backbone_weights")
            arrays, report = sources.fit_backbone(source, self.network.shapes)
            self.sources[weights] = source.sha256
            say(f"backbone weights from {weights} ({source.title}):\n{report}")
        if init_from:
            source = sources.read(init_from, "--config.init_from")
            source = source._replace(categories=detector.known_classes(source))
            others, report = sources.fit(source, self.network.shapes, self._fresh_head(), self.categories)
            self.sources[init_from] = source.sha256
            say(f"weights from {init_from} ({source.title}):\n{report}")
            arrays |= others
        for part in self.config["freeze"]:
            if not any(name.startswith(part) for name in self.network.shapes):
                parts = sorted({name.split("/")[0] for name in self.network.shapes})
                raise UserError(f"--config.freeze names {part!r} but the model has only {', '.join(parts)}")
        shardings = devices.state_sharding(self.mesh, jax.eval_shape(self._make_state, arrays))
        return jax.jit(self._make_state, out_shardings=shardings)(arrays)

    def _state_shapes(self) -> step.TrainState:
        """What every array of a state is and where it lies."""
        state = jax.eval_shape(self._make_state, {})
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            state,
            devices.state_sharding(self.mesh, state),
        )

    def restore(self, folder: Path) -> step.TrainState:
        """The state of one of this run's checkpoints. Raises UserError when its arrays are others than the model's."""
        stored = self.stored(self._state_shapes())
        model = checkpoints.read_arrays(folder, "model", stored.model)
        average = checkpoints.read_arrays(folder, "averaged", stored.averaged) if stored.averaged else {}
        params, frozen = self.network.partition(model, tuple(self.config["freeze"]))
        progress = checkpoints.read_arrays(folder, "progress", stored.progress)
        return step.TrainState(params=params, frozen=frozen, average=average, **progress)

    def stored(self, state: step.TrainState) -> checkpoints.Stored:
        """The state as a checkpoint holds it."""
        progress = {name: getattr(state, name) for name in ("step", "optimizer", "skipped", "skipped_in_a_row")}
        info = {"config": self.config, "categories": self.categories._asdict()}
        return checkpoints.Stored({**state.params, **state.frozen}, state.average, progress, info)

    def keep_features(self, state: step.TrainState) -> None:
        """From now on the batches hold the features of the stage that the settings name, computed by this state."""
        stage = self._recipe.cached_stage
        if not stage:
            return
        # The step gives its state away to be overwritten; what the cache computes with is its own.
        frozen = {name: array.copy() for name, array in state.frozen.items() if name.startswith("backbone/")}

        @jax.jit
        def features(frozen, images, sizes):
            absent = {name: jnp.zeros(shape.shape) for name, shape in self.network.shapes.items()}  # is not looked at
            return self.network.apply(absent | frozen, images, sizes, stage, method="features")

        bucket = self.plan.buckets[0]
        one = np.zeros((1, bucket.height, bucket.width, 3), np.uint8), np.zeros((1, 2), np.int32)
        _, h, _, channels = jax.eval_shape(features, frozen, *one).shape
        stride = 1 << round(math.log2(bucket.height / h))
        self.pictures = FeatureCache(partial(features, frozen), stride, channels)

    def compile_ahead(self, state: step.TrainState, first_step: int, say: Say) -> AbstractContextManager[None]:
        """The context of the steps from ``first_step`` on, in which they are compiled: see ``CompiledSteps.ahead``."""
        coming = range(first_step, min(self.total_steps, first_step + LOOK_AHEAD))
        return self._steps.ahead(state, [self.plan[k].bucket for k in coming], say)

    def compiled(self, state: step.TrainState, bucket: Bucket, say: Say) -> jax.stages.Compiled:
        """The step for batches on this canvas, compiled when it is first asked for."""
        return self._steps.get(state, bucket, say)

    def lowered(self, bucket: Bucket) -> jax.stages.Lowered:
        """The step for batches on this canvas, traced before there is any state."""
        return self._lowered(self._state_shapes(), bucket)

    def _lowered(self, state: step.TrainState, bucket: Bucket) -> jax.stages.Lowered:
        batch = batch_shapes(bucket, self.pictures, self.batch_size, devices.batch_sharding(self.mesh))
        return self._jitted.lower(state, batch, canvas=(bucket.height, bucket.width))

    def step(self, state: step.TrainState, batch: Batch, bucket: Bucket, say: Say):
        """One training step: (new state, metrics), still being computed when this returns."""
        state, metrics = self.compiled(state, bucket, say)(state, batch)
        self._steps.begun(metrics)
        return state, metrics


def batch_shapes(bucket: Bucket, pictures: Pictures, batch_size: int, where: jax.sharding.Sharding) -> Batch:
    """Shapes of a global batch on one canvas, to compile for."""

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=where)

    targets = Targets(
        array(np.float32, bucket.targets, 4), array(np.int32, bucket.targets), array(np.bool_, bucket.targets)
    )
    views = View(array(np.int32), array(np.int32, 2), array(np.int32, 4), array(np.int32, 2))
    return Batch(
        array(pictures.dtype, *pictures.shape(bucket)), array(np.int32, 2), targets, array(np.int32),
        views if pictures.unseen else None,
    )  # fmt: skip
