"""This project beside transformers' DETR in PyTorch: same weights, same images, timed in turns on the same machine.

    pip install -r tests/reference/requirements.txt
    python scripts/benchmark_vs_torch.py [--output=DIR] [--canvas=480x640] [--batch_sizes=1,2] [--dtype=float32]

Times the forward pass and the whole training step: forward and backward pass with dropout, matching (there with SciPy),
losses after every decoder layer, clipping, AdamW. Both sides start from pixels on their device; each image fills its
canvas. --compile adds torch.compile. --mix=K also times K batches of DETR's augmentation, which each side pads in its
own way: PyTorch to the largest image of a random batch, this project to the canvases of its batch plan. Prints a table
and writes DIR/benchmark_vs_torch.json.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "reference")]
import peer  # noqa: E402

from detr_jax import heap  # noqa: E402
from detr_jax.batches.plan import TrainPlan, make_train_plan  # noqa: E402
from detr_jax.benchmark import describe_machine, format_table  # noqa: E402
from detr_jax.benchmarks import coco_like, timing  # noqa: E402
from detr_jax.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig  # noqa: E402
from detr_jax.datasets.coco import COCO_CATEGORIES  # noqa: E402
from detr_jax.models import detr  # noqa: E402
from detr_jax.structures import Batch, Bucket, Pixels  # noqa: E402
from detr_jax.training import optimizer  # noqa: E402
from detr_jax.training.state import init_state  # noqa: E402
from detr_jax.training.step import Recipe, train_step  # noqa: E402

NARROW_DATA = DataConfig(scales=(64,), max_size=96, crop=0.0, buckets=(Bucket(64, 96, 100), Bucket(96, 64, 100)))


class Theirs:
    """transformers' DETR, and what a training loop does around it."""

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
        """Normalised pixels, the mask of valid ones, and labels as transformers wants them."""
        pixels, sizes = batch.inputs
        rows, columns = np.arange(pixels.shape[1]), np.arange(pixels.shape[2])
        mask = (rows[None, :, None] < sizes[:, :1, None]) & (columns[None, None] < sizes[:, 1:, None])
        labels = [
            {
                "boxes": torch.tensor(boxes[valid], device=self.device),
                "class_labels": torch.tensor(labels[valid], dtype=torch.long, device=self.device),
            }
            for boxes, labels, valid in zip(*batch.targets, strict=True)
        ]
        return peer.pixels(pixels).to(self.device), torch.tensor(mask, dtype=torch.long, device=self.device), labels

    def wait(self):
        """Waits until the device is idle."""
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

    def __init__(self, config: Config, arrays: dict[str, np.ndarray]):
        # The class head has a row for each of COCO's 91 ids; only denoising looks at the number of categories.
        num_classes = arrays["class_head/bias"].shape[0] - 1
        network = detr.network(config.model, num_classes, dtype=config.dtype)
        recipe = Recipe(config, network, optimizer.make_hyperparameters(config.optim), COCO_CATEGORIES)
        self.arrays = jax.device_put(arrays)
        self.state = jax.jit(partial(init_state, recipe=recipe))(self.arrays)
        self._forward = jax.jit(lambda arrays, inputs: network.apply(arrays, inputs)[:2])
        self._train = jax.jit(partial(train_step, recipe=recipe), donate_argnums=0)

    def forward(self, batch: Batch):
        """The predictions."""
        return self._forward(self.arrays, batch.inputs)

    def train(self, batch: Batch):
        """One optimizer step."""
        self.state, metrics = self._train(self.state, batch)
        return metrics


class Sides:
    """Both sides with the same weights, and how a batch is given to each."""

    def __init__(self, args: argparse.Namespace, config: Config):
        changes = {"dropout": 0.1, **(peer.NARROW if args.narrow else {}), "num_queries": config.model.num_queries}
        built = peer.build(seed=args.seed, **changes)
        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        self.num_classes = built.arrays["class_head/bias"].shape[0] - 1
        self.ours = Ours(config, built.arrays)
        self.theirs = {"PyTorch": Theirs(built.model, device, config.dtype, compiled=False)}
        if args.compile:
            self.theirs["torch.compile"] = Theirs(built.model, device, config.dtype, compiled=True)

    def calls(self, what: str, batch: Batch) -> dict[str, Callable]:
        """For each side a call of "forward" or "train" on the batch, which is on its device."""
        calls = {"detr_jax": partial(getattr(self.ours, what), jax.device_put(batch))}
        for name, side in self.theirs.items():
            calls[name] = partial(getattr(side, what), *side.on_device(batch))
        return calls


