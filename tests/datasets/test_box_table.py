"""CSV tables of boxes: with the usual headers, without, and as they should not be."""

from pathlib import Path

import pytest

from detr_jax.datasets.box_table import find_tables, read_box_tables
from detr_jax.datasets.instances import Reading
from detr_jax.datasets.listing import Listing
from detr_jax.errors import UserError
from tests.datasets.folder_of_images import make_image

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
ROWS = 'a.jpg,60,40,cat,10,5,30,25\na.jpg,60,40,"dog, big",0,0,60,40.5\nb.jpg,60,40,cat,1,2,3,4\n'


def read(root: Path, files: dict[str, str | bytes]) -> Reading:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    listing = Listing(root)
    return read_box_tables(listing, find_tables(listing))


def found(reading: Reading) -> dict[str, dict[str, list]]:
    return {
        split: {image.file_name: [(one.name, *one.box_xywh_pixels) for one in image.objects] for image in images}
        for split, images in reading.images.items()
    }


PHOTOS = {"images/a.jpg": make_image(), "images/b.jpg": make_image()}
A = [("cat", 10, 5, 20, 20), ("dog, big", 0, 0, 60, 40.5)]
EXPECTED = {"train": {"images/a.jpg": A, "images/b.jpg": [("cat", 1, 2, 2, 2)]}}
RETINANET = 'images/a.jpg,10,5,30,25,cat\nimages/a.jpg,0,0,60,40.5,"dog, big"\nimages/b.jpg,1,2,3,4,cat\n'
FORMS = {
    "TensorFlow, Roboflow": HEADER + ROWS,
    "Windows": "\ufeff" + (HEADER + ROWS).replace("\n", "\r\n"),
    "semicolons": "Image;xmin;ymin;xmax;ymax;Label\na.jpg;10;5;30;25;cat\na.jpg;0;0;60;40.5;dog, big\n"
    "b.jpg;1;2;3;4;cat",
    "other order": "label,x2,y2,x1,y1,path\ncat,30,25,10,5,a.jpg\n"
    '"dog, big",60,40.5,0,0,C:\\me\\a.jpg\ncat,3,4,1,2,/x/b.jpg',
    "keras-retinanet": RETINANET,
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_forms(tmp_path, text):
    assert found(read(tmp_path, {"boxes.csv": text, **PHOTOS})) == EXPECTED


def test_splits_by_file_folder_or_column(tmp_path):
    row = "a.jpg,60,40,cat,10,5,30,25\n"
    by_file = {"train_labels.csv": HEADER + row, "data/val.csv": HEADER + row, "other.csv": "a,b\n1,2\n"}
    assert sorted(read(tmp_path / "file", {**by_file, **PHOTOS}).images) == ["train", "val"]
    by_folder = {f"{split}/_annotations.csv": HEADER + row for split in ("train", "valid")}
    own = {f"{split}/a.jpg": make_image() for split in ("train", "valid")}
    assert found(read(tmp_path / "folder", by_folder | own))["val"] == {"valid/a.jpg": [("cat", 10, 5, 20, 20)]}
    column = HEADER.strip() + ",split\na.jpg,60,40,cat,10,5,30,25,test\nb.jpg,60,40,,,,,,valid\n"
    reading = read(tmp_path / "column", {"all.csv": column, **PHOTOS})
    assert found(reading) == {"test": {"images/a.jpg": [("cat", 10, 5, 20, 20)]}, "val": {"images/b.jpg": []}}


def test_sizes_are_those_of_the_table(tmp_path):
    images = read(tmp_path, {"t.csv": HEADER + ROWS.replace("b.jpg,60", "b.jpg,"), **PHOTOS}).images["train"]
    assert [image.size for image in images] == [(40, 60), None]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a.jpg,60,40,cat,ten,5,30,25", "t.csv, line 2: xmin is 'ten'"),
        ("a.jpg,60,40,cat,1,5,30", "t.csv, line 2: ymax is missing"),
        ("a.jpg,60,40,,1,5,30,25", "t.csv, line 2: it has a box but no class"),
        (",60,40,cat,1,5,30,25", "t.csv, line 2: it names no image"),
    ],
)
def test_what_is_broken_is_named(tmp_path, row, sentence):
    (defect,) = read(tmp_path, {"t.csv": HEADER + row + "\na.jpg,60,40,cat,1,2,3,4\n", **PHOTOS}).defects["train"]
    assert defect.stops and sentence in str(defect)


def test_other_tables_are_none(tmp_path):
    for name, text in {"empty.csv": "", "other.csv": "a,b,c\n1,2,3\n", "zeros.csv": "\0" * 99}.items():
        (tmp_path / name).write_text(text)
    assert find_tables(Listing(tmp_path)) == []
    with pytest.raises(UserError, match="names no object"):
        read(tmp_path / "x", {"t.csv": HEADER})
