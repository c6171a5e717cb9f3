"""Several runs: who is ahead at equal steps, what that is worth, and what cannot be compared."""

import csv
import json

import pytest

from detr_jax.errors import UserError
from detr_jax.evaluation.curves import compare_runs, conclude, describe_runs, write_curves
from detr_jax.evaluation.overlay import draw_runs
from detr_jax.evaluation.run_logs import RunLog, complete_axes
from tests.evaluation.test_plots import size_and_ink


def run(name: str, steps: int, AP: float, batch_size: int | None = 4, **settings) -> RunLog:
    rows = [{"step": float(step), "loss": 100.0 / step} for step in range(1, steps + 1)]
    rows += [{"step": float(step), "AP": AP * step / 100, "AP50": AP} for step in range(50, steps + 1, 50)]
    complete_axes(rows, batch_size)
    known = {"train.batch_size": batch_size, "seed": 0, "optim.lr": 1e-4} if batch_size else {}
    return RunLog(name, f"runs/{name}", rows, known | settings, None, [])


def test_runs_are_compared_after_equal_steps():
    found = compare_runs([run("a", 100, 0.4), run("b", 200, 0.3, **{"optim.lr": 1e-3})])
    assert found.axis == "step" and found.common == 100
    a, b = found.summaries
    assert (a.best_AP, a.best_AP_at, a.common_AP) == (0.4, 100, 0.4) and b.common_AP == 0.3 and b.best_AP == 0.6
    said = conclude(found)
    assert any("After 100 steps a is ahead: AP a 0.400, b 0.300" in line for line in said)
    assert any(line.startswith("Each was trained once") for line in said)
    assert a.loss_halved_at <= 6


def test_seeds_say_what_a_difference_is_worth():
    runs = [run("a0", 100, 0.40), run("a1", 100, 0.43, seed=1), run("b", 100, 0.41, **{"optim.lr": 1e-3})]
    said = conclude(compare_runs(runs))
    assert any("up to 0.030 AP apart: a smaller difference is none" in line for line in said)
    alone = conclude(compare_runs(runs[:2]))
    assert any("They differ in the seed alone: 0.030 AP" in line for line in alone)


def test_other_batch_sizes_are_compared_over_images():
    found = compare_runs([run("a", 100, 0.4), run("b", 100, 0.4, batch_size=8)])
    assert found.axis == "images" and found.common == 400 and any("batch sizes differ" in note for note in found.notes)
    assert any("equal steps are different numbers" in note for note in compare_runs(found.runs, "step").notes)


def test_what_cannot_be_compared_is_said():
    runs = [run("a", 100, 0.4, **{"data.name": "cells"}), run("b", 100, 0.4, **{"data.name": "coco"})]
    assert any("The data differ" in note for note in compare_runs(runs).notes)
    runs = [run("a", 100, 0.4, **{"loss.bbox": 5.0}), run("b", 100, 0.4, **{"loss.bbox": 2.0})]
    assert any("compare AP, not loss" in note for note in compare_runs(runs).notes)
    unknown = compare_runs([run("a", 9, 0), run("b", 9, 0, None)])
    assert any("batch size of b is not known" in note for note in unknown.notes)
    with pytest.raises(UserError, match="--x=images: no run tells its images"):
        compare_runs([run("b", 100, 0.4, None)], "images")


def test_runs_without_evaluations_are_compared_by_their_losses():
    said = conclude(compare_runs([run("a", 20, 0.4), run("b", 30, 0.4)]))
    assert any("only their losses can be compared" in line for line in said)
    assert any("After 20 steps" in line and "loss" in line for line in said)


def test_the_table_has_a_row_for_each_run():
    lines = describe_runs(compare_runs([run("a", 100, 0.4), run("longer name", 50, 0.4)])).splitlines()
    assert lines[0].split() == ["run", "steps", "best", "AP", "at", "AP", "at", "50", "loss", "halved", "by"]
    assert lines[1].startswith("a  ") and lines[2].startswith("longer name  ")
    one = describe_runs(compare_runs([run("a", 100, 0.4)])).splitlines()
    assert "AP at" not in one[0] and len(one) == 2


def test_files_and_picture(tmp_path):
    found = compare_runs([run("a", 100, 0.4), run("b", 100, 0.3)])
    write_curves(found, tmp_path)
    draw_runs(found, tmp_path / "curves.png")
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert {"run": "a", "step": "100.0", "name": "AP", "value": "0.4"} in rows
    told = json.loads((tmp_path / "curves.json").read_text())
    assert [one["best_AP"] for one in told["runs"]] == [0.4, 0.3] and told["common"] == 100
    (width, _), ink = size_and_ink(tmp_path / "curves.png")
    assert width == 1500 and ink


def test_many_runs_fit_into_one_picture(tmp_path):
    draw_runs(compare_runs([run(f"{i:02d} $x_1$ <b>", 60, i / 40) for i in range(30)]), tmp_path / "many.png")
    assert size_and_ink(tmp_path / "many.png")[1]
