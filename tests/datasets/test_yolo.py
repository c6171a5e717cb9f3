"""YOLO folders as Ultralytics, Roboflow, LabelImg and Darknet write them, and as they should not be."""

from pathlib import Path

import pytest
import yaml

from detr_jax.datasets.instances import Reading
from detr_jax.datasets.listing import Listing
from detr_jax.datasets.yolo import make_description, make_label, read_yolo
from detr_jax.errors import UserError
from tests.datasets.folder_of_images import make_image

LABEL = "0 0.5 0.5 0.5 0.25\n1 0.25 0.25 0.1 0.1\n"
PHOTO = make_image()  # 60 x 40


def read(root: Path, files: dict[str, str | bytes]) -> Reading:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_yolo(Listing(root))


def found(reading: Reading) -> dict[str, list[str]]:
    return {split: [image.file_name for image in images] for split, images in reading.images.items()}


def photos(images: str, labels: str) -> dict[str, str | bytes]:
    return {f"{images}/a.jpg": PHOTO, f"{images}/b.JPG": PHOTO, f"{labels}/a.txt": LABEL, f"{labels}/b.txt": ""}


def test_numbers(tmp_path):
    reading = read(tmp_path, {"data.yaml": "names: [cat, dog]\ntrain: images", **photos("images", "labels")})
    first, second = reading.images["train"]
    assert first.size == (40, 60) and second.objects == []
    assert [(one.name, one.box_xywh_pixels) for one in first.objects] == [
        ("cat", [15, 15, 30, 10]),
        ("dog", [12, 8, 6, 4]),
    ]
    assert first.objects[1].source == "labels/a.txt, line 2" and reading.first_id == 0


ULTRALYTICS = photos("images/train", "labels/train") | photos("images/val", "labels/val")
ROBOFLOW = photos("train/images", "train/labels") | photos("valid/images", "valid/labels")
LISTS = {"train.txt": "./images/train/a.jpg\n./images/train/b.JPG\n", "val.txt": "C:\\x\\images\\val\\a.jpg\r\n\r\n"}
LAYOUTS = {
    "Ultralytics": ("path: ../datasets/cells\ntrain: images/train\nval: images/val", ULTRALYTICS, "images/{}", 2),
    "absolute path": (
        "path: /home/me/cells\ntrain: /home/me/cells/images/train\nval: images/val",
        ULTRALYTICS,
        "images/{}",
        2,
    ),
    "lists of folders": ("train: [images/train]\nval:\n- images/val\n- nothing", ULTRALYTICS, "images/{}", 2),
    "lists of images": ("train: train.txt\nval: val.txt", ULTRALYTICS | LISTS, "images/{}", 1),
    "Roboflow": ("train: ../train/images\nval: ../valid/images\ntest: ../test/images", ROBOFLOW, "{}/images", 2),
    "no paths": ("nc: 2", ULTRALYTICS, "images/{}", 2),
}


