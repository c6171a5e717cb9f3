"""Trains DETR: ``python -m detr_jax.train --config=configs/detr.py:r50 --workdir=DIR [--config.a.b=value ...]``.

The same command again goes on from the last checkpoint. ``train(config, workdir)`` is the same for a notebook or a
test; this file is the main line, from the settings to the loop.
"""

import contextlib
import os
from pathlib import Path

import jax
from absl import flags

from detr_jax import cli, devices
from detr_jax.batches.inputs import Reader, make_reader
from detr_jax.batches.pipeline import Pipeline, to_device
from detr_jax.batches.plan import TrainPlan, make_train_plan
from detr_jax.config import Config, DataConfig, TrainConfig
from detr_jax.config_check import check
from detr_jax.datasets import shapes
from detr_jax.datasets.split import Split, open_split
from detr_jax.errors import UserError
from detr_jax.training import guard
from detr_jax.training.broken_images import BrokenImages
from detr_jax.training.calendar import make_calendar
from detr_jax.training.compiled_steps import CompiledSteps, StepLowering, coming_buckets
from detr_jax.training.frozen_features import make_feature_reader
from detr_jax.training.logbook import Logbook
from detr_jax.training.state import make_recipe, restore_state, start_state, store_state
from detr_jax.training.step import Recipe, TrainState
from detr_jax.training.step_log import LoggedSteps, StepLog
from detr_jax.training.validation import Validation
from detr_jax.weights.checkpoints import Checkpoints, check_settings, newest_intact

EMBEDDED = "shapes"  # the dataset that is made on the spot


def open_data(data: DataConfig) -> tuple[Split, Split]:
    """The training and the validation split.

    Raises UserError when they do not exist, do not go together, or hold nothing to learn.
    """
    if data.name == EMBEDDED and jax.process_index() == 0:
        shapes.prepare(data.dir)
    devices.wait_for_hosts("data is there")
    train_split = open_split(data.dir, data.name, data.train_split)
    val_split = open_split(data.dir, data.name, data.val_split)
    if train_split.categories != val_split.categories:
        raise UserError(f"the splits {train_split.name} and {val_split.name} of {data.name} have different classes")
    if not train_split.target_counts.any():
        raise UserError(
            f"no image of {data.name} {train_split.name} has an object to learn; "
            f"look at it with python -m detr_jax.dataset stats --name={data.name} --data_dir={data.dir}"
        )
    return train_split, val_split


def find_start(workdir: Path, config: Config) -> int:
    """The step of the newest intact checkpoint; 0 where there is none.

    Raises UserError when the workdir is a file, or belongs to a run with other settings.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; choose a folder")
    folder = workdir / "checkpoints"
    first_step = devices.broadcast(newest_intact(folder) or 0 if jax.process_index() == 0 else 0)
    if first_step:
        check_settings(folder / str(first_step), config)
    return first_step


def load_state(recipe: Recipe, checkpoints: Path, first_step: int) -> tuple[TrainState, list[str], dict[str, str]]:
    """The state after ``first_step``: of that checkpoint, or at step 0 fresh and with the weights of the settings.

    Also what to say of these weights, and the sha256 of each of their files. Nothing is written: weights that cannot
    be loaded leave the workdir as it was.
    """
    if first_step:
        return restore_state(recipe, checkpoints / str(first_step)), [], {}
    reports: list[str] = []
    state, digests = start_state(recipe, reports.append)
    return state, reports, digests


def open_pipeline(split: Split, plan: TrainPlan, start: int, stop: int, data: DataConfig, reader: Reader) -> Pipeline:
    """This host's part of the batches of steps ``start`` to ``stop``."""
    part = jax.process_index(), jax.process_count()
    return Pipeline(split, plan, start, stop, part=part, threads=data.threads, reader=reader, strict=data.strict)


def write_row(logged: LoggedSteps, state: TrainState, logbook: Logbook, config: TrainConfig, workdir: Path) -> None:
    """Writes the row of the last steps. Raises UserError when too many steps in a row were skipped."""
    logbook.write(logged.row)
    guard.report_skipped(logged.skipped, workdir / "nan_report")
    guard.check_skipped(int(state.skipped_in_a_row), config.stop_after_skipped, workdir / "nan_report")
    guard.expect_progress(config.hang_minutes)


