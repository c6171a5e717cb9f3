"""Training with every option of the fast detector: it goes on bit for bit, from pixels or from features."""

import json

import pytest

from detr_jax.datasets.split import open_split
from detr_jax.inference.detector import load
from detr_jax.train import train
from tests.programs import QUERIES, VAL, assert_same_state, numbers, rows

pytestmark = pytest.mark.usefixtures("compile_once")
EVERYTHING = {
    "model.queries": "selected",
    "model.anchors": True,
    "model.focus": True,
    "model.finer_memory": True,
    "model.denoising": 2,
    "model.class_scores": "sigmoid",
}
CACHED = {"model.norm": "frozen_batch", "freeze": ("backbone/layer2",), "train.cache_features": "layer2"}
CLASSES = 3


@pytest.mark.parametrize("more", [{}, CACHED], ids=["pixels", "kept features"])
def test_resumed_equals_unbroken(programs, tmp_path, more):
    settings = EVERYTHING | more
    train(programs.config(settings), tmp_path / "straight")
    train(programs.config(settings | {"train.steps": 3}), tmp_path / "broken")
    train(programs.config(settings), tmp_path / "broken")
    assert_same_state(tmp_path / "broken", tmp_path / "straight", 6)
    assert numbers(tmp_path / "broken") == numbers(tmp_path / "straight")
    for row in rows(tmp_path / "straight"):
        if "loss" in row:
            ends = ("", "_0", "_enc", "_dn", "_dn_0")
            parts = sum(row[f"loss_ce{a}"] + 5 * row[f"loss_bbox{a}"] + 2 * row[f"loss_giou{a}"] for a in ends)
            assert row["loss"] == pytest.approx(parts, rel=1e-5)
            assert row.keys() >= {"cardinality_error", "cardinality_error_0", "cardinality_error_enc"}

    # What the run's own evaluation found, and what its checkpoint finds as a detector.
    detector, split = load(tmp_path / "straight" / "checkpoints" / "6"), open_split(programs.data, "tiny", "val")
    again = sum(len(detections) for _, detections in detector.over(split, 4))
    found = json.loads((tmp_path / "straight" / "eval" / "6" / "predictions.json").read_text())
    assert again == len(found) == VAL * QUERIES * CLASSES  # every pair counts