def make_full_batch(bucket: Bucket, size: int, classes: int, seed: int) -> Batch:
    """A batch whose images fill their canvas."""
    batch = coco_like.make_batch(bucket, size, classes, np.random.default_rng(seed))
    sizes = np.tile([[bucket.height, bucket.width]], (size, 1)).astype(np.int32)
    return batch._replace(inputs=Pixels(peer.noise(seed, size, bucket.height, bucket.width), sizes))


def make_row(what: str, taken: dict[str, timing.Timing], images: int) -> dict:
    """What each side took, and our time as a share of their fastest."""
    theirs = min(value.median for name, value in taken.items() if name != "detr_jax")
    ours = taken["detr_jax"]
    times = {name: str(value) for name, value in taken.items()}
    return {"what": what, **times, "ratio": ours.median / theirs, "images_per_second": images / ours.median}


def time_mix(sides: Sides, plan: TrainPlan, batches: int, rounds: int, seed: int) -> dict:
    """The training step over DETR's augmentation: ``batches`` of the plan, and as many of random images."""
    rng = np.random.default_rng(seed)
    planned = [plan[step] for step in range(batches)]

    def make_batch(bucket: Bucket, sizes: np.ndarray) -> Batch:
        batch = coco_like.make_batch(bucket, len(sizes), sides.num_classes, rng)
        return batch._replace(inputs=batch.inputs._replace(sizes=sizes.astype(np.int32)))

    here = [jax.device_put(make_batch(one.bucket, one.views.size)) for one in planned]
    views = np.concatenate([one.views.size for one in planned])
    shuffled = rng.permutation(views).reshape(batches, plan.batch_size, 2)
    there = [make_batch(Bucket(*map(int, sizes.max(axis=0)), 64), sizes) for sizes in shuffled]
    ways = {"detr_jax": lambda: [sides.ours.train(batch) for batch in here]}
    for name, side in sides.theirs.items():
        inputs = [side.on_device(batch) for batch in there]
        ways[name] = lambda side=side, inputs=inputs: [side.train(*one) for one in inputs]
    taken = timing.time_in_turns(ways, rounds)
    return make_row(f"step, {batches} batches of {plan.batch_size}, augmented", taken, batches * plan.batch_size)


def make_config(args: argparse.Namespace, batch_size: int) -> Config:
    """The published recipe at a constant learning rate; --narrow makes the model and the canvases small."""
    narrow = {name: value for name, value in peer.NARROW.items() if name != "num_classes"} | {"num_queries": 100}
    return Config(
        dtype=args.dtype,
        model=dataclasses.replace(ModelConfig(dropout=0.1), **(narrow if args.narrow else {})),
        data=NARROW_DATA if args.narrow else DataConfig(),
        optim=OptimConfig(schedule="constant"),
        train=TrainConfig(batch_size=batch_size),
    )


def parse_arguments() -> argparse.Namespace:
    """The flags."""
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
    return parser.parse_args()


def main() -> None:
    """Measures, prints and writes."""
    args = parse_arguments()
    heap.keep_memory()  # as our programs do; PyTorch gets it too
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    height, width = map(int, args.canvas.split("x"))
    sizes = [int(size) for size in args.batch_sizes.split(",")]
    config = make_config(args, batch_size=sizes[-1])
    sides, rows = Sides(args, config), []
    for what in args.what.split(","):
        for size in sizes:
            batch = make_full_batch(Bucket(height, width, 64), size, sides.num_classes, args.seed)
            calls = sides.calls("train" if what == "step" else what, batch)
            # Two rounds of warm-up: with the other side's first call in between, the second one still gets new memory.
            taken = timing.time_in_turns(calls, args.rounds, warm_up=2)
            rows.append(make_row(f"{what}, {size} x {args.canvas}", taken, size))
            print(format_table(rows[-1:]), flush=True)
    if args.mix:
        plan = make_train_plan(config, coco_like.ImageSizes(seed=args.seed))
        rows.append(time_mix(sides, plan, args.mix, args.rounds, args.seed))
    about = describe_machine()
    about |= {"torch": torch.__version__, "threads": str(torch.get_num_threads()), "dtype": args.dtype}
    print(f"\n{', '.join(f'{name} {value}' for name, value in about.items())}\n{format_table(rows)}")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        report = json.dumps({"machine": about, "rows": rows}, indent=1)
        (args.output / "benchmark_vs_torch.json").write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
