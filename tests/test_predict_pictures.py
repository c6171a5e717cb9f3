"""The prediction program's other pictures: attention, and videos with their detections."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detr_jax
from detr_jax.inference.videos import Video
from tests.inference.films import cut, write_film
from tests.programs import assert_refused


@pytest.fixture(scope="module")
def folder(programs, tmp_path_factory) -> Path:
    """photos/ with two images of one name, films/ with a photo and three videos: whole, cut off, unreadable."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "photos/more").mkdir(parents=True)
    (folder / "films").mkdir()
    val = programs.raw / "val2017"
    shutil.copy(val / "000001.jpg", folder / "photos/a.jpg")
    shutil.copy(val / "000002.jpg", folder / "photos/more/a.jpg")
    shutil.copy(val / "000003.jpg", folder / "films/3.jpg")
    cut(write_film(folder / "films/a.mp4", count=23), 0.5)
    (folder / "films/text.mp4").write_text("Dear reader")
    shutil.copytree(folder / "films", folder / "beside")
    return folder


@pytest.fixture(scope="module")
def predictions(programs, folder):
    """Every command line of this file, run once: name -> (output folder, finished process)."""
    photos, films, film = f"--input={folder}/photos", f"--input={folder}/films", f"--input={folder}/films/a.mp4"
    sheets, beside = (
        [photos, "--attention", "--threshold=1", f"--output={folder}/out/again"],
        f"--output={folder}/beside",
    )
    commands = {
        "plain": [photos, "--threshold=0.2"],
        "attention": [photos, "--attention", "--batch_size=2", "--threshold=0.2"],
        "once": sheets,
        "again": [*sheets, "--draw"],
        "tiles": [photos, "--attention", "--tile=64"],
        "film": [film, "--draw", "--threshold=0", "--batch_size=4"],
        "every": [film, f"{films}/3.jpg", "--every=10", "--threshold=0", "--tile=64"],
        "folder": [films],
        "all": [f"--input={folder}/beside/*", "--draw", beside],
        "redrawn": [f"--input={folder}/beside/*", "--draw", beside],
        "labels": [film, "--format=coco"],
        "watched": [film, "--attention"],
        "unreadable": [f"{films}/text.mp4"],
    }
    full = [
        [
            f"--checkpoint={programs.trained}/checkpoints/6",
            *arguments,
            *([] if "--output" in str(arguments) else [f"--output={folder / 'out' / name}"]),
        ]
        for name, arguments in commands.items()
    ]
    done = programs.run_all("predict", full)
    return {name: (folder / "out" / name, one) for name, one in zip(commands, done, strict=True)}


def read(folder: Path) -> list[dict]:
    return json.loads((folder / "predictions.json").read_text())


def drawn(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("*.png")}


def test_attention_is_drawn_beside_the_same_results(predictions):
    (output, done), (plain, _) = predictions["attention"], predictions["plain"]
    assert done.returncode == 0 and done.stderr == ""
    assert drawn(output) == {"attention/a.png", "attention/a_2.png"}
    sheets = [np.asarray(Image.open(output / "attention" / name)) for name in ("a.png", "a_2.png")]
    assert all(sheet.shape[1] > 900 and sheet.std() > 20 for sheet in sheets)
    assert len(read(plain)) > 2
    for found, wanted in zip(read(output), read(plain), strict=True):
        assert (found["file_name"], found["category_id"]) == (wanted["file_name"], wanted["category_id"])
        np.testing.assert_allclose(found["bbox"], wanted["bbox"], atol=2e-3)
        assert found["score"] == pytest.approx(wanted["score"], abs=1e-5)


def test_without_detections_the_attention_of_the_best_one_is_drawn(predictions):
    output, done = predictions["again"]
    assert done.returncode == 0 and read(output) == []
    assert drawn(output) == {"attention/a.png", "attention/a_2.png", "a.png", "a_2.png"}
    assert "of an earlier run, which are replaced: predictions.json and 2 drawings" in done.stdout
    assert "earlier run" not in predictions["once"][1].stdout


def test_frames_are_detected_like_images(programs, folder, predictions):
    output, done = predictions["film"]
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "in 23 frames of 1 video: see" in done.stdout and "23 images in" in done.stdout
    frames = list(Video(folder / "films/a.mp4").frames())
    detector = detr_jax.load(programs.trained / "checkpoints/6")
    rows = read(output)
    assert [*dict.fromkeys(row["image_id"] for row in rows)] == list(range(1, 24))
    for number in (0, 4, 22):
        of_frame = [row for row in rows if row["frame"] == number]
        assert {row["image_id"] for row in of_frame} == {number + 1}
        assert {row["file_name"] for row in of_frame} == {str(folder / "films/a.mp4")}
        assert of_frame[0]["seconds"] == pytest.approx(number / 30, abs=1e-3)
        wanted = detector(frames[number].pixels)
        np.testing.assert_allclose([row["score"] for row in of_frame], wanted.scores, atol=1e-4)


def test_the_drawn_video_plays_like_the_first(predictions):
    """Small frames are enlarged like small images."""
    output, _ = predictions["film"]
    assert {path.name for path in output.iterdir()} == {"a.mp4", "predictions.json"}
    frames = list(Video(output / "a.mp4").frames())
    assert [frame.seconds for frame in frames] == pytest.approx([number / 30 for number in range(23)], abs=1e-3)
    assert frames[0].pixels.shape == (240, 320, 3)
    assert frames[0].pixels.std(axis=(0, 1)).max() > 10  # coloured boxes on grey


def test_every_tenth_frame_and_a_photo(predictions):
    output, done = predictions["every"]
    assert done.returncode == 0 and "in 1 image and 3 frames of 1 video" in done.stdout
    ids = {(row["image_id"], row.get("frame"), row.get("seconds")) for row in read(output)}
    assert ids == {(3, None, None), (4, 0, 0.0), (5, 10, 0.333), (6, 20, 0.667)}


def test_videos_in_a_folder_are_passed_over_and_it_says_so(folder, predictions):
    _, done = predictions["folder"]
    assert done.returncode == 0 and "in 1 image:" in done.stdout
    assert f"videos in folders, passed over: 3; name them to take them, such as --input={folder}/films/" in done.stdout


def test_what_can_be_read_of_bad_videos_is_kept_and_they_are_listed(folder, predictions):
    output, done = folder / "beside", predictions["all"][1]
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and "Traceback" not in done.stderr
    assert lines[0].startswith(f"left out {folder}/beside/text.mp4: it cannot be read as a video (")
    assert lines[1].startswith(f"used in part {folder}/beside/cut_a.mp4: it is cut off: ")
    assert {path.name for path in output.glob("*_2.*")} == {"a_2.mp4", "cut_a_2.mp4"}
    for path in (folder / "films").iterdir():
        assert (output / path.name).read_bytes() == path.read_bytes()
    again = predictions["redrawn"][1]
    assert again.returncode == 2 and {path.name for path in output.glob("*_3.*")} == set()
    assert "pictures and videos that predict has drawn, passed over: 3" in again.stdout
    assert "which are replaced: predictions.json and 3 drawings" in again.stdout


@pytest.mark.parametrize(
    "name, words, listed",
    [
        ("tiles", ["--attention", "leave out --tile"], False),
        ("labels", ["--format is for images", "a.mp4"], False),
        ("watched", ["--attention is for images", "a.mp4"], False),
        ("unreadable", ["none of the 1 files can be used as an image or a video"], True),
    ],
)
def test_what_cannot_be_is_said(predictions, name, words, listed):
    output, done = predictions[name]
    assert_refused(done, output, *words, listed=listed)
