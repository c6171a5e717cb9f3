"""Odd data: prepared as what it means, or refused with everything that is wrong; never left out without a word."""

import json

import numpy as np
import pytest

from detr_jax.datasets import defects
from detr_jax.datasets.defects import DefectiveData
from detr_jax.datasets.inspection import count_objects
from detr_jax.datasets.prepare import prepare_dataset
from detr_jax.datasets.split import open_split
from detr_jax.errors import UserError
from tests.datasets.folder_of_images import make_image, write_folder

IMAGES = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60 + i} for i in (1, 2, 3)]
ANNOTATIONS = [
    {"id": 10 * i + k, "image_id": i, "category_id": k, "bbox": [5 * k, 4, 20, 10 * i], "area": 200 * i, "iscrowd": 0}
    for i in (1, 2, 3)
    for k in (1, 2)
]
CONTENT = {"images": IMAGES, "annotations": ANNOTATIONS, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
FILES = {f"{i}.png": make_image(60 + i, image_format="PNG") for i in (1, 2, 3)}


def each(key, **fields):
    return CONTENT | {key: [row | fields for row in CONTENT[key]]}


def use(tmp_path, content, files=None, **options):
    folder = write_folder(tmp_path / "raw", content, FILES if files is None else files)
    (summary,) = prepare_dataset({"train": folder}, tmp_path, "odd", **options).values()
    return summary, open_split(tmp_path, "odd", "train")


SAME = {
    "sizes of null": each("images", height=None, width=None),
    "sizes of zero": each("images", height=0, width=0),
    "sizes of -1": each("images", height=-1, width=-1),
    "sizes of NaN": each("images", height=float("nan"), width=1),
    "sizes as text": each("images", height="40", width="?"),
    "area of null": each("annotations", area=None),
    "area of NaN": each("annotations", area=float("nan")),
    "UUIDs": each("annotations", id="0b1c-ffee"),
    "ids that repeat": each("annotations", id=1),
    "ids of 128 bits": each("annotations", id=2**127),
    "numbers as text": CONTENT
    | {
        "annotations": [
            row | {"image_id": str(row["image_id"]), "bbox": list(map(str, row["bbox"]))} for row in ANNOTATIONS
        ]
    },
}


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_fields_that_tell_nothing_change_nothing(tmp_path, content):
    summary, split = use(tmp_path, content)
    assert (summary.images, summary.targets) == (3, 6)
    assert split.sizes.tolist() == [[40, 61], [40, 62], [40, 63]]
    truth = split.ground_truth()
    assert [(row["height"], row["width"]) for row in truth["images"]] == [(40, 61), (40, 62), (40, 63)]
    wanted = [{key: row[key] for key in ("image_id", "category_id", "bbox", "area", "iscrowd")} for row in ANNOTATIONS]
    assert [{key: row[key] for key in wanted[0]} for row in truth["annotations"]] == wanted
    assert count_objects(split).boxes.tolist() == [[3, 0, 0], [3, 0, 0]]
    x, y, width, height = ANNOTATIONS[0]["bbox"]
    assert split[0].boxes_xyxy_pixels[0].tolist() == [x, y, x + width, y + height]


def test_classes_without_names_are_called_by_their_ids_and_equal_names_stay_two(tmp_path):
    _, split = use(tmp_path, CONTENT | {"categories": [{"id": 1}, {"id": 2, "name": "1", "supercategory": None}]})
    assert split.categories.names == ("1", "1") and split.categories.ids == (1, 2)
    assert split[0].labels.tolist() == [0, 1]
    assert split.ground_truth()["categories"] == [{"id": 1, "name": "1"}, {"id": 2, "name": "1", "supercategory": "2"}]


def test_a_split_without_objects_is_kept(tmp_path):
    folders = {
        "train": write_folder(tmp_path / "a", CONTENT, FILES),
        "val": write_folder(
            tmp_path / "b", CONTENT | {"annotations": [], "categories": CONTENT["categories"][:1]}, FILES
        ),
    }
    summary = prepare_dataset(folders, tmp_path, "odd")["val"]
    assert (summary.images, summary.empty, summary.targets, summary.classes) == (3, 3, 0, 2)
    assert summary.notes == ["2 of 2 classes have no box here ('a', 'b')"]
    (leaked,) = summary.defects
    assert leaked.kind == defects.LEAKED and leaked.count == 3 and not leaked.stops
    split = open_split(tmp_path, "odd", "val")
    assert split.categories.names == ("a", "b") and not split.target_counts.any()
    assert [row["id"] for row in split.ground_truth()["categories"]] == [1, 2]  # of the dataset, not of this file


@pytest.mark.parametrize("table", [[{"id": 2, "name": "a"}, {"id": 1, "name": "b"}], [{"id": 7, "name": "a"}]])
def test_tables_that_contradict_each_other_are_refused(tmp_path, table):
    other = CONTENT | {"annotations": [], "categories": table}
    folders = {"train": write_folder(tmp_path / "a", CONTENT, FILES), "val": write_folder(tmp_path / "b", other, FILES)}
    with pytest.raises(UserError, match="categories of train and val differ .*'a'"):
        prepare_dataset(folders, tmp_path, "odd")


def test_everything_that_stops_is_found_at_once(tmp_path):
    files = FILES | {"1.png": FILES["1.png"][:-40], "2.png": make_image(99, image_format="PNG")}
    rows = [row | {"bbox": [0.1, 0.2, 0.3, 0.4]} for row in [*ANNOTATIONS, ANNOTATIONS[-1]]]
    content = CONTENT | {"annotations": rows}
    with pytest.raises(
        DefectiveData, match=r"cannot be used: 2 .*\(and 1 other kind of defect\): replace them"
    ) as error:
        use(tmp_path, content, files)
    broken, fractions = [defect for defect in error.value.defects["train"] if defect.stops]
    assert broken.count == 2 and "truncated" in broken.where[0] and "its annotations say 62x40" in broken.where[1]
    assert fractions.kind == defects.FRACTIONS and fractions.count == 3  # of the image that can be used
    assert not (tmp_path / "odd").exists()


def test_broken_images_can_be_left_out(tmp_path):
    files = FILES | {"1.png": FILES["1.png"][:-40]}
    summary, split = use(tmp_path, CONTENT, files, skip_broken=True)
    assert (summary.images, summary.missing, summary.targets) == (2, 1, 4)
    assert split.image_ids.tolist() == [2, 3] and [split[row].image_id for row in (0, 1)] == [2, 3]
    assert [defect.kind for defect in summary.defects] == [defects.BROKEN]


def test_quick_looks_at_headers_only(tmp_path):
    summary, _ = use(tmp_path, CONTENT, FILES | {"1.png": FILES["1.png"][:-40]}, quick=True)
    assert summary.images == 3 and summary.defects == []


def test_orientations_that_nobody_can_tell_are_counted(tmp_path):
    files = {
        "1.png": make_image(61, rotation=3),
        "2.png": make_image(62, rotation=6),
        "3.png": make_image(63, rotation=8),
    }
    images = [IMAGES[0], IMAGES[1], IMAGES[2] | {"height": 63, "width": 40}]
    summary, split = use(tmp_path, CONTENT | {"images": images}, files)
    kinds = {defect.kind: defect.where[0] for defect in summary.defects}
    assert "image 1 (1.png): orientation 3" in kinds[defects.UNSURE_TURN]
    assert "image 2 (2.png): orientation 6" in kinds[defects.TURNED]
    assert len(kinds) == 2 and split.sizes.tolist() == [[40, 61], [40, 62], [63, 40]]


def test_a_copy_of_another_file_name_is_said(tmp_path):
    summary, _ = use(
        tmp_path, CONTENT | {"images": IMAGES[:2] + [IMAGES[2] | {"width": 61}]}, FILES | {"3.png": FILES["1.png"]}
    )
    (copied,) = summary.defects
    assert copied.kind == defects.COPIED and copied.where == ("image 3 (3.png) is image 1 (1.png)",)


def test_files_that_are_not_listed_are_said(tmp_path):
    summary, _ = use(tmp_path, CONTENT, FILES | {"sub/x.JPG": b"", "notes.txt": b""})
    (note,) = summary.notes
    assert note.startswith("1 image files in ") and note.endswith("('sub/x.JPG')")


def test_many_defects_are_counted_and_some_are_named(tmp_path):
    rows = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, np.nan, 4]}] * 3000
    with pytest.raises(DefectiveData, match="by its bbox: 3,000 ") as error:
        use(tmp_path, CONTENT | {"annotations": rows})
    (defect,) = error.value.defects["train"]
    assert defect.count == 3000 and len(defect.where) == 1000 and "annotations number 1 " in defect.where[0]
    assert len(str(error.value)) < 1000 and json.dumps(str(error.value)).count("\\n") == 0


def test_nothing_is_left_where_no_image_can_be_used(tmp_path):
    with pytest.raises(DefectiveData, match="cannot be used: 3 .*give the folder that holds these images"):
        use(tmp_path, CONTENT, dict.fromkeys(FILES, b"<html>"), skip_broken=True)
