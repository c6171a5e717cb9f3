"""The report on a training tells what the workdir holds, whatever is missing there, and any name in it stays text."""

import json
import re
import time

import pytest

from detr_jax.benchmarks.evaluation import make_results
from detr_jax.config import Config, settings
from detr_jax.config_forms import to_dict
from detr_jax.errors import UserError
from detr_jax.evaluation import coco_eval
from detr_jax.evaluation.run_report import write_run_report
from tests.evaluation.made_up_run import ODD, MadeUpRun, MadeUpSplit


def write(run: MadeUpRun, open_split=None, **more) -> tuple[dict, str, str]:
    """The data of the page, the page and REPORT.md."""
    write_run_report(run.folder, open_split or run.open_split, "runs/cells", **more)
    folder = more.get("output") or run.folder
    page, text = ((folder / name).read_text(encoding="utf-8") for name in ("report.html", "REPORT.md"))
    return json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', page, re.S)[1]), page, text


@pytest.fixture
def run(tmp_path):
    return MadeUpRun(tmp_path / "run")


def test_both_files_tell_what_the_workdir_holds(run):
    told, page, text = write(run)
    metrics = json.loads((run.folder / "eval" / str(told["best_step"]) / "metrics.json").read_text())
    assert told["figures"] == {name: metrics[name] for name in coco_eval.NAMES} and told["finished"]
    assert [row["AP"] for row in told["classes"]] == sorted(row["AP"] for row in metrics["classes"])
    assert [one["step"] for one in told["evaluations"]] == [100, 200, 300]
    assert [panel["title"] for panel in told["panels"]][:3] == ["loss", "loss terms, last decoder layer", "box AP"]
    assert {one["name"]: one["value"] for one in told["changed"]}.items() >= {("optim.lr", "0.0005")}
    assert [name for name, _ in told["settings"]] == [one.name for one in settings(Config())]
    assert told["notes"] == [] and told["sample"] and page.count("data:image/jpeg") == 1 + len(told["images"]) > 5
    for words in (f"AP {metrics['AP']:.3f}", "4 classes", "25 minutes", "one CPU with 2 cores", "75 arrays", "ab" * 32,
                  "| optim.lr | 0.0005 | 0.0001 |", "--checkpoint=runs/cells", "is finished"):  # fmt: skip
        assert words in text, words


def test_every_link_of_the_markdown_leads_to_a_picture(run, tmp_path):
    for output in (None, tmp_path / "elsewhere"):
        _, _, text = write(run, output=output)
        links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
        assert len(links) > 6 and all(((output or run.folder) / link).is_file() for link in links)


def test_a_second_report_replaces_the_first(run):
    write(run)
    (run.folder / "report/best_99.jpg").write_bytes(b"of an earlier report")
    told, _, _ = write(run)
    assert len(list((run.folder / "report").iterdir())) == len(told["images"])


@pytest.mark.parametrize(
    "lost", ["config.json", "metrics.jsonl", "run.json", "train.log", "curves.png", "samples", "eval"]
)
def test_what_is_lost_costs_only_itself(run, lost):
    (run.folder / lost).rename(run.folder / f"lost {lost}")
    told, _, text = write(run)
    assert told["title"] == "Training runs/cells" and "# Training runs/cells" in text
    assert bool(told["images"]) == (lost not in ("config.json", "metrics.jsonl", "eval"))
    assert bool(told["classes"]) == (lost != "metrics.jsonl") and bool(told["settings"]) == (lost != "config.json")


@pytest.mark.parametrize("damaged", ["config.json", "metrics.jsonl", "run.json", "eval/300/metrics.json"])
@pytest.mark.parametrize("content", [b"", b"[1, 2", b"null", b'{"classes": [{}], "starts": 3}', b"\xff\xfe"])
def test_damaged_files_are_no_end(run, damaged, content):
    (run.folder / damaged).write_bytes(content)
    told, _, _ = write(run)
    assert told["summary"]


def test_a_folder_that_is_no_workdir_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither config.json nor metrics.jsonl"):
        write_run_report(tmp_path, MadeUpRun(tmp_path / "run").open_split)


