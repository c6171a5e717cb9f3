"""Pascal VOC files as LabelImg, CVAT, Roboflow and the devkit write them, and as they should not be."""

import json
from pathlib import Path

import pytest

from detr_jax.datasets.listing import Listing
from detr_jax.datasets.user_folder import FolderOptions, opened_root
from detr_jax.datasets.voc import make_voc, read_voc
from detr_jax.errors import UserError
from tests.datasets.folder_of_images import make_image

LABELIMG = """<annotation>
	<folder>photos</folder>
	<filename>a.jpg</filename>
	<path>C:\\Users\\me\\photos\\a.jpg</path>
	<source><database>Unknown</database></source>
	<size><width>60</width><height>40</height><depth>3</depth></size>
	<segmented>0</segmented>
	<object><name>cat</name><pose>Unspecified</pose><truncated>1</truncated><difficult>0</difficult>
		<bndbox><xmin>10</xmin><ymin>5</ymin><xmax>30</xmax><ymax>25</ymax></bndbox></object>
	<object><name>dog</name><pose>Unspecified</pose><truncated>0</truncated><difficult>1</difficult>
		<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>40</ymax></bndbox></object>
</annotation>"""
CVAT = """<annotation><folder></folder><filename>a.jpg</filename>
<source><database>Unknown</database><annotation>Unknown</annotation><image>Unknown</image></source>
<size><width>60</width><height>40</height><depth></depth></size><segmented>0</segmented>
<object><name>cat</name><truncated>0</truncated><occluded>0</occluded><difficult>0</difficult>
<bndbox><xmin>10.25</xmin><ymin>5.5</ymin><xmax>30.75</xmax><ymax>25.0</ymax></bndbox>
<attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes></object></annotation>"""
DEVKIT = """<annotation><folder>VOC2007</folder><filename>a.jpg</filename>
<source><database>The VOC2007 Database</database><annotation>PASCAL VOC2007</annotation><image>flickr</image></source>
<size><width>60</width><height>40</height><depth>3</depth></size><segmented>0</segmented>
<object><name>person</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>40</ymax></bndbox>
<part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part></object>
</annotation>"""


def write(root: Path, files: dict[str, str | bytes]) -> Listing:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Listing(root)


def only_image(reading, split="train"):
    (image,) = reading.images[split]
    return image


def test_labelimg(tmp_path):
    reading = read_voc(write(tmp_path, {"a.xml": LABELIMG, "a.jpg": make_image()}))
    image = only_image(reading)
    assert (image.file_name, image.size) == ("a.jpg", (40, 60)) and reading.names == ["cat", "dog"]
    assert [one.box_xywh_pixels for one in image.objects] == [[10, 5, 20, 20], [1, 1, 59, 39]]
    assert [one.fields for one in image.objects] == [{"truncated": 1}, {"iscrowd": 1}]
    assert image.objects[1].source == "a.xml, object 2"
    assert reading.notes == ["objects marked as difficult: 1, which are neither trained on nor counted as missed"]


def test_fractions_are_kept(tmp_path):
    image = only_image(read_voc(write(tmp_path, {"Annotations/a.xml": CVAT, "JPEGImages/a.jpg": make_image()})))
    assert image.file_name == "JPEGImages/a.jpg" and image.objects[0].box_xywh_pixels == [10.25, 5.5, 20.5, 19.5]


@pytest.mark.parametrize(("offset", "box"), [(None, [0, 0, 60, 40]), (1, [0, 0, 60, 40]), (0, [1, 1, 59, 39])])
def test_the_devkit_counts_from_1(tmp_path, offset, box):
    image = only_image(read_voc(write(tmp_path, {"a.xml": DEVKIT, "a.jpg": make_image()}), offset))
    assert [one.name for one in image.objects] == ["person"]  # its head is no object
    assert image.objects[0].box_xywh_pixels == box


def test_a_box_at_0_proves_that_files_count_from_0(tmp_path):
    files = {"a.xml": DEVKIT.replace("<xmin>1<", "<xmin>0<"), "a.jpg": make_image()}
    listing = write(tmp_path, files)
    assert only_image(read_voc(listing)).objects[0].box_xywh_pixels == [0, 1, 60, 39]
    assert "boxes that begin before pixel 1: 1" in read_voc(listing, 1).notes[0]


def test_image_sets_decide(tmp_path):
    sets = {"train": "a\n", "val": "b  1\nc -1\n", "trainval": "a\nb\nc\n", "cat_train": "z 1\n", "test": "gone\n"}
    files = {f"VOC2007/ImageSets/Main/{name}.txt": text for name, text in sets.items()}
    for name in "abcd":
        files[f"VOC2007/Annotations/{name}.xml"] = LABELIMG
        files[f"VOC2007/JPEGImages/{name}.jpg"] = make_image()
    reading = read_voc(write(tmp_path, files))
    found = {split: [image.file_name[-5:] for image in images] for split, images in reading.images.items()}
    assert found == {"train": ["a.jpg"], "val": ["b.jpg", "c.jpg"]}
    assert any("in no list of ImageSets/Main and left out: 1" in note for note in reading.notes)
    assert any("without XML file" in note and "gone" in note for note in reading.notes)


