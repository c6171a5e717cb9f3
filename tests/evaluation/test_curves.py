"""Runs over one axis: what is compared where, and what is said of it."""

import csv
import json

import numpy as np
import pytest

from detr_jax.errors import UserError
from detr_jax.evaluation.curves import choose_axis, compare_runs, conclude, describe_runs, write_curves
from detr_jax.evaluation.run_logs import RunLog

SETTINGS = {"seed": 1, "optim.lr": 0.1, "train.batch_size": 4, "data.name": "cells", "loss.class_weight": 1.0}


def run_of(name, scores, losses=(), axis="step", **changes):
    """A run that is evaluated at each of these places, {place: AP}."""
    settings = {**SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}} if changes else {}
    rows = [{axis: float(at), "AP": score} for at, score in scores.items()]
    rows += [{axis: float(at), "loss": loss} for at, loss in losses]
    if settings and axis == "step":
        rows = [{**row, "images": row["step"] * settings["train.batch_size"]} for row in rows]
    return RunLog(name, f"runs/{name}", sorted(rows, key=lambda row: row[axis]), settings, 300, [])


def said(*runs, axis=None):
    return "\n".join(conclude(compare_runs(list(runs), axis)))


def test_runs_are_compared_where_all_have_been_evaluated():
    a = run_of("a", {100: 0.1, 200: 0.5, 300: 0.2}, seed=1)
    b = run_of("b", {150: 0.3, 190: 0.4, 230: 0.45}, seed=1, optim__lr=0.2)
    found = compare_runs([a, b])
    first, second = found.summaries
    assert found.axis == "step" and found.common == 230
    assert (first.common_AP, first.common_AP_at, first.best_AP, first.best_AP_at) == (0.5, 200, 0.5, 200)
    assert (second.common_AP, second.common_AP_at) == (0.45, 230)
    words = "\n".join(conclude(found))
    assert "After 230 steps a is ahead: AP a 0.500 (evaluated at 200), b 0.450." in words
    assert "The runs differ in optim.lr (0.1, 0.2)." in words and "Each was trained once" in words


def test_a_run_that_ended_early_does_not_hold_up_the_others():
    late = [run_of(name, {1000: 0.3, 2000: score}) for name, score in (("a", 0.4), ("b", 0.5))]
    found = compare_runs([*late, run_of("c", {10: 0.9})])
    assert found.common == 2000 and found.summaries[2].common_AP is None
    assert "b is ahead" in "\n".join(conclude(found)) and "Not ranked" in "\n".join(conclude(found))


def test_seeds_tell_what_a_difference_is_worth():
    a, b = (run_of(f"a{seed}", {100: 0.50 + seed / 100}, seed=seed) for seed in (1, 4))
    assert "They differ in the seed alone: 0.030 AP" in said(a, b)
    assert "Runs that differ in the seed alone are up to 0.030 AP apart" in said(
        a, b, run_of("c", {100: 0.6}, seed=1, optim__lr=1.0)
    )
    assert "the same settings and seed, and are 0.010 AP apart" in said(a, run_of("again", {100: 0.52}, seed=1))


def test_what_cannot_be_compared_is_said():
    a = run_of("a", {100: 0.5}, seed=1)
    words = said(a, run_of("b", {100: 0.5}, seed=1, loss__class_weight=2.0, data__name="plants"))
    assert "The data differ (data.name)" in words and "losses are not the same sum (loss.class_weight" in words
    assert "level" in words
    assert "The batch size of theirs is not known" in said(a, run_of("theirs", {100: 0.5}))


def test_other_batch_sizes_are_compared_over_images():
    a, b = run_of("a", {100: 0.5}, seed=1), run_of("b", {50: 0.4, 100: 0.6}, seed=1, train__batch_size=8)
    assert compare_runs([a, b]).axis == "images" and compare_runs([a, b]).common == 400
    assert "batch sizes differ (4, 8): equal steps are different numbers" in said(a, b, axis="step")


def test_runs_without_the_axis_are_left_out():
    step, epoch = run_of("a", {100: 0.5}, seed=1), run_of("b", {3: 0.5}, axis="epoch")
    axis, notes = choose_axis([step, epoch], None)
    assert axis == "step" and notes == ["b does not tell its steps, only epochs; left out"]
    assert [run.name for run in compare_runs([step, epoch], "epoch").runs] == ["b"]
    with pytest.raises(UserError, match="--x=hours: no run tells its hours; they have steps, epochs, images"):
        choose_axis([step, epoch], "hours")


def test_runs_without_evaluation_are_compared_by_their_loss():
    falling = [(step, 8.0 * 0.9 ** (step / 10)) for step in range(10, 301, 10)]
    a, b = run_of("a", {}, falling), run_of("b", {100: 0.1}, falling[:20])
    found = compare_runs([a, b])
    assert found.common == 200 and "only their losses can be compared" in "\n".join(conclude(found))
    assert found.summaries[0].common_loss == found.summaries[1].common_loss == pytest.approx(8 * 0.9**20)
    halved = next(step for step, loss in falling if loss <= falling[0][1] / 2)
    assert found.summaries[0].loss_halved_at == halved
    assert "200 of 300" in describe_runs(found)


def test_noisy_losses_are_their_mean():
    rng = np.random.default_rng(0)
    noisy = [(step, 5.0 + rng.normal()) for step in range(1, 1001)]
    run = run_of("a", {}, noisy)
    found = compare_runs([run])
    assert found.window(run, "loss") == 20
    assert found.summaries[0].last_loss == pytest.approx(np.mean([loss for _, loss in noisy[-20:]]))
    assert found.summaries[0].loss_halved_at is None and found.common is None and conclude(found) == []


def test_every_point_is_written(tmp_path):
    run = run_of("a", {100: 0.5}, [(50, 2.0)], seed=1)
    found = compare_runs([run, run_of("b, c", {100: 0.25}, seed=2)])
    write_curves(found, tmp_path)
    rows = list(csv.reader((tmp_path / "curves.csv").open()))
    assert rows == [["run", "step", "name", "value"], ["a", "50.0", "loss", "2.0"], ["a", "100.0", "AP", "0.5"],
                    ["b, c", "100.0", "AP", "0.25"]]  # fmt: skip
    told = json.loads((tmp_path / "curves.json").read_text())
    assert told["differences"] == {"seed": {"a": 1, "b, c": 2}} and told["runs"][1]["best_AP"] == 0.25
