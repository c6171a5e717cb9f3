"""Measures this machine.

    python -m detr_jax.benchmark step  --config=configs/detr.py:r50 --output=DIR
    python -m detr_jax.benchmark fits  --config=configs/detr.py:r50 --device=h100
    python -m detr_jax.benchmark infer --config=configs/detr.py:r50 --batch_sizes=1,16
    python -m detr_jax.benchmark match
    python -m detr_jax.benchmark agree --config=configs/detr.py:r50
    python -m detr_jax.benchmark data  --config=configs/detr.py:r50 --config.data.name=cells --config.data.dir=data
    python -m detr_jax.benchmark eval

    step    the training step on every canvas of the batch plan: time, memory, arithmetic; --profile: where time goes
    fits    the same step compiled for --device, which need not be here: memory, traffic, collectives
    infer   latency of one image and throughput of a batch
    match   the matching alone, beside SciPy
    agree   what this device computes beside what the CPU computes, and a hundred steps on both
    data    reading, decoding and augmenting a prepared dataset (config.data.name), and padding
    eval    COCO's numbers of 5,000 images with 100 detections each, beside pycocotools

Prints a table and, with --output, writes it to benchmark.json. Steps and inference run on made-up images of COCO's
sizes with random weights; neither changes the time. Any setting can be changed: --config.train.batch_size=2,
--config.dtype=bfloat16. One canvas alone takes three settings, for it must hold the largest image:
--config.data.buckets="((480,640,64),)" --config.data.scales="(480,)" --config.data.max_size=640.
"""

import json
import platform
from dataclasses import replace
from pathlib import Path

import jax
from absl import flags

from detr_jax import cli, files
from detr_jax.benchmarks import agreement, data, elsewhere, evaluation, infer, match, step
from detr_jax.config import Config
from detr_jax.config_check import check
from detr_jax.datasets.split import open_split
from detr_jax.errors import UserError


