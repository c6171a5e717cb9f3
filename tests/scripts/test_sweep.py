"""The sweep: what it trains, in which order it goes on, and what it says of the scores."""

import importlib.util
import json
import signal
import subprocess
import sys

import pytest

from configs import detr
from detr_jax.config_forms import to_dict
from detr_jax.errors import UserError
from tests.programs import REPOSITORY, assert_one_sentence, finish, last_logged, saved_steps, wait_for

SPEC = importlib.util.spec_from_file_location("sweep", REPOSITORY / "scripts" / "sweep.py")
sweep = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(sweep)

GIVEN = {
    "optim.lr=1e-4, 3e-4": ("optim.lr", [1e-4, 3e-4]),
    "--config.optim.lr=1e-4": ("optim.lr", [1e-4]),
    "optim.lr=log(1e-5,1e-3,3)": ("optim.lr", [1e-5, 1e-4, 1e-3]),
    "optim.lr=linear(1, 2, 5)": ("optim.lr", [1.0, 1.25, 1.5, 1.75, 2.0]),
    "train.batch_size=log(1,8,4)": ("train.batch_size", [1, 2, 4, 8]),
    "train.batch_size=linear(1,2,5)": ("train.batch_size", [1, 2]),
    "data.scales=(240,),(320, 400)": ("data.scales", [(240,), (320, 400)]),
    "optim.schedule=constant,cosine": ("optim.schedule", ["constant", "cosine"]),
    "model.anchors=True,False": ("model.anchors", [True, False]),
}


@pytest.mark.parametrize("given", GIVEN)
def test_values_of_a_setting(given):
    assert sweep.parse_values(given) == GIVEN[given]


MISTAKES = {
    "optim.weight_decy=1": "no setting optim.weight_decy; did you mean optim.weight_decay",
    "lr=1": "no setting lr; did you mean optim.lr",
    "optim.lr": "has no values",
    "optim.lr=": "has no values",
    "optim.lr=log(0,1,3)": "begins and ends above 0",
    "optim.lr=log(1,2,1)": "2 values or more",
    "optim.lr=log(a,2,3)": "could not convert",
    "seed=1,2": "pass --seeds",
}


@pytest.mark.parametrize("given", MISTAKES)
def test_a_mistake_is_one_sentence(given):
    with pytest.raises(UserError, match=MISTAKES[given]):
        sweep.parse_values(given)


def jobs_of(folder, over, seeds=1, sample=None):
    return sweep.make_jobs(detr.get_config("debug"), over, seeds, sample, folder)


def test_every_combination_is_trained_with_every_seed(tmp_path):
    jobs = jobs_of(tmp_path, ["optim.lr=1e-4,1e-3", "train.batch_size=2,4"], seeds=2)
    assert len({job.workdir for job in jobs}) == len(jobs) == 8
    assert jobs[0].workdir.name == "lr=0.0001,batch_size=2,seed=42" and jobs[1].seed == 43
    last = jobs[-1].config
    assert (last.optim.lr, last.train.batch_size, last.seed) == (1e-3, 4, 43)


def test_a_sample_is_the_same_each_time(tmp_path):
    over = ["optim.lr=log(1e-5,1e-2,20)", "optim.weight_decay=log(1e-5,1e-2,20)"]
    once, again = (jobs_of(tmp_path, over, sample=7) for _ in range(2))
    assert once == again and len(once) == 7
    assert len(jobs_of(tmp_path, over[:1], sample=50)) == 20


@pytest.mark.parametrize("over", ["optim.lr=-1", "train.batch_size=1.5", "optim.schedule=constant,odd"])
def test_settings_are_checked_before_anything_runs(tmp_path, over):
    with pytest.raises(UserError, match=over.partition("=")[0]):
        jobs_of(tmp_path, [over])


