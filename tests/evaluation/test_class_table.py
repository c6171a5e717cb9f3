"""The classes as a table on a terminal and as a line of a log."""

from detr_jax.evaluation.class_table import average_precisions, format_classes, format_ends
from detr_jax.evaluation.coco_eval import ClassMetrics


def rows_of(*scores, objects=5):
    return [ClassMetrics(k, f"class {k}", AP, AP, AP, AP, objects, objects, 7) for k, AP in enumerate(scores)]


def first_cells(text):
    return [line.split("  ")[0].strip() for line in text.splitlines()]


def test_the_best_class_comes_first():
    text = format_classes(rows_of(0.2, 0.9, 0.5))
    assert first_cells(text) == ["class", "class 1", "class 2", "class 0"]
    assert text.splitlines()[0].split() == ["class", "AP", "AP50", "AR100", "objects", "detections"]
    assert text.splitlines()[1].split()[2:] == ["0.900", "0.900", "0.900", "5", "7"]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_of_equal_ap_the_next_figures_decide():
    first, second, third = rows_of(0.5, 0.5, 0.5)
    rows = [first, second._replace(AP50=0.9), third._replace(objects=50)]
    assert first_cells(format_classes(rows))[1:] == ["class 1", "class 2", "class 0"]


def test_of_many_classes_both_ends_are_shown():
    text = format_classes(rows_of(*(k / 1203 for k in range(1203))))
    lines = text.splitlines()
    assert len(lines) == 42 and lines[1].startswith("class 1202 ") and lines[-1].startswith("class 0 ")
    assert lines[21] == "... 1163 more ..."
    assert len(format_classes(rows_of(*[0.5] * 40)).splitlines()) == 41
    assert format_classes([]).split()[0] == "class"


def test_names_stay_on_their_line():
    rows = [row._replace(name="a\nb" * 50) for row in rows_of(0.1)]
    assert len(format_classes(rows).splitlines()) == 2


def test_ap_by_name():
    rows = rows_of(0.1, 0.2, 0.3)
    same = [rows[0]._replace(name="cat"), rows[1]._replace(name="cat"), rows[2]._replace(objects=0)]
    assert average_precisions(same) == {"cat (0)": 0.1, "cat (1)": 0.2}
    assert format_ends({"a": 0.1, "b": 0.3}) == "AP of the classes: b 0.300, a 0.100"
    many = format_ends({f"c{k}": k / 10 for k in range(9)})
    assert many == "best classes: c8 0.800, c7 0.700, c6 0.600; worst: c2 0.200, c1 0.100, c0 0.000"
