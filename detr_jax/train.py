"""Trains a detector, or goes on with a run.

    python -m detr_jax.train --config=configs/finetune.py --data=FOLDER --workdir=runs/cells

FOLDER holds photos and annotations. The same command again goes on from the last checkpoint.
``train(config, workdir)`` is the same in Python.
"""

# This file is the main line, from the settings to the loop.

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import flags

from detr_jax import cli, devices, hosts, invocation, signals
from detr_jax.batches.fitting import fit_to_images
from detr_jax.batches.inputs import Reader, make_reader
from detr_jax.batches.pipeline import Pipeline, to_device
from detr_jax.batches.plan import TrainPlan, make_train_plan, padding_share
from detr_jax.config import Config, DataConfig
from detr_jax.config_check import check
from detr_jax.config_forms import as_flags
from detr_jax.crashes import after_loss
from detr_jax.datasets.split import Split
from detr_jax.evaluation.patience import Patience
from detr_jax.evaluation.symptoms import Course
from detr_jax.hosts import Agreement
from detr_jax.signals import Interrupted, StopSignals
from detr_jax.training.broken_images import BrokenImages
from detr_jax.training.calendar import Calendar, make_calendar
from detr_jax.training.compiled_steps import CompiledSteps, StepLowering, coming_buckets, largest_bucket
from detr_jax.training.disk import explain_disk_faults
from detr_jax.training.final_report import write_final_report
from detr_jax.training.frozen_features import make_feature_reader
from detr_jax.training.logbook import Logbook
from detr_jax.training.memory import check_fits, explain_out_of_memory, suggest
from detr_jax.training.skipped_steps import SkippedSteps
from detr_jax.training.splits import open_data, prepare_data
from detr_jax.training.state import make_recipe, restore_state, start_state, store_state
from detr_jax.training.step import Recipe, TrainState
from detr_jax.training.step_log import StepLog
from detr_jax.training.time_budget import Times, describe_lengths, fit_to_minutes, keep_lengths, time_run
from detr_jax.training.trackers import check_tracker
from detr_jax.training.validation import Validation
from detr_jax.training.watchdog import Watchdog
from detr_jax.training.workdir import Workdir, compilation_cache, open_workdir
from detr_jax.weights.checkpoints import Checkpoints, check_settings, read_contents
from detr_jax.weights.finding import newest_intact
from detr_jax.weights.finding import steps as checkpoint_steps

Enter = Callable[[contextlib.AbstractContextManager], Any]  # of an ExitStack


