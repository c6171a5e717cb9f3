"""Detections as annotations: every reader of this package gets back what was found."""

import json

import numpy as np
import pytest
from PIL import Image

from detr_jax.datasets.conversion import require_links
from detr_jax.datasets.layouts import TITLES
from detr_jax.datasets.user_folder import FolderOptions, opened_root
from detr_jax.errors import UserError
from detr_jax.images.decoding import upright_size
from detr_jax.inference.prelabels import Prelabels
from detr_jax.structures import Categories, Detections

CLASSES = Categories((3, 7, 12), ("cat", "Café, grün", "never seen"))
NAMES = ["trip/a.jpg", "trip/a.png", "b.jpg", "images/day 2/c.jpg", "turned.jpg"]
IDS = [11, 5, 900, 2, 1]
BOXES = {  # by row: (x0, y0, x1, y1, score, label); the third image shows nothing
    0: [(1.25, 2.5, 20.0, 15.75, 0.9, 0), (-3.0, -2.0, 40.0, 10.0, 0.8, 1), (31.0, 3.0, 36.0, 9.0, 0.7, 1)],
    1: [(1 / 3, 2 / 3, 10.1234, 11.9876, 0.6, 0), (5.0, 5.0, 5.001, 9.0, 0.55, 0)],
    3: [(0.0, 0.0, 30.0, 20.0, 1.0, 1)],
    4: [(1.0, 2.0, 19.0, 29.0, 0.5, 0)],
}
WANTED = {  # by row: class and x, y, width, height in the image, in hundredths of a pixel
    0: [("Café, grün", 0, 0, 30, 10), ("cat", 1.25, 2.5, 18.75, 13.25)],
    1: [("cat", 0.33, 0.67, 9.79, 11.32)],
    2: [],
    3: [("Café, grün", 0, 0, 30, 20)],
    4: [("cat", 1, 2, 18, 27)],
}


@pytest.fixture
def prelabels(tmp_path) -> Prelabels:
    paths = [tmp_path / "photos" / name for name in NAMES]
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path, **({"exif": exif} if path.stem == "turned" else {}))
    made = Prelabels(paths, IDS, [upright_size(path) for path in paths], CLASSES)
    for row in (3, 0, 4, 2, 1):
        table = np.array(BOXES.get(row, []), float).reshape(-1, 6)
        made.add(row, Detections(table[:, :4].astype(np.float32), table[:, 4], table[:, 5].astype(int), CLASSES))
    return made


@pytest.mark.parametrize("to", TITLES)
def test_every_format_is_read_back(prelabels, tmp_path, to):
    lines = prelabels.write(to, tmp_path / "new", images="copy")
    assert lines[0] == "train: 5 images, 5 objects"
    with opened_root(tmp_path / "new", FolderOptions(val_share=0)) as opened:
        assert opened.format == to and list(opened.splits) == ["train"] and not opened.splits["train"].defects
        read = json.loads(opened.splits["train"].annotations.read_text(encoding="utf-8"))
    names = {row["id"]: row["name"] for row in read["categories"]}
    found = {}
    for image in read["images"]:
        rows = [row for row in read["annotations"] if row["image_id"] == image["id"]]
        found[image["file_name"]] = sorted((names[row["category_id"]], *row["bbox"]) for row in rows)
    assert len(found) == len(NAMES)
    ends = ["a.jpg", "a_train.png" if to in ("yolo", "voc") else "a.png", "b.jpg", "c.jpg", "turned.jpg"]
    for row, end in enumerate(ends):
        (rows,) = [rows for name, rows in found.items() if name.endswith(f"/{end}") or name == end]
        assert [one[0] for one in rows] == [one[0] for one in WANTED[row]]
        np.testing.assert_allclose([one[1:] for one in rows], [one[1:] for one in WANTED[row]], atol=1e-6)
    assert len(list((tmp_path / "new").rglob("*.jpg"))) == 4  # of the images


def test_instances_have_what_labelling_tools_ask_for(prelabels, tmp_path):
    prelabels.write("coco", tmp_path / "new", images="none")
    read = json.loads((tmp_path / "new/annotations/instances_train.json").read_text(encoding="utf-8"))
    assert read["categories"] == CLASSES.to_rows()
    assert read["images"] == [
        {"id": i, "file_name": name, "height": 30 if name == "turned.jpg" else 20,
         "width": 20 if name == "turned.jpg" else 30} for i, name in zip(IDS, NAMES, strict=True)
    ]  # fmt: skip
    assert [row["id"] for row in read["annotations"]] == [1, 2, 3, 4, 5]
    assert read["annotations"][0] == {
        "id": 1, "image_id": 11, "category_id": 3, "bbox": [1.25, 2.5, 18.75, 13.25], "area": 248.4375, "score": 0.9,
        "iscrowd": 0, "segmentation": [],
    }  # fmt: skip


def test_nothing_found_and_one_image_alone(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg")
    for to in TITLES:
        made = Prelabels([tmp_path / "a.jpg"], [1], [(20, 30)], CLASSES)
        made.add(0, Detections(np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, int), CLASSES))
        assert made.write(to, tmp_path / to) == ["train: 1 images, 0 objects"]


@pytest.mark.parametrize("name", ["\udcff.jpg", "a\nb.jpg"])
def test_a_name_that_annotations_cannot_hold_is_said_at_once(tmp_path, name):
    with pytest.raises(UserError, match="is a name that annotations cannot hold: rename it"):
        Prelabels([tmp_path / name], [1], [(20, 30)], CLASSES)


def test_nothing_is_overwritten(prelabels, tmp_path):
    (tmp_path / "new").mkdir()
    with pytest.raises(UserError, match="exists already"):
        prelabels.write("yolo", tmp_path / "new")


def test_whether_files_can_be_linked_is_tried_beforehand(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"")
    require_links([tmp_path / "a.jpg"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(UserError, match="cannot be linked .*cross-device.*--images=copy"):
        require_links([tmp_path / "a.jpg"], tmp_path)
