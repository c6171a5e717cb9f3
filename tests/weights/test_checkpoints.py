"""Checkpoints come back bit for bit; a damaged one is noticed whatever byte has changed, and the one before is used."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from detr_jax.config import Config, DataConfig, ModelConfig
from detr_jax.config_forms import to_dict
from detr_jax.errors import UserError
from detr_jax.structures import Categories
from detr_jax.weights import checkpoints
from detr_jax.weights.checkpoints import Checkpoints, Stored

CONFIG = Config(seed=1, data=DataConfig(scales=(96,), threads=1))
CATEGORIES = Categories((1, 7), ("a", "b"))


def make_stored(seed: int, averaged: bool = False) -> Stored:
    rng = np.random.default_rng(seed)
    arrays = {
        "backbone/layer1/0/conv1/kernel": rng.normal(size=(3, 3, 4, 8)).astype(np.float32),
        "class_head/bias": np.array([np.nan, -0.0, np.inf, 1e-42], np.float32),  # bits, not numbers
        "class_head/kernel": rng.normal(size=(8, 4)).astype(np.float32),
    }
    model = {name: jnp.asarray(array) for name, array in arrays.items()}
    average = {"class_head/kernel": model["class_head/kernel"] * 0.5} if averaged else {}
    progress = {"step": jnp.int32(seed), "optimizer": optax.adam(1e-3).init(model), "skipped": jnp.int32(3)}
    return Stored(model, average, progress, {"config": to_dict(CONFIG), "categories": CATEGORIES.to_rows()})


def write(folder: Path, steps: dict[int, float | None], keep: int = 10, averaged: bool = False) -> None:
    with Checkpoints(folder, keep) as saved:
        for step, score in steps.items():
            if score is not None:
                saved.record(step, score)
            saved.save(step, make_stored(step, averaged))


def like(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def assert_same_bits(found, wanted) -> None:
    def check(one, other):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()

    jax.tree.map(check, found, wanted)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A workdir with steps 10 (the best) and 20. Tests that change it work on a copy."""
    workdir = tmp_path_factory.mktemp("run")
    write(workdir / "checkpoints", {10: 0.4, 20: 0.3}, averaged=True)
    return workdir


@pytest.fixture
def workdir(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "run", symlinks=True))


def test_everything_comes_back_bit_for_bit(written):
    stored, folder = make_stored(20, averaged=True), written / "checkpoints" / "20"
    assert_same_bits(checkpoints.read_arrays(folder, "model", like(stored.model)), stored.model)
    assert_same_bits(checkpoints.read_arrays(folder, "averaged", like(stored.averaged)), stored.averaged)
    assert_same_bits(checkpoints.read_arrays(folder, "progress", like(stored.progress)), stored.progress)
    info = checkpoints.read_info(folder)
    assert info["config"] == to_dict(CONFIG)
    assert info["categories"] == [{"id": 1, "name": "a"}, {"id": 7, "name": "b"}]
    assert info["step"] == 20
    assert checkpoints.array_shapes(folder) == like(stored.model)
    assert checkpoints.damage(folder) is None


def test_other_arrays_are_refused(written):
    wanted = like(make_stored(20).model)
    folder = written / "checkpoints" / "20"
    for other in (
        wanted | {"new/bias": jax.ShapeDtypeStruct((3,), jnp.float32)},
        {name: shape for name, shape in wanted.items() if name != "class_head/bias"},
        wanted | {"class_head/bias": jax.ShapeDtypeStruct((5,), jnp.float32)},
    ):
        with pytest.raises(UserError, match="does not fit this model"):
            checkpoints.read_arrays(folder, "model", other)


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Written while orbax commits, when the checksums are already there; nothing of ours is in them.
ORBAX_NOTES = ("_CHECKPOINT_METADATA", "commit_success.txt")


def test_one_flipped_byte_in_any_file_is_noticed(workdir):
    folder, said = workdir / "checkpoints", []
    names = files_of(folder / "20")
    assert {name.split("/")[0] for name in names} >= {"model", "averaged", "progress", "info", checkpoints.CHECKSUMS}
    assert len(names) > 8
    pristine = workdir / "pristine"
    shutil.copytree(folder / "20", pristine)
    for name in names:
        if name in ORBAX_NOTES:
            continue
        path = folder / "20" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content)
        assert checkpoints.damage(folder / "20"), name
        assert checkpoints.newest_intact(folder, said.append) == 10, name
        assert "20" in said[-1] and len(said) == 1
        aside = folder / said.pop().split("moved to ")[1].split(",")[0]
        assert files_of(aside) == names and checkpoints.steps(folder) == [10]  # set aside, nothing deleted
        shutil.rmtree(aside)
        shutil.copytree(pristine, folder / "20")
    assert checkpoints.newest_intact(folder, said.append) == 20 and not said