def find_start(workdir: Path, config: Config) -> tuple[int, Config]:
    """The step of the newest intact checkpoint, 0 where there is none, and the settings with the lengths it began with.

    Raises UserError when every checkpoint is damaged, or when they belong to a run with other settings.
    """
    folder = workdir / "checkpoints"
    first_step = hosts.from_first_host(lambda: newest_intact(folder)) or 0
    if first_step:
        config = keep_lengths(config, read_contents(folder / str(first_step)).config)
        check_settings(folder / str(first_step), config)
    return first_step, config


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


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What the steps of a run are made of."""

    config: Config
    place: Workdir
    recipe: Recipe
    plan: TrainPlan
    calendar: Calendar
    first_step: int
    state: TrainState  # after first_step
    train_split: Split
    reader: Reader
    steps: CompiledSteps
    validation: Validation
    logbook: Logbook
    saved: Checkpoints
    patience: Patience

    def save(self, step: int, state: TrainState, watch: Watchdog) -> None:
        """Begins to save the state after a step, unless that is done."""
        watch.expect("a save")
        self.saved.save(step, store_state(state, self.recipe))

    def suggest_settings(self) -> str:
        """Settings with which the step on the largest canvas would fit into memory."""
        return suggest(self.recipe, self.reader, largest_bucket(self.plan.buckets), self.logbook.say)

    def evaluate(self, step: int, state: TrainState, stop: StopSignals, watch: Watchdog, agree: Agreement) -> None:
        """Scores the state after a step, which is saved, once in the life of a run.

        Raises Interrupted when the run is asked to stop meanwhile; it is made up for by the next start.
        """

        def poll() -> None:
            watch.expect("an image of the evaluation")
            self.logbook.advance(step, "evaluating")
            if agree():
                raise Interrupted

        if not self.saved.evaluated(step):
            with stop.waiting(raises=jax.process_count() == 1):
                row = self.validation(state, step, poll)
            self.logbook.advance(step)
            self.logbook.write(row)
            self.saved.record(step, row["coco_eval_bbox"][0])
            self.patience.add(step, row["coco_eval_bbox"][0])

    def finish(self) -> None:
        """Says that the run is done, and writes the report."""
        if self.patience.over:
            self.logbook.say(self.patience.describe())
        write_final_report(self.place, self.logbook.say)
        self.logbook.say(f"done: see {self.place.name}/report.html, curves.png, samples/ and eval/")


def start_run(enter: Enter, config: Config, place: Workdir, mesh: jax.sharding.Mesh, began: float) -> Run:
    """Opens the data, the files of the workdir and its checkpoints, and makes or restores the state.

    ``enter`` keeps what must be closed at the end. Nothing in the workdir is changed before all that may be refused.
    The budget of ``train.minutes`` counts from ``began``.
    """
    workdir = enter(place).folder
    train_split, val_split = open_data(config.data)
    fit = fit_to_images(config, train_split, val_split)
    first_step, config = find_start(workdir, fit.config)
    plan, reader = make_train_plan(config, train_split), make_reader(config.data, train_split.sizes)
    calendar = make_calendar(config.train, plan.steps_per_epoch)
    recipe = make_recipe(config, train_split.categories, calendar, mesh)
    validation = Validation(recipe, val_split, workdir)
    state, reports, digests = load_state(recipe, workdir / "checkpoints", first_step)
    if config.train.cache_features:
        reader = make_feature_reader(recipe, state, plan.buckets[0])
    steps, notes = CompiledSteps(StepLowering(recipe, reader), hosts.say, check_fits), fit.notes
    if config.train.minutes and not first_step:
        own = time_run(steps, state, plan, train_split, reader, recipe, validation)
        measured, spent = hosts.from_first_host(lambda: (own, time.monotonic() - began))
        times = Times(*measured)
        config = fit_to_minutes(config, times, spent, plan.steps_per_epoch)
        notes = [*notes, describe_lengths(config, times)]
        calendar = make_calendar(config.train, plan.steps_per_epoch)
        recipe = make_recipe(config, train_split.categories, calendar, mesh)
        state, reports, digests = load_state(recipe, workdir / "checkpoints", 0)  # timing has used it up
    course = Course(
        calendar.total_steps, config.optim.lr, config.optim.warmup_steps, config.model.num_queries,
        int(train_split.target_counts.max()), padding_share(plan),
    )  # fmt: skip
    logbook = enter(
        Logbook(workdir, config, step=first_step, steps=calendar.total_steps, notes=validation.notes, course=course)
    )
    steps.say = logbook.say
    for note in notes:
        logbook.say(as_flags(note))
    logbook.record_weights(reports, digests)
    scores = dict(hosts.from_first_host(lambda: [*logbook.scores.items()]))
    saved = enter(Checkpoints(workdir / "checkpoints", config.train.keep, scores, calendar.evaluates, place.shared))
    patience = Patience(config.train.patience, scores)
    return Run(
        config, place, recipe, plan, calendar, first_step, state, train_split, reader, steps, validation, logbook,
        saved, patience,
    )  # fmt: skip


def take_steps(run: Run, enter: Enter, stop: StopSignals, watch: Watchdog) -> bool:
    """Trains to the end, or until the run is asked to stop; the last step is saved then. Returns whether it is done."""
    config, calendar, plan, steps = run.config, run.calendar, run.plan, run.steps
    state, step, alone, agree = run.state, run.first_step, jax.process_count() == 1, Agreement(stop)
    log, broken = StepLog(plan, calendar, config.optim), BrokenImages(run.place.folder, run.train_split, plan, step)
    skipped = SkippedSteps(plan, config.train.stop_after_skipped, run.place.folder, int(state.skipped_in_a_row))
    with contextlib.suppress(Interrupted):
        if step and calendar.evaluates(step):
            run.evaluate(step, state, stop, watch, agree)
        watch.expect("a compilation")
        with stop.waiting():  # of several processes each ends by itself: nothing is lost
            enter(explain_out_of_memory(run.suggest_settings))
            enter(steps.compile_ahead(state, coming_buckets(plan, step, calendar.total_steps)))
            pipeline = open_pipeline(run.train_split, plan, step, calendar.total_steps, config.data, run.reader)
            batches = to_device(enter(pipeline), devices.batch_sharding(run.recipe.mesh))
        while step < calendar.total_steps and not run.patience.over:
            watch.expect("a batch")
            with stop.waiting(raises=alone):
                batch, waited = next(batches)
            watch.expect("a compilation")
            with stop.waiting(raises=alone):
                steps.compiled(state, plan[step].bucket)
            if agree():
                raise Interrupted
            watch.expect("a step")
            state, metrics = steps(state, batch, plan[step].bucket)
            step += 1
            run.logbook.advance(step)
            log.add(step, metrics, waited)
            skipped.add(step, metrics)
            run.saved.check()
            run.logbook.check()
            run.place.check()
            if calendar.logs(step):
                skipped.settle()
                run.logbook.write((logged := log.take_row()).row)
                broken.add(logged.broken, config.data, run.logbook.say)
            with log.pause():
                if calendar.saves(step) or calendar.evaluates(step):
                    skipped.settle()
                    run.save(step, state, watch)
                if calendar.evaluates(step):
                    run.evaluate(step, state, stop, watch, agree)
        return True
    if step > run.first_step:  # else there is nothing new, and another process may be elsewhere
        skipped.settle()
        run.save(step, state, watch)
    return False


def train(config: Config, workdir: str | os.PathLike) -> bool:
    """Trains until the settings say that it is done, or until the process is asked to stop (SIGTERM, Ctrl-C).

    Everything goes into ``workdir``. A workdir with checkpoints of the same settings is continued. Returns whether the
    training is done.

    Raises UserError for settings, data or weights that cannot be used, for faults of the machine, and when another run
    is using ``workdir``, which may be a URL such as ``gs://bucket/run``.
    """
    began = time.monotonic()
    check(config)
    check_tracker(config.train.tracker)
    mesh, place = devices.make_mesh(config.train.fsdp), open_workdir(workdir)
    devices.check_training(config.train, mesh)
    run, done, told = None, False, False

    def say_farewell(words: str) -> None:  # once, whoever comes first
        nonlocal told
        last = max(checkpoint_steps(place.folder / "checkpoints"), default=0)
        saved = f"step {last} is saved, and this goes on from there" if last else "nothing is saved, this starts again"
        if not told:
            told = True
            (run.logbook.say if run else print)(f"stopped {words}; {saved}: {invocation.command()}")

    def abandon() -> tuple[int, str]:  # the main thread hangs where nothing can be lost
        if run:
            run.saved.wait()
            place.settle()
        say_farewell("as asked")
        hosts.part()
        return 0, ""

    def end_if_asked() -> int | None:  # another process has gone, perhaps as it was asked, too
        if not stop.received:
            return None
        say_farewell("as asked")
        return 0

    with (
        explain_disk_faults(place.folder),
        explain_out_of_memory(),
        StopSignals(hosts.preemption_notifier(), abandon, lambda: say_farewell("at once")) as stop,
        after_loss(end_if_asked),
        Watchdog(config.train.hang_minutes, place.folder, settle=place.settle) as watch,
        contextlib.ExitStack() as context,
    ):
        with contextlib.suppress(Interrupted):
            with stop.waiting():
                run = start_run(context.enter_context, config, place, mesh, began)
            watch.say = run.logbook.say
            done = take_steps(run, context.enter_context, stop, watch)
            run.saved.wait()
            place.settle()
        if done:
            run.finish()
        else:
            say_farewell("as asked")
        with stop.waiting(raises=False):  # a thread that hangs in a read does not hold up the end
            context.close()
    return done


def main(argv: list[str]) -> None:
    """Trains with the settings of the flags."""
    cli.refuse_words(argv[1:])
    config, workdir = cli.config(), flags.FLAGS.workdir
    check(config)
    hosts.start_hosts()
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(compilation_cache(workdir)))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if flags.FLAGS.data:
        config = dataclasses.replace(config, data=prepare_data(flags.FLAGS.data, config.data))
    print(f"{hosts.describe_process()}, {config.train.batch_size} images a step", flush=True)
    if not train(config, workdir):
        hosts.part()
        signals.leave(0)  # what is still being compiled would hold up the end for minutes


def define_flags() -> None:
    """The flags of this program."""
    cli.define_config()
    flags.DEFINE_string("workdir", None, "Folder or URL of the run: made if missing, continued if it has checkpoints.")
    flags.DEFINE_string("data", None, "Folder of photos and annotations (COCO, Pascal VOC, YOLO, CSV) to train on.")
    flags.mark_flags_as_required(["config", "workdir"])


if __name__ == "__main__":
    cli.run(main, define_flags)
