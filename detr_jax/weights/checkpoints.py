"""Checkpoints of a run: written in the background by orbax, committed atomically, with checksums that are verified.

A run that goes on sets a damaged checkpoint aside with a message and uses the one before it. Programs that only read
use another one, too, and change nothing. Without an intact one both end.

    checkpoints/<step>/model/      every array of the model by name
    checkpoints/<step>/averaged/   the moving average, when there is one
    checkpoints/<step>/progress/   optimizer, step and counters
    checkpoints/<step>/info/       as JSON: categories, step, and the run's config (of converted weights: the model's)
    checkpoints/<step>/checksums.json
    checkpoints/best               link to the step with the highest AP
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from detr_jax.config import Config, ModelConfig, differences
from detr_jax.config_forms import from_dict
from detr_jax.errors import UserError
from detr_jax.structures import Categories
from detr_jax.weights.manifest import damage, write_manifest

BEST = "best"


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


def steps(folder: Path) -> list[int]:
    """Steps of the committed checkpoints in ``folder``, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and path.is_dir())


def find_root(path: Path) -> Path | None:
    """The folder of the checkpoints of a workdir, or ``path`` if it is that folder; None where there are none."""
    return next((folder for folder in (path / "checkpoints", path) if steps(folder)), None)


def newest_intact(folder: Path, say: Callable[[str], None] = print) -> int | None:
    """The last step whose files are intact, None where no checkpoint was ever written.

    Damaged ones after it are renamed to ``damaged-<step>`` and reported. Only one process of a run may call it.

    Raises UserError, and renames nothing, when there are only damaged ones.
    """
    step, damaged = _first_intact(folder, reversed(steps(folder)))
    if step is None:
        names = [f"{number} ({reason})" for number, reason in damaged.items()]
        names += sorted(path.name for path in folder.glob("damaged-*"))
        if names:
            raise UserError(
                f"every checkpoint in {folder} is damaged: {', '.join(names)}; put an intact copy of one back and run "
                f"the same command, or choose another --workdir, or remove {folder} to start again from step 0"
            )
    for number, reason in damaged.items():
        aside, count = folder / f"damaged-{number}", 1
        while aside.exists():
            aside, count = folder / f"damaged-{number}.{count}", count + 1
        (folder / str(number)).rename(aside)
        say(f"checkpoint {number} is damaged ({reason}); it was moved to {aside.name}, the one before it is used")
    return step


def _first_intact(folder: Path, candidates: Iterable[int]) -> tuple[int | None, dict[int, str]]:
    """The first of these steps whose files are intact, and what is wrong with those before it."""
    damaged = {}
    for step in candidates:
        reason = damage(folder / str(step))
        if reason is None:
            return step, damaged
        damaged[step] = reason
    return None, damaged


class _Keep(checkpoint_managers.PreservationPolicy):
    """Keeps the steps for which ``wanted`` is true when a checkpoint is written."""

    def __init__(self, wanted: Callable[[int], bool]):
        self._wanted = wanted

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        return [self._wanted(checkpoint.step) for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: ``<workdir>/checkpoints``.
      keep: how many of the newest to keep, besides the best.
      scores: AP of the steps that earlier starts evaluated, from the run's log.
      evaluates: whether a step had to be evaluated. Where the log is lost, such a step might be the best and is kept,
        and so is the one that ``best`` names.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        scores: Mapping[int, float] | None = None,
        evaluates: Callable[[int], bool] = lambda step: False,
    ):
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writing: int | None = None  # the step being written
        there = steps(self.folder)
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
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True,  # of a save that was killed
                preservation_policy=keep_newest_and_best,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._before_commit),
            ),
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
        if step in self._manager.all_steps():
            return
        self._manager.wait_until_finished()
        self._writing = step
        trees = {"model": stored.model, "averaged": stored.averaged, "progress": stored.progress}
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items() if tree}
        items["info"] = ocp.args.JsonSave({**stored.info, "step": step})
        self._manager.save(step, args=ocp.args.Composite(**items))

    def check(self) -> None:
        """Raises the error of a write in the background."""
        if not self._manager.is_saving_in_progress():
            self._manager.wait_until_finished()  # at once; orbax's own check_for_errors() mostly comes too late

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def _before_commit(self) -> None:
        """Runs when all files of a checkpoint are written and before orbax renames its folder."""
        if jax.process_index():
            return
        (folder,) = self.folder.glob(f"{self._writing}.orbax-checkpoint-tmp*")
        write_manifest(folder)
        self._link_best()

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
        self._manager.close()


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


def find_checkpoint(path: str | Path, say: Callable[[str], None] = print) -> Path:
    """The folder of one checkpoint: the best (else the last) of a workdir or ``checkpoints`` folder, or that step.

    Where the best is damaged, the last intact one takes its place; ``say`` is told. Nothing is renamed: the run may be
    going on.

    Raises UserError when there is none, or none that is intact.
    """
    path = Path(path)
    root = find_root(path)
    if root is None:
        folder = path.resolve()
        if not (folder / "info").is_dir() and not (folder / "model").is_dir():
            what = "holds no checkpoint" if path.exists() else "does not exist"
            raise UserError(f"{path} {what}; pass a workdir of detr_jax.train or one of its checkpoints/<step> folders")
        if reason := damage(folder):
            raise UserError(f"checkpoint {folder} is damaged ({reason}); pass another of the steps beside it")
        return folder
    best = (root / BEST).resolve().name
    candidates = sorted(steps(root), key=lambda step: (str(step) == best, step), reverse=True)
    step, damaged = _first_intact(root, candidates)
    reasons = ", ".join(f"{number} ({reason})" for number, reason in damaged.items())
    if step is None:
        raise UserError(
            f"every checkpoint in {root} is damaged: {reasons}; put an intact copy back, or pass another run"
        )
    if damaged:
        say(f"damaged in {root}: {reasons}; checkpoint {step} is used instead")
    return (root / str(step)).resolve()
