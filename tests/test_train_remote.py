"""A run whose workdir is at a URL: the same bits, whoever goes on with it and wherever, and readers find it there."""

import signal

import numpy as np
import pytest

import detr_jax
import tests.object_store  # noqa: F401  registers store://
from detr_jax.errors import UserError
from detr_jax.train import train
from detr_jax.weights import finding
from detr_jax.weights.sources import load_weights
from tests.programs import arrays, assert_one_sentence, assert_same_state, finish, last_logged, numbers, said, wait_for

pytestmark = pytest.mark.usefixtures("compile_once", "leaves_nothing_running")
SHORT = {"train.steps": 4, "train.log_every": 1, "train.checkpoint_every": 2, "train.eval_every": 2}


@pytest.fixture(scope="module")
def runs(programs, tmp_path_factory, compile_once):
    """The same run in one go in a folder, and in two at a URL, on two machines: (the folder, that of the objects)."""
    root = tmp_path_factory.mktemp("remote")
    train(programs.config(SHORT), root / "unbroken")
    with pytest.MonkeyPatch.context() as patch:
        for machine, steps in (("one", 2), ("two", 4)):
            patch.setenv("DETR_JAX_CACHE", str(root / machine))
            train(programs.config(SHORT | {"train.steps": steps}), f"store://{root}/bucket/run")
            assert not list((root / machine).rglob("metrics.jsonl"))  # nothing stays here
    return root / "unbroken", root / "bucket/run"


@pytest.fixture
def url(runs, tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("DETR_JAX_CACHE", str(tmp_path / "cache"))
    return f"store://{runs[1]}"


def test_it_goes_on_elsewhere_to_the_same_bits(runs):
    unbroken, remote = runs
    assert_same_state(remote, unbroken, 4)
    assert numbers(remote) == numbers(unbroken)
    assert {path.name for path in unbroken.iterdir()} == {path.name for path in remote.iterdir()} - {"cache"}
    assert (remote / "checkpoints/best").read_text() == (unbroken / "checkpoints/best").readlink().name


def test_readers_find_it(runs, url, tmp_path):
    unbroken, _ = runs
    assert finding.find_checkpoint(url) == f"{url}/checkpoints/{(unbroken / 'checkpoints/best').readlink()}"
    here, there = load_weights(unbroken), load_weights(url)
    assert here.title == there.title and here.categories == there.categories
    for name, array in here.arrays.items():
        assert np.array_equal(array, there.arrays[name])
    image = np.zeros((40, 50, 3), np.uint8)
    same = f"{url}/checkpoints/{(unbroken / 'checkpoints/best').readlink()}"
    one, other = (detr_jax.load(source)(image) for source in (unbroken, same))
    assert np.array_equal(one.scores, other.scores) and len(one.scores)


def test_another_run_starts_from_it(programs, runs, url, tmp_path):
    train(programs.config(SHORT | {"train.steps": 1, "init_from": url}), tmp_path / "next")
    assert f"weights from {url}" in (tmp_path / "next/train.log").read_text()


def test_damage_there_is_noticed(runs, url, tmp_path):
    remote = tmp_path / "bucket/run"
    for path in runs[1].rglob("*"):
        if path.is_file():
            copy = remote / path.relative_to(runs[1])
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    best = (remote / "checkpoints/best").read_text()
    (remote / f"checkpoints/{best}/info/metadata").write_text("{")
    lines = []
    url = f"store://{remote}"
    assert finding.find_checkpoint(url, lines.append) == f"{url}/checkpoints/{6 - int(best)}"
    assert f"{best} (info/metadata has changed" in lines[0] and str(tmp_path / "cache") not in lines[0]
    with pytest.raises(UserError, match=f"^checkpoint {url}/checkpoints/{best} is damaged"):
        load_weights(f"{url}/checkpoints/{best}")
    with pytest.raises(UserError, match=f"^{url}/checkpoints/7 holds no checkpoint; pass a workdir"):
        load_weights(f"{url}/checkpoints/7")


def test_a_url_that_nothing_can_open_is_one_sentence(programs):
    done = programs.run("train", *programs.training("nonsense://bucket/run"))
    assert_one_sentence(done, "cannot open nonsense://bucket/run", "Protocol not known")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_gone_on_with_elsewhere(programs, number, tmp_path):
    change = "import time\nimport tests.object_store\nfrom detr_jax.training import remote_workdir, skipped_steps\n"
    slow = change + "remote_workdir.PAUSE = 0.2\nadd = skipped_steps.SkippedSteps.add\n"
    slow += "def slowly(*a):\n    time.sleep(0.4)\n    add(*a)\nskipped_steps.SkippedSteps.add = slowly\n"
    flags = programs.training(f"store://{tmp_path}/bucket/run", "--config.train.log_every=1")
    process = programs.start_changed(slow, *flags, DETR_JAX_CACHE=tmp_path / "one")
    wait_for(lambda: last_logged(tmp_path / "bucket/run") >= 4)
    process.send_signal(number)
    status, out, err = finish(process)
    assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL), err
    if number == signal.SIGTERM:
        assert "is saved, and this goes on from there" in out
        assert not (tmp_path / "bucket/run/run.lock").exists()
    process = programs.start_changed(change, *flags, DETR_JAX_CACHE=tmp_path / "two")
    status, out, err = finish(process)
    assert status == 0 and err == "", err
    assert_same_state(tmp_path / "bucket/run", programs.trained, 6)


@pytest.mark.slow
def test_two_hosts_write_what_one_does(programs, tmp_path):
    """Each has a folder of its own; the parts of arrays that the other holds come to the first one."""
    url, more = f"file://{tmp_path}/bucket/run", ("--config.train.fsdp=2", "--config.train.batch_size=4")
    for steps in (3, 6):
        hosts = programs.start_hosts(2, "train", *programs.training(url, *more, f"--config.train.steps={steps}"))
        for number, (status, _, err) in enumerate(map(finish, hosts)):
            assert status == 0 and not said(err), (number, err)
    alone = tmp_path / "alone"
    shared = programs.start_hosts(2, "train", *programs.training(alone, *more))
    assert [finish(process)[0] for process in shared] == [0, 0]
    ours, theirs = (arrays(workdir / "checkpoints/6") for workdir in (tmp_path / "bucket/run", alone))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)
