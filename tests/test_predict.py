"""The prediction program as a user runs it, on the folders that users have: nested, mixed, with broken files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detr_jax
from detr_jax.errors import UserError
from tests.programs import assert_refused


@pytest.fixture(scope="module")
def folder(programs, tmp_path_factory) -> Path:
    """photos/ as a user would have it, turned/ with EXIF, broken/ where nothing can be read, empty/."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "photos/trip/day 2").mkdir(parents=True)
    (folder / "broken").mkdir()
    (folder / "empty").mkdir()
    source = programs.raw / "val2017/000001.jpg"
    image = Image.open(source)
    shutil.copy(source, folder / "photos/a.jpg")
    shutil.copy(programs.raw / "val2017/000002.jpg", folder / "photos/trip/a.jpg")  # the same name, another picture
    image.save(folder / "photos/trip/day 2/b.PNG")
    image.convert("L").save(folder / "photos/grey.jpeg")
    image.convert("RGBA").resize((300, 40)).save(folder / "photos/wide.png")
    (folder / "turned").mkdir()
    wide, exif = image.resize((300, 40)), Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter, clockwise
    wide.save(folder / "turned/exif.png", exif=exif)
    wide.transpose(Image.Transpose.ROTATE_270).save(folder / "turned/upright.png")
    (folder / "photos/notes.txt").write_text("no picture")
    (folder / "formats").mkdir()
    for name, kind in {"a.jpg": "JPEG", "b.gif": "GIF", "c.ppm": "PPM", "d.jfif": "JPEG", "a.png": "PNG"}.items():
        image.save(folder / "formats" / name, kind)
    image.save(folder / "formats/several.webp", save_all=True, append_images=[image.rotate(90)])
    (folder / "formats/f.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (folder / "formats/notes.txt").write_text("no image")
    shutil.copytree(folder / "formats", folder / "beside")
    for where in ("photos", "broken"):
        (folder / where / "cut.jpg").write_bytes(source.read_bytes()[:700])
        (folder / where / "nothing.jpg").write_bytes(b"")
        (folder / where / "letter.jpg").write_text("Dear reader")
    return folder


@pytest.fixture(scope="module")
def predictions(programs, folder):
    """Every command line of this file, run once: name -> (output folder, finished process)."""
    checkpoint = f"--checkpoint={programs.trained}/checkpoints/6"
    val = f"--input={programs.raw}/val2017"
    commands = {
        "photos": [checkpoint, f"--input={folder}/photos", "--draw", "--threshold=0"],
        "turned": [checkpoint, f"--input={folder}/turned", "--draw", "--threshold=0"],
        "val": [checkpoint, val, "--threshold=0"],
        "batch": [checkpoint, val, "--threshold=0", "--batch_size=3"],
        "pattern": [checkpoint, f"--input={programs.raw}/val2017/*1.jpg", val, "--threshold=0.3"],
        "formats": [checkpoint, f"--input={folder}/formats", "--threshold=0"],
        "beside": [checkpoint, f"--input={folder}/beside", "--draw", "--threshold=1", f"--output={folder}/beside"],
        "again": [checkpoint, f"--input={folder}/beside", "--draw", "--threshold=0", f"--output={folder}/beside"],
        "above": [checkpoint, f"--input={folder}/beside", "--threshold=0", f"--output={folder}"],
        "broken": [checkpoint, f"--input={folder}/broken"],
        "empty": [checkpoint, f"--input={folder}/empty"],
        "missing": [checkpoint, f"--input={folder}/nowhere.jpg"],
        "no checkpoint": [f"--checkpoint={folder}/nowhere", val],
        "threshold": [checkpoint, val, "--threshold=50"],
        "no input": [checkpoint],
    }
    full = [
        [*arguments, *([] if "--output" in str(arguments) else [f"--output={folder / 'out' / name}"])]
        for name, arguments in commands.items()
    ]
    done = programs.run_all("predict", full)
    return {name: (folder / "out" / name, one) for name, one in zip(commands, done, strict=True)}


def read(predictions, name: str) -> list[dict]:
    return json.loads((predictions[name][0] / "predictions.json").read_text())


def test_bad_files_are_listed_and_the_rest_goes_on(folder, predictions):
    output, done = predictions["photos"]
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for name in ("cut.jpg", "nothing.jpg", "letter.jpg"):
        assert f"{folder}/photos/{name}" in done.stderr
    assert len(done.stderr.splitlines()) == 3
    assert {row["file_name"].rpartition("/")[2] for row in read(predictions, "photos")} == {
        "a.jpg", "b.PNG", "grey.jpeg", "wide.png",
    }  # fmt: skip
    assert len({row["image_id"] for row in read(predictions, "photos")}) == 5


def test_every_format_is_read_and_nothing_is_left_out_without_a_word(folder, predictions):
    _, done = predictions["formats"]
    assert done.returncode == 2 and done.stderr.splitlines() == [
        f"left out {folder}/formats/f.heic: it is a HEIC image, which is not read; save it as JPEG or PNG"
    ]
    assert {row["file_name"].rpartition("/")[2] for row in read(predictions, "formats")} == {
        "a.jpg", "b.gif", "c.ppm", "d.jfif", "a.png", "several.webp",
    }  # fmt: skip
    assert "files that are no images, passed over: 1 (1 .txt)" in done.stdout
    assert f"of which the first is used: 1, such as {folder}/formats/several.webp (2)" in done.stdout


def test_an_output_folder_that_holds_the_input_is_said_and_nothing_is_overwritten_or_read_again(folder, predictions):
    before, beside = folder / "formats", folder / "beside"
    for path in before.iterdir():
        assert (beside / path.name).read_bytes() == path.read_bytes()
    drawn = {path.name for path in beside.iterdir()} - {path.name for path in before.iterdir()} - {"predictions.json"}
    assert drawn == {"a_2.png", "a_3.png", "b.png", "c.png", "d.png", "several.png"}
    for name in ("beside", "again"):
        assert f"--output={beside} lies in --input={beside}" in predictions[name][1].stdout
        assert f"--output={beside} holds images of --input" in predictions[name][1].stdout
        assert predictions[name][1].returncode == 2 and "in 6 images" in predictions[name][1].stdout
    assert "pictures and videos that predict has drawn, passed over: 6, such as" in predictions["again"][1].stdout
    replaced = f"--output={beside} holds results of an earlier run, which are replaced: predictions.json and 6 drawings"
    assert replaced in predictions["again"][1].stdout and "earlier run" not in predictions["beside"][1].stdout
    assert f"--output={folder} holds images of --input" in predictions["above"][1].stdout
    assert len(json.loads((folder / "predictions.json").read_text())) == len(read(predictions, "formats"))


def test_every_readable_image_is_drawn(predictions):
    """Small pictures come back enlarged by a whole number, so that the texts can be read."""
    output, _ = predictions["photos"]
    sizes = {path.name: Image.open(path).size for path in output.glob("*.png")}
    assert sizes == {
        "a.png": (320, 320), "a_2.png": (320, 320), "b.png": (320, 320), "grey.png": (320, 320), "wide.png": (600, 80),
    }  # fmt: skip
    assert {path.name for path in output.iterdir()} == {*sizes, "predictions.json"}


def test_images_are_seen_upright(predictions):
    output, done = predictions["turned"]
    assert done.returncode == 0
    rows = {name: [row for row in read(predictions, "turned") if row["file_name"].endswith(name)] for name in
            ("exif.png", "upright.png")}  # fmt: skip
    key = lambda row: (row["category_id"], row["bbox"], row["score"])  # noqa: E731
    assert rows["exif.png"] and [key(row) for row in rows["exif.png"]] == [key(row) for row in rows["upright.png"]]
    drawings = [np.asarray(Image.open(output / name)) for name in rows]
    np.testing.assert_array_equal(*drawings)
    assert drawings[0].shape == (600, 80, 3)


def test_file_names_tell_files_apart(predictions):
    names = {row["image_id"]: row["file_name"] for row in read(predictions, "photos")}
    assert len(set(names.values())) == 5


def test_boxes_lie_in_the_image_and_are_named(predictions):
    for row in read(predictions, "photos"):
        x, y, w, h = row["bbox"]
        width, height = (300, 40) if row["file_name"].endswith("wide.png") else (64, 64)
        assert -1e-3 <= x <= x + w <= width + 1e-3 and -1e-3 <= y <= y + h <= height + 1e-3
        assert {3: "circle", 7: "rectangle", 12: "triangle"}[row["category_id"]] == row["category_name"]


def test_a_copy_in_another_format_gives_the_same_detections(predictions):
    by_file = {}
    for row in read(predictions, "photos"):
        by_file.setdefault(row["image_id"], (row["file_name"], []))[1].append(row)
    first = next(rows for name, rows in by_file.values() if name.endswith("a.jpg"))
    png = next(rows for name, rows in by_file.values() if name.endswith("b.PNG"))
    np.testing.assert_allclose([r["score"] for r in first], [r["score"] for r in png], atol=1e-5)
    np.testing.assert_allclose([r["bbox"] for r in first], [r["bbox"] for r in png], atol=2e-3)


@pytest.mark.parametrize("name", ["val", "batch"])
def test_predict_equals_evaluate(programs, predictions, name):
    """Files named by numbers get these as ids, so predictions.json is comparable with that of an evaluation."""
    assert predictions[name][1].returncode == 0 and predictions[name][1].stderr == ""
    evaluated = json.loads((programs.trained / "eval/6/predictions.json").read_text())
    ours = sorted(read(predictions, name), key=lambda row: (row["image_id"], -row["score"]))
    theirs = sorted(evaluated, key=lambda row: (row["image_id"], -row["score"]))
    for key in ("image_id", "category_id"):
        assert [row[key] for row in ours] == [row[key] for row in theirs]
    np.testing.assert_allclose([r["bbox"] for r in ours], [r["bbox"] for r in theirs], rtol=0, atol=2e-3)
    np.testing.assert_allclose([r["score"] for r in ours], [r["score"] for r in theirs], rtol=0, atol=1e-5)


def test_inputs_are_joined_and_the_threshold_holds(predictions):
    assert predictions["pattern"][1].returncode == 0
    assert "in 4 images" in predictions["pattern"][1].stdout  # 000001.jpg is named twice and read once
    sure = [row for row in read(predictions, "val") if row["score"] >= 0.3]
    assert len(read(predictions, "pattern")) == len(sure)


@pytest.mark.parametrize(
    "name, words",
    [
        ("broken", ["none of the 3 files"]),
        ("empty", ["/empty", "no image"]),
        ("missing", ["nowhere.jpg", "no image"]),
        ("no checkpoint", ["nowhere", "does not exist"]),
        ("threshold", ["--threshold=50"]),
        ("no input", ["--input"]),
    ],
)
def test_mistakes_are_said_and_nothing_is_written(predictions, name, words):
    output, done = predictions[name]
    assert_refused(done, output, *words, listed=name == "broken")


def test_load_and_call(programs, predictions):
    detector = detr_jax.load(str(programs.trained / "checkpoints/6"))
    one = detector(str(programs.raw / "val2017/000001.jpg"))
    rows = [row for row in read(predictions, "val") if row["image_id"] == 1]
    np.testing.assert_allclose(one.scores, [row["score"] for row in rows], atol=1e-5)
    assert one.names == [row["category_name"] for row in rows]
    np.testing.assert_allclose([r["bbox"] for r in one.to_coco(1)], [r["bbox"] for r in rows], atol=2e-3)
    several = detector(sorted((programs.raw / "val2017").iterdir()), batch_size=3)
    assert len(several) == 4
    np.testing.assert_allclose(several[0].scores, one.scores, atol=1e-5)


def test_load_and_call_mistakes(programs, folder):
    with pytest.raises(UserError, match="does not exist"):
        detr_jax.load(folder / "nowhere")
    detector = detr_jax.load(programs.trained)
    with pytest.raises(UserError, match="letter.jpg"):
        detector(folder / "broken/letter.jpg")
    with pytest.raises(UserError, match="nowhere.jpg"):
        detector(folder / "nowhere.jpg")
    assert detector([]) == []
