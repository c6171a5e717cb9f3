"""Of damaged checkpoints the one before is used by a run, another one by a reader; without any, both end."""

import shutil
from pathlib import Path

import pytest

from detr_jax.errors import UserError
from detr_jax.weights import finding
from tests.weights.small_run import write


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def damaged(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / str(step) / "info/metadata").write_text("{")


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(workdir):
    folder, said = workdir / "checkpoints", []
    files = names_in(folder / "20")
    damaged(folder, 20)
    assert finding.newest_intact(folder, said.append) == 10 and finding.steps(folder) == [10]
    assert said == [
        "checkpoint 20 is damaged (info/metadata has changed since it was written); it was moved to damaged-20, the "
        "one before it is used"
    ]
    assert names_in(folder / "damaged-20") == files  # nothing is deleted
    write(folder, {20: None})  # the run goes on, and meets the same fate
    damaged(folder, 20)
    assert finding.newest_intact(folder, said.append) == 10 and (folder / "damaged-20.1").is_dir()


def test_all_damaged_is_refused_again_and_again_and_nothing_is_changed(workdir):
    folder = workdir / "checkpoints"
    damaged(folder, 10, 20)
    before = names_in(workdir)
    for _ in range(2):
        with pytest.raises(UserError, match="every checkpoint in .* is damaged") as raised:
            finding.newest_intact(folder)
        for words in (
            "20 (info/metadata has changed",
            "10 (info/metadata has changed",
            "--workdir",
            f"remove {folder}",
        ):
            assert words in str(raised.value)
        assert names_in(workdir) == before


def test_what_was_set_aside_is_not_forgotten(workdir):
    """No run begins at step 0 beside damaged checkpoints, whoever renamed them."""
    folder = workdir / "checkpoints"
    damaged(folder, 20)
    finding.newest_intact(folder, lambda line: None)
    shutil.rmtree(folder / "10")
    with pytest.raises(UserError, match="is damaged: damaged-20;"):
        finding.newest_intact(folder)
    assert finding.newest_intact(workdir / "nowhere") is None


def test_a_damaged_best_does_not_stop_the_run(workdir):
    folder = workdir / "checkpoints"
    (folder / "10" / "info" / "metadata").write_text("{")
    assert finding.newest_intact(folder) == 20
    write(folder, {30: 0.2})
    assert finding.newest_intact(folder) == 30


def test_find(workdir):
    folder = workdir / "checkpoints"
    assert finding.find_checkpoint(workdir) == finding.find_checkpoint(folder) == str(folder / "10")
    assert finding.find_checkpoint(folder / "best") == str(folder / "10")
    assert finding.find_checkpoint(str(folder / "20")) == str(folder / "20")
    (folder / "best").unlink()
    assert finding.find_checkpoint(workdir) == str(folder / "20")


def test_find_nothing(tmp_path):
    (tmp_path / "file.txt").write_text("not a checkpoint")
    (tmp_path / "empty").mkdir()
    for path, what in (("nowhere", "does not exist"), ("file.txt", "no checkpoint"), ("empty", "no checkpoint")):
        with pytest.raises(UserError, match=what):
            finding.find_checkpoint(tmp_path / path)


def test_readers_use_another_checkpoint_and_change_nothing(workdir):
    folder, said = workdir / "checkpoints", []
    write(folder, {30: 0.1}, log={10: 0.4, 20: 0.3})
    damaged(folder, 10)  # the best
    before = names_in(workdir)
    assert finding.find_checkpoint(workdir, said.append) == str(folder / "30")
    (line,) = said
    assert f"damaged in {folder}: 10 (info/metadata has changed" in line and "checkpoint 30 is used instead" in line
    damaged(folder, 30)
    assert finding.find_checkpoint(folder, said.append) == str(folder / "20") and "30 (" in said[1]
    damaged(folder, 20)
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged: 10 \(.*, 30 \(.*, 20 \("):
        finding.find_checkpoint(workdir)
    assert names_in(workdir) == before and len(said) == 2


def test_a_damaged_checkpoint_that_was_asked_for_is_refused(workdir):
    folder = workdir / "checkpoints"
    damaged(folder, 10)
    for path in (folder / "10", folder / "best"):
        with pytest.raises(UserError, match=r"10 is damaged \(info/metadata"):
            finding.find_checkpoint(path)
