"""The training program with every option of the fast detector: it goes on bit for bit, from pixels or from features."""

import hashlib
import json

import jax
import numpy as np
import pytest
from programs import assert_one_sentence, assert_same_state, numbers, of_session, rows

from detr_jax.structures import Categories
from detr_jax.weights import sources

EVERYTHING = (
    "--config.model.queries=selected", "--config.model.anchors=True", "--config.model.focus=True",
    "--config.model.finer_memory=True", "--config.model.denoising=2", "--config.model.layer_heads=True",
    "--config.model.class_scores=sigmoid",
)  # fmt: skip
CACHED = (
    "--config.model.norm=frozen_batch", "--config.freeze=('backbone/layer2',)", "--config.train.cache_features=layer2",
)  # fmt: skip


@pytest.fixture
def programs(tmp_path_factory):
    return of_session(tmp_path_factory)


@pytest.mark.parametrize("more", [(), CACHED], ids=["pixels", "kept features"])
def test_resumed_equals_unbroken(programs, tmp_path, more):
    arguments = [*EVERYTHING, *more]
    done = programs.run_all(
        "train",
        [
            programs.training(tmp_path / "straight", *arguments),
            programs.training(tmp_path / "broken", *arguments, "--config.train.steps=3"),
            programs.training(tmp_path / "broken", *arguments),
        ],
    )
    assert [one.returncode for one in done] == [0, 0, 0], [one.stderr for one in done]
    assert_same_state(tmp_path / "broken", tmp_path / "straight", 6)
    assert numbers(tmp_path / "broken") == numbers(tmp_path / "straight")
    for row in rows(tmp_path / "straight"):
        if "loss" in row:
            ends = ("", "_0", "_enc", "_dn", "_dn_0")
            parts = sum(row[f"loss_ce{a}"] + 5 * row[f"loss_bbox{a}"] + 2 * row[f"loss_giou{a}"] for a in ends)
            assert row["loss"] == pytest.approx(parts, rel=1e-5)
    detected = programs.run("evaluate", f"--workdir={tmp_path / 'straight'}", f"--output={tmp_path / 'out'}")
    assert detected.returncode == 0, detected.stderr
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(found) == 4 * 10 * 3  # images, queries, classes: every pair counts


def test_contradictions_are_one_sentence(programs, tmp_path):
    done = programs.run_all(
        "train",
        [
            programs.training(tmp_path / "a", "--config.model.denoising=2"),
            programs.training(tmp_path / "b", "--config.model.queries=selected"),
            programs.training(tmp_path / "c", "--config.train.cache_features=layer2"),
            programs.training(tmp_path / "d", "--config.model.class_scores=focal"),
        ],
    )
    words = (("denoising", "anchors=True"), ("queries", "anchors=True"), ("layer2", "--config.freeze"), ("sigmoid",))
    for one, expected in zip(done, words, strict=True):
        assert_one_sentence(one, *expected)
    assert not any((tmp_path / name).exists() for name in "abcd")


def test_a_checkpoint_from_before_the_options_goes_on(programs, tmp_path):
    """Its settings lack the new keys; they stand for what it was trained with."""
    workdir = tmp_path / "run"
    first = programs.run("train", *programs.training(workdir, "--config.train.steps=3"))
    assert first.returncode == 0, first.stderr
    path = workdir / "checkpoints/3/info/metadata"
    info = json.loads(path.read_text())
    for name in ("queries", "anchors", "focus", "finer_memory", "denoising", "layer_heads", "class_scores", "masks"):
        del info["config"]["model"][name]
    del info["config"]["data"]["flip_vertical"], info["config"]["train"]["cache_features"]
    path.write_text(json.dumps(info))
    sums = workdir / "checkpoints/3/checksums.json"
    table = json.loads(sums.read_text())
    table["info/metadata"] = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    sums.write_text(json.dumps(table))
    again, other = programs.run_all(
        "train", [programs.training(workdir), programs.training(workdir, "--config.model.layer_heads=True")]
    )
    assert again.returncode == 0, again.stderr
    assert_same_state(workdir, programs.trained, 6)
    assert_one_sentence(other, "model.layer_heads was False and is now True")


def shapes_of(arrays: dict) -> dict:
    return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}


@pytest.mark.parametrize("more", [0, 1], ids=["sigmoid", "softmax"])
def test_rows_of_equal_classes_in_every_array_that_has_them(more, tmp_path):
    """Sigmoid heads have no row for no object, and the last class is not taken for one."""
    rng = np.random.default_rng(0)
    old, new = Categories((1, 2, 3), ("cat", "dog", "cow")), Categories((7, 8), ("cow", "emu"))
    names = ("class_head/kernel", "anchor_decoder/source/class_head/kernel", "earlier_heads/0/0/kernel")
    theirs = {name: rng.normal(size=(4, 3 + more)).astype(np.float32) for name in names}
    theirs[sources.LABELS] = rng.normal(size=(3, 4)).astype(np.float32)
    fresh = {name: np.full((4, 2 + more), 7, np.float32) for name in names}
    fresh[sources.LABELS] = np.full((2, 4), 7, np.float32)
    source = sources.Source(tmp_path, "a test", theirs, [], {}, None, old, True)
    found, report = sources.fit(source, shapes_of(fresh), fresh, new)
    assert set(report.partly) == fresh.keys() and not report.fresh
    for name in names:
        wanted = np.full((4, 2 + more), 7, np.float32)
        wanted[:, 0] = theirs[name][:, 2]
        if more:
            wanted[:, -1] = theirs[name][:, -1]
        np.testing.assert_array_equal(found[name], wanted)
    np.testing.assert_array_equal(found[sources.LABELS], [theirs[sources.LABELS][2], [7] * 4])


def test_softmax_rows_are_not_taken_for_sigmoid_rows(tmp_path):
    classes = Categories((1, 2), ("cat", "dog"))
    theirs = {"class_head/kernel": np.ones((4, 3), np.float32), "box_head/layers/0/bias": np.ones(4, np.float32)}
    source = sources.Source(tmp_path, "a test", theirs, [], {}, None, Categories((1, 2), ("dog", "emu")), True)
    fresh = {"class_head/kernel": np.zeros((4, 2), np.float32), "box_head/layers/0/bias": np.zeros(4, np.float32)}
    _, report = sources.fit(source, shapes_of(fresh), fresh, classes)
    assert report.fresh == ["class_head/kernel"] and report.loaded == ["box_head/layers/0/bias"]
