"""A workdir as a training leaves it, made up in milliseconds, and the split that it was evaluated on."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from detr_jax.config import Config
from detr_jax.config_forms import to_dict
from detr_jax.errors import UserError
from detr_jax.evaluation import coco_eval
from detr_jax.evaluation.class_table import average_precisions
from detr_jax.evaluation.run_images import encode
from detr_jax.structures import Categories
from tests.evaluation.random_results import random_set

STEPS = (100, 200, 300)
COMMAND = "python -m detr_jax.train --config=configs/finetune.py --data=photos --workdir=runs/cells"
ODD = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "größe | $5_{x}$ 猫",
    "*a*\n`b` [c](d) &amp;",
]


class Photo(NamedTuple):
    """A record of the made-up split."""

    image: bytes


class MadeUpSplit:
    """A split in memory, whose photos are grey; ``broken`` ones are no photos."""

    def __init__(self, ground_truth: dict, folder: Path, broken: tuple[int, ...] = ()):
        self.name, self._truth, self._broken = "val", ground_truth, broken
        self.categories = Categories.from_rows(ground_truth["categories"])
        images = sorted(ground_truth["images"], key=lambda row: row["id"])
        self.image_ids = np.array([row["id"] for row in images], np.int64)
        self.sizes = np.array([(row["height"], row["width"]) for row in images], np.int32).reshape(-1, 2)
        owners = [row["image_id"] for row in ground_truth["annotations"]]
        self.target_counts = np.array([owners.count(row["id"]) for row in images], np.int32)
        self.annotations_path = folder / "annotations_val.json"
        self.annotations_path.write_text("{}")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, row: int) -> Photo:
        if int(self.image_ids[row]) in self._broken:
            return Photo(b"no photo")
        return Photo(encode(np.full((*self.sizes[row], 3), 128, np.uint8)))

    def ground_truth(self) -> dict:
        return self._truth


class MadeUpRun:
    """A workdir in ``folder``.

    Args:
      classes, images: of the validation set.
      names: of its classes.
      steps: after which it was evaluated.
      finished: whether its log ends at its last step.
      seed: decides objects and detections.
    """

    def __init__(self, folder: Path, classes=4, images=12, names=(), steps=STEPS, finished=True, seed=1):
        self.folder = folder
        folder.mkdir(parents=True)
        self.ground_truth, self.results = random_set(seed, classes=min(classes, 6), images=images)
        for number in range(7, classes + 1):
            self.ground_truth["categories"].append({"id": 100 + number, "name": f"class {100 + number}"})
        for row, name in zip(self.ground_truth["categories"], names, strict=False):
            row["name"] = name
        self.split = MadeUpSplit(self.ground_truth, folder.parent)
        self._write_settings()
        self._write_log(steps, finished)

    def open_split(self, data_dir: str, name: str, split: str, verify: bool = True) -> MadeUpSplit:
        return self.split

    def no_split(self, data_dir: str, name: str, split: str, verify: bool = True) -> MadeUpSplit:
        raise UserError(f"no prepared dataset {name!r} in {data_dir}")

    def _write_settings(self) -> None:
        config = Config()
        self.config = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, name="cells", dir="data"),
            optim=dataclasses.replace(config.optim, lr=5e-4),
            model=dataclasses.replace(config.model, backbone_weights="weights/resnet18.safetensors"),
            train=dataclasses.replace(config.train, steps=300),
        )
        (self.folder / "config.json").write_text(json.dumps(to_dict(self.config)))
        start = {"step": 0, "command": COMMAND, "host": "lab", "hosts": 1, "devices": ["cpu (cpu)"], "cpu_cores": 2}
        start |= {"time": "2026-03-01T10:00:00+00:00", "python": "3.12.1", "packages": {"jax": "0.9.0"}, "git": None}
        start |= {"weights_sha256": {"weights/resnet18.safetensors": "ab" * 32}}
        (self.folder / "run.json").write_text(json.dumps({"starts": [start]}))

    def _write_log(self, steps: tuple[int, ...], finished: bool) -> None:
        log = [f"2026-03-01 10:00:00  starts at step 0 of 300: {COMMAND}"]
        log += ["2026-03-01 10:00:01  backbone weights from weights/resnet18.safetensors (a ResNet):",
                "  loaded            75 arrays"]  # fmt: skip
        end = 300 if finished else 210
        rows = [
            {"step": step, "epoch": step / 50, "loss": 10 - step / 50, "loss_ce": 1.0, "lr": 1e-4, "grad_norm": 3.0,
             "images_per_second": 4.0, "skipped": 0, "broken_images": 0}
            for step in range(10, end + 1, 10)
        ]  # fmt: skip
        for number, step in enumerate(step for step in steps if step <= end):
            metrics = coco_eval.evaluate(self.ground_truth, self.results[: 15 * (number + 1)])
            coco_eval.write_evaluation(metrics, self.results[: 15 * (number + 1)], self.folder / "eval" / str(step))
            row = {"step": step, "coco_eval_bbox": metrics.numbers, "AP_per_class": average_precisions(metrics.classes)}
            rows.append(row)
            Image.fromarray(np.full((60, 90, 3), 200, np.uint8)).save(self._sample(step))
        rows.sort(key=lambda row: row["step"])
        (self.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        log += [
            f"2026-03-01 10:20:00  step {end}  loss 4",
            *(["2026-03-01 10:25:00  done: see it"] if finished else []),
        ]
        (self.folder / "train.log").write_text("\n".join(log) + "\n", encoding="utf-8")
        Image.fromarray(np.full((60, 90, 3), 200, np.uint8)).save(self.folder / "curves.png")

    def _sample(self, step: int) -> Path:
        (self.folder / "samples").mkdir(exist_ok=True)
        return self.folder / "samples" / f"step_{step:08d}.png"
