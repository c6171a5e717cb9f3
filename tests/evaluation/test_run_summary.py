"""Sentences about a training say what its numbers say."""

import pytest

from detr_jax.evaluation.run_data import RunData
from detr_jax.evaluation.run_files import RunFiles, Session
from detr_jax.evaluation.run_summary import (
    describe_duration,
    describe_hardware,
    describe_progress,
    describe_troubles,
    summarise_run,
)

NO_DATA = RunData(None, None, None, None, [])


def run_of(tmp_path, scores=(), losses=(), more=()) -> RunFiles:
    rows = [{"step": 100 * (i + 1), "coco_eval_bbox": [AP, *[0.5] * 11], "AP_per_class": {"a": AP, "b": 0.5}}
            for i, AP in enumerate(scores)]  # fmt: skip
    rows += [{"step": i + 1, "loss": loss} for i, loss in enumerate(losses)]
    return RunFiles(tmp_path, None, [*rows, *more], [], [], [])


@pytest.mark.parametrize(
    "scores, words",
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), "still rising at the end, from 0.400 at step 400 to 0.600 at step 600"),
        ((0.1, 0.4, 0.5, 0.502, 0.501, 0.503), "hardly changed in the last part, from 0.502 at step 400"),
        ((0.1, 0.6, 0.5, 0.5, 0.4, 0.4), "has fallen since step 200: from 0.600 to 0.400"),
        ((0.1, 0.3), "These are only 2 evaluations"),
        ((0.1,), "one evaluation only"),
    ],
)
def test_whether_it_is_still_improving(tmp_path, scores, words):
    assert words in describe_progress(run_of(tmp_path, scores))[0]


def test_classes_and_losses_that_improve(tmp_path):
    said = describe_progress(run_of(tmp_path, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), [10 - i / 5 for i in range(40)]))
    assert said[1] == "Classes that were still improving: a." and "was still falling (" in said[2]
    assert describe_progress(run_of(tmp_path, losses=[2.0] * 20)) == ["The training loss has levelled off."]
    assert "was rising" in describe_progress(run_of(tmp_path, losses=range(1, 30)))[0]
    assert describe_progress(run_of(tmp_path)) == []


def test_there_is_no_trend_where_nothing_could_be_scored(tmp_path):
    assert describe_progress(run_of(tmp_path, (-1.0, -1.0))) == []
    assert "hold no objects" in summarise_run(run_of(tmp_path, (-1.0,)), NO_DATA, None)[1]


@pytest.mark.parametrize(
    "seconds, words",
    [(0, "0 seconds"), (89.4, "89 seconds"), (91, "2 minutes"), (5940, "99 minutes"), (6000, "1 h 40 min"),
     (170_000, "47 h 13 min"), (200_000, "2 days 8 h"), (None, "an unknown time")],
)  # fmt: skip
def test_durations(seconds, words):
    assert describe_duration(seconds) == words


def test_devices_are_counted():
    def devices(**record) -> str:
        return describe_hardware([Session(0, None, "", None, None, "", record)])

    assert devices(devices=["NVIDIA H100 (gpu)"] * 8, hosts=2, cpu_cores=96) == "8 x NVIDIA H100 (gpu) of 2 hosts"
    assert devices(devices=["cpu (cpu)"], cpu_cores=1) == "one CPU with 1 core"
    assert devices() == devices(devices="none") == describe_hardware([]) == "a machine that is not known"


def test_what_was_left_out_is_said(tmp_path):
    more = [{"step": 1, "skipped": 2, "broken_images": 1}, {"step": 2, "broken_validation_images": 3}]
    said = describe_troubles(run_of(tmp_path, more=more))
    assert said == ["2 steps were left out: the gradient was not finite.",
                    "1 training image was left out: decoding failed.",
                    "3 validation images could not be decoded and count as not detected."]  # fmt: skip
