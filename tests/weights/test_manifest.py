"""Whatever changes in a checkpoint after it was written is noticed."""

import json
import shutil
from pathlib import Path

import pytest

from detr_jax.weights import checkpoints
from detr_jax.weights.manifest import CHECKSUMS, WRITTEN_AT_COMMIT, damage
from tests.weights.small_run import write


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A checkpoint. Tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    write(folder, {20: None}, averaged=True)
    return folder / "20"


@pytest.fixture
def checkpoint(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "20"))


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_one_flipped_byte_in_any_file_is_noticed(checkpoint):
    names = files_of(checkpoint)
    assert {name.split("/")[0] for name in names} >= {"model", "averaged", "progress", "info", CHECKSUMS}
    assert len(names) > 8 and damage(checkpoint) is None
    for name in names:
        path = checkpoint / name
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 0x40
        path.write_bytes(flipped)
        assert bool(damage(checkpoint)) != (name in WRITTEN_AT_COMMIT), name
        path.write_bytes(content)
    assert damage(checkpoint) is None


def test_orbaxs_own_notes_do_not_matter(checkpoint):
    for name in WRITTEN_AT_COMMIT:
        (checkpoint / name).write_bytes(b"\xff\x00 not JSON")
    assert damage(checkpoint) is None
    assert checkpoints.read_numpy(checkpoint, "model").keys() == {
        "backbone/layer1/0/conv1/kernel", "class_head/bias", "class_head/kernel",
    }  # fmt: skip


@pytest.mark.parametrize("how", ["truncated", "emptied", "deleted", "unreadable"])
def test_a_file_that_is_not_whole(how, checkpoint):
    path = max((path for path in (checkpoint / "model").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    if how == "unreadable":
        path.symlink_to(path.name)  # in a circle
    words = {"deleted": "is missing", "unreadable": "cannot be read"}.get(how, "has changed since it was written")
    assert damage(checkpoint) == f"{path.relative_to(checkpoint)} {words}" + (
        ": Too many levels of symbolic links" if how == "unreadable" else ""
    )


@pytest.mark.parametrize("name", ["notes.txt", "model/more", "model/d/0123", "progress/.hidden"])
def test_a_file_that_was_added(name, checkpoint):
    (checkpoint / name).write_text("new")
    assert damage(checkpoint) == f"{name} is not in {CHECKSUMS}"


def test_no_file_at_all(tmp_path):
    assert damage(tmp_path) == damage(tmp_path / "nowhere") == f"{CHECKSUMS} is missing or unreadable"


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "[1, 2]", "7", "null", '"text"', "[" * 100_000, "\udcff"])
def test_checksums_of_another_form(text, checkpoint):
    (checkpoint / CHECKSUMS).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert damage(checkpoint).startswith(CHECKSUMS)


@pytest.mark.parametrize("value", [7, None, "", ["0123"]])
def test_checksums_that_are_none(value, checkpoint):
    table = json.loads((checkpoint / CHECKSUMS).read_text())
    (checkpoint / CHECKSUMS).write_text(json.dumps(table | {"info/metadata": value}))
    assert damage(checkpoint) == "info/metadata has changed since it was written"


def test_checksums_that_do_not_cover_every_file(checkpoint):
    table = json.loads((checkpoint / CHECKSUMS).read_text())
    for name in table:
        (checkpoint / CHECKSUMS).write_text(json.dumps({other: table[other] for other in table if other != name}))
        assert damage(checkpoint) == f"{name} is not in {CHECKSUMS}"
