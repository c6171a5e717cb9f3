"""The prediction program for people who label, who have lists of photos, and who have large ones."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detr_jax.datasets.user_folder import FolderOptions, opened_root
from tests.inference.test_web_images import serve_images
from tests.programs import assert_one_sentence, assert_refused


@pytest.fixture(scope="module")
def folder(programs, tmp_path_factory) -> Path:
    """photos/ with two images of one name, photos.txt that lists them and more, mosaic.png of four of them."""
    folder = tmp_path_factory.mktemp("formats")
    (folder / "photos/more").mkdir(parents=True)
    val = programs.raw / "val2017"
    shutil.copy(val / "000001.jpg", folder / "photos/a.jpg")
    shutil.copy(val / "000002.jpg", folder / "photos/more/a.jpg")
    lines = ["photos/a.jpg", "photos/mo*", "", "photos/nowhere.jpg"]
    (folder / "photos.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "empty.txt").write_text("\n", encoding="utf-8")
    images = [np.asarray(Image.open(val / f"00000{number}.jpg")) for number in (1, 2, 3, 4)]
    Image.fromarray(np.vstack([np.hstack(images[:2]), np.hstack(images[2:])])).save(folder / "mosaic.png")
    return folder


@pytest.fixture(scope="module")
def predictions(programs, folder):
    """Every command line of this file, run once: name -> (output folder, finished process)."""
    photos, whole = f"--input={folder}/photos", ["--threshold=0"]
    with contextlib.contextmanager(serve_images)() as server:
        commands = {
            "results": [photos, *whole],
            **{to: [photos, f"--format={to}", *whole] for to in ("coco", "yolo", "csv")},
            "again": [photos, "--format=yolo", f"--output={folder}/out/yolo"],
            "inside": [photos, "--format=csv", "--images=none", f"--output={folder}/photos/found"],
            "search": [photos, f"--input={folder}", *whole],
            "list": [f"--list={folder}/photos.txt", *whole],
            "empty list": [f"--list={folder}/empty.txt"],
            "text": [f"--input={folder}/photos.txt", photos, *whole],
            "web": [f"--input={server}/jpeg/a.jpg", f"--input={server}/nowhere", "--download", "--draw"],
            "unasked": [f"--input={server}/jpeg/a.jpg"],
            "gone": [f"--input={server}/nowhere", "--download"],
            "tile": [f"--input={folder}/mosaic.png", "--tile=64", "--overlap=0", "--batch_size=2", "--threshold=0.2"],
            "nothing": [],
            "side": [photos, "--tile=5"],
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


def read(predictions, name: str) -> list[dict]:
    return json.loads((predictions[name][0] / "predictions.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("to", ["coco", "yolo", "csv"])
def test_annotations_hold_what_was_found(predictions, to):
    """As the readers of datasets see it; the results stay as they are without --format."""
    output, done = predictions[to]
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert f"{output}/prelabels_{to}: train: 2 images, " in done.stdout
    assert read(predictions, to) == read(predictions, "results")
    with opened_root(output / f"prelabels_{to}", FolderOptions(val_share=0)) as opened:
        found = json.loads(opened.splits["train"].annotations.read_text(encoding="utf-8"))
    names = {row["id"]: row["name"] for row in found["categories"]}
    files = {row["id"]: row["file_name"].rpartition("train/")[2].removeprefix("images/") for row in found["images"]}
    assert set(files.values()) == {"a.jpg", "more/a.jpg"}
    annotated = sorted(
        (files[row["image_id"]], names[row["category_id"]], *row["bbox"]) for row in found["annotations"]
    )
    wanted = sorted(
        (row["file_name"].rpartition("/photos/")[2], row["category_name"], *_clip(row["bbox"]))
        for row in read(predictions, "results")
    )
    assert len(annotated) == len(wanted) == 20
    for one, other in zip(annotated, wanted, strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_allclose(one[2:], other[2:], atol=0.011)


def _clip(box: list[float]) -> list[float]:
    x0, y0, x1, y1 = np.clip([box[0], box[1], box[0] + box[2], box[1] + box[3]], 0, 64).round(2).tolist()
    return [x0, y0, x1 - x0, y1 - y0]


def test_images_are_linked_and_corrections_are_never_replaced(folder, predictions):
    linked = predictions["yolo"][0] / "prelabels_yolo/images/train/a.jpg"
    assert linked.samefile(folder / "photos/a.jpg")
    assert_one_sentence(predictions["again"][1], "prelabels_yolo exists already", "--output")


def test_annotations_are_not_searched_for_images(folder, predictions):
    assert "in 2 images" in predictions["inside"][1].stdout
    assert (folder / "photos/found/prelabels_csv/annotations.csv").is_file()
    _, done = predictions["search"]
    assert done.returncode == 0 and "in 3 images" in done.stdout
    assert "folders of annotations that predict has written, not searched: 4, such as" in done.stdout


def test_lists_name_images(folder, predictions):
    _, done = predictions["list"]
    assert done.returncode == 2 and "in 2 images" in done.stdout
    assert done.stderr == "left out photos/nowhere.jpg: the list names it, but there is no image\n"
    assert [row["bbox"] for row in read(predictions, "list")] == [row["bbox"] for row in read(predictions, "results")]
    _, done = predictions["text"]
    assert done.returncode == 2 and f"if it names images, pass --list={folder}/photos.txt" in done.stderr


def test_web_addresses_are_fetched_when_it_is_asked_for(predictions):
    output, done = predictions["web"]
    assert done.returncode == 2 and "in 1 image:" in done.stdout
    assert re.fullmatch(r"left out http://\S+/nowhere: it cannot be downloaded \(.* 404 Not Found\)\n", done.stderr)
    assert (output / "downloads/a.jpg").is_file() and (output / "a.png").is_file()


def test_a_large_photo_is_cut_into_tiles(predictions):
    """Tiles without an overlap are the images that the mosaic is made of; no box is far beyond its own."""
    _, done = predictions["tile"]
    assert done.returncode == 0 and "in 1 image:" in done.stdout
    rows = read(predictions, "tile")
    corners = np.array([row["bbox"] for row in rows])
    assert len(rows) and corners[:, :2].min() >= -1e-3 and (corners[:, :2] + corners[:, 2:]).max() <= 128 + 1e-3
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


def test_the_last_lines_say_how_fast_it_was(predictions):
    number = r"\d+\.\d s"
    parts = rf"\(checking files {number}, waiting for images {number}, model {number}"
    for name, more in {"results": "", "tile": "", "web": f", drawing {number}"}.items():
        last = predictions[name][1].stdout.splitlines()[-2]
        assert re.fullmatch(rf"[12] images? in {number}, [\d.]+ images/s {parts}{more}\)", last), last


@pytest.mark.parametrize(
    "name, words",
    [
        ("empty list", ["--list=", "is empty"]),
        ("unasked", ["/jpeg/a.jpg is a web address", "--download"]),
        ("nothing", ["--input=FOLDER", "--list=FILE"]),
        ("side", ["--tile=5"]),
        ("gone", ["none of the 1 files"]),
    ],
)
def test_mistakes_are_said_and_nothing_is_written(predictions, name, words):
    output, done = predictions[name]
    assert_refused(done, output, *words, listed=name == "gone")
