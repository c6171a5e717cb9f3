"""A training writes its report once it is done, and no fault of the report is one of the run."""

import json
import re

from detr_jax.training import final_report
from detr_jax.training.workdir import LocalWorkdir
from tests.programs import rows


def test_a_training_ends_with_its_report(programs):
    workdir = programs.trained
    page, text = ((workdir / name).read_text(encoding="utf-8") for name in ("report.html", "REPORT.md"))
    told = json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', page, re.S)[1])
    scores = {row["step"]: row["coco_eval_bbox"] for row in rows(workdir) if "coco_eval_bbox" in row}
    assert told["finished"] and list(told["figures"].values()) == scores[told["best_step"]] and told["notes"] == []
    assert told["last_step"] == 6 and "12 images" in text and "4 validation images" in text
    assert told["sample"] and told["images"] and all((workdir / "report").iterdir())
    assert f"report: {workdir}/report.html" in (workdir / "stdout").read_text()
    assert f"--checkpoint={workdir}" in text and not list(workdir.rglob("*.partial*"))


def test_a_fault_of_the_report_is_one_sentence(tmp_path, monkeypatch):
    said = []
    place = LocalWorkdir(tmp_path / "run")
    final_report.write_final_report(place, said.append)
    assert len(said) == 1 and "neither config.json" in said[0] and "the run is complete" in said[0]
    assert said[0].endswith(f"python -m detr_jax.analyze run --workdir={tmp_path / 'run'}")

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(final_report, "write_run_report", fail)
    final_report.write_final_report(place, said.append)
    assert "(MemoryError)" in said[1]