def train(config: Config, workdir: str | os.PathLike) -> None:
    """Trains until the settings say that it is done, or until the process is asked to stop (SIGTERM, Ctrl-C).

    Everything goes into ``workdir``. A workdir with checkpoints of the same settings is continued.

    Raises UserError for settings, data or weights that cannot be used.
    """
    check(config)
    mesh, workdir = devices.make_mesh(config.train.fsdp), Path(workdir).expanduser()
    devices.check_training(config.train, mesh)
    stopped = "stopped after step {} as asked; the same command goes on from there"
    with contextlib.ExitStack() as context:
        enter = context.enter_context
        enter(guard.explain_out_of_memory())
        enter(guard.watch_progress(config.train.hang_minutes))
        stop = enter(guard.StopSignal())
        first_step = find_start(workdir, config)
        train_split, val_split = open_data(config.data)
        plan, reader = make_train_plan(config, train_split), make_reader(config.data, train_split.sizes)
        calendar = make_calendar(config.train, plan.steps_per_epoch)
        recipe = make_recipe(config, train_split.categories, calendar, mesh)
        validation = Validation(recipe, val_split, workdir)
        state, reports, digests = load_state(recipe, workdir / "checkpoints", first_step)
        logbook = enter(Logbook(workdir, config, step=first_step, steps=calendar.total_steps, notes=validation.notes))
        logbook.record_weights(reports, digests)
        saved = enter(Checkpoints(workdir / "checkpoints", config.train.keep))

        def evaluate(step: int) -> bool:  # False: asked to stop meanwhile; it is then done at the next start
            if (row := validation(state.arrays, step, stop.received)) is not None:
                logbook.write(row)
                saved.record(step, row["coco_eval_bbox"][0])
            return row is not None

        was_due = first_step and calendar.evaluates(first_step) and not saved.evaluated(first_step)
        if was_due and not evaluate(first_step):
            return logbook.say(stopped.format(first_step))
        if config.train.cache_features:
            reader = make_feature_reader(recipe, state, plan.buckets[0])
        steps = CompiledSteps(StepLowering(recipe, reader), logbook.say)
        enter(steps.compile_ahead(state, coming_buckets(plan, first_step, calendar.total_steps)))
        batches = enter(open_pipeline(train_split, plan, first_step, calendar.total_steps, config.data, reader))
        log, broken = StepLog(plan, calendar, config.optim), BrokenImages(workdir, train_split, plan, first_step)
        for step, (batch, waited) in enumerate(to_device(batches, devices.batch_sharding(mesh)), first_step + 1):
            state, metrics = steps(state, batch, plan[step - 1].bucket)
            log.add(step, metrics, waited)
            stopping = stop(step)
            if calendar.logs(step):
                write_row(logged := log.take_row(), state, logbook, config.train, workdir)
                broken.add(logged.broken, config.data, logbook.say)
            evaluates = calendar.evaluates(step) and not stopping
            if evaluates:
                with log.pause():
                    stopping = not evaluate(step)
            if stopping or evaluates or calendar.saves(step):
                saved.save(step, store_state(state, recipe))
            if stopping:
                return logbook.say(stopped.format(step))
        return logbook.say(f"done: see {workdir}/curves.png, samples/ and eval/")


def main(argv: list[str]) -> None:
    """Trains with the settings of the flags."""
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is not understood; values are given as --config.a.b=value")
    config, workdir = cli.config(), Path(flags.FLAGS.workdir).expanduser()
    check(config)
    devices.start_hosts()
    if jax.config.jax_compilation_cache_dir is None:  # compiled programs stay with the run: a restart takes seconds
        jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    train(config, workdir)


def define_flags() -> None:
    """The flags of this program."""
    cli.define_config()
    flags.DEFINE_string("workdir", None, "Folder of the run: made if missing, continued if it holds checkpoints.")
    flags.mark_flags_as_required(["config", "workdir"])


if __name__ == "__main__":
    cli.run(main, define_flags)
