"""What a comparison writes can be read, whatever the names; its pictures and pages are there."""

import csv
import json

import numpy as np
import pytest

from detr_jax.evaluation import compare_plots, verdicts
from detr_jax.evaluation.compare_files import write_comparison
from detr_jax.evaluation.compare_text import format_comparison, write_markdown
from detr_jax.evaluation.published import read_published
from tests.evaluation.random_results import random_set
from tests.evaluation.test_compare import compare_all, jitter

ODD = "$x_{1}$ | \"猫\n'"


@pytest.fixture(scope="module")
def found():
    ground_truth, results = random_set(8, crowds=True)
    ground_truth["categories"][0]["name"] = ODD
    return compare_all(ground_truth, **{"a": results, ODD: jitter(results, 1, 0.1), "empty": []})


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory):
    folder, facts = tmp_path_factory.mktemp("compare"), {"a": {"parameters": 1e6}}
    said, rows = verdicts.judge(found, facts), read_published()[:5]
    write_comparison(found, facts, rows, said, folder)
    write_markdown(found, facts, rows, said, folder)
    assert compare_plots.draw_comparison(found, rows, folder) == ["ap.png", "error_types.png", "classes.png"]
    return folder


def table(path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_compare_json_holds_every_number(found, folder):
    written = json.loads((folder / "compare.json").read_text(), parse_constant=pytest.fail)
    assert list(written["detectors"]) == ["a", ODD, "empty"] and written["bootstrap"]["draws"] == 100
    for detector in found.detectors:
        row = written["detectors"][detector.name]
        assert row["AP"] == detector.metrics.AP and row["AR_large"] == detector.metrics.AR_large
        assert set(row["tide"]) == {"Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FP", "FN"}
        low, high = row["intervals"]["AP"]
        assert low <= row["AP"] <= high and {"D_ECE", "LaECE", "oLRP", "mean_iou"} <= row.keys()
    rows = written["differences"]
    assert len(rows) == 3 * (6 + 4) and {tuple(row["pair"]) for row in rows} == {
        (ODD, "a"), ("empty", "a"), ("empty", ODD)
    }  # fmt: skip
    for row in rows:
        one, other = (written["detectors"][name] for name in row["pair"])
        if row["class"] is None:
            assert row["estimate"] == pytest.approx(one[row["metric"]] - other[row["metric"]], abs=1e-12)
        if row["low"] is None:
            assert row["metric"] == "AP_large" and "too few to tell" in row["verdict"]
            continue
        assert row["low"] <= row["estimate"] <= row["high"]
        holds_zero = row["low"] <= 0 <= row["high"]
        assert holds_zero == (row["verdict"] == "no difference that 60 images can show")
    first = written["images_by_errors"][0]["more_errors"][0]["errors"]
    assert first[ODD] > first["a"] and len(written["published"]) == 5


def test_the_tables_agree_with_the_record(found, folder):
    detectors = table(folder / "compare.csv")
    assert [row["detector"] for row in detectors] == ["a", ODD, "empty"]
    assert float(detectors[0]["AP"]) == found.detectors[0].metrics.AP and detectors[0]["parameters"] == "1000000.0"
    assert float(detectors[0]["AP_low"]) == found.detectors[0].intervals["AP"].low
    classes = table(folder / "per_class.csv")
    assert classes[0]["name"] == ODD and len(classes) == 4
    assert float(classes[1]["empty minus a"]) == -found.detectors[0].metrics.classes[1].AP
    images = table(folder / "images.csv")
    assert len(images) == 60 and sum(int(row["missed a"]) for row in images) == found.detectors[0].missed.sum()
    assert len(table(folder / "differences.csv")) == 30 and len(table(folder / "published.csv")) == 5
    assert not list(folder.glob(".*"))


def test_compare_md_has_tables_that_names_do_not_break(folder):
    text = (folder / "compare.md").read_text(encoding="utf-8")
    blocks, block = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append(line.replace("\\|", "").count("|"))
        elif block:
            blocks, block = [*blocks, block], []
    assert len(blocks) == 3 and all(len(set(block)) == 1 for block in blocks)
    assert "## Published, not measured here" in text and "parameters not known" in text


def test_what_is_printed_has_straight_columns(found):
    lines = format_comparison(found, []).splitlines()
    assert len({len(line) for line in lines[1:]}) == 1 and "published" not in format_comparison(found, [])


def test_one_detector_is_a_table_too(tmp_path):
    ground_truth, results = random_set(2)
    alone = compare_all(ground_truth, a=results)
    write_comparison(alone, {}, [], verdicts.judge(alone, {}), tmp_path)
    write_markdown(alone, {}, [], [], tmp_path)
    assert compare_plots.draw_comparison(alone, [], tmp_path) == ["ap.png", "error_types.png"]
    assert json.loads((tmp_path / "compare.json").read_text())["differences"] == []


def test_without_objects_everything_is_written(tmp_path):
    ground_truth, results = random_set(2)
    empty = compare_all({**ground_truth, "annotations": []}, a=results, b=[])
    write_comparison(empty, {}, read_published(), verdicts.judge(empty, {}), tmp_path)
    write_markdown(empty, {}, read_published(), [], tmp_path)
    compare_plots.draw_comparison(empty, read_published()[:3], tmp_path)
    assert json.loads((tmp_path / "compare.json").read_text())["detectors"]["a"]["AP"] == -1
    assert np.isnan(empty.differences[0].classes[0].estimate)
    assert "-" in format_comparison(empty, [])
