"""Converting folders: there and back is the same, nothing is overwritten, names of all kinds survive."""

import json
import os
from pathlib import Path

import pytest

from detr_jax.datasets.conversion import convert_folder
from detr_jax.datasets.folders import SplitFolder, find_splits
from detr_jax.datasets.user_folder import FolderOptions, opened_root
from detr_jax.errors import UserError
from tests.datasets.folder_of_images import make_image

AS_THEY_ARE = FolderOptions(val_share=0)
NAMES = ["no", "yes", "1", "null", "Café, grün", 'say "cat"', "a: b #c", "it's <b>&amp;", "日本", "{x}", "- y", "1e3"]


def convert(root: Path, to: str, output: Path, **choices) -> list[str]:
    offset = choices.get("voc_offset")
    with opened_root(root, AS_THEY_ARE._replace(voc_offset=offset)) as opened:
        return convert_folder(opened.splits, to, output, **choices)


def boxes(path: Path, crowds: bool = True) -> list[tuple]:
    """Everything but ids, sorted: file name, size, class, box, crowd."""
    content = json.loads(path.read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    images = {row["id"]: (row["file_name"], row["height"], row["width"]) for row in content["images"]}
    rows = [
        (*images[row["image_id"]], names[row["category_id"]], *row["bbox"], row["iscrowd"])
        for row in content["annotations"]
        if crowds or not row["iscrowd"]
    ]
    return sorted(rows + [(*image, "", 0, 0, 0, 0, 0) for image in images.values()])


def assert_same(one: Path, other: Path, crowds: bool = True) -> None:
    first, second = boxes(one, crowds), boxes(other, crowds)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a[:4] == b[:4] and a[8] == b[8]
        assert a[4:8] == pytest.approx(b[4:8], abs=1e-6)


@pytest.mark.parametrize("to", ["voc", "yolo", "csv"])
def test_photos_come_back_as_they_were(real_data, tmp_path, to):
    root = real_data / "bccd"
    convert(root, to, tmp_path / "there", images="copy")
    convert(tmp_path / "there", "coco", tmp_path / "back")
    for split in ("train", "val", "test"):
        name = f"annotations/instances_{split}.json"
        assert_same(root / name, tmp_path / "back" / name)
    image = next((root / "images/val").iterdir())
    assert (tmp_path / f"back/images/val/{image.name}").read_bytes() == image.read_bytes()


@pytest.mark.parametrize(("to", "offset"), [("voc", 0), ("voc", 1), ("yolo", 0), ("csv", 0)])
def test_coco_comes_back_but_for_what_is_said(real_data, tmp_path, to, offset):
    source = real_data / "coco128/annotations/instances_train2017.json"
    splits = {"train": SplitFolder(real_data / "coco128/images/train2017", source)}
    said = convert_folder(splits, to, tmp_path / "there", "copy", offset)
    assert any("10 crowds" in line for line in said) and any("outlines" in line for line in said)
    convert(tmp_path / "there", "coco", tmp_path / "back", voc_offset=offset)
    assert_same(source, tmp_path / "back/annotations/instances_train.json", crowds=to == "voc")


def odd_folder(root: Path) -> Path:
    """An accent, two names that differ by their suffix only, names that formats could mistake."""
    files = ["ü 1.jpg", "a.b.jpg", "a.b.png", "sub/x.JPEG", "sub dir/x.jpeg", "leer.jpg"]
    content = {
        "images": [{"id": 7 * n, "file_name": name, "height": 40, "width": 60} for n, name in enumerate(files)],
        "categories": [{"id": 3 * n + 5, "name": name} for n, name in enumerate(NAMES)],
        "annotations": [
            {
                "id": n,
                "image_id": 7 * (n % 5),
                "category_id": 3 * n + 5,
                "bbox": [0.1 * n, 1 / 3, 10.123456, 20 + n / 7],
            }
            for n in range(len(NAMES))
        ],
    }
    for n, name in enumerate(files):
        (root / "images/train" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images/train" / name).write_bytes(make_image(image_format="PNG" if n == 2 else "JPEG"))
    (root / "annotations").mkdir()
    (root / "annotations/instances_train.json").write_text(
        json.dumps(content | {"annotations": content["annotations"]})
    )
    return root


@pytest.mark.parametrize("to", ["voc", "yolo", "csv"])
def test_names_of_all_kinds_survive(tmp_path, to):
    root = odd_folder(tmp_path / "odd")
    said = convert(root, to, tmp_path / "there")
    assert any("renamed" in line for line in said) == (to != "csv")
    convert(tmp_path / "there", "coco", tmp_path / "back")
    truth = json.loads((root / "annotations/instances_train.json").read_text())
    for row in truth["annotations"]:
        row["iscrowd"] = 0
    if to != "csv":
        truth["images"][2]["file_name"] = "a.b_train.png"
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert_same(tmp_path / "truth.json", tmp_path / "back/annotations/instances_train.json")


def test_images_are_linked_copied_or_left(tmp_path):
    root = odd_folder(tmp_path / "odd")
    source = root / "images/train/ü 1.jpg"
    for how, links in (("link", True), ("copy", False)):
        convert(root, "coco", tmp_path / how, images=how)
        assert os.path.samefile(source, tmp_path / how / "images/train/ü 1.jpg") == links
    convert(root, "voc", tmp_path / "none", images="none")
    assert not (tmp_path / "none/JPEGImages").exists() and (tmp_path / "none/Annotations/ü 1.xml").is_file()


def test_what_is_there_is_not_touched(tmp_path):
    root = odd_folder(tmp_path / "odd")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        convert(root, "voc", tmp_path / "there")
    (root / "images/train/leer.jpg").unlink()
    with pytest.raises(UserError, match="not found.*leer.jpg"):
        convert(root, "yolo", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd", "there"]
    assert list(find_splits(root)) == ["train"]
