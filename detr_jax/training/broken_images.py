"""Images of the training split that cannot be decoded: named once each, and counted for the whole run."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from detr_jax import files
from detr_jax.batches.inputs import ImageSource, read_image
from detr_jax.batches.plan import TrainPlan
from detr_jax.config import DataConfig
from detr_jax.errors import BrokenImage, UserError
from detr_jax.images.decoding import Limits


class BrokenImages:
    """The broken images that a run has met, in ``bad_images.jsonl``: step, id, file name and reason.

    The step counts them on the device; which images they are is looked up afterwards, from the plan, by every host
    alike. So all hosts know the same list without sending each other anything.

    Args:
      step: where the run goes on; what later steps of an earlier start met is dropped.
    """

    def __init__(self, workdir: Path, images: ImageSource, plan: TrainPlan, step: int):
        self._path, self._images, self._plan = workdir / "bad_images.jsonl", images, plan
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        self._rows = [row for row in map(json.loads, lines) if row["step"] <= step]
        if len(self._rows) < len(lines):
            self._write()

    def add(self, steps: Sequence[int], data: DataConfig, say: Callable[[str], None]) -> None:
        """Looks up the broken images of these steps, counted from 1, and names those that are new.

        Raises UserError when more of the split is broken than ``data.max_bad_images`` allows.
        """
        limits = Limits(*data.image_limits)
        known, before = {row["image_id"] for row in self._rows}, len(self._rows)
        for step in steps:
            planned = self._plan[step - 1]
            for index, image_id in zip(planned.rows.tolist(), planned.image_ids.tolist(), strict=True):
                if image_id not in known and (reason := self._find_reason(index, limits)):
                    known.add(image_id)
                    self._rows.append({"step": step, "image_id": image_id, "reason": reason})
                    say(f"left out: {reason}")
        if len(self._rows) > before:
            self._write()
        if len(self._rows) > data.max_bad_images * len(self._images.sizes):
            some = ", ".join(str(row["image_id"]) for row in self._rows[:5])
            raise UserError(
                f"{len(self._rows)} of {len(self._images.sizes)} images cannot be decoded (ids {some}, ...; "
                f"all in {self._path}); mend them, or allow more than data.max_bad_images={data.max_bad_images}"
            )

    def _find_reason(self, index: int, limits: Limits) -> str | None:
        try:
            read_image(self._images, index, limits=limits)
        except BrokenImage as error:
            return str(error)
        return None

    def _write(self) -> None:
        if jax.process_index() == 0:
            with files.replacing(self._path) as path:
                lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self._rows]
                path.write_text("".join(lines), encoding="utf-8")
