"""``python -m detr_jax.analyze`` as a user types it: an answer in words and in files, or one sentence."""

import json

import pytest

from tests.evaluation.random_results import random_set
from tests.programs import assert_one_sentence


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyze")
    ground_truth, results = random_set(1)
    (folder / "gt.json").write_text(json.dumps(ground_truth))
    (folder / "dt.json").write_text(json.dumps(results))
    (folder / "other.json").write_text(json.dumps([{**results[0], "image_id": 999}]))
    (folder / "few.json").write_text(json.dumps([]))
    (folder / "info.json").write_text(json.dumps({"parameters": 41_300_000}))
    return folder


@pytest.fixture(scope="module")
def answers(programs, folder):
    def flags(predictions: str = "dt.json", output: str = "out", *more: str) -> list[str]:
        return ["errors", f"--annotations={folder / 'gt.json'}", f"--predictions={folder / predictions}",
                f"--output={folder / output}", *more]  # fmt: skip

    def versus(output: str, *more: str) -> list[str]:
        return ["compare", f"--annotations={folder / 'gt.json'}", f"--output={folder / output}", "--predictions", *more]

    commands = {
        "good": flags(),
        "empty": flags("few.json", "empty"),
        "no verb": flags()[1:],
        "another verb": ["mistakes", *flags()[1:]],
        "nothing": ["errors"],
        "other images": flags("other.json", "never"),
        "missing file": flags("nothing.json", "never"),
        "output is a file": flags("dt.json", "gt.json"),
        "odd precision": flags("dt.json", "never", "--precision=2"),
        "compare": versus("compared", f"all={folder / 'dt.json'}", f"few={folder / 'few.json'}"),
        "one alone": versus("alone", f"{folder / 'dt.json'}", "--published"),
        "one name twice": versus("never", f"a={folder / 'dt.json'}", f"a={folder / 'few.json'}"),
        "two for errors": flags("dt.json", "never", f"--predictions={folder / 'few.json'}"),
        "few draws": versus("never", f"{folder / 'dt.json'}", "--draws=1"),
        "info of nobody": versus("never", f"{folder / 'dt.json'}", f"--info=b={folder / 'info.json'}"),
        "no predictions": versus("never", ""),
        "other rules": versus("never", f"{folder / 'dt.json'}", "--iou=0.5"),
        "of a run": ["errors", f"--workdir={programs.trained}", f"--output={folder / 'of a run'}"],
        "of no run": ["errors", f"--workdir={folder}", f"--output={folder / 'never'}"],
        "run and files": [*flags("dt.json", "never"), f"--workdir={programs.trained}"],
        "report": ["run", f"--workdir={programs.trained}", f"--output={folder / 'told'}"],
        "report of nothing": ["run"],
        "report of no folder": ["run", f"--workdir={folder / 'never'}"],
        "report of no run": ["run", f"--workdir={folder}"],
        "report of a URL": ["run", "--workdir=gs://bucket/run"],
        "no photos": versus("never", f"{folder / 'dt.json'}", "--images=nowhere"),
    }
    return dict(zip(commands, programs.run_all("analyze", list(commands.values())), strict=True))


def test_the_answer_is_in_words_and_in_files(answers, folder):
    done = answers["good"]
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.startswith("60 images, ") and "Loc" in done.stdout and "- Localisation costs" in done.stdout
    written = json.loads((folder / "out/errors.json").read_text())
    assert [f"- {line}" for line in written["advice"]] == [x for x in done.stdout.splitlines() if x.startswith("- ")]
    assert len(list((folder / "out").glob("*.png"))) == 5 and len(list((folder / "out").glob("*.csv"))) == 7
    assert (folder / "out/report.html").stat().st_size > 50_000


def test_an_empty_file_of_results_is_analysed(answers, folder):
    done = answers["empty"]
    assert (
        done.returncode == 0 and done.stderr == "" and "note: " in done.stdout and "- There are no det" in done.stdout
    )
    assert json.loads((folder / "empty/errors.json").read_text())["AP"] == 0


def test_detectors_are_set_side_by_side(answers, folder):
    done = answers["compare"]
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "all is better than few: " in done.stdout and "few has no detections" in done.stdout
    written = json.loads((folder / "compared/compare.json").read_text())
    alone = json.loads((folder / "out/errors.json").read_text())
    assert set(written["detectors"]) == {"all", "few"} and written["published"] == []
    for key in ("AP", "AP50", "AR100", "mean_iou"):
        assert written["detectors"]["all"][key] == alone[key]
    assert written["detectors"]["all"]["tide"] == alone["tide"]
    (row,) = (row for row in written["differences"] if row["metric"] == "AP" and row["class"] is None)
    assert row["pair"] == ["few", "all"] and row["low"] <= row["estimate"] <= row["high"] < 0
    assert {path.name for path in (folder / "compared").iterdir()} == {
        "compare.json", "compare.csv", "compare.md", "differences.csv", "per_class.csv", "images.csv", "published.csv",
        "ap.png", "error_types.png", "classes.png",
    }  # fmt: skip


def test_one_detector_is_set_beside_published_figures(answers, folder):
    done = answers["one alone"]
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "published, not measured here" in done.stdout and "are for another dataset" in done.stdout
    assert len(json.loads((folder / "alone/compare.json").read_text())["published"]) > 40


def test_the_newest_evaluation_of_a_run_is_analysed(answers, folder):
    done = answers["of a run"]
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "eval/6/predictions.json on tiny val" in done.stdout
    assert json.loads((folder / "of a run/errors.json").read_text())["images"] == 4


def test_the_report_on_a_training_is_written_elsewhere(answers, folder):
    done = answers["report"]
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "A detector of 3 classes (circle, rectangle, triangle) was trained on 12 images of tiny" in done.stdout
    assert {path.name for path in (folder / "told").iterdir()} == {"report.html", "REPORT.md", "report"}


MISTAKES = {
    "report of nothing": ["run takes one --workdir=RUN, not 0"],
    "report of no folder": ["never is no folder"],
    "report of no run": ["holds neither config.json nor metrics.jsonl"],
    "report of a URL": ["--workdir=gs://bucket/run is a URL"],
    "other rules": ["compare follows COCO's own rules; leave out --iou"],
    "of no run": ["holds no eval/<step>/predictions.json"],
    "run and files": ["errors takes one --workdir, or --annotations and --predictions"],
    "one name twice": ["are named 'a'"],
    "two for errors": ["errors takes one file of --predictions, not 2"],
    "few draws": ["--draws=1 must be 50 to"],
    "info of nobody": ["--info names 'b'"],
    "no predictions": ["--predictions is missing", "NAME=FILE"],
    "no photos": ["--images=nowhere is no folder"],
    "no verb": ["a verb is missing", "choose from errors, compare, curves"],
    "another verb": ["no verb 'mistakes'"],
    "nothing": ["--annotations is missing"],
    "other images": ["images that the ground truth does not have: 999"],
    "missing file": ["nothing.json does not exist"],
    "output is a file": ["gt.json is a file"],
    "odd precision": ["--precision=2"],
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence(answers, folder, case):
    assert_one_sentence(answers[case], *MISTAKES[case])
    assert not (folder / "never").exists()
