"""Formats at the command line: a folder is converted, prepared from what came out, and left alone the second time."""

import pytest

from detr_jax.datasets.split import open_split
from tests.programs import TRAIN, VAL, assert_one_sentence


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module")
def answers(programs, folder):
    data = f"--data_dir={folder / 'data'}"
    (folder / "nothing").mkdir()
    (folder / "nothing/notes.txt").write_text("no boxes")
    commands = {}
    for form in ("voc", "yolo", "csv"):
        commands[f"to {form}"] = ["convert", f"--root={programs.raw}", f"--to={form}", f"--output={folder / form}"]
        commands[f"from {form}"] = ["prepare", f"--root={folder / form}", f"--name={form}", data]
    commands["again"] = commands["from yolo"]
    commands["another share"] = [*commands["from yolo"], "--val_share=0.5"]
    commands["onto itself"] = commands["to voc"]
    commands["no format"] = ["convert", f"--root={programs.raw}", f"--output={folder / 'never'}"]
    commands["nothing"] = ["prepare", f"--root={folder / 'nothing'}", "--name=nothing", data]
    return dict(zip(commands, programs.run_all("dataset", list(commands.values())), strict=True))


@pytest.mark.parametrize("form", ["voc", "yolo", "csv"])
def test_what_was_converted_is_prepared_and_holds_the_same(answers, programs, folder, form):
    for step in ("to", "from"):
        assert answers[f"{step} {form}"].returncode == 0, answers[f"{step} {form}"].stderr
    for name, count in (("train", TRAIN), ("val", VAL)):
        wanted, found = open_split(programs.data, "tiny", name), open_split(folder / "data", form, name)
        assert len(wanted) == len(found) == count and set(wanted.categories.names) == set(found.categories.names)
        boxes = [
            sorted(split[row].boxes_xyxy_pixels.round(3).tolist() for row in range(count)) for split in (wanted, found)
        ]
        assert boxes[0] == boxes[1]


def test_a_folder_that_has_not_changed_is_left_alone(answers):
    assert answers["again"].returncode == 0 and "was prepared from" in answers["again"].stdout


MISTAKES = {
    "another share": ["exists already, with --val_share=0.2", "--overwrite"],
    "onto itself": ["exists already"],
    "no format": ["pass --to=FORMAT"],
    "nothing": ["holds 1 .txt files", "no XML files (Pascal VOC)"],
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence(answers, case):
    assert_one_sentence(answers[case], *MISTAKES[case])
