"""Trains DETR: ``python -m detr_jax.train --config=configs/detr.py:r50 --workdir=DIR [--config.a.b=value ...]``.

The same command again goes on from the last checkpoint. This file is the main line, from the settings to the loop.
"""

import time
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from detr_jax import cli, devices
from detr_jax.datasets import shapes
from detr_jax.batches.pipeline import Pipeline, to_device
from detr_jax.datasets.split import Split, open_split
from detr_jax.models import detr
from detr_jax.errors import UserError
from detr_jax.training import guard
from detr_jax.training.logbook import Logbook
from detr_jax.training.step import TrainState
from detr_jax.training.trainer import Trainer
from detr_jax.training.validation import Validation
from detr_jax.weights.checkpoints import Checkpoints, check_settings, newest_intact

config_flags.DEFINE_config_file("config", None, "configs/FILE.py:WORDS; change a value with --config.a.b=value.")
flags.DEFINE_string("workdir", None, "Folder of the run: made if missing, continued if it holds checkpoints.")
flags.mark_flags_as_required(["config", "workdir"])

# What may differ between two starts of one run: how often, how fast; not what is computed.
MAY_CHANGE = {
    "data.dir", "data.threads", "train.log_every", "train.checkpoint_every", "train.eval_every", "train.keep",
    "train.samples", "train.stop_after_skipped", "train.hang_minutes", "train.matcher",
}  # fmt: skip
LENGTH = {"train.epochs", "train.steps"}  # may change too, unless the schedule is stretched over it
# Settings that are younger than some runs, and what those were trained with.
LATER = {f"model.{name}": value for name, value in detr.LATER.items()} | {
    "data.flip_vertical": 0.0, "data.resize": "host", "train.cache_features": "", "train.matcher": "loop",
}  # fmt: skip
EMBEDDED = "shapes"  # the dataset that is made on the spot


def open_data(data: dict) -> tuple[Split, Split]:
    """The training and the validation split.

    Raises UserError when they do not exist, do not go together, or hold nothing to learn.
    """
    if data["name"] == EMBEDDED and jax.process_index() == 0:
        shapes.prepare(data["dir"])
    devices.wait_for_hosts("data is there")
    train = open_split(data["dir"], data["name"], data["train_split"])
    val = open_split(data["dir"], data["name"], data["val_split"])
    if train.categories != val.categories:
        raise UserError(f"the splits {train.name} and {val.name} of {data['name']} have different classes")
    if not train.target_counts.any():
        raise UserError(
            f"no image of {data['name']} {train.name} has an object to learn; "
            f"look at it with python -m detr_jax.dataset stats --name={data['name']} --data_dir={data['dir']}"
        )
    return train, val


def due(step: int, every: int, trainer: Trainer) -> bool:
    """Whether something that happens every so many steps (0: every epoch), and at the end, happens after this step."""
    return step % (every or trainer.steps_per_epoch) == 0 or step == trainer.total_steps


def log_row(trainer: Trainer, window: list, step: int, begin: float) -> tuple[dict, list[dict]]:
    """The row of the steps since the last one (means), and the steps that were skipped.

    Here the host waits for the device, and nowhere else.
    """
    numbers, metrics, waits = zip(*window, strict=True)
    metrics = jax.device_get(list(metrics))
    seconds = time.monotonic() - begin
    row = {"step": step, "epoch": step / trainer.steps_per_epoch}
    row |= {key: float(np.mean([one[key] for one in metrics])) for key in metrics[0]}
    row["skipped"] = int(sum(one["skipped"] for one in metrics))
    row["lr"] = float(trainer.rate_factor(step - 1)) * trainer.config["optim"]["lr"]
    row["images_per_second"] = len(window) * trainer.batch_size / seconds
    row["data_wait"] = sum(waits) / seconds
    memory = jax.local_devices()[0].memory_stats()
    if memory:
        row["device_memory"] = memory["peak_bytes_in_use"]
    skipped = [
        {"step": number, "image_ids": trainer.plan[number].image_ids.tolist()}
        | {key: float(value) for key, value in one.items()}
        for number, one in zip(numbers, metrics, strict=True)
        if one["skipped"]
    ]
    return row, skipped