def test_orbaxs_own_notes_do_not_matter(workdir):
    folder = workdir / "checkpoints"
    for name in ORBAX_NOTES:
        (folder / "20" / name).write_bytes(b"\xff\x00 not JSON")
    assert checkpoints.newest_intact(folder) == 20
    model = make_stored(20).model
    assert_same_bits(checkpoints.read_arrays(folder / "20", "model", like(model)), model)
    write(folder, {30: None})
    assert checkpoints.steps(folder) == [10, 20, 30]


@pytest.mark.parametrize("how", ["truncated", "emptied", "deleted", "empty folder", "no checksums"])
def test_other_damage(how, workdir):
    folder, said = workdir / "checkpoints", []
    step = folder / "20"
    largest = max(
        (path for path in (step / "model").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    if how == "truncated":
        largest.write_bytes(largest.read_bytes()[:-1])
    elif how == "emptied":
        largest.write_bytes(b"")
    elif how == "deleted":
        largest.unlink()
    elif how == "empty folder":
        shutil.rmtree(step)
        step.mkdir()
    else:
        (step / checkpoints.CHECKSUMS).unlink()
    assert checkpoints.newest_intact(folder, said.append) == 10
    assert len(said) == 1 and "checkpoint 20 is damaged" in said[0]
    write(folder, {20: None})  # and the run goes on
    assert checkpoints.newest_intact(folder, said.append) == 20 and len(said) == 1


def test_all_damaged(workdir):
    folder, said = workdir / "checkpoints", []
    for step in (10, 20):
        (folder / str(step) / checkpoints.CHECKSUMS).unlink()
    assert checkpoints.newest_intact(folder, said.append) is None and len(said) == 2
    assert checkpoints.newest_intact(workdir / "nowhere") is None
    write(folder, {10: 0.1})
    (folder / "10" / checkpoints.CHECKSUMS).unlink()
    assert checkpoints.newest_intact(folder, said.append) is None
    assert (folder / "damaged-10").is_dir() and (folder / "damaged-10.1").is_dir()


def test_a_save_that_was_killed_is_ignored_and_cleared_away(workdir):
    folder = workdir / "checkpoints"
    half = folder / "30.orbax-checkpoint-tmp-0"
    (half / "model").mkdir(parents=True)
    (half / "model" / "part").write_bytes(b"half")
    assert checkpoints.steps(folder) == [10, 20] and checkpoints.newest_intact(folder) == 20
    write(folder, {30: None})
    assert not half.exists() and checkpoints.damage(folder / "30") is None
    assert not list(folder.glob("*tmp*"))


def best(folder: Path) -> str:
    return (folder / checkpoints.BEST).resolve().name


def test_the_newest_and_the_best_are_kept(tmp_path):
    folder = tmp_path / "checkpoints"
    write(folder, {1: 0.1, 2: 0.5, 3: None, 4: 0.2, 5: None}, keep=2)
    assert checkpoints.steps(folder) == [2, 4, 5] and best(folder) == "2"
    write(folder, {6: 0.4}, keep=2)  # a restart remembers
    assert checkpoints.steps(folder) == [2, 5, 6] and best(folder) == "2"
    write(folder, {7: 0.6}, keep=1)
    assert checkpoints.steps(folder) == [7] and best(folder) == "7"


@pytest.mark.parametrize("scores", [(0.0, 0.0, 0.0), (0.3, 0.3, 0.2, 0.1)])
def test_equal_scores_keep_a_best(scores, tmp_path):
    folder = tmp_path / "checkpoints"
    write(folder, dict(enumerate(scores, start=1)), keep=1)
    assert (folder / checkpoints.BEST / "info").is_dir()
    assert checkpoints.read_info(folder / checkpoints.BEST)["step"] == 1 + scores.index(max(scores))


@pytest.mark.parametrize("score", [None, -1.0])
def test_without_scores_there_is_no_best(score, tmp_path):
    """-1 is COCO's score where there is nothing to score."""
    write(tmp_path / "checkpoints", {1: score, 2: score}, keep=1)
    assert checkpoints.steps(tmp_path / "checkpoints") == [2]
    assert not (tmp_path / "checkpoints" / checkpoints.BEST).is_symlink()
    assert checkpoints.find_checkpoint(tmp_path).name == "2"


def test_a_step_is_not_written_twice_but_may_be_scored_later(workdir):
    folder = workdir / "checkpoints"
    before = {path: path.stat().st_mtime_ns for path in (folder / "20").rglob("*")}
    write(folder, {20: 0.9})
    assert {path: path.stat().st_mtime_ns for path in (folder / "20").rglob("*")} == before and best(folder) == "20"


def test_a_damaged_best_does_not_stop_the_run(workdir):
    folder = workdir / "checkpoints"
    (folder / "10" / "info" / "metadata").write_text("{")
    assert checkpoints.newest_intact(folder) == 20
    write(folder, {30: 0.2})
    assert checkpoints.newest_intact(folder) == 30


def test_find(workdir):
    folder = workdir / "checkpoints"
    assert checkpoints.find_checkpoint(workdir) == checkpoints.find_checkpoint(folder) == folder / "10"
    assert checkpoints.find_checkpoint(folder / "best").resolve() == folder / "10"
    assert checkpoints.find_checkpoint(str(folder / "20")) == folder / "20"
    (folder / "best").unlink()
    assert checkpoints.find_checkpoint(workdir) == folder / "20"


def test_find_nothing(workdir, tmp_path):
    (tmp_path / "file.txt").write_text("not a checkpoint")
    (tmp_path / "empty").mkdir()
    for path, what in (("nowhere", "does not exist"), ("file.txt", "no checkpoint"), ("empty", "no checkpoint")):
        with pytest.raises(UserError, match=what):
            checkpoints.find_checkpoint(tmp_path / path)
    (workdir / "checkpoints" / "10" / checkpoints.CHECKSUMS).unlink()
    with pytest.raises(UserError, match="damaged"):
        checkpoints.find_checkpoint(workdir)


def test_settings_are_compared(workdir):
    folder = workdir / "checkpoints" / "20"
    checkpoints.check_settings(folder, CONFIG)
    optim, data = dataclasses.replace(CONFIG.optim, lr=1e-3), dataclasses.replace(CONFIG.data, threads=4)
    other = dataclasses.replace(CONFIG, optim=optim, data=data, seed=2)
    with pytest.raises(UserError) as raised:
        checkpoints.check_settings(folder, other)
    for words in ("optim.lr was 0.0001 and is now 0.001", "seed was 1 and is now 2", "--workdir"):
        assert words in str(raised.value)
    assert "threads" not in str(raised.value) and "clip_norm" not in str(raised.value)
    checkpoints.check_settings(folder, dataclasses.replace(CONFIG, data=data))


def test_contents_are_typed(workdir, tmp_path):
    contents = checkpoints.read_contents(workdir / "checkpoints" / "20")
    assert contents == checkpoints.Contents(CATEGORIES, CONFIG.model, CONFIG)
    info = {"model": to_dict(ModelConfig(num_queries=7)), "categories": CATEGORIES.to_rows()}
    with Checkpoints(tmp_path / "checkpoints", keep=1) as saved:
        saved.save(0, make_stored(0)._replace(info=info))
    folder = tmp_path / "checkpoints" / "0"
    assert checkpoints.read_contents(folder) == checkpoints.Contents(CATEGORIES, ModelConfig(num_queries=7), None)
    with pytest.raises(UserError, match="holds converted weights, not a run; choose another --workdir.*init_from="):
        checkpoints.check_settings(folder, CONFIG)


@pytest.mark.parametrize("change, words", [
    ({"config": {"model": {"layer_heads": True}}}, "there is no setting model.layer_heads"),
    ({"config": {"optim": {"lr": "fast"}}}, "optim.lr='fast' is not a number"),
    ({"categories": {"ids": [1, 7], "names": ["a", "b"]}}, "another form"),
    ({"categories": None}, "another form"),
    ({"config": [1]}, "another form"),
])  # fmt: skip
def test_what_another_version_wrote_is_one_sentence(change, words, workdir):
    file = workdir / "checkpoints" / "20" / "info" / "metadata"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match="was written by another version of detr_jax") as raised:
        checkpoints.read_contents(workdir / "checkpoints" / "20")
    assert words in str(raised.value) and "\n" not in str(raised.value)
