"""Checkpoints come back bit for bit; of damaged ones the one before is used; the best is kept whatever is lost."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.config import ModelConfig
from detr_jax.config_forms import to_dict
from detr_jax.errors import UserError
from detr_jax.weights import checkpoints, finding, manifest
from detr_jax.weights.checkpoints import Checkpoints
from tests.weights.small_run import CATEGORIES, CONFIG, make_stored, write


def like(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def assert_same_bits(found, wanted) -> None:
    def check(one, other):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()

    jax.tree.map(check, found, wanted)


def test_everything_comes_back_bit_for_bit(written):
    stored, folder = make_stored(20, averaged=True), written / "checkpoints" / "20"
    assert_same_bits(checkpoints.read_arrays(folder, "model", like(stored.model)), stored.model)
    assert_same_bits(checkpoints.read_arrays(folder, "averaged", like(stored.averaged)), stored.averaged)
    assert_same_bits(checkpoints.read_arrays(folder, "progress", like(stored.progress)), stored.progress)
    info = checkpoints.read_info(folder)
    assert info["config"] == to_dict(CONFIG)
    assert info["categories"] == [{"id": 1, "name": "a"}, {"id": 7, "name": "b"}]
    assert info["step"] == 20
    assert_same_bits(checkpoints.read_numpy(folder, "model"), stored.model)
    assert all(type(array) is np.ndarray for array in checkpoints.read_numpy(folder, "averaged").values())
    assert manifest.damage(folder) is None


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


def test_a_save_that_was_killed_is_ignored_and_cleared_away(workdir):
    folder = workdir / "checkpoints"
    half = folder / "30.orbax-checkpoint-tmp-0"
    (half / "model").mkdir(parents=True)
    (half / "model" / "part").write_bytes(b"half")
    assert finding.steps(folder) == [10, 20] and finding.newest_intact(folder) == 20
    write(folder, {30: None})
    assert not half.exists() and manifest.damage(folder / "30") is None
    assert not list(folder.glob("*tmp*"))


def best(folder: Path) -> str:
    return (folder / finding.BEST).resolve().name


def test_the_newest_and_the_best_are_kept(tmp_path):
    folder = tmp_path / "checkpoints"
    write(folder, {1: 0.1, 2: 0.5, 3: None, 4: 0.2, 5: None}, keep=2)
    assert finding.steps(folder) == [2, 4, 5] and best(folder) == "2"
    log = {1: 0.1, 2: 0.5, 4: 0.2}
    write(folder, {6: 0.4}, keep=2, log=log)  # a restart remembers
    assert finding.steps(folder) == [2, 5, 6] and best(folder) == "2"
    write(folder, {7: 0.6}, keep=1, log=log | {6: 0.4})
    assert finding.steps(folder) == [7] and best(folder) == "7"


@pytest.mark.parametrize("log", [{}, {4: 0.3}, {4: 0.3, 2: 0.5}], ids=["no log", "half a log", "log"])
@pytest.mark.parametrize("link", ["2", "4", "nowhere", None])
def test_the_best_is_kept_whatever_is_lost(log, link, tmp_path):
    folder = tmp_path / "checkpoints"
    write(folder, {2: 0.5, 3: None, 4: 0.3}, keep=1)
    assert finding.steps(folder) == [2, 4] and best(folder) == "2"
    (folder / "best").unlink()
    if link:
        (folder / "best").symlink_to(link)
    write(folder, {6: 0.4, 8: 0.1}, keep=1, log=log)
    write(folder, {10: 0.2}, keep=1, log=log | {6: 0.4, 8: 0.1})
    assert 2 in finding.steps(folder) and manifest.damage(folder / "2") is None
    assert best(folder) == ("2" if 2 in log else "6")  # the best of those that are known
    write(folder, {11: 0.6}, keep=1, log={2: 0.5, 4: 0.3, 6: 0.4, 8: 0.1, 10: 0.2})
    assert finding.steps(folder) == [11]  # as soon as all are known, the best alone


def test_what_the_link_names_is_kept_until_its_score_is_known(tmp_path):
    folder = tmp_path / "checkpoints"
    write(folder, {1: 0.5, 3: None}, keep=1)  # odd steps need no evaluation
    write(folder, {5: 0.1}, keep=1, log={})
    assert finding.steps(folder) == [1, 5]
    write(folder, {7: 0.2}, keep=1, log={1: 0.5, 5: 0.1})
    assert finding.steps(folder) == [1, 7] and best(folder) == "1"


def test_a_workdir_whose_link_became_a_folder_goes_on(workdir, tmp_path):
    """Many programs that copy folders follow links."""
    copy = Path(shutil.copytree(workdir / "checkpoints", tmp_path / "copy"))
    assert (copy / "best").is_dir() and not (copy / "best").is_symlink()
    assert finding.find_checkpoint(copy) == str(copy / "20")
    write(copy, {30: 0.1}, log={10: 0.4, 20: 0.3})
    assert (copy / "best").is_symlink() and best(copy) == "10"
    (copied,) = copy.glob("best-copied-*")
    assert manifest.damage(copied) is None  # nothing is deleted


@pytest.mark.parametrize("scores", [(0.0, 0.0, 0.0), (0.3, 0.3, 0.2, 0.1)])
def test_equal_scores_keep_a_best(scores, tmp_path):
    folder = tmp_path / "checkpoints"
    write(folder, dict(enumerate(scores, start=1)), keep=1)
    assert (folder / finding.BEST / "info").is_dir()
    assert checkpoints.read_info(folder / finding.BEST)["step"] == 1 + scores.index(max(scores))


@pytest.mark.parametrize("score", [None, -1.0])
def test_without_scores_there_is_no_best(score, tmp_path):
    """-1 is COCO's score where there is nothing to score."""
    write(tmp_path / "checkpoints", {1: score, 2: score}, keep=1)
    assert finding.steps(tmp_path / "checkpoints") == [2]
    assert not (tmp_path / "checkpoints" / finding.BEST).is_symlink()
    assert Path(finding.find_checkpoint(tmp_path)).name == "2"


def test_a_step_is_not_written_twice_but_may_be_scored_later(workdir):
    folder = workdir / "checkpoints"
    before = {path: path.stat().st_mtime_ns for path in (folder / "20").rglob("*")}
    write(folder, {20: 0.9})
    assert {path: path.stat().st_mtime_ns for path in (folder / "20").rglob("*")} == before and best(folder) == "20"


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
