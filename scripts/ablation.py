"""Trains variants of the detector, each option alone and together, and writes a table and a picture of their AP.

    python scripts/ablation.py --output=runs/ablation [--set=shapes] [--seeds=3] [--steps=400] [--jobs=2]
    python scripts/ablation.py --output=runs/bccd --set=bccd --data_dir=data --weights=resnet18.npz [--only=fast,...]

Every run is a `python -m detr_jax.train` in a workdir of its own; runs that are done already are kept. The table gives
the mean and range over the seeds of AP, the mean of AP50, both after the last step, and the seconds of training without
evaluation, at the speed of the fastest row of the logs. With --seconds=S each variant gets the steps that fit into S
seconds at the speed of its run of --steps: equal wall time instead of equal steps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
FOCAL = {"model.class_scores": "sigmoid", "loss.class_weight": 2.0, "loss.class_cost": 2.0}
SOFTMAX = {"model.class_scores": "softmax", "loss.class_weight": 1.0, "loss.class_cost": 1.0}
LEARNED = {"model.queries": "learned"}
PLAIN = LEARNED | SOFTMAX | {"model.anchors": False, "model.focus": False, "model.finer_memory": False}
PLAIN |= {"model.denoising": 0}
CORE = {"model.focus": False, "model.finer_memory": False, "model.dilation": True}  # encoder and decoder at stride 8
# For each set: the configuration, and the settings that each variant changes.
SETS = {
    "shapes": (
        "configs/shapes.py:fast",
        {
            "plain": CORE | PLAIN,
            "plain + focal": CORE | PLAIN | FOCAL,
            "anchors": CORE | PLAIN | {"model.anchors": True},
            "anchors + focal": CORE | PLAIN | FOCAL | {"model.anchors": True},
            "anchors + focal + denoising": CORE | PLAIN | FOCAL | {"model.anchors": True, "model.denoising": 5},
            "selected": CORE | SOFTMAX,
            "selected + focal": CORE,
            "selected + focal + focus": CORE | {"model.focus": True},
            "selected + focal + denoising": CORE | {"model.denoising": 5},
            "selected + focal at stride 16": CORE | {"model.dilation": False},
            "selected + focal at stride 16 + finer": CORE | {"model.dilation": False, "model.finer_memory": True},
            "selected + focal at stride 16 + finer + focus (fast)": {},
            "selected + focal + average 0.99": CORE | {"train.average_decay": 0.99},
            "selected + focal in batches of 8": CORE | {"train.batch_size": 8},
        },
    ),
    "bccd": (
        "configs/finetune.py:r18_c4",
        {
            "plain": PLAIN,
            "fast": {},
            "fast with softmax": SOFTMAX,
            "fast - focus": {"model.focus": False},
            "fast - finer": {"model.finer_memory": False},
            "fast - selection": LEARNED,
            "fast + denoising": {"model.denoising": 3},
            "fast + average 0.99": {"train.average_decay": 0.99},
            "fast with layer3 frozen": {"freeze": ("backbone",), "train.cache_features": "layer2"},
            "fast with layer2 trained": {"freeze": (), "train.cache_features": "layer1"},
            "fast at 384x512": {
                "data.scales": (384,),
                "data.max_size": 512,
                "data.buckets": ((384, 512, 64), (512, 384, 64)),
            },
        },
    ),
}


class Run(NamedTuple):
    """A finished run."""

    curve: list[tuple[int, float, float]]  # (step, AP, AP50) of each evaluation
    seconds_per_step: float  # in the fastest row of the log


def train(folder: Path, config: str, changes: dict, core: int | None) -> None:
    """Trains in ``folder``, on that core alone if one is given, unless the run is done already."""
    if (folder / "done").exists():
        return
    changes = {"train.eval_every": changes["train.steps"] // 4 or 1, "train.checkpoint_every": 10**6} | changes
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    command = [sys.executable, "-m", "detr_jax.train", f"--config={config}", f"--workdir={folder}", *flags]
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if core is not None else {})
    pin = ["taskset", "-c", str(core)] if core is not None else []
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        subprocess.run(pin + command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=True)
    (folder / "done").touch()


def read_run(folder: Path) -> Run:
    """Reads the log of a finished run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [(row["step"], *row["coco_eval_bbox"][:2]) for row in rows if "coco_eval_bbox" in row]
    batch_size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["train"]["batch_size"]
    rates = [row["images_per_second"] for row in rows if row.get("images_per_second")]
    return Run(curve, batch_size / max(rates))


