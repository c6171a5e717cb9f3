"""The list of single errors has each of them once."""

import csv
from collections import Counter

import numpy as np

from detr_jax.evaluation import errors
from detr_jax.evaluation.mistakes import COLUMNS, list_mistakes, write_mistakes
from detr_jax.evaluation.tide import TYPES
from tests.evaluation.random_results import random_set


def test_each_error_is_listed_once(tmp_path):
    found = errors.analyse(*random_set(1))
    write_mistakes(found, tmp_path / "mistakes.csv")
    rows = list(csv.DictReader((tmp_path / "mistakes.csv").open(encoding="utf-8")))
    assert tuple(rows[0]) == COLUMNS
    counts = Counter(row["type"] for row in rows)
    wanted = found.counts_at_thresholds
    assert {kind: counts[kind] for kind in TYPES} == {kind: wanted[kind] for kind in TYPES}
    assert counts["Miss"] + counts["FN"] == wanted["FN"]


def test_boxes_and_overlaps_are_those_of_the_pair():
    found = errors.analyse(*random_set(2))
    compared = [row for row in list_mistakes(found) if row[0] in ("Cls", "Loc", "Dupe")]
    assert compared
    for row in compared:
        one, other = (np.array(row[start : start + 4], float) for start in (5, 11))
        low, high = np.maximum(one[:2], other[:2]), np.minimum(one[:2] + one[2:], other[:2] + other[2:])
        common = np.clip(high - low, 0, None).prod()
        assert abs(common / (one[2:].prod() + other[2:].prod() - common) - row[9]) < 1e-4
        assert (row[3] == row[10]) == (row[0] != "Cls")
