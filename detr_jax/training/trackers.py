"""Trackers: the rows of the log sent on to Weights & Biases or MLflow, where ``train.tracker`` asks for one.

Each keeps what it needs to go on in the workdir, in ``tracker.json``: a run that goes on is one run there, too. Where
rows go is for the trackers' own settings to say (``WANDB_MODE=offline``, ``MLFLOW_TRACKING_URI=...``).
"""

import importlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from detr_jax import files
from detr_jax.errors import UserError, first_line

PROJECT = "detr_jax"


@runtime_checkable
class Tracker(Protocol):
    """Takes the rows of a run."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds what was measured at a step."""

    def close(self) -> None:
        """Sends the rest and ends."""


class Wandb:
    """Weights & Biases."""

    def __init__(self, module: Any, workdir: Path, settings: Mapping[str, Any], known: str | None):
        self._run = module.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=workdir.resolve().name,
            dir=str(workdir),
            config=dict(settings),
            id=known,
            resume="allow",
        )
        self.identity = self._run.id

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        self._run.finish()


class Mlflow:
    """MLflow; into ``mlflow.db`` of the workdir where the environment names no place."""

    def __init__(self, module: Any, workdir: Path, settings: Mapping[str, Any], known: str | None):
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            module.set_tracking_uri(f"sqlite:///{workdir.resolve() / 'mlflow.db'}")
        module.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        self._mlflow = module
        run = module.start_run(run_id=known, run_name=None if known else workdir.resolve().name)
        self.identity = run.info.run_id
        if not known:
            module.log_params({name: str(value)[:500] for name, value in settings.items()})

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._mlflow.log_metrics({name.replace(":", "_"): value for name, value in numbers.items()}, step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        self._mlflow.end_run()


class Guarded:
    """A tracker whose faults are told once and cost nothing else: a run does not end because a server is away."""

    def __init__(self, tracker: Tracker, name: str, say: Callable[[str], None]):
        self._tracker, self._name, self._say, self._fails = tracker, name, say, False

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._try(lambda: self._tracker.write(step, numbers))

    def close(self) -> None:
        """See ``Tracker``."""
        self._try(self._tracker.close)

    def _try(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:
            if not self._fails:
                self._say(f"train.tracker={self._name} fails ({first_line(error)}); the run goes on without it")
            self._fails = True


KINDS = {"wandb": Wandb, "mlflow": Mlflow}


def check_tracker(name: str) -> None:
    """Raises UserError when the package of that tracker is not installed."""
    if name and importlib.util.find_spec(name) is None:
        raise UserError(f"train.tracker={name} needs its package: pip install {name}; or set train.tracker= to nothing")


def open_tracker(name: str, workdir: Path, settings: Mapping[str, Any], say: Callable[[str], None]) -> Guarded | None:
    """The tracker of that name; None for none. A run that it knows already goes on there.

    Raises UserError when it refuses to begin.
    """
    if not name:
        return None
    file = workdir / "tracker.json"
    runs = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    try:
        tracker = KINDS[name](importlib.import_module(name), workdir, settings, runs.get(name))
    except Exception as error:
        raise UserError(
            f"train.tracker={name} cannot begin: {first_line(error)}; set train.tracker= to nothing"
        ) from error
    with files.replacing(file) as sibling:
        sibling.write_text(json.dumps(runs | {name: tracker.identity}), encoding="utf-8")
    return Guarded(tracker, name, say)