def make_table(results: dict[str, list[Run]]) -> str:
    """Markdown, the best AP first."""
    lines = ["| variant | steps | AP mean (least to most) | AP50 mean | seconds of steps |", "|---|---|---|---|---|"]
    rows = []
    for name, runs in results.items():
        steps = runs[0].curve[-1][0]
        ap, ap50 = ([run.curve[-1][axis] for run in runs] for axis in (1, 2))
        seconds = min(run.seconds_per_step for run in runs) * steps
        text = f"{statistics.mean(ap):.3f} ({min(ap):.3f} to {max(ap):.3f}) | {statistics.mean(ap50):.3f}"
        rows.append((-statistics.mean(ap), f"| {name} | {steps} | {text} | {seconds:.0f} |"))
    return "\n".join(lines + [row for _, row in sorted(rows)])


def draw_curves(results: dict[str, list[Run]], path: Path) -> None:
    """AP over the steps, the mean over the seeds."""
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    styles = ("-", "--", ":")
    for number, (name, runs) in enumerate(results.items()):
        steps = [point[0] for point in runs[0].curve]
        means = [statistics.mean(run.curve[place][1] for run in runs) for place in range(len(steps))]
        axes.plot(steps, means, styles[number // 10 % 3], color=f"C{number % 10}", label=name)
    axes.set(xlabel="step", ylabel="AP, mean over the seeds", ylim=(0, None))
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


class Study:
    """All runs of a set, for the flags ``args``."""

    def __init__(self, args: argparse.Namespace, names: list[str]):
        self.args, self.names = args, names
        self.config, self.variants = SETS[args.set]
        self.common = {"data.dir": args.data_dir, "train.samples": 0}
        self.common |= {"model.backbone_weights": args.weights} if args.weights else {}
        if args.set == "bccd":
            self.common |= {"data.name": "bccd", "data.flip_vertical": 0.5}

    def run(self, kind: str, steps_of: Callable[[str], int]) -> dict[str, list[Run]]:
        """Trains every variant with every seed, in the folder ``kind``, for ``steps_of(variant)`` steps."""
        jobs = self.args.jobs
        cores: list[int | None] = list(range(jobs)) if jobs > 1 else [None]

        def folder(name: str, seed: int) -> Path:
            return self.args.output / kind / f"{name}, seed {seed}".replace(" ", "_")

        def train_one(job: tuple[str, int]) -> None:
            name, seed = job
            changes = self.common | self.variants[name] | {"seed": seed, "train.steps": steps_of(name)}
            core = cores.pop()
            try:
                train(folder(name, seed), self.config, changes, core)
            finally:
                cores.append(core)

        seeds = range(self.args.seeds)
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(train_one, [(name, seed) for seed in seeds for name in self.names]))
        return {name: [read_run(folder(name, seed)) for seed in seeds] for name in self.names}


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the names of the variants to train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, default="shapes")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--weights", help="of the backbone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seconds", type=float, help="equal wall time: as many steps as fit into so many seconds")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; if more than 1, each on its own core")
    parser.add_argument("--only", help="variants, separated by commas")
    args = parser.parse_args()
    variants = SETS[args.set][1]
    names = [name.strip() for name in args.only.split(",")] if args.only else list(variants)
    for name in names:
        if name not in variants:
            parser.error(f"--only names {name!r}; choose from {', '.join(variants)}")
    return args, names


def main() -> None:
    """Trains, then writes the table and the picture."""
    args, names = parse_arguments()
    study = Study(args, names)
    results = study.run("steps", lambda name: args.steps)
    if args.seconds:
        seconds_of = {name: min(run.seconds_per_step for run in runs) for name, runs in results.items()}
        results = study.run("seconds", lambda name: max(int(args.seconds / seconds_of[name]), 1))
    text = make_table(results)
    kind = "seconds" if args.seconds else "steps"
    (args.output / f"{kind}.md").write_text(text + "\n", encoding="utf-8")
    draw_curves(results, args.output / f"{kind}.png")
    print(text)


if __name__ == "__main__":
    main()
