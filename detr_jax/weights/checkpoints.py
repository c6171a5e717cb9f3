"""Checkpoints of a run: written in the background by orbax, committed atomically, with checksums that are verified.

In a workdir:

    checkpoints/<step>/model/      every array of the model by name
    checkpoints/<step>/averaged/   the moving average, when there is one
    checkpoints/<step>/progress/   optimizer, step and counters
    checkpoints/<step>/info/       as JSON: categories, step, and the run's config (of converted weights: the model's)
    checkpoints/<step>/checksums.json
    checkpoints/best               link to the step with the highest AP
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from detr_jax.config import Config, ModelConfig, differences
from detr_jax.config_forms import from_dict
from detr_jax.errors import UserError
from detr_jax.structures import Categories
from detr_jax.weights.finding import BEST, steps
from detr_jax.weights.manifest import write_manifest


class Stored(NamedTuple):
    """What a checkpoint holds."""

    model: dict[str, Any]  # name -> array
    averaged: dict[str, Any]  # empty without a moving average
    progress: Any  # empty for weights that were not trained here
    info: dict  # JSON: {"config": to_dict(Config)} of a run, {"model": to_dict(ModelConfig)} of converted weights; and
    # {"categories": rows}. ``save`` adds the step.


class Contents(NamedTuple):
    """What the arrays of a checkpoint belong to."""

    categories: Categories
    model: ModelConfig
    config: Config | None  # None for converted weights


class _Keep(checkpoint_managers.PreservationPolicy):
    """Keeps the steps for which ``wanted`` is true when a checkpoint is written."""

    def __init__(self, wanted: Callable[[int], bool]):
        self._wanted = wanted

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        return [self._wanted(checkpoint.step) for checkpoint in checkpoints]


class _Watched(ocp.future.Future):
    """A write of this host; ``notice`` gets its error at once, when orbax still waits for the writes of all hosts."""

    def __init__(self, write: Any, notice: Callable[[BaseException], None]):
        self._write, self._notice = write, notice

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self._write.result(timeout)
        except BaseException as error:
            self._notice(error)
            raise


def _watch(handler: type, notice: Callable[[BaseException], None], options: ocp.options.MultiprocessingOptions) -> Any:
    """A handler of orbax whose writes are watched."""

    class Watching(handler):
        async def async_save(self, *args, **kwargs):
            writes = await super().async_save(*args, **kwargs)
            return [_Watched(write, notice) for write in writes or ()]

    return Watching(multiprocessing_options=options)


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: ``<workdir>/checkpoints``.
      keep: how many of the newest to keep, besides the best.
      scores: AP of the steps that earlier starts evaluated, from the run's log.
      evaluates: whether a step had to be evaluated. Where the log is lost, such a step might be the best and is kept,
        and so is the one that ``best`` names.
      shared: whether all hosts see ``folder``, and each writes its part of the arrays. If not, the first one gathers
        and writes them; the others only take part in that.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        scores: Mapping[int, float] | None = None,
        evaluates: Callable[[int], bool] = lambda step: False,
        shared: bool = True,
    ):
        self.folder, self._shared = folder.absolute(), shared
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writing: int | None = None  # the step being written
        self._fault: BaseException | None = None  # of a write
        there = steps(self.folder)
        self._saved = set(there)
        self._scores = {step: score for step, score in (scores or {}).items() if step in there}
        linked = (self.folder / BEST).resolve().name
        lost = {step for step in there if step not in self._scores and (evaluates(step) or str(step) == linked)}
        keep_newest_and_best = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(max(keep, 1)),
                # Not orbax's BestN: it forgets the scores of earlier starts, and would delete the best of them.
                _Keep(lambda step: step == self._best_step),
                _Keep(lambda step: step in lost and step not in self._scores),
            ]
        )
        alone = {} if shared else {"active_processes": {0}, "barrier_sync_key_prefix": "first_host"}
        options = ocp.CheckpointManagerOptions(
            create=False,  # it is there
            cleanup_tmp_directories=True,  # of a save that was killed
            preservation_policy=keep_newest_and_best,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._before_commit),
            multiprocessing_options=ocp.options.MultiprocessingOptions(**alone),
        )
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        for handler, saved, restored in (
            (ocp.StandardCheckpointHandler, ocp.args.StandardSave, ocp.args.StandardRestore),
            (ocp.JsonCheckpointHandler, ocp.args.JsonSave, ocp.args.JsonRestore),
        ):
            watching = _watch(handler, self._notice, options.multiprocessing_options)
            registry.add(None, saved, watching)
            registry.add(None, restored, watching)
        writes = shared or jax.process_index() == 0
        self._manager = (
            ocp.CheckpointManager(self.folder, options=options, handler_registry=registry) if writes else None
        )
        self._link_best()  # a process that was killed may have left a link to a step that it did not finish

    @property
    def _best_step(self) -> int | None:
        scored = [step for step, score in self._scores.items() if score >= 0]  # -1: there was nothing to score
        return max(scored, key=self._scores.get, default=None)  # the first, of equals

    def evaluated(self, step: int) -> bool:
        """Whether the AP of a step is known."""
        return step in self._scores

    def record(self, step: int, score: float) -> None:
        """Remembers the AP of a step, saved or about to be; the highest one is the best, if there is any AP."""
        self._scores[step] = score
        self._link_best()

    def save(self, step: int, stored: Stored) -> None:
        """Copies the arrays from the device and returns; a thread writes and commits them.

        A step that exists already is not written again.
        """
        if step in self._saved:
            return
        self._saved.add(step)
        if not self._shared:
            stored = Stored(*(jax.tree.map(_gather, tree) for tree in stored[:3]), stored.info)
        if self._manager is None:
            return
        self.wait()
        self._writing = step
        trees = {"model": stored.model, "averaged": stored.averaged, "progress": stored.progress}
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items() if tree}
        items["info"] = ocp.args.JsonSave({**stored.info, "step": step})
        self._manager.save(step, args=ocp.args.Composite(**items))

    def check(self) -> None:
        """Raises the error of a write in the background."""
        if self._fault or self._manager and not self._manager.is_saving_in_progress():
            self.wait()  # at once; orbax's own check_for_errors() mostly comes too late

    def wait(self) -> None:
        """Returns when everything is on disk; raises the error of a write."""
        if not self._manager:
            return
        while self._manager.is_saving_in_progress() and not self._fault:
            time.sleep(0.01)
        if self._fault:  # orbax raises it as well, but first waits for hosts that do not know of it
            raise self._fault
        self._manager.wait_until_finished()

    def _notice(self, error: BaseException) -> None:
        self._fault = self._fault or error

    def _before_commit(self) -> None:
        """Runs when all files of a checkpoint are written and before orbax renames its folder."""
        if jax.process_index():
            return
        try:
            (folder,) = self.folder.glob(f"{self._writing}.orbax-checkpoint-tmp*")
            write_manifest(folder)
            self._link_best()
        except BaseException as error:
            self._notice(error)
            raise

    def _link_best(self) -> None:
        best = self._best_step
        if jax.process_index() or best is None or best not in (*steps(self.folder), self._writing):
            return
        link, place = self.folder / f".{BEST}.{os.getpid()}", self.folder / BEST
        link.unlink(missing_ok=True)
        link.symlink_to(str(best))
        if place.is_dir() and not place.is_symlink():  # the workdir was copied by something that follows links
            place.rename(self.folder / f"{BEST}-copied-{os.getpid()}")
        link.replace(place)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.wait()
        if self._manager:
            self._manager.close()


def _gather(array: Any) -> np.ndarray:
    """The whole of an array of which every host may hold a part. All hosts call it for the same arrays in order."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def check_settings(folder: Path, config: Config) -> None:
    """Raises UserError, listing the differences, if the checkpoint in ``folder`` was made with other settings."""
    workdir = folder.parents[1]
    made_with = read_contents(folder).config
    if made_with is None:
        raise UserError(
            f"{workdir} holds converted weights, not a run; choose another --workdir, and start from these weights "
            f"with init_from={workdir}"
        )
    changed = differences(made_with, config)
    if changed:
        raise UserError(
            f"{workdir} belongs to a run with other settings ({'; '.join(changed)}); choose another --workdir, or take "
            "these values back"
        )