@pytest.mark.parametrize(("paths", "files", "folder", "val"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path, paths, files, folder, val):
    reading = read(tmp_path, {"data.yaml": f"{paths}\nnames:\n  0: cat\n  1: dog\n", **files})
    name = "val" if folder.startswith("images") else "valid"
    assert found(reading) == {
        "train": [f"{folder.format('train')}/{one}" for one in ("a.jpg", "b.JPG")],
        "val": [f"{folder.format(name)}/{one}" for one in ("a.jpg", "b.JPG")[:val]],
    }
    assert len(reading.images["val"][0].objects) == 2


def test_labels_beside_the_images_with_classes_txt(tmp_path):
    reading = read(tmp_path, {"classes.txt": "cat\r\ndog\r\n", **photos(".", ".")})
    assert found(reading) == {"train": ["a.jpg", "b.JPG"]} and reading.names == ["cat", "dog"]


def test_train_that_is_val_is_no_validation(tmp_path):
    reading = read(tmp_path, {"d.yaml": "names: [cat, dog]\ntrain: images/train\nval: images/train", **ULTRALYTICS})
    assert list(reading.images) == ["train"] and "the same images" in reading.notes[0]


def test_polygons_become_outlines_and_boxes(tmp_path):
    line = "1 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.4"
    reading = read(tmp_path, {"data.yaml": "names: [cat, dog]", "images/a.jpg": PHOTO, "labels/a.txt": line})
    (one,) = reading.images["train"][0].objects
    assert one.box_xywh_pixels == [6, 8, 24, 16]
    assert one.fields["segmentation"] == [[6, 8, 30, 8, 30, 24, 6, 16]]


def test_fractions_are_of_the_image_as_it_is_shown(tmp_path):
    files = {"data.yaml": "names: [cat, dog]", "images/a.jpg": make_image(rotation=6), "labels/a.txt": LABEL}
    (image,) = read(tmp_path, files).images["train"]
    assert image.size == (60, 40) and image.objects[0].box_xywh_pixels == [10, 22.5, 20, 15]


def test_images_without_labels_are_background_and_labels_without_image_are_missing(tmp_path):
    files = ULTRALYTICS | {"images/train/c.jpg": PHOTO, "labels/val/gone.txt": LABEL, "README.txt": "Hello"}
    reading = read(tmp_path, {"data.yaml": "names: [cat, dog]", **files})
    assert reading.images["train"][2].objects == [] and "which are background: 1" in reading.notes[0]
    assert found(reading)["val"][-1] == "images/val/gone.jpg"


BROKEN = {
    "class without name": ("2 0.5 0.5 0.1 0.1", "labels/a.txt, line 1: class 2, but data.yaml names 2 "),
    "pixels": ("0 30 20 10 10", "pixels must be divided"),
    "over 1": ("0 0.5 0.5 1.2 0.1", "numbers are no fractions"),
    "too few": ("0 0.5 0.5", "'0 0.5 0.5' is not a class number"),
    "a word": ("cat 0.5 0.5 0.1 0.1", "is not a class number"),
    "a confidence": ("0 0.5 0.5 0.1 0.1 0.98", "confidence"),
    "nan": ("0 nan 0.5 0.1 0.1", "is not a class number"),
    "half a class": ("0.5 0.5 0.5 0.1 0.1", "class 0.5, but"),
}


@pytest.mark.parametrize(("line", "sentence"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_named(tmp_path, line, sentence):
    files = {"data.yaml": "names: [cat, dog]", "images/a.jpg": PHOTO, "labels/a.txt": line + "\n1 0.5 0.5 0.1 0.1\n"}
    reading = read(tmp_path, files)
    (defect,) = reading.defects["train"]
    assert defect.stops and sentence in str(defect)
    assert len(reading.images["train"][0].objects) == 1


NAMES = {
    "names: [no, yes, 1, null, 'a: b']": ["no", "yes", "1", "null", "a: b"],
    "names: {1: dog, 0: cat, 3: owl}": ["cat", "dog", "2", "owl"],
    '\ufeffnames:\r\n  0: "Café, grün"\r\n  1: 日本\r\n': ["Café, grün", "日本"],
    "names: !!python/object/apply:os.system [exit]": ["exit"],  # no tag means anything
    "names:\n- cat # a comment\n- 'it''s'": ["cat", "it's"],
}


@pytest.mark.parametrize(("text", "names"), NAMES.items(), ids=range(len(NAMES)))
def test_names_are_as_they_are_written(tmp_path, text, names):
    assert read(tmp_path, {"data.yaml": text, "images/a.jpg": PHOTO}).names == names


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("names: [cat", "is no YAML"),
        ("names:", "names must list"),
        ("names: [cat, cat]", "two classes 'cat'"),
        ("names: {a: cat}", "class numbers from 0"),
        ("names: [" + "[" * 5000, "is no YAML"),
    ],
)
def test_bad_descriptions_are_one_sentence(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        read(tmp_path, {"data.yaml": text, "images/a.jpg": PHOTO})
    assert "\n" not in str(error.value)


def test_without_names_or_images(tmp_path):
    with pytest.raises(UserError, match="no data.yaml that names the classes"):
        read(tmp_path / "a", photos("images", "labels"))
    with pytest.raises(UserError, match="no image is found"):
        read(tmp_path / "b", {"data.yaml": "names: [cat]\ntrain: images/train"})


def test_writing_is_exact_and_yaml_reads_the_names_back():
    image, box = {"height": 427, "width": 639}, [1 / 3, 17.29, 100.123456789, 3.5]
    label, x, y, width, height = map(float, make_label(image, [{"category_id": 7, "bbox": box}], {7: 4}).split())
    assert label == 4
    again = [(x - width / 2) * 639, (y - height / 2) * 427, width * 639, height * 427]
    assert again == pytest.approx(box, abs=1e-9)
    names = ["no", "1", "a: b", "it's", "日本", "- x"]
    assert yaml.safe_load(make_description(["train"], names))["names"] == dict(enumerate(names))
