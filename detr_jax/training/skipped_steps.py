"""Steps whose loss or gradient is not finite: each has its file, and too many in a row end the run."""

import json
from collections import deque
from pathlib import Path

import jax

from detr_jax import files
from detr_jax.batches.plan import TrainPlan
from detr_jax.errors import UserError

LAG = 2  # steps that the device has to do when the host looks at the one before them: it never waits for work


class SkippedSteps:
    """Looks at every step, a little later than it is handed to the device; on every host alike.

    Args:
      plan: tells the images of each step.
      limit: how many in a row end the run.
      workdir: where the folder ``nan_report`` is.
      in_a_row: skipped steps just before the first one.
    """

    def __init__(self, plan: TrainPlan, limit: int, workdir: Path, in_a_row: int = 0):
        self._plan, self._limit, self._folder, self._in_a_row = plan, limit, workdir / "nan_report", in_a_row
        self._coming: deque[tuple[int, dict[str, jax.Array]]] = deque()

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Adds a step, counted from 1, and looks at the one ``LAG`` steps before it.

        Raises UserError when the limit is reached.
        """
        self._coming.append((step, metrics))
        self.settle(LAG)

    def settle(self, but: int = 0) -> None:
        """Looks at all steps that were added, ``but`` so many, and waits for them. Raises UserError alike."""
        while len(self._coming) > but:
            self._look(*self._coming.popleft())

    def _look(self, step: int, metrics: dict[str, jax.Array]) -> None:
        if not int(metrics["skipped"]):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        self._report(step, metrics)
        if self._in_a_row >= self._limit:
            raise UserError(
                f"the last {self._in_a_row} steps, up to step {step}, had a loss or gradient that is not finite "
                f"(details in {self._folder}); they changed nothing, and the same command goes on from the last "
                "checkpoint with its optimizer: if it ends here again, use dtype=float32, or lower optim.lr or "
                "optim.clip_norm in a new workdir with init_from=THIS_WORKDIR"
            )

    def _report(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Writes the file of one step: its number (from 0), its image ids and what was measured."""
        if jax.process_index() == 0:
            image_ids = self._plan[step - 1].image_ids.tolist()
            measured = {key: float(value) for key, value in jax.device_get(metrics).items()}
            with files.replacing(self._folder / f"step_{step - 1:08d}.json") as path:
                row = {"step": step - 1, "image_ids": image_ids} | measured
                path.write_text(json.dumps(row, indent=1), encoding="utf-8")
