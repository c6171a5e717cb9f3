"""The training program as a user runs it: what it writes, that it goes on bit for bit, what it says to bad input."""

import csv
import json
import math
import random
import shutil
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from programs import (
    Programs,
    arrays,
    assert_one_sentence,
    assert_same_state,
    numbers,
    of_session,
    rows,
)

from detr_jax.datasets import prepare as builder, folders as coco_folder

ORIGINAL_KEYS = {"loss", "loss_ce", "loss_bbox", "loss_giou", "loss_ce_0", "loss_bbox_0", "loss_giou_0"}
ORIGINAL_KEYS |= {"class_error", "cardinality_error", "cardinality_error_0", "lr", "grad_norm", "epoch"}
OUR_KEYS = {"images_per_second", "data_wait", "skipped", "matcher_turns", "matcher_nonfinite"}


@pytest.fixture
def programs(tmp_path_factory) -> Programs:
    return of_session(tmp_path_factory)


def assert_fresh(workdir: Path) -> None:
    """Nothing was written, but for compiled programs."""
    assert not workdir.exists() or {path.name for path in workdir.iterdir()} <= {"cache"}


def test_the_whole_workdir(programs):
    workdir = programs.trained
    wanted = "config.json run.json train.log metrics.jsonl metrics.csv curves.png tb checkpoints/3 checkpoints/6"
    for name in wanted.split():
        assert (workdir / name).exists(), name
    for step in (3, 6):
        for name in ("metrics.json", "per_class.csv", "predictions.json", "pr_curve.png"):
            assert (workdir / "eval" / str(step) / name).stat().st_size > 0, name
        assert (workdir / f"samples/step_{step:08d}.png").stat().st_size > 1000
    best = (workdir / "checkpoints/best").resolve()
    scores = {row["step"]: row["coco_eval_bbox"][0] for row in rows(workdir) if "coco_eval_bbox" in row}
    assert best.parent == workdir / "checkpoints" and scores[int(best.name)] == max(scores.values())
    assert not list(workdir.rglob("*.partial*")) and not list(workdir.rglob("*orbax-checkpoint-tmp*"))
    assert not (workdir / "cache").exists()  # JAX_COMPILATION_CACHE_DIR is used instead
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["num_queries"] == 10 and config["train"]["steps"] == 6
    assert [start["step"] for start in json.loads((workdir / "run.json").read_text())["starts"]] == [0]
    assert (workdir / "stderr").read_text() == ""


