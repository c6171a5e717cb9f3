"""Which checkpoint of a run: the newest or the best one that is intact, in a folder or at a URL.

A run that goes on sets a damaged checkpoint aside with a message and uses the one before it. Programs that only read
use another one, too, and change nothing. Without an intact one both end.
"""

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from detr_jax.errors import UserError
from detr_jax.remote import RemoteFolder, is_remote, local_place
from detr_jax.weights.manifest import CHECKSUMS, damage

BEST = "best"


def steps(folder: Path) -> list[int]:
    """Steps of the committed checkpoints in ``folder``, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and path.is_dir())


def finished_steps(names: Iterable[str]) -> list[int]:
    """Steps of the checkpoints that are whole, ascending, by the names of files at a URL: checksums come last there."""
    parts = [name.split("/") for name in names]
    return sorted(int(part[0]) for part in parts if len(part) == 2 and part[0].isdigit() and part[1] == CHECKSUMS)


class Root:
    """The folder of the checkpoints of a run, to read them."""

    def __init__(self, path: Path):
        self.path = path

    def steps(self) -> list[int]:
        """Those that are there, ascending."""
        return steps(self.path)

    def best(self) -> str:
        """The step that ``best`` names; nothing in particular where it names none."""
        return (self.path / BEST).resolve().name

    def name(self, step: int) -> str:
        """The path or URL of one of them."""
        return str(self.folder(step))

    def folder(self, step: int) -> Path:
        """Where the files of one of them are."""
        return (self.path / str(step)).resolve()


class RemoteRoot(Root):
    """The same at a URL. A checkpoint is copied when it is asked for; a copy that is there already is not made again.

    Raises RemoteError when the storage cannot be read.
    """

    def __init__(self, url: str):
        self.path, self._remote = url, RemoteFolder(url)

    def steps(self) -> list[int]:
        """Those that are there whole when it is first asked, ascending."""
        return self._steps

    @functools.cached_property
    def _steps(self) -> list[int]:
        return finished_steps(self._remote.list())

    def best(self) -> str:
        return (self._remote.read(BEST) or b"").decode(errors="replace").strip()

    def name(self, step: int) -> str:
        return f"{self.path}/{step}"

    def folder(self, step: int) -> Path:
        place = local_place("checkpoints", self._remote.url) / str(step)
        there = self._remote.read(f"{step}/{CHECKSUMS}")
        if place.is_dir() and (place / CHECKSUMS).read_bytes() == there and damage(place) is None:
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as copy:
            for name in self._remote.list(str(step)):
                self._remote.download(name, Path(copy, name))
            shutil.rmtree(place, ignore_errors=True)
            with contextlib.suppress(FileExistsError):  # another process was faster
                Path(copy, str(step)).rename(place)
        return place


def find_root(path: str | Path) -> Root | None:
    """The folder of the checkpoints of a workdir, or ``path`` if it is that folder; None where there are none."""
    if is_remote(path):
        url = os.fspath(path).rstrip("/")
        roots = [RemoteRoot(f"{url}/checkpoints"), RemoteRoot(url)]
    else:
        roots = [Root(Path(path) / "checkpoints"), Root(Path(path))]
    return next((root for root in roots if root.steps()), None)


def newest_intact(folder: Path, say: Callable[[str], None] = print) -> int | None:
    """The last step whose files are intact, None where no checkpoint was ever written.

    Damaged ones after it are renamed to ``damaged-<step>`` and reported. Only one process of a run may call it.

    Raises UserError, and renames nothing, when there are only damaged ones.
    """
    step, damaged = _first_intact(Root(folder), reversed(steps(folder)))
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


def _first_intact(root: Root, candidates: Iterable[int]) -> tuple[int | None, dict[int, str]]:
    """The first of these steps whose files are intact, and what is wrong with those before it."""
    damaged = {}
    for step in candidates:
        reason = damage(root.folder(step))
        if reason is None:
            return step, damaged
        damaged[step] = reason
    return None, damaged


def find_checkpoint(path: str | Path, say: Callable[[str], None] = print) -> str:
    """The path or URL of one checkpoint: the best (else the last) of a workdir or ``checkpoints`` folder, or that step.

    Where the best is damaged, the last intact one takes its place; ``say`` is told. Nothing is renamed: the run may be
    going on.

    Raises UserError when there is none, or none that is intact.
    """
    root = find_root(path)
    if root is None:
        return _check_one(path)
    best = root.best()
    candidates = sorted(root.steps(), key=lambda step: (str(step) == best, step), reverse=True)
    step, damaged = _first_intact(root, candidates)
    reasons = ", ".join(f"{number} ({reason})" for number, reason in damaged.items())
    if step is None:
        raise UserError(
            f"every checkpoint in {root.path} is damaged: {reasons}; put an intact copy back, or pass another run"
        )
    if damaged:
        say(f"damaged in {root.path}: {reasons}; checkpoint {step} is used instead")
    return root.name(step)


def local_copy(checkpoint: str) -> Path:
    """The folder of a checkpoint that ``find_checkpoint`` named, copied from its URL if it has one."""
    if not is_remote(checkpoint):
        return Path(checkpoint)
    root, step = _split(checkpoint)
    return root.folder(step)


def _check_one(path: str | Path) -> str:
    """``path``, if it names a checkpoint and that one is intact."""
    if is_remote(path):
        root, step = _split(path)
        folder, name = root.folder(step) if step in root.steps() else None, os.fspath(path)
        what = "holds no checkpoint"
    else:
        folder = Path(path).resolve()
        name, what = str(folder), "holds no checkpoint" if folder.exists() else "does not exist"
        if not (folder / "info").is_dir() and not (folder / "model").is_dir():
            folder = None
    if folder is None:
        raise UserError(f"{path} {what}; pass a workdir of detr_jax.train or one of its checkpoints/<step> folders")
    if reason := damage(folder):
        raise UserError(f"checkpoint {name} is damaged ({reason}); pass another of the steps beside it")
    return name


def _split(url: str | Path) -> tuple[RemoteRoot, int]:
    """The folder and the number of the checkpoint at a URL; -1 where it does not end with a number."""
    folder, _, step = os.fspath(url).rstrip("/").rpartition("/")
    return RemoteRoot(folder), int(step) if step.isdecimal() else -1
