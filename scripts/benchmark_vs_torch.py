"""This project beside transformers' DETR in PyTorch: same weights, same images, taken in turns on the same machine.

    pip install -r tests/reference/requirements.txt
    python scripts/benchmark_vs_torch.py [--output=DIR] [--canvas=480x640] [--batch_sizes=1,2] [--dtype=float32]

Forward pass, and the whole training step: forward and backward with dropout, matching (SciPy's there), losses after
every decoder layer, clipping, AdamW. Both sides start from pixels on their device; each image fills the canvas.
--compile adds torch.compile. --mix=K also runs K batches of DETR's augmentation, each side padding them its own way:
PyTorch to the largest image of a random batch, this project to the batch plan's canvases. One table, and
DIR/benchmark_vs_torch.json.
"""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "reference")]
import peer  # noqa: E402

from configs import detr as config_file  # noqa: E402
from detr_jax import program  # noqa: E402
from detr_jax.benchmark import machine, table  # noqa: E402
from detr_jax.benchmarks import coco_like, timing  # noqa: E402
from detr_jax.batches.canvases import Bucket  # noqa: E402
from detr_jax.models import detr  # noqa: E402
from detr_jax.structures import Batch  # noqa: E402
from detr_jax.training import optimizer, step, trainer  # noqa: E402

LENGTH = 10**6  # steps of the schedule: constant while we measure