def test_rows_have_the_keys_of_the_original(programs):
    found = rows(programs.trained)
    training = [row for row in found if "loss" in row]
    assert [row["step"] for row in training] == [1, 2, 3, 4, 5, 6]
    for row in training:
        assert row.keys() >= ORIGINAL_KEYS | OUR_KEYS
        assert all(math.isfinite(value) for value in row.values())
        parts = sum(row[f"loss_ce{a}"] + 5 * row[f"loss_bbox{a}"] + 2 * row[f"loss_giou{a}"] for a in ("", "_0"))
        assert row["loss"] == pytest.approx(parts, rel=1e-5)
    evaluations = [row for row in found if "coco_eval_bbox" in row]
    assert [(row["step"], len(row["coco_eval_bbox"])) for row in evaluations] == [(3, 12), (6, 12)]
    with (programs.trained / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [int(row["step"]) for row in table] == [1, 2, 3, 3, 4, 5, 6, 6]


def test_resumed_equals_unbroken_and_another_config_is_refused(programs, tmp_path):
    workdir = tmp_path / "run"
    first, second, again, other = programs.run_all(
        "train",
        [
            programs.training(workdir, "--config.train.steps=3"),
            programs.training(workdir),
            programs.training(workdir),  # finished: nothing is left to do
            programs.training(workdir, "--config.seed=7", "--config.optim.lr=0.5", "--config.train.log_every=2"),
        ],
    )
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert_same_state(workdir, programs.trained, 6)
    assert numbers(workdir) == numbers(programs.trained)
    assert "continues at step 3 of 6" in second.stdout
    assert again.returncode == 0, again.stderr
    assert_one_sentence(other, "seed was 42 and is now 7", "optim.lr was 0.0001 and is now 0.5", str(workdir))
    assert "log_every" not in other.stderr
    assert numbers(workdir) == numbers(programs.trained)  # the last two changed nothing


def prepare_without_objects(programs: Programs, name: str) -> None:
    """The tiny dataset with crowds only, which do not train."""
    root = programs.folder / name
    shutil.copytree(programs.raw, root)
    for path in (root / "annotations").iterdir():
        table = json.loads(path.read_text())
        crowds = [{**annotation, "iscrowd": 1} for annotation in table["annotations"]]
        path.write_text(json.dumps(table | {"annotations": crowds}))
    builder.prepare(coco_folder.find_sources(root), programs.data, name)


LAYER4 = ("--config.model.last_stage=layer4", "--config.model.heads=8")  # what a mask head stands on
BAD_INPUT = {  # arguments -> words of the sentence
    "dataset": (["--config.data.name=nothing"], ["'nothing'", "tiny", "dataset prepare"]),
    "split": (["--config.data.train_split=test"], ["'test'", "train, val"]),
    "empty slice": (["--config.data.val_split=val[50:]"], ["val[50:]", "4 images"]),
    "queries": (["--config.model.num_queries=2"], ["image 1 has 3 objects", "--config.model.num_queries=3"]),
    "batch": (["--config.train.accum_steps=3"], ["batch_size=2", "accum_steps=3", "multiple of 3"]),
    "batch 0": (["--config.train.batch_size=0"], ["batch_size=0"]),
    "no objects": (["--config.data.name=bare"], ["bare", "train", "object"]),
    "freeze": (["--config.freeze=('backbon3',)"], ["'backbon3'", "backbone", "transformer"]),
    "weights": (["--config.model.backbone_weights=/none/r50.npz"], ["/none/r50.npz"]),
    "init_from": (["--config.init_from=/none/run"], ["/none/run"]),
    "backbone": (["--config.model.backbone=resnet19"], ["resnet19", "resnet18"]),
    "norm": (["--config.model.norm=batch"], ["batch", "group"]),
    "last stage": (["--config.model.last_stage=layer9"], ["layer9"]),
    "heads": (["--config.model.heads=5"], ["heads", "5", "32"]),
    "masks": (
        ["--config.model.masks=True", *LAYER4],
        ["masks cannot be trained", "--config.freeze=\"('mask_head',)\""],
    ),
    "masks of a C4": (["--config.model.masks=True"], ["last_stage='layer4'", "layer3"]),
    "heads of masks": (["--config.model.masks=True", *LAYER4, "--config.model.heads=4"], ["heads in eights"]),
    "positions": (["--config.model.position_embedding=fourier"], ["fourier", "sine"]),
    "dropout": (["--config.model.dropout=2.0"], ["dropout", "2.0"]),
    "dtype": (["--config.dtype=float17"], ["dtype", "float17"]),
    "schedule": (["--config.optim.schedule=steps"], ["schedule", "steps", "cosine"]),
    "learning rate": (["--config.optim.lr=inf"], ["--config.optim.lr is inf", "from 0 to 1"]),
    "clipping": (["--config.optim.clip_norm=nan"], ["--config.optim.clip_norm is nan"]),
    "weight decay": (["--config.optim.weight_decay=-0.1"], ["--config.optim.weight_decay is -0.1"]),
    "normalizer": (["--config.loss.normalizer=mine"], ["mine", "global"]),
    "matcher": (["--config.train.matcher=mine"], ["mine", "loop", "pallas"]),
    "matcher without a GPU": (["--config.train.matcher=pallas"], ["GPU", "loop"]),
    "resize": (["--config.data.resize=gpu"], ["'gpu'", "host, fast, device"]),
    "accumulate 0": (["--config.train.accum_steps=0"], ["accum_steps"]),
    "fsdp": (["--config.train.fsdp=3"], ["fsdp=3", "1 devices"]),
    "extra word": (["more"], ["'more'"]),
    "workdir is a file": (["--workdir=LICENSE"], ["LICENSE"]),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    programs, folder = of_session(tmp_path_factory), tmp_path_factory.mktemp("bad")
    prepare_without_objects(programs, "bare")
    commands = [programs.training(folder / name, *arguments) for name, (arguments, _) in BAD_INPUT.items()]
    return folder, dict(zip(BAD_INPUT, programs.run_all("train", commands), strict=True))


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_sentence(answers, name):
    folder, done = answers
    assert_one_sentence(done[name], *BAD_INPUT[name][1])
    assert_fresh(folder / name)


# What follows takes minutes: runs that are stopped, killed, damaged, and spread over devices and processes.

LONG = ("--config.train.steps=400", "--config.train.log_every=1", "--config.train.eval_every=1000")


def wait_for(condition, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def logged(workdir: Path) -> int:
    """The last step in metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if len(lines) > 1 else 0


def finish(process, seconds: float = 120.0) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def continued(programs: Programs, workdir: Path, *more: str) -> str:
    """The same command again, to its end: what it printed."""
    done = programs.run("train", *programs.training(workdir, *more))
    assert done.returncode == 0, done.stderr
    return done.stdout


def steps_on_disk(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_goes_on_bit_for_bit(programs, tmp_path, number):
    more = ("--config.train.steps=300", "--config.train.log_every=1", "--config.train.eval_every=300")
    more += ("--config.train.checkpoint_every=1000",)
    process = programs.start("train", *programs.training(tmp_path / "run", *more))
    wait_for(lambda: logged(tmp_path / "run") >= 5)
    process.send_signal(number)
    asked = time.monotonic()
    status, out, err = finish(process)
    assert status == 0, err
    assert time.monotonic() - asked < 15
    (stopped_at,) = steps_on_disk(tmp_path / "run")
    assert 5 <= stopped_at < 300 and f"stopped after step {stopped_at} as asked" in out
    assert f"continues at step {stopped_at}" in continued(programs, tmp_path / "run", *more)
    continued(programs, tmp_path / "unbroken", *more)
    assert_same_state(tmp_path / "run", tmp_path / "unbroken", 300)
    assert numbers(tmp_path / "run") == numbers(tmp_path / "unbroken")


@pytest.mark.slow
def test_stopped_during_an_evaluation(programs, tmp_path):
    """The evaluation is broken off, and made up for once by the next start."""
    more = ("--config.data.val_split=train", "--config.train.batch_size=1", "--config.train.checkpoint_every=1000")
    process = programs.start("train", *programs.training(tmp_path / "run", *more))
    wait_for(lambda: logged(tmp_path / "run") >= 3)  # step 3 is logged, then it is evaluated; compiling takes seconds
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 0, err
    assert steps_on_disk(tmp_path / "run")[-1] == 3
    continued(programs, tmp_path / "run", *more)
    continued(programs, tmp_path / "run", *more)
    continued(programs, tmp_path / "unbroken", *more)
    assert_same_state(tmp_path / "run", tmp_path / "unbroken", 6)
    assert numbers(tmp_path / "run") == numbers(tmp_path / "unbroken")


@pytest.mark.slow
def test_stopped_during_the_last_evaluation(programs, tmp_path):
    """As above, at the end: the evaluation is made up for once, takes part in the choice of the best, and is kept."""
    more = ("--config.train.steps=3", "--config.train.checkpoint_every=1000")
    process = programs.start("train", *programs.training(tmp_path / "run", *more))
    wait_for(lambda: logged(tmp_path / "run") >= 3)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0
    for _ in range(2):
        continued(programs, tmp_path / "run", *more)
        assert [row["step"] for row in rows(tmp_path / "run") if "coco_eval_bbox" in row] == [3]
    assert (tmp_path / "run/checkpoints/best").resolve().name == "3"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_a_random_time(programs, tmp_path, seed):
    more = ("--config.train.steps=60", "--config.train.checkpoint_every=1", "--config.train.eval_every=20")
    process = programs.start("train", *programs.training(tmp_path / "run", *more))
    wait_for(lambda: logged(tmp_path / "run") >= 1)
    time.sleep(random.Random(seed).uniform(0, 8))
    process.kill()
    process.communicate()
    continued(programs, tmp_path / "run", *more)
    unbroken = programs.folder / "sixty"
    if not unbroken.exists():
        continued(programs, unbroken, *more)
    assert_same_state(tmp_path / "run", unbroken, 60)
    assert numbers(tmp_path / "run") == numbers(unbroken)
    best = (tmp_path / "run/checkpoints/best").resolve()
    assert best.name == (unbroken / "checkpoints/best").resolve().name and (best / "info").is_dir()
    assert not list((tmp_path / "run").rglob("*tmp*")) and not list((tmp_path / "run").rglob("*.partial*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "item",
    ["model/d", "progress/d", "info", "model", "checksums.json"],
)
def test_a_damaged_checkpoint_is_set_aside(programs, tmp_path, item):
    workdir = tmp_path / "run"
    shutil.copytree(programs.trained, workdir, symlinks=True)
    where = workdir / "checkpoints/6" / item
    files = [where] if where.is_file() else [path for path in where.iterdir() if path.is_file()]
    victim = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert "checkpoint 6 is damaged" in continued(programs, workdir)
    assert (workdir / "checkpoints/damaged-6").is_dir()
    assert_same_state(workdir, programs.trained, 6)
    assert numbers(workdir) == numbers(programs.trained)


@pytest.mark.slow
def test_numbers_that_are_not_finite_stop_the_run(programs, tmp_path):
    workdir = tmp_path / "run"
    more = ("--config.train.stop_after_skipped=3", "--config.train.steps=40", "--config.train.checkpoint_every=1")
    more += ("--config.train.eval_every=100", "--config.loss.bbox_weight=3e38")
    done = programs.run("train", *programs.training(workdir, *more))
    assert_one_sentence(done, "the last 3 steps", "not finite", "nan_report", "--config.optim.lr")
    reports = [json.loads(path.read_text()) for path in sorted((workdir / "nan_report").iterdir())]
    assert len(reports) >= 3 and all(set(report["image_ids"]) <= set(range(1, 13)) for report in reports)
    assert all(
        np.isfinite(array).all() for array in arrays(workdir / f"checkpoints/{steps_on_disk(workdir)[-1]}").values()
    )


def assert_close_losses(one: Path, other: Path, tolerance: float) -> None:
    ours, theirs = ([row for row in rows(workdir) if "loss" in row] for workdir in (one, other))
    assert len(ours) == len(theirs) > 1
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=tolerance), a["step"]


@pytest.mark.slow
def test_accumulation_gives_the_same_parameters(programs, tmp_path):
    more = ("--config.model.dropout=0.0", "--config.train.eval_every=6")
    continued(programs, tmp_path / "one", *more)
    continued(programs, tmp_path / "two", "--config.train.accum_steps=2", *more)
    one, two = (arrays(tmp_path / name / "checkpoints/6") for name in ("one", "two"))
    for name, array in one.items():
        if name.startswith("model"):
            np.testing.assert_allclose(array, two[name], rtol=0, atol=1e-5, err_msg=name)


def evaluations(workdir: Path) -> list[list[float]]:
    return [row["coco_eval_bbox"] for row in rows(workdir) if "coco_eval_bbox" in row]


def start_two(programs: Programs, workdir: Path, *more: str) -> list:
    """Two processes of one run, a device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": 2, "JAX_NUM_CPU_DEVICES": 1}
    arguments = programs.training(workdir, *more)
    return [programs.start("train", *arguments, JAX_PROCESS_ID=process, **hosts) for process in (0, 1)]


@pytest.mark.slow
def test_one_device_two_devices_two_processes(programs, tmp_path):
    more = ("--config.model.dropout=0.0",)
    continued(programs, tmp_path / "one", *more)
    done = programs.run("train", *programs.training(tmp_path / "two", *more), JAX_NUM_CPU_DEVICES=2)
    assert done.returncode == 0, done.stderr
    for process in start_two(programs, tmp_path / "hosts", *more):
        status, out, err = finish(process, 400)
        assert status == 0, err
    assert_close_losses(tmp_path / "one", tmp_path / "two", 1e-5)
    assert_close_losses(tmp_path / "two", tmp_path / "hosts", 1e-6)
    np.testing.assert_allclose(evaluations(tmp_path / "two"), evaluations(tmp_path / "hosts"), atol=1e-6)
    ours = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
    assert ours == []  # the second process says nothing
    (start,) = json.loads((tmp_path / "hosts/run.json").read_text())["starts"]
    assert start["hosts"] == 2 and len(rows(tmp_path / "hosts")) == 8

    # what two processes wrote, one process continues
    assert "continues at step 6 of 8" in continued(programs, tmp_path / "hosts", *more, "--config.train.steps=8")
    continued(programs, tmp_path / "one", *more, "--config.train.steps=8")
    assert_close_losses(tmp_path / "one", tmp_path / "hosts", 1e-5)


@pytest.mark.slow
def test_photos_resized_by_the_step(programs, tmp_path):
    """Near the run whose images the host resized, the same again after a stop, on two devices as on one."""
    more = ("--config.model.dropout=0.0", "--config.data.resize=device")
    continued(programs, tmp_path / "host", more[0])
    continued(programs, tmp_path / "device", *more)
    continued(programs, tmp_path / "stopped", *more, "--config.train.steps=3")
    assert "continues at step 3" in continued(programs, tmp_path / "stopped", *more)
    assert_same_state(tmp_path / "stopped", tmp_path / "device", 6)
    assert_close_losses(tmp_path / "host", tmp_path / "device", 1e-2)
    done = programs.run("train", *programs.training(tmp_path / "two", *more), JAX_NUM_CPU_DEVICES=2)
    assert done.returncode == 0, done.stderr
    assert_close_losses(tmp_path / "two", tmp_path / "device", 1e-5)


@pytest.mark.slow
def test_two_processes_stop_together(programs, tmp_path):
    """One of them is told to stop; both stop after the same step."""
    processes = start_two(programs, tmp_path / "run", *LONG)
    try:
        wait_for(lambda: logged(tmp_path / "run") >= 5)
        processes[1].send_signal(signal.SIGTERM)
        for process in processes:
            status, out, err = finish(process, 30)
            assert status == 0, err
        assert len(steps_on_disk(tmp_path / "run")) >= 1 and logged(tmp_path / "run") < 400
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_boxes_of_a_mask_model_are_trained_from_a_box_checkpoint(programs, tmp_path):
    freeze = "--config.freeze=('mask_head',)"
    masks = (*LAYER4, "--config.model.masks=True", freeze, f"--config.init_from={programs.trained}")
    done = programs.run("train", *programs.training(tmp_path / "run", *masks))
    assert done.returncode == 0, done.stderr
    assert "mask_head (32)" in done.stdout, done.stdout
    first, last = (arrays(tmp_path / "run" / "checkpoints" / str(step)) for step in (3, 6))
    changed = {name for name, array in first.items() if array.tobytes() != last[name].tobytes()}
    assert not [name for name in changed if "mask_head" in name] and len(changed) > 100


@pytest.mark.slow
def test_bfloat16_is_finite(programs, tmp_path):
    continued(programs, tmp_path / "run", "--config.dtype=bfloat16")
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    exact = [row["loss"] for row in rows(programs.trained) if "loss" in row]
    assert np.isfinite(losses).all() and losses[0] == pytest.approx(exact[0], rel=0.05)
    assert all(np.isfinite(array).all() for array in arrays(tmp_path / "run/checkpoints/6").values())


@pytest.mark.slow
def test_eight_images_are_learnt_by_heart(programs, tmp_path):
    """Data, matching, losses, boxes and evaluation fit together."""
    arguments = [
        "--config=configs/shapes.py:overfit",
        f"--workdir={tmp_path}/run",
        f"--config.data.dir={programs.data}",
    ]
    done = programs.run("train", *arguments)
    assert done.returncode == 0, done.stderr
    assert evaluations(tmp_path / "run")[-1][0] >= 0.90