def format_table(rows: list[dict]) -> str:
    """Rows with the same keys as aligned columns."""

    def text(value) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    cells = [list(rows[0]), *([text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def print_result(result: dict | list[dict]) -> None:
    """Prints numbers as lines; lists of rows, and seconds by name, as tables."""
    result = {"": result} if isinstance(result, list) else result
    for name, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"\n{name}\n{format_table(value)}" if name else format_table(value))
        elif isinstance(value, dict):
            total = sum(value.values())
            rows = [{"what": key, "ms": seconds * 1e3, "share": seconds / total} for key, seconds in value.items()]
            print(f"\n{name}\n{format_table(rows)}")
        elif isinstance(value, float | int):
            print(f"{name}: {value:.4g}")


def describe_machine() -> dict[str, str]:
    """What the figures were measured on."""
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind}",
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def read_config(verb: str) -> Config:
    """The settings of --config, with random weights. Raises UserError when there are none, or when they cannot be."""
    if flags.FLAGS.config is None:
        raise UserError(f"benchmark {verb} needs settings, for example --config=configs/detr.py:r50")
    config = cli.config()
    check(config)
    # No time depends on the weights, so nobody has to download any.
    return replace(config, init_from=None, model=replace(config.model, backbone_weights=None))


def read_numbers(flag: str) -> tuple[int, ...]:
    """The value of a list flag. Raises UserError unless it is positive whole numbers."""
    texts = flags.FLAGS[flag].value
    if not texts or not all(text.strip().isdecimal() and int(text) > 0 for text in texts):
        raise UserError(f"--{flag}={','.join(texts)} must be positive whole numbers with commas between")
    return tuple(map(int, texts))


def read_canvas() -> tuple[int, int]:
    """The value of --canvas. Raises UserError unless it is two numbers."""
    canvas = read_numbers("canvas")
    if len(canvas) != 2:
        raise UserError(f"--canvas={','.join(flags.FLAGS.canvas)} must be height,width")
    return canvas


def measure_step() -> dict:
    """Measures the training step on every canvas of the batch plan: time, memory, arithmetic."""
    args = flags.FLAGS
    traces = Path(args.output or "profile").expanduser() if args.profile else None
    return step.measure(read_config("step"), args.rounds, args.seed, print, traces, args.canvases)


def measure_elsewhere() -> list[dict]:
    """Compiles the training step for --device, which need not be here: memory, traffic, collectives."""
    return elsewhere.measure(read_config("fits"), flags.FLAGS.device, flags.FLAGS.canvases, print)


def measure_inference() -> list[dict]:
    """Measures the latency of one image and the throughput of a batch."""
    args = flags.FLAGS
    return infer.measure(read_config("infer"), read_canvas(), read_numbers("batch_sizes"), args.rounds, args.seed)


def measure_agreement() -> dict:
    """Compares what this device computes with what the CPU computes, and a hundred steps on both."""
    config, canvas, size = read_config("agree"), read_canvas(), read_numbers("batch_sizes")[0]
    return {
        "relative_differences": agreement.measure(config, canvas, size, flags.FLAGS.seed),
        **agreement.measure_curves(config, canvas, size, 20 * flags.FLAGS.rounds, flags.FLAGS.seed),
    }


def measure_matching() -> list[dict]:
    """Measures the matching alone, beside SciPy."""
    return match.measure(seed=flags.FLAGS.seed, repeats=flags.FLAGS.rounds)


def measure_data() -> dict:
    """Measures reading, decoding and augmenting a prepared dataset, and how much of its canvases is padding."""
    config = read_config("data")
    split = open_split(config.data.dir, config.data.name, config.data.train_split)
    return data.measure(split, config, threads=read_numbers("threads"), rounds=flags.FLAGS.rounds)


def measure_evaluation() -> dict:
    """Measures the evaluation of 5,000 images with 100 detections each, beside pycocotools."""
    return evaluation.measure(rounds=1, seed=flags.FLAGS.seed)


VERBS = {
    "agree": measure_agreement,
    "step": measure_step,
    "fits": measure_elsewhere,
    "infer": measure_inference,
    "match": measure_matching,
    "data": measure_data,
    "eval": measure_evaluation,
}


def main(argv: list[str]) -> None:
    """Measures what the verb names; prints and writes the result."""
    measure, more = cli.choose_verb(argv, VERBS)
    cli.refuse_words(more)
    result = measure()
    print(", ".join(describe_machine().values()))
    print_result(result)
    if flags.FLAGS.output:
        with files.replacing(Path(flags.FLAGS.output).expanduser() / "benchmark.json") as path:
            path.write_text(json.dumps({"machine": describe_machine(), argv[1]: result}, indent=1), encoding="utf-8")


def define_flags() -> None:
    """The flags of this program."""
    cli.define_config()
    flags.DEFINE_string("output", None, "Folder for benchmark.json, and for the trace of step --profile.")
    flags.DEFINE_bool("profile", False, "step: also trace the most frequent canvas and print where its time goes.")
    flags.DEFINE_integer("rounds", 5, "Measurements of everything; medians are reported.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Decides the made-up images and objects.")
    flags.DEFINE_integer(
        "canvases", None, "step, fits: only so many, the most frequent or the largest; each takes its time to compile."
    )
    flags.DEFINE_string(
        "device",
        "here",
        "fits: what to compile for: here, a100, h100, h200, h100:8, TPUs by shape (v5e:2x2), cpu:64 simulated.",
    )
    flags.DEFINE_list("canvas", ["800", "1088"], "infer, agree: height,width.")
    flags.DEFINE_list(
        "batch_sizes", ["1", "16"], "infer: images at a time. agree: images at a time; the first number counts."
    )
    flags.DEFINE_list("threads", ["1", "2"], "data: numbers of threads to try.")


if __name__ == "__main__":
    cli.run(main, define_flags, VERBS)