def read_info(folder: Path) -> dict:
    """The JSON beside the arrays of one checkpoint (a step's folder)."""
    return json.loads((folder / "info" / "metadata").read_text(encoding="utf-8"))


def read_contents(folder: Path) -> Contents:
    """The same as typed records. Raises UserError when another version of detr_jax wrote it."""
    info = read_info(folder)
    try:
        categories = Categories.from_rows(info["categories"])
        if "config" in info:
            config = from_dict(info["config"])
            return Contents(categories, config.model, config)
        return Contents(categories, from_dict(info["model"], ModelConfig, "model."), None)
    except (UserError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"checkpoint {folder} was written by another version of detr_jax ({_reason(error)}); use that version, or "
            "train again"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).split("; ")[0] if isinstance(error, UserError) else "its info has another form"


def read_arrays(folder: Path, item: str, like: Any) -> Any:
    """One item ('model', 'averaged', 'progress') of a checkpoint; ``like`` gives shapes, dtypes and shardings.

    Raises UserError when the checkpoint holds other arrays than ``like``.
    """
    checkpointer = ocp.StandardCheckpointer()
    try:
        return checkpointer.restore(folder.absolute() / item, like)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"checkpoint {folder} does not fit this model ({str(error).splitlines()[0][:200]}); "
            "use the settings of the run that wrote it, or set init_from=CHECKPOINT to load what fits"
        ) from error


def read_numpy(folder: Path, item: str) -> Any:
    """An item as it is stored, as arrays of the host. Every host may read for itself: none waits for another."""
    handler = ocp.PyTreeCheckpointHandler()
    stored = handler.metadata(folder.absolute() / item).tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
    return handler.restore(folder.absolute() / item, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