class Theirs:
    """transformers' DETR with what a training loop around it does."""

    def __init__(self, model, device: str, dtype: str, compiled: bool):
        self.model = model.to(device)
        self.model.config.auxiliary_loss = True
        self.run = torch.compile(self.model) if compiled else self.model
        self.device = device
        self.autocast = partial(torch.autocast, device, torch.bfloat16, enabled=dtype == "bfloat16")
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-4)
        self.trained = trained

    def on_device(self, batch: Batch):
        """Normalised pixels, the mask of real ones, and labels as transformers wants them."""
        pixels = peer.pixels(batch.images)
        rows, columns = np.arange(batch.images.shape[1]), np.arange(batch.images.shape[2])
        mask = (rows[None, :, None] < batch.sizes[:, :1, None]) & (columns[None, None] < batch.sizes[:, 1:, None])
        labels = [
            {
                "boxes": torch.tensor(boxes[valid], device=self.device),
                "class_labels": torch.tensor(labels[valid], dtype=torch.long, device=self.device),
            }
            for boxes, labels, valid in zip(*batch.targets, strict=True)
        ]
        return pixels.to(self.device), torch.tensor(mask, dtype=torch.long, device=self.device), labels

    def wait(self):
        """Returns when the device is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def forward(self, pixels, mask, labels):
        """The predictions."""
        self.model.eval()
        with torch.no_grad(), self.autocast():
            self.run(pixel_values=pixels, pixel_mask=mask)
        self.wait()

    def train(self, pixels, mask, labels):
        """One optimizer step."""
        self.model.train()
        with self.autocast():
            loss = self.run(pixel_values=pixels, pixel_mask=mask, labels=labels).loss
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 0.1)
        self.optimizer.step()
        self.wait()


class Ours:
    """The same detector here."""

    def __init__(self, network, arrays: dict[str, np.ndarray], config: dict):
        self.arrays = jax.device_put(arrays)
        rates = optimizer.LearningRates(config["optim"]["lr"], config["optim"]["lr_backbone"])
        tx = optimizer.adamw(rates, optimizer.schedule("constant", LENGTH, LENGTH), config["optim"]["weight_decay"])
        recipe = trainer.make_recipe(config, 0, 1)
        self.state = jax.jit(lambda arrays: step.init_state(arrays, network, (), tx, 0.0))(self.arrays)
        self._forward = jax.jit(lambda arrays, images, sizes: network.apply(arrays, images, sizes)[:2])
        self._train = jax.jit(partial(step.train_step, network=network, tx=tx, recipe=recipe), donate_argnums=0)

    def forward(self, batch: Batch):
        """The predictions."""
        return self._forward(self.arrays, batch.images, batch.sizes)

    def train(self, batch: Batch):
        """One optimizer step."""
        self.state, metrics = self._train(self.state, batch)
        return metrics


def whole(bucket: Bucket, size: int, classes: int, seed: int) -> Batch:
    """A batch whose images fill their canvas."""
    batch = coco_like.batch(bucket, size, classes, np.random.default_rng(seed))
    images = peer.noise(seed, size, bucket.height, bucket.width)
    return batch._replace(images=images, sizes=np.tile([[bucket.height, bucket.width]], (size, 1)).astype(np.int32))


def row(what: str, taken: dict[str, timing.Timing], images: int) -> dict:
    """What each side took, and our share of the fastest of theirs."""
    theirs = min(value.median for name, value in taken.items() if name != "detr_jax")
    ours = taken["detr_jax"]
    times = {name: str(value) for name, value in taken.items()}
    return {"what": what, **times, "ratio": ours.median / theirs, "images_per_second": images / ours.median}


def mixed(theirs: dict[str, Theirs], ours: Ours, plan, classes: int, batches: int, rounds: int, seed: int) -> dict:
    """The training step over DETR's augmentation: ``batches`` of the plan's, and as many of random images."""
    rng = np.random.default_rng(seed)
    canvases = [plan[k].bucket for k in range(batches)]
    views = [plan[k].views.size for k in range(batches)]
    size = len(views[0])
    here = []
    for bucket, sizes in zip(canvases, views, strict=True):
        batch = coco_like.batch(bucket, size, classes, rng)
        here.append(jax.device_put(batch._replace(sizes=np.asarray(sizes, np.int32))))
    shuffled = rng.permutation(np.concatenate(views)).reshape(batches, size, 2)
    there = []
    for sizes in shuffled:
        height, width = sizes.max(axis=0)
        batch = coco_like.batch(Bucket(int(height), int(width), 64), size, classes, rng)
        there.append(batch._replace(sizes=sizes.astype(np.int32)))
    ways = {"detr_jax": lambda: [ours.train(batch) for batch in here]}
    for name, side in theirs.items():
        inputs = [side.on_device(batch) for batch in there]
        ways[name] = lambda side=side, inputs=inputs: [side.train(*one) for one in inputs]
    return row(f"step, {batches} batches of {size}, augmented", timing.in_turns(ways, rounds), batches * size)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canvas", default="480x640")
    parser.add_argument("--batch_sizes", default="1,2")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--what", default="forward,step")
    parser.add_argument("--mix", type=int, default=0, help="batches of DETR's augmentation, of the last batch size")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--narrow", action="store_true", help="a tiny model, to try this script")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()

    cli.keep_memory()  # as in the programs; PyTorch has it too
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    settings = {"dropout": 0.1, **(peer.NARROW | {"num_queries": 100} if chosen.narrow else {})}
    built = peer.build(seed=chosen.seed, **settings)
    settings = peer.PUBLISHED | settings
    config = cli.plain(config_file.get_config("r50"))
    config["dtype"] = chosen.dtype
    if chosen.narrow:
        config["data"] |= {"scales": [64], "max_size": 96, "crop": 0.0, "buckets": [[64, 96, 100], [96, 64, 100]]}
    network = detr.network(**settings, dtype=chosen.dtype)
    ours = Ours(network, built.arrays, config)
    theirs = {"PyTorch": Theirs(built.model, device, chosen.dtype, compiled=False)}
    if chosen.compile:
        theirs["torch.compile"] = Theirs(built.model, device, chosen.dtype, compiled=True)

    height, width = map(int, chosen.canvas.split("x"))
    sizes = [int(size) for size in chosen.batch_sizes.split(",")]
    rows = []
    for what in chosen.what.split(","):
        for size in sizes:
            batch = whole(Bucket(height, width, 64), size, settings["num_classes"], chosen.seed)
            method, here = ("train" if what == "step" else what), jax.device_put(batch)
            ways = {"detr_jax": partial(getattr(ours, method), here)}
            for name, side in theirs.items():
                ways[name] = partial(getattr(side, method), *side.on_device(batch))
            # Twice, for with the other's first call in between the memory for both is fetched only in the second.
            taken = timing.in_turns(ways, chosen.rounds, warm_up=2)
            rows.append(row(f"{what}, {size} x {chosen.canvas}", taken, size))
            print(table(rows[-1:]), flush=True)
    if chosen.mix:
        config["train"]["batch_size"] = sizes[-1]
        plan = trainer.make_plan(config, coco_like.Images(seed=chosen.seed))
        rows.append(mixed(theirs, ours, plan, settings["num_classes"], chosen.mix, chosen.rounds, chosen.seed))
    about = machine() | {"torch": torch.__version__, "threads": str(torch.get_num_threads()), "dtype": chosen.dtype}
    print(f"\n{', '.join(f'{name} {value}' for name, value in about.items())}\n{table(rows)}")
    if chosen.output:
        chosen.output.mkdir(parents=True, exist_ok=True)
        report = json.dumps({"machine": about, "rows": rows}, indent=1)
        (chosen.output / "benchmark_vs_torch.json").write_text(report)


if __name__ == "__main__":
    main()