def test_folders_decide_where_there_are_no_image_sets(tmp_path):
    files = {}
    for split in ("train", "valid", "test"):  # as Roboflow exports it: one name in all of them
        files |= {f"{split}/a_jpg.rf.1.xml": LABELIMG, f"{split}/a_jpg.rf.1.jpg": make_image()}
    reading = read_voc(write(tmp_path, files))
    assert {split: only_image(reading, split).file_name for split in reading.images} == {
        "test": "test/a_jpg.rf.1.jpg",
        "train": "train/a_jpg.rf.1.jpg",
        "val": "valid/a_jpg.rf.1.jpg",
    }


@pytest.mark.parametrize("image", ["images/A.JPG", "images/a.jpeg", "images/deep/a.png", "a.jpg"])
def test_images_are_found_by_name(tmp_path, image):
    reading = read_voc(write(tmp_path, {"Annotations/a.xml": LABELIMG, image: make_image()}))
    assert only_image(reading).file_name == image


def test_stems_may_repeat_in_folders_and_have_dots(tmp_path):
    files = {f"Annotations/{folder}/1.b.xml": LABELIMG for folder in ("x", "y")}
    files |= {f"images/{folder}/1.b.jpg": make_image() for folder in ("x", "y")}
    reading = read_voc(write(tmp_path, files))
    assert [image.file_name for image in reading.images["train"]] == ["images/x/1.b.jpg", "images/y/1.b.jpg"]


ENCODINGS = {
    "byte order mark": "\ufeff".encode() + LABELIMG.replace("cat", "Käfer").encode(),
    "Latin-1, declared": b'<?xml version="1.0" encoding="ISO-8859-1"?>'
    + LABELIMG.replace("cat", "Käfer").encode("latin-1"),
    "Latin-1, not declared": LABELIMG.replace("cat", "Käfer").encode("latin-1"),
    "Latin-1, declared as UTF-8": b'<?xml version="1.0" encoding="utf-8"?>'
    + LABELIMG.replace("cat", "Käfer").encode("latin-1"),
    "UTF-16": ('<?xml version="1.0" encoding="utf-16"?>' + LABELIMG.replace("cat", "Käfer")).encode("utf-16"),
    "Windows line ends": LABELIMG.replace("cat", "Käfer").replace("\n", "\r\n").encode(),
}


@pytest.mark.parametrize("content", ENCODINGS.values(), ids=ENCODINGS)
def test_encodings(tmp_path, content):
    assert read_voc(write(tmp_path, {"a.xml": content, "a.jpg": make_image()})).names == ["Käfer", "dog"]


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
BROKEN = {
    "entities": (LAUGHS + "]>" + LABELIMG.replace("cat", "&i;"), "a.xml: it declares entities"),
    "a file of the machine": (
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + LABELIMG.replace("cat", "&a;"),
        "a.xml: it declares entities",
    ),
    "empty": ("", "a.xml: it is empty"),
    "half": (LABELIMG[:200], "a.xml: it is no XML"),
    "no box": (LABELIMG.replace("bndbox", "robndbox"), "a.xml, object 1: 'cat' has no bndbox"),
    "no number": (LABELIMG.replace(">10<", ">ten<"), "object 1: xmin of 'cat' is 'ten'"),
    "not a number": (LABELIMG.replace(">10<", ">nan<"), "object 1: xmin of 'cat' is 'nan'"),
    "no name": (LABELIMG.replace("<name>cat</name>", "<name/>"), "object 1: it has no name"),
}


@pytest.mark.parametrize(("content", "sentence"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_named(tmp_path, content, sentence):
    files = {"a.xml": content, "b.xml": LABELIMG, "a.jpg": make_image(), "b.jpg": make_image()}
    (defect,) = read_voc(write(tmp_path, files)).defects["train"]
    assert defect.stops and sentence in str(defect) and "\n" not in str(defect)


def test_a_file_without_size_or_objects(tmp_path):
    no_size = LABELIMG.replace("<width>60</width>", "<width>0</width>")
    empty = LABELIMG[: LABELIMG.index("<object>")] + "</annotation>"
    reading = read_voc(
        write(tmp_path, {"a.xml": no_size, "b.xml": empty, "a.jpg": make_image(), "b.jpg": make_image()})
    )
    assert [(image.size, len(image.objects)) for image in reading.images["train"]] == [(None, 2), ((40, 60), 0)]
    with pytest.raises(UserError, match="1 XML files name no object"):
        read_voc(write(tmp_path / "other", {"b.xml": empty, "b.jpg": make_image()}))


def test_where_all_are_difficult_none_is(tmp_path):
    files = {"a.xml": LABELIMG.replace("<difficult>0", "<difficult>1"), "a.jpg": make_image()}
    reading = read_voc(write(tmp_path, files))
    assert not any("iscrowd" in one.fields for one in only_image(reading).objects)


def test_defects_name_file_and_object(tmp_path):
    swapped = LABELIMG.replace("<xmin>10</xmin>", "<xmin>50</xmin>")
    write(tmp_path, {"a.xml": swapped, "a.jpg": make_image()})
    with opened_root(tmp_path, FolderOptions(val_share=0)) as opened:
        content = json.loads(opened.splits["train"].annotations.read_text())
    assert content["annotations"][0]["source"] == "a.xml, object 1" and content["annotations"][0]["bbox"][2] == -20


def test_control_characters_are_refused():
    image, row = {"file_name": "a.jpg", "height": 4, "width": 6}, {"bbox": [0, 0, 1, 1], "category_id": 1}
    with pytest.raises(UserError, match="XML cannot hold"):
        make_voc(image, [row], {1: "a\x01"})
