"""Any name can be shown: it is visible, on one line, and differs where names differ."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detr_jax import drawing, names

ROOT = Path(__file__).parents[1]
ODD = ["Ba$$in", "$5_{ bill$", "_background_", "^{\\frac", "a\nb\t\0", "\ud800", "ab\u202ecd", "", " ", "x" * 5000,
       "قطة", "חתול", "猫", "犬", "кот", "한국어", "👨\u200d👩", "e\u0301"]  # fmt: skip


def test_what_cannot_be_drawn_is_written_as_its_code():
    wanted = {"cat 0.98": "cat 0.98", "Ba$$in": "Ba$$in", "a\nb\0": "a\\nb\\x00", "猫": "<732B>",
              "ab\u202ecd": "ab\\u202ecd", "קטן": "קטן", "кот": "кот", "a\xa0b": "a b"}  # fmt: skip
    assert {name: names.legible(name) for name in wanted} == wanted
    assert names.legible("x" * 5000 + " 0.98").endswith("xxx 0.98") and len(names.legible("x" * 5000)) < 60
    assert len({names.legible(name) for name in ODD}) == len(ODD)


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_every_name_is_drawn_on_one_line(name):
    grey = np.full((480, 640, 3), 128, np.uint8)
    drawn = drawing.draw_boxes(grey, np.array([[100.0, 100.0, 300.0, 200.0]]), [f"{name} 0.98"], [0])
    changed = np.nonzero((drawn != grey).any(axis=(1, 2)))[0]
    assert 85 <= changed[0] < 90 and changed[-1] == 199  # a line of text above the frame
    other = drawing.draw_boxes(grey, np.array([[100.0, 100.0, 300.0, 200.0]]), ["other 0.98"], [0])
    assert (drawn != other).any()


def test_every_text_file_states_its_encoding():
    """A name in any script is written the same in every locale."""
    for path in [*(ROOT / "detr_jax").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and not any(keyword.arg == "encoding" for keyword in node.keywords):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                opens_text = name == "open" and bool({"r", "w", "a"} & set(map(str, modes)))
                assert name not in ("write_text", "read_text") and not opens_text, f"{path}:{node.lineno}"


EVALUATE = """
import sys
from tests.evaluation.test_plots import metrics_of
from tests.test_names import ODD
from detr_jax.evaluation import coco_eval
metrics = metrics_of(len(ODD))
metrics.classes[:] = [row._replace(name=name) for row, name in zip(metrics.classes, ODD)]
coco_eval.write_evaluation(metrics, [], sys.argv[1])
"""


def test_names_are_written_in_utf8_whatever_the_locale(tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", EVALUATE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    table = (tmp_path / "per_class.csv").read_text(encoding="utf-8")
    rows = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["classes"]
    assert "猫" in table and [row["name"] for row in rows] == ODD


def test_a_line_of_a_text_file_shows_what_cannot_be_seen():
    wanted = {"猫 größe $5": "猫 größe $5", "a\nb\0": "a\\nb\\x00", "\ud800": "\\ud800", "ab\u202ecd": "ab\\u202ecd"}
    assert {name: names.single_line(name) for name in wanted} == wanted
    assert len(names.single_line("x" * 5000)) < 60 and len(names.single_line("x" * 5000, shorten=False)) == 5000