def validate(
    validation: Validation, state: TrainState, step: int, logbook: Logbook, saved: Checkpoints, stop: guard.StopSignal
) -> bool:
    """Evaluates after ``step``; False when the run was asked to stop meanwhile: it is then done at the next start."""
    metrics = validation(state.best_params, step, stop.received)
    if metrics is None:
        return False
    logbook.write({"step": step, "coco_eval_bbox": metrics.numbers})
    saved.record(step, metrics.AP)
    return True


def run(
    trainer: Trainer,
    validation: Validation,
    state: TrainState,
    first_step: int,
    train_split: Split,
    logbook: Logbook,
    saved: Checkpoints,
    stop: guard.StopSignal,
) -> None:
    """The loop, from ``first_step`` to the end or to the step after which ``stop`` says so."""
    train, workdir = trainer.config["train"], Path(flags.FLAGS.workdir).expanduser()
    stopped = "stopped after step {} as asked; the same command goes on from there"
    guard.expect_progress(train["hang_minutes"])
    was_due = first_step and due(first_step, train["eval_every"], trainer) and not saved.evaluated(first_step)
    if was_due and not validate(validation, state, first_step, logbook, saved, stop):
        logbook.say(stopped.format(first_step))
        return
    trainer.keep_features(state)
    with trainer.compile_ahead(state, first_step, logbook.say), Pipeline(
        train_split, trainer.plan, first_step, trainer.total_steps, jax.process_index(), jax.process_count(),
        trainer.config["data"]["threads"], pictures=trainer.pictures,
    ) as pipeline:  # fmt: skip
        window, begin = [], time.monotonic()
        batches = to_device(pipeline, devices.batch_sharding(trainer.mesh))
        for step, (batch, waited) in enumerate(batches, start=first_step + 1):
            state, metrics = trainer.step(state, batch, trainer.plan[step - 1].bucket, logbook.say)
            window.append((step - 1, metrics, waited))

            stopping = stop(step)
            if due(step, train["log_every"], trainer):
                row, skipped = log_row(trainer, window, step, begin)
                logbook.write(row)
                guard.report_skipped(skipped, workdir / "nan_report")
                guard.check_skipped(int(state.skipped_in_a_row), train["stop_after_skipped"], workdir / "nan_report")
                guard.expect_progress(train["hang_minutes"])
                window, begin = [], time.monotonic()

            evaluates = not stopping and due(step, train["eval_every"], trainer)
            if evaluates:
                began = time.monotonic()
                stopping = not validate(validation, state, step, logbook, saved, stop)
                begin += time.monotonic() - began  # the steps' own time goes on
            if stopping or evaluates or due(step, train["checkpoint_every"], trainer):
                saved.save(step, trainer.stored(state))
            if stopping:
                logbook.say(stopped.format(step))
                return
    logbook.say(f"done: see {workdir}/curves.png, samples/ and eval/")


def main(argv: list[str]) -> None:
    """From the settings to the loop."""
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is not understood; values are given as --config.a.b=value")
    config, workdir = cli.settings(), Path(flags.FLAGS.workdir).expanduser()
    devices.start_hosts()
    if jax.config.jax_compilation_cache_dir is None:  # compiled programs stay with the run: a restart takes seconds
        jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; choose a folder")
    folder = workdir / "checkpoints"
    first_step = devices.agreed(newest_intact(folder) or 0 if jax.process_index() == 0 else 0)
    if first_step:
        stretched = config["optim"]["schedule"] == "cosine"
        may_change = MAY_CHANGE if stretched else MAY_CHANGE | LENGTH
        check_settings(folder / str(first_step), config, may_change, LATER)
    with guard.memory_advice(), guard.StopSignal() as stop:
        train_split, val_split = open_data(config["data"])
        trainer = Trainer(config, train_split)
        validation = Validation(config, val_split, trainer.network, trainer.mesh, workdir)
        state = trainer.restore(folder / str(first_step)) if first_step else trainer.start(print)
        with (
            Logbook(workdir, config, step=first_step, steps=trainer.total_steps, sources=trainer.sources) as logbook,
            Checkpoints(folder, config["train"]["keep"]) as saved,
        ):
            for note in validation.notes:
                logbook.say(f"note: {note}")
            run(trainer, validation, state, first_step, train_split, logbook, saved, stop)
    guard.expect_progress(0)


if __name__ == "__main__":
    cli.run(main)