def test_a_run_is_done_at_its_last_evaluation_with_these_settings(tmp_path):
    job, other = jobs_of(tmp_path, ["optim.lr=1e-4,1e-3"])
    assert not job.done()
    job.workdir.mkdir()
    rows = [{"step": step, "coco_eval_bbox": [step / 10] * 12} for step in (2, 4)]
    (job.workdir / "config.json").write_text(json.dumps(to_dict(job.config)))
    (job.workdir / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert job.config.train.steps == 4 and not job.done()
    (job.workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert job.done() and sweep.group_runs([job, other]) == [sweep.Group({"optim.lr": 1e-4}, [0.4])]
    (job.workdir / "config.json").write_text(json.dumps(to_dict(other.config)))
    assert not job.done()


def test_the_spread_of_the_seeds_decides():
    a, b, c = ([0.50, 0.52, 0.54], [0.49, 0.51, 0.53], [0.10, 0.12, 0.14])
    groups = [sweep.Group({"optim.lr": i}, scores) for i, scores in enumerate((a, b, c))]
    # the pooled standard deviation is 0.02; of a mean difference of three and three, t(6 degrees, 95 %) = 2.447 allows
    # 2.447 * 0.02 * sqrt(2 / 3) = 0.040
    said = sweep.judge(groups)
    assert "0.020 AP" in said and "lr=0 is not to be told from lr=1, and better than the others" in said
    assert "better than every other" in sweep.judge([groups[0], groups[2]])
    assert "trained once" in sweep.judge([group._replace(scores=group.scores[:1]) for group in groups])
    table = sweep.describe_groups(groups).splitlines()
    assert table[1].split() == ["0", "0.520", "0.500", "0.540", "3"]


def test_settings_go_to_the_trainings():
    words = ["--config=a.py:b", "--config.optim.lr=1", "--over=optim.b2=1", "--seeds=2"]
    assert sweep.settings_of(words) == ["--config.optim.lr=1"]
    with pytest.raises(UserError, match="--config.optim.lr=VALUE"):
        sweep.settings_of(["--config.optim.lr", "1"])


def test_a_misspelt_setting_ends_before_anything_is_written(programs, tmp_path):
    command = [sys.executable, "scripts/sweep.py", "--config=configs/detr.py:debug", "--over=optim.lrr=1",
               f"--output={tmp_path / 'never'}"]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, env=programs.environment(), capture_output=True, text=True)
    assert_one_sentence(done, "did you mean --config.optim.lr")
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_a_real_sweep_is_stopped_and_goes_on(programs, tmp_path, leaves_nothing_running):
    """Two by two trainings, of which one cannot work: stopped in the first, continued, done, listed."""
    script, output = REPOSITORY / "scripts" / "sweep.py", tmp_path / "sweep"
    flags = [*programs.training(tmp_path)[:1], *programs.training(tmp_path)[2:], "--config.train.steps=60",
             "--over=optim.lr=1e-4,1e-3", "--seeds=2", f"--output={output}"]  # fmt: skip
    first = output / "lr=0.0001,seed=42"
    process = programs.launch(script, *flags)
    wait_for(lambda: last_logged(first) >= 3)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process, 300)
    assert status == 130 and f"this goes on: {sys.executable} {script} --config=" in out, out + err
    stopped = max(saved_steps(first))
    assert stopped >= 3 and not (output / "lr=0.0001,seed=43").exists()

    (output / "lr=0.001,seed=43" / "checkpoints" / "7").mkdir(parents=True)  # damaged: it cannot start
    done = programs.launch(script, *flags)
    status, out, err = finish(done, 1500)
    assert status == 1, out + err
    assert f"continues at step {stopped}" in (first / "output.txt").read_text()
    assert "failed: lr=0.001,seed=43: error: " in out
    told = json.loads((output / "sweep.json").read_text())
    assert sorted(len(one["scores"]) for one in told["combinations"]) == [1, 2] and len(told["failed"]) == 1
    assert (output / "curves.png").exists() and (output / "sweep.csv").exists()
