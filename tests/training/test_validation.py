"""Evaluation while training, with a detector that knows the answers: numbers, files, pictures, breaking off."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax import devices
from detr_jax.datasets.split import open_split
from detr_jax.signals import Interrupted
from detr_jax.structures import Detections
from detr_jax.training.step import TrainState
from detr_jax.training.validation import Validation
from tests.programs import VAL
from tests.training.small import make_small_recipe


@pytest.fixture(scope="module")
def split(programs):
    return open_split(programs.data, "tiny", "val")


class Knowing:
    """A detector that finds the annotations; ``seen`` are the rows that it was asked for."""

    def __init__(self):
        self.seen, self.arrays = [], None

    def with_arrays(self, arrays):
        self.arrays = arrays
        return self

    def over(self, split, batch_size, on_measured):
        for row in range(len(split)):
            self.seen.append(row)
            record = split[row]
            scores = np.full(len(record.labels), 0.9, np.float32)
            yield row, Detections(record.boxes_xyxy_pixels, scores, record.labels, split.categories)


def make(split, workdir, samples: int) -> tuple[Validation, Knowing]:
    recipe = make_small_recipe({"train.samples": samples}, devices.make_mesh(devices=jax.devices()[:1]))
    validation, knowing = Validation(recipe._replace(categories=split.categories), split, workdir), Knowing()
    validation._detector = knowing
    return validation, knowing


def state_of(params, average=None) -> TrainState:
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, (), params, {}, (), average or {}, zero, zero)


def test_the_annotations_reach_1_and_everything_is_written(split, tmp_path):
    validation, knowing = make(split, tmp_path, samples=2)
    row = validation(state_of({"a": jnp.zeros(1)}), 20)
    without = sum(not len(split[index].labels) for index in range(VAL))  # a real detector always finds something
    assert row["step"] == 20 and row.get("broken_validation_images", 0) == without
    assert (
        abs(row["coco_eval_bbox"][0] - 1.0) < 1e-6
        and knowing.seen == list(range(VAL))
        and list(knowing.arrays) == ["a"]
    )
    assert set(row["AP_per_class"]) <= set(split.categories.names) and row["AP_per_class"]
    found = json.loads((tmp_path / "eval/20/predictions.json").read_text())
    assert len(found) == sum(len(split[row].labels) for row in range(VAL))
    assert (tmp_path / "samples/step_00000020.png").stat().st_size > 1000


def test_without_samples_nothing_is_drawn(split, tmp_path):
    validation, _ = make(split, tmp_path, samples=0)
    validation(state_of({}), 20)
    assert not (tmp_path / "samples").exists() and (tmp_path / "eval/20/metrics.json").exists()


def test_it_is_broken_off_by_what_the_poll_raises_and_leaves_nothing(split, tmp_path):
    validation, knowing = make(split, tmp_path, samples=2)

    def poll() -> None:
        if len(knowing.seen) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        validation(state_of({}), 20, poll)
    assert knowing.seen == [0, 1] and list(tmp_path.iterdir()) == []


def test_of_a_moving_average_both_are_scored(split, tmp_path):
    validation, knowing = make(split, tmp_path, samples=0)
    row = validation(state_of({"a": jnp.zeros(1)}, {"a": jnp.ones(1)}), 20)
    assert knowing.seen == 2 * list(range(VAL)) and float(knowing.arrays["a"][0]) == 1.0  # the average last
    assert row["coco_eval_bbox_plain"] == row["coco_eval_bbox"]
    assert "coco_eval_bbox_plain" not in validation(state_of({"a": jnp.zeros(1)}), 20)


def test_the_time_of_an_evaluation_leaves_compilation_out(split, tmp_path, monkeypatch, clock):
    validation, _ = make(split, tmp_path, samples=0)

    class Slow(Knowing):
        def over(self, split, batch_size, on_measured=None):
            for row in range(40):
                clock.now += 60.0 if row == 3 else 1.0
                yield row, None

    validation._detector, validation._split = Slow(), range(100)
    assert validation.time(state_of({})) == pytest.approx(100.0, rel=0.1)
    assert validation.time(state_of({}, {"a": jnp.ones(1)})) == pytest.approx(200.0, rel=0.1)