def test_data_that_are_gone(run):
    told, _, text = write(run, run.no_split)
    assert told["images"] == [] and told["advice"] == [] and len(told["classes"]) == 4
    assert told["notes"] == ["The data cannot be opened (no prepared dataset 'cells' in data), so their counts and the "
                             "images are not shown."]  # fmt: skip
    assert "not there any more" in text


def test_photos_that_cannot_be_read(run):
    ids = tuple(run.split.image_ids.tolist())
    run.split = MadeUpSplit(run.ground_truth, run.folder, broken=ids[:-1])
    told, _, _ = write(run)
    assert len(told["images"]) <= 1 and "could not be drawn, the first because" in told["notes"][-1]


def test_a_run_without_an_evaluation(tmp_path):
    told, _, text = write(MadeUpRun(tmp_path / "run", steps=()))
    assert told["evaluations"] == told["classes"] == told["images"] == [] and told["figures"] == {}
    assert "has not been evaluated yet" in text and "## Classes" not in text


def test_a_run_that_was_killed(tmp_path):
    run = MadeUpRun(tmp_path / "run", finished=False)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 220, "lo')
    told, _, text = write(run)
    assert not told["finished"] and "210 of 300 steps are logged" in text and told["best_step"] in (100, 200)
    assert told["commands"][-1] == {"purpose": "Continue the training", "command": told["starts"][-1]["command"]}


def test_a_workdir_in_which_nothing_has_happened_yet(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(Config())))
    written = write_run_report(tmp_path, MadeUpRun(tmp_path / "run").open_split)
    assert "for 0 steps" in written.summary[0] and written.page.is_file()


def test_validation_images_without_objects(tmp_path):
    run = MadeUpRun(tmp_path / "run")
    run.ground_truth["annotations"] = []
    run.split = MadeUpSplit(run.ground_truth, run.folder)
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    rows = [
        row | ({"coco_eval_bbox": [-1.0] * 12, "AP_per_class": {}} if "AP_per_class" in row else {}) for row in rows
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told, _, text = write(run)
    assert "hold no objects, so there is no AP" in text and told["figures"]["AP"] == -1 and "| AP | - |" in text
    assert "box AP" not in [panel["title"] for panel in told["panels"]]


@pytest.mark.parametrize("classes", [1, 300])
def test_one_class_and_many(tmp_path, classes):
    told, page, text = write(MadeUpRun(tmp_path / "run", classes=classes))
    assert len(told["classes"]) == classes and len(page) < 2_000_000
    assert f"{classes} {'class' if classes == 1 else 'classes'} (" in text and len(told["summary"][0]) < 600


def test_names_are_text(tmp_path):
    run = MadeUpRun(tmp_path / "run", names=ODD)
    for number, row in enumerate(run.ground_truth["images"]):
        row["file_name"] = f"{ODD[number % 4]}{number}.jpg"
    told, page, text = write(run)
    assert page.count("<script") == 2 + 1 + len(told["images"]) and "<img" not in page
    assert "<img" not in text and "<script" not in text and "größe \\| \\$5\\_{x}\\$ 猫" in text
    rows = [line for line in text.splitlines() if line.startswith("|") and "größe" in line]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 8 for line in rows) and rows
    assert {row["name"] for row in told["classes"]} >= {ODD[0], ODD[2]}


@pytest.mark.slow
def test_five_thousand_images_take_less_than_a_minute(tmp_path):
    run = MadeUpRun(tmp_path / "run")
    run.ground_truth, results = make_results(5000, 100, 0)
    for row in run.ground_truth["images"]:
        row |= {"width": 640, "height": 480, "file_name": f"{row['id']}.jpg"}
    run.split = MadeUpSplit(run.ground_truth, run.folder)
    for step in (100, 200, 300):
        (run.folder / f"eval/{step}/predictions.json").write_text(json.dumps(results))
    begin = time.process_time()
    _, page, _ = write(run)
    assert time.process_time() - begin < 60 and len(page) < 15_000_000
