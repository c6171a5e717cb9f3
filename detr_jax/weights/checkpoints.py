"""Checkpoints of a run: written in the background by orbax, committed atomically, with checksums that are verified.

orbax restores a file with a flipped bit without noticing, so every checkpoint carries digests of its files, written
just before it is committed. A damaged one is set aside with a message and the one before it is used.

    checkpoints/<step>/model/      every array of the model by name
    checkpoints/<step>/averaged/   the moving average, when there is one
    checkpoints/<step>/progress/   optimizer, step and counters
    checkpoints/<step>/info/       as JSON: categories, step, and the run's config (of converted weights: the model's)
    checkpoints/scores.json        AP of the steps that were evaluated
    checkpoints/best               link to the step with the highest AP
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from detr_jax.config import Config, ModelConfig, differences
from detr_jax.config_forms import from_dict
from detr_jax.errors import UserError
from detr_jax.files import replacing
from detr_jax.structures import Categories

CHECKSUMS = "checksums.json"
BEST = "best"
SCORES = "scores.json"


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


def _digests(folder: Path) -> dict[str, str]:
    """Digest of every file below ``folder`` except those that orbax writes when it commits."""
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in files
    }


def damage(folder: Path) -> str | None:
    """Why a checkpoint cannot be trusted, in a few words, or None when every file is as it was written."""
    try:
        wanted = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{CHECKSUMS} is missing or unreadable"
    found = _digests(folder)
    for name, digest in wanted.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != digest:
            return f"{name} has changed since it was written"
    return None


def steps(folder: Path) -> list[int]:
    """Steps of the committed checkpoints in ``folder``, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and path.is_dir())


def newest_intact(folder: Path, say: Callable[[str], None] = print) -> int | None:
    """The last step whose files are intact; damaged ones after it are renamed to ``damaged-<step>`` and reported.

    Only one process of a run may call it.
    """
    for step in reversed(steps(folder)):
        reason = damage(folder / str(step))
        if reason is None:
            return step
        aside = folder / f"damaged-{step}"
        number = 1
        while aside.exists():
            aside, number = folder / f"damaged-{step}.{number}", number + 1
        (folder / str(step)).rename(aside)
        say(f"checkpoint {step} is damaged ({reason}); it was moved to {aside.name}, the one before it is used")
    return None


class _Keep(checkpoint_managers.PreservationPolicy):
    """Keeps the step that ``which()`` names when a checkpoint is written."""

    def __init__(self, which: Callable[[], int | None]):
        self._which = which

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        return [checkpoint.step == self._which() for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: ``<workdir>/checkpoints``.
      keep: how many of the newest to keep, besides the best.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writing: int | None = None  # the step being written
        keep_newest_and_best = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(max(keep, 1)),
                # Not orbax's BestN: it forgets the scores of earlier starts, and would delete the best of them.
                _Keep(lambda: self._best_step),
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
        # A process that was killed may have left the score of a step that it did not finish, and a link to it.
        there = steps(self.folder)
        self._scores = {step: score for step, score in _read_scores(self.folder).items() if step in there}
        self._link_best()

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
        if jax.process_index() == 0:
            with replacing(self.folder / SCORES) as path:
                path.write_text(json.dumps(self._scores), encoding="utf-8")
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
        (folder / CHECKSUMS).write_text(json.dumps(_digests(folder)), encoding="utf-8")
        self._link_best()

    def _link_best(self) -> None:
        best = self._best_step
        if jax.process_index() or best is None or best not in (*steps(self.folder), self._writing):
            return
        link = self.folder / f".{BEST}.{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(str(best))
        link.replace(self.folder / BEST)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.wait()
        self._manager.close()


def _read_scores(folder: Path) -> dict[int, float]:
    try:
        return {int(step): score for step, score in json.loads((folder / SCORES).read_text(encoding="utf-8")).items()}
    except (OSError, ValueError):
        return {}


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


def array_shapes(folder: Path, item: str = "model") -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every array of an item, without reading it."""
    metadata = ocp.StandardCheckpointHandler().metadata(folder.absolute() / item)
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in dict(metadata).items()}


def find_checkpoint(path: str | Path) -> Path:
    """The folder of one checkpoint: the best (else the last) of a workdir or ``checkpoints`` folder, or that step.

    Raises UserError when there is none, or when it is damaged.
    """
    path = Path(path)
    for root in (path / "checkpoints", path):
        if (root / BEST / "info").is_dir():
            folder = (root / BEST).resolve()
        elif steps(root):
            folder = (root / str(steps(root)[-1])).resolve()
        else:
            continue
        break
    else:
        folder = path.resolve()
    if not (folder / "info" / "metadata").is_file():
        exists = "holds no checkpoint" if path.exists() else "does not exist"
        raise UserError(f"{path} {exists}; pass a workdir of detr_jax.train or one of its checkpoints/<step> folders")
    reason = damage(folder)
    if reason:
        raise UserError(f"checkpoint {folder} is damaged ({reason}); pass another of the steps beside it")
    return folder
