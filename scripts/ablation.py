"""Which option of the detector earns its place: trains each alone and together, and writes a table and a picture.

    python scripts/ablation.py --output=runs/ablation [--set=shapes] [--seeds=3] [--steps=400] [--jobs=2]
    python scripts/ablation.py --output=runs/bccd --set=bccd --data_dir=data --weights=resnet18.npz [--only=fast,...]

Every run is a `python -m detr_jax.train` in a workdir of its own, so a run that is there already is not made again; the
table gives the mean and the range over the seeds of AP and AP50 after the last step, and the seconds of training
without evaluation, at the speed of the fastest row of the logs. With --seconds=S each variant gets as many steps as it
does in S seconds, measured in its run of --steps: equal wall time instead of equal steps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
# Of every set: the configuration, then what each variant changes of it.
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
            "selected + focal + layer heads": CORE | {"model.layer_heads": True},
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


def train(folder: Path, config: str, changes: dict, arguments: argparse.Namespace, core: int | None) -> None:
    """One run, unless it is there."""
    if (folder / "done").exists():
        return
    changes = {"train.eval_every": changes["train.steps"] // 4 or 1, "train.checkpoint_every": 10**6} | changes
    changes |= {"data.dir": arguments.data_dir, "train.samples": 0}
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    command = [sys.executable, "-m", "detr_jax.train", f"--config={config}", f"--workdir={folder}", *flags]
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if core is not None else {})
    pin = ["taskset", "-c", str(core)] if core is not None else []
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("w") as output:
        subprocess.run(pin + command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=True)
    (folder / "done").touch()


def read(folder: Path) -> tuple[list[tuple[int, float, float]], float]:
    """[(step, AP, AP50)] of the evaluations, and the seconds a step takes where nothing disturbs it."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = [(row["step"], *row["coco_eval_bbox"][:2]) for row in rows if "coco_eval_bbox" in row]
    batch = json.loads((folder / "config.json").read_text())["train"]["batch_size"]
    rates = [row["images_per_second"] for row in rows if row.get("images_per_second")]
    return curve, batch / max(rates)


def table(results: dict[str, list]) -> str:
    """Markdown, best AP first."""
    lines = ["| variant | steps | AP mean (least to most) | AP50 mean | seconds of steps |", "|---|---|---|---|---|"]
    rows = []
    for name, runs in results.items():
        steps = runs[0][0][-1][0]
        ap, ap50 = ([run[0][-1][axis] for run in runs] for axis in (1, 2))
        seconds = min(run[1] for run in runs) * steps
        text = f"{statistics.mean(ap):.3f} ({min(ap):.3f} to {max(ap):.3f}) | {statistics.mean(ap50):.3f}"
        rows.append((-statistics.mean(ap), f"| {name} | {steps} | {text} | {seconds:.0f} |"))
    return "\n".join(lines + [row for _, row in sorted(rows)])


def picture(results: dict[str, list], path: Path) -> None:
    """AP over the steps, the mean over the seeds."""
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    styles = ("-", "--", ":")
    for number, (name, runs) in enumerate(results.items()):
        steps = [point[0] for point in runs[0][0]]
        means = [statistics.mean(run[0][place][1] for run in runs) for place in range(len(steps))]
        axes.plot(steps, means, styles[number // 10 % 3], color=f"C{number % 10}", label=name)
    axes.set(xlabel="step", ylabel="AP, mean over the seeds", ylim=(0, None))
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, default="shapes")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--weights", help="of the backbone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seconds", type=float, help="equal wall time: the steps that take so long")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on a core of its own if more than 1")
    parser.add_argument("--only", help="variants, separated by commas")
    arguments = parser.parse_args()
    config, variants = SETS[arguments.set]
    names = [name.strip() for name in arguments.only.split(",")] if arguments.only else list(variants)
    for name in names:
        if name not in variants:
            parser.error(f"--only names {name!r}; choose from {', '.join(variants)}")
    common = {"model.backbone_weights": arguments.weights} if arguments.weights else {}
    if arguments.set == "bccd":
        common |= {"data.name": "bccd", "data.flip_vertical": 0.5}

    def folder(name: str, seed: int, kind: str = "steps") -> Path:
        return arguments.output / kind / f"{name}, seed {seed}".replace(" ", "_")

    cores: list[int | None] = list(range(arguments.jobs)) if arguments.jobs > 1 else [None]

    def all_runs(kind: str, steps_of) -> dict[str, list]:
        def one(job):
            name, seed = job
            changes = common | variants[name] | {"seed": seed, "train.steps": steps_of(name)}
            core = cores.pop()
            try:
                train(folder(name, seed, kind), config, changes, arguments, core)
            finally:
                cores.append(core)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(one, [(name, seed) for seed in range(arguments.seeds) for name in names]))
        return {name: [read(folder(name, seed, kind)) for seed in range(arguments.seeds)] for name in names}

    results = all_runs("steps", lambda name: arguments.steps)
    if arguments.seconds:
        seconds_of = {name: min(run[1] for run in runs) for name, runs in results.items()}
        results = all_runs("seconds", lambda name: max(int(arguments.seconds / seconds_of[name]), 1))
    text = table(results)
    kind = "seconds" if arguments.seconds else "steps"
    (arguments.output / f"{kind}.md").write_text(text + "\n")
    picture(results, arguments.output / f"{kind}.png")
    print(text)


if __name__ == "__main__":
    main()
