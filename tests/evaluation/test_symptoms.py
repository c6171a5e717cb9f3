"""What looks wrong in a training: each symptom on a log that has it, and silence on logs of healthy runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from detr_jax.evaluation.symptoms import Course, find_symptoms

COURSE = Course(total_steps=1000, lr=1e-4, warmup_steps=0, num_queries=100, most_objects=20, padding=0.1)
HEALTHY = Path(__file__).parent / "healthy_runs"


def trained(losses, every: int = 20, **columns) -> list[dict]:
    """Rows of training; a column is a number or one for each row."""
    columns = {name: np.broadcast_to(values, len(losses)).tolist() for name, values in columns.items()}
    return [
        {"step": (i + 1) * every, "loss": loss} | {name: values[i] for name, values in columns.items()}
        for i, loss in enumerate(losses)
    ]


def check(step: int, ap: float, **columns) -> dict:
    """A row of an evaluation."""
    return {"step": step, "coco_eval_bbox": [ap, min(2 * ap, 1.0), *[0.1] * 10], **columns}


def falling(rows: int = 50, floor: float = 3.0) -> list[float]:
    return [floor + 20 * 0.9**i + 0.3 * np.sin(i) for i in range(rows)]


def names(rows, **course) -> list[str]:
    return [symptom.name for symptom in find_symptoms(rows, COURSE._replace(**course))]


def text(rows, name: str, **course) -> str:
    return {symptom.name: symptom.text for symptom in find_symptoms(rows, COURSE._replace(**course))}[name]


def test_nothing_is_wrong_with_a_run_that_learns():
    rows = [*trained(falling(), data_wait=0.02, skipped=0)]
    rows += [check(step, 0.4 * step / 1000, best_score=0.8, query_spread=0.3, test_loss=5.0) for step in (400, 800)]
    assert names(rows) == []


def test_nothing_is_said_of_an_empty_log_or_a_first_row():
    assert names([]) == [] and names(trained([20.0])) == [] and names([check(10, 0.0)]) == []


def test_a_loss_that_stays_where_it_began():
    rng = np.random.default_rng(0)
    rows = [*trained(20 + rng.normal(size=40)), check(800, 0.0, best_score=0.02)]
    assert names(rows) == ["flat loss"]
    assert "optim.lr=1e-07 is low; try optim.lr=1e-4" in text(rows, "flat loss", lr=1e-7)
    assert "optim.lr=0.01 is high; try optim.lr=1e-4" in text(rows, "flat loss", lr=1e-2)
    assert "dataset show" in text(rows, "flat loss")
    assert names(rows[:12], total_steps=10_000) == []  # too early to say
    assert names([*rows[:-1], check(800, 0.3)]) == []  # it was continued from a detector that knows it all


def test_a_loss_that_rises():
    rows = trained([*falling(20), *np.linspace(6, 15, 20)], skipped=0)
    assert names(rows) == ["rising loss"] and "optim.lr=2e-05" in text(rows, "rising loss")
    assert names(trained([*falling(20), 40.0, *falling(20, floor=3.0)[10:]])) == []  # one bad batch


def test_steps_that_are_lost_explain_the_loss():
    rows = trained([*falling(20), *[None] * 20], skipped=[*[0] * 20, *[15] * 20])
    assert names(rows) == ["lost steps"] and "75%" in text(rows, "lost steps")


def test_everything_is_no_object():
    rows = [*trained(falling()), check(500, 0.001, best_score=0.03, query_spread=0.3)]
    assert names(rows) == ["everything is no object"]
    assert names(rows, total_steps=10_000) == []  # every detector begins like that
    assert names([*rows, check(600, 0.2, best_score=0.04)]) == []


def test_all_queries_have_become_alike():
    rows = [*trained(falling()), *(check(step, 0.001, query_spread=0.3 / step) for step in (1, 500))]
    assert names(rows) == ["all queries alike"] and "optim.lr=2e-05" in text(rows, "all queries alike")


def test_all_queries_stay_alike():
    rows = [*trained(falling(100)), *(check(step, 0.001, query_spread=0.004) for step in (500, 2000))]
    assert names(rows[:-1], total_steps=4000) == []  # learned queries begin like that
    assert names(rows, total_steps=4000) == ["all queries alike"]
    assert "the word fast" in text(rows, "all queries alike", total_steps=4000)
    assert names(rows, total_steps=100_000) == []


def test_overfitting_is_a_validation_loss_that_rises_while_ap_does_not():
    losses = np.geomspace(20, 1, 50).tolist()
    rising = [5.0, 4.0, 4.4, 5.0, 5.5]
    aps = [0.1, 0.3, 0.28, 0.29, 0.27]
    rows = trained(losses)
    rows += [check(200 * (i + 1), ap, test_loss=loss) for i, (ap, loss) in enumerate(zip(aps, rising, strict=True))]
    assert names(rows) == ["overfit"] and "step 400 (0.300)" in text(rows, "overfit")
    still = [
        row | ({"coco_eval_bbox": [0.1 * i, *[0.1] * 11]} if "test_loss" in row else {}) for i, row in enumerate(rows)
    ]
    assert "overfit" not in names(still)  # AP rises
    flat = [row | ({"test_loss": 4.0} if "test_loss" in row else {}) for row in rows]
    assert "overfit" not in names(flat)


def test_classes_that_are_never_found_are_named():
    classes = {"cat": 0.5, "dog": 0.0, **{f"rare {i}": 0.001 for i in range(7)}}
    rows = [*trained(falling()), check(800, 0.3, AP_per_class=classes)]
    assert names(rows) == ["unseen classes"]
    assert "AP is 0 for dog, rare 0, rare 1, rare 2, rare 3 and 3 more while" in text(rows, "unseen classes")
    assert names(rows, total_steps=5000) == []


@pytest.mark.parametrize(("most", "seen"), [(80, False), (81, True), (100, True)])
def test_nearly_as_many_objects_as_queries(most, seen):
    assert names([], most_objects=most) == (["few queries"] if seen else [])
    if seen:
        wanted = int(text([], "few queries", most_objects=most).rpartition("=")[2])
        assert wanted > 1.2 * most


def test_waiting_for_images():
    rows = trained(falling(), data_wait=np.linspace(0.1, 0.6, 50))
    assert names(rows) == ["waiting for images"] and "48%" in text(rows, "waiting for images")
    assert names(trained(falling(), data_wait=[0.9] * 5 + [0.05] * 45)) == []  # while the first images were decoded


def test_padding():
    assert names([], padding=0.4) == ["padding"] and "data.buckets=auto" in text([], "padding", padding=0.4)


def test_a_low_learning_rate():
    rows = [*trained(np.linspace(20, 15, 40).tolist()), check(800, 0.004, best_score=0.03)]
    assert names(rows, lr=1e-6) == ["slow learning"] and "optim.lr=1e-4" in text(rows, "slow learning", lr=1e-6)


def test_a_high_learning_rate_with_which_the_loss_still_falls():
    rows = [*trained(falling()), check(800, 0.018, best_score=0.3)]
    assert "optim.lr=0.03 is high; try optim.lr=0.003" in text(rows, "slow learning", lr=0.03)
    assert names(rows, lr=1e-3) == []


@pytest.mark.parametrize("path", sorted(HEALTHY.glob("*.jsonl")), ids=lambda path: path.stem)
def test_healthy_runs_have_no_symptom_at_any_moment(path):
    """Logs of trainings that reached a good AP, looked at after every row."""
    course, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    for count in range(1, len(rows) + 1):
        assert find_symptoms(rows[:count], Course(**course)) == [], rows[count - 1]["step"]


def test_there_are_several_healthy_runs():
    assert len(list(HEALTHY.glob("*.jsonl"))) >= 4
